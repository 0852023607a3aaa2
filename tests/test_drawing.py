"""Image generation: the request, the image, its file; paid for once, refused where it is none."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.errors import (
    AuthenticationError,
    MalformedReplyError,
    ParseError,
    SpecError,
    StepRowError,
    UnknownKindError,
    UnsupportedParameterError,
)
from distilnb.llms import (
    InferenceEndpointsImageGeneration,
    OpenAIEmbeddings,
    OpenAIImageGeneration,
    RehearsalImages,
)
from distilnb.llms.base import LLM
from distilnb.llms.calling import answer_now
from distilnb.llms.catalog import as_image_model
from distilnb.llms.failures import Target
from distilnb.llms.huggingface_images import read_picture
from distilnb.llms.openai_images import read_image
from distilnb.llms.request import Request
from distilnb.pipeline import Pipeline
from distilnb.spec.registry import IMAGE_MODELS, build, load_kind
from distilnb.tasks import ImageGeneration, TextGeneration
from tests.llms.conformance.test_images import PNG
from tests.runs import done
from tests.servers import MockLLM, mock_llm

TARGET = Target("openai", "m", "here")


@pytest.fixture
def server() -> Iterator[MockLLM]:
    with mock_llm(record=20) as running:
        yield running


def openais(server: MockLLM, **fields: Any) -> OpenAIImageGeneration:
    return OpenAIImageGeneration(**{"model": "dall-e-3", "base_url": server.base_url, **fields})


def of_hugging_face(server: MockLLM, **fields: Any) -> InferenceEndpointsImageGeneration:
    url = f"{server.base_url.removesuffix('/v1')}/huggingface"
    return InferenceEndpointsImageGeneration(**{"model_id": "owner/name", "base_url": url, **fields})


def drawn(model: LLM, prompt: str = "A kite.") -> bytes:
    model.check()
    [reply] = answer_now(model, Request(({"role": "user", "content": prompt},))).replies
    return base64.b64decode(reply.text or "")


@pytest.mark.parametrize("transport", ["aiohttp", "sdk"])
@pytest.mark.parametrize("make", [openais, of_hugging_face])
def test_a_prompt_is_drawn(server: MockLLM, make: Any, transport: str) -> None:
    first, second = (
        drawn(make(server, transport=transport)),
        drawn(make(server, transport=transport), "An owl."),
    )
    assert first.startswith(b"\x89PNG")
    assert first != second


def test_parameters_arrive_under_the_names_of_the_provider(server: MockLLM) -> None:
    drawn(openais(server, generation_kwargs={"size": "1024x1024", "quality": "hd", "style": "vivid"}))
    drawn(of_hugging_face(server, generation_kwargs={"width": 64, "seed": 7, "guidance_scale": 2.5}))
    first, second = (seen["body"] for seen in server.seen())
    assert first == {
        "model": "dall-e-3",
        "prompt": "A kite.",
        "response_format": "b64_json",
        "size": "1024x1024",
        "quality": "hd",
        "style": "vivid",
    }
    assert second == {"inputs": "A kite.", "parameters": {"width": 64, "seed": 7, "guidance_scale": 2.5}}
    assert server.seen()[1]["path"] == "/huggingface/models/owner/name"


def test_openais_newer_models_are_not_told_what_they_do_anyway() -> None:
    request = Request(({"role": "user", "content": "A kite."},))
    gateway = {"api_key": "k", "base_url": "https://gateway.example/v1"}
    for name, where in (
        ("gpt-image-1", {}),
        ("gpt-image-1-mini", {}),
        ("chatgpt-image-latest", {}),
        ("openai/gpt-image-1", gateway),
        ("gpt-image-2", gateway),
    ):
        assert "response_format" not in OpenAIImageGeneration(model=name, **where)._body_of(request), name
    for name, where in (("dall-e-3", {}), ("openai/dall-e-3", gateway), ("not-gpt-image-1", gateway)):
        body = OpenAIImageGeneration(model=name, **where)._body_of(request)
        assert body["response_format"] == "b64_json", name


def test_a_parameter_of_texts_is_refused_by_name() -> None:
    given = OpenAIImageGeneration(model="m", api_key="k", generation_kwargs={"temperature": 0.5})
    with pytest.raises(UnsupportedParameterError, match="temperature"):
        given.check()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"url": "https://x.example/1"}]}',
        b'{"data": [{"b64_json": "!"}]}',
    ],
)
def test_an_answer_without_an_image_is_said_so(body: bytes) -> None:
    with pytest.raises(MalformedReplyError, match="no image"):
        read_image(body, TARGET)
    with pytest.raises(MalformedReplyError, match="no image"):
        read_picture(body, TARGET)


def test_an_address_in_place_of_the_image_is_not_paid_for_again_and_again() -> None:
    with pytest.raises(MalformedReplyError, match="the address of one") as raised:
        read_image(b'{"data": [{"url": "https://x.example/1", "b64_json": null}]}', TARGET)
    assert not raised.value.retryable
    assert "response_format" in raised.value.fix


@pytest.mark.parametrize("make", [openais, of_hugging_face])
def test_drawing_is_spread_over_several_servers(server: MockLLM, make: Any) -> None:
    alive = make(server)
    dead_first = alive.updated(base_url=None, base_urls=["http://127.0.0.1:9/v1", alive.base_url])
    assert drawn(dead_first.updated(max_retries=0)).startswith(b"\x89PNG")


def test_errors_are_those_of_all_models() -> None:
    with mock_llm(require_key="right") as server:
        for make in (openais, of_hugging_face):
            with pytest.raises(AuthenticationError):
                drawn(make(server, api_key="wrong-key-1234"))


# --- the task ---


def test_an_image_is_paid_for_once_and_kept_as_a_file(server: MockLLM, home: Path) -> None:
    rows = [{"prompt": "A kite."}, {"prompt": "An owl."}, {"prompt": ""}, {"prompt": "A kite."}]
    p = Pipeline("draw").from_dicts(rows).ask(ImageGeneration(llm=openais(server), save_artifacts=True))
    run = done(p)
    made = list(run.distiset().rows())
    assert [list(row) for row in made] == [["prompt", "image", "image_path", "model_name"]] * 3
    for row in made:
        assert Path(row["image_path"]).read_bytes() == base64.b64decode(row["image"])
        assert Path(row["image_path"]).parent == home / "images"
    # Equal prompts are drawn anew, as equal prompts are answered anew.
    assert made[0]["image"] != made[2]["image"]
    assert server.stats()["requests"] == 3
    assert list(run.errors()["row"]) == [2]
    assert list(done(p).distiset().rows()) == made
    assert server.stats()["requests"] == 3
    assert "[image, " in repr(run.why(0))  # in place of the raw reply


def test_what_cannot_be_drawn_or_is_no_image_is_the_rows_failure() -> None:
    task = ImageGeneration(llm="rehearsal", input_mappings={"prompt": "scene"})
    with pytest.raises(StepRowError, match="'scene' is empty"):
        task.format_input({"prompt": " "})
    with pytest.raises(ParseError, match="no image"):
        task.format_output(base64.b64encode(b"text, and no image at all").decode(), {"prompt": "x"})
    assert task.format_output(base64.b64encode(PNG).decode(), {"prompt": "x"})["image"]


def test_models_of_other_kinds_are_refused() -> None:
    with pytest.raises(UnknownKindError, match="no images"):
        as_image_model(OpenAIEmbeddings(model="m"))
    with pytest.raises(SpecError, match="makes images"):
        TextGeneration(name="answer", llm=RehearsalImages()).check()
    assert as_image_model("openai:gpt-image-1") == OpenAIImageGeneration(model="gpt-image-1")
    assert as_image_model("huggingface:a/b") == InferenceEndpointsImageGeneration(model_id="a/b")


@pytest.mark.parametrize("kind", IMAGE_MODELS)
def test_a_model_comes_back_from_what_it_writes_down(kind: str) -> None:
    made = load_kind(kind)(model="owner/name")
    assert build(made.dump()) == made
    assert isinstance(made, LLM)
    assert made.makes == "image"


def test_a_drawing_is_looked_at_by_the_next_task(server: MockLLM) -> None:
    p = Pipeline("both").from_dicts([{"prompt": "A kite."}]).ask(ImageGeneration(llm="rehearsal"))
    p = p.generate("look", "What is this?", images="image", llm="rehearsal")
    [row] = p.preview(1).rows
    assert row["generations"]
