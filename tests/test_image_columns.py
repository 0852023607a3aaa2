"""Images in pipelines: shown to the model by their column, paid for once, kept out of what a run leaves behind."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb.errors import UnsafeFileError, UnsupportedParameterError
from distilnb.llms import AnyscaleLLM, OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.tasks import TextGenerationWithImage
from tests.llms.conformance.test_images import PNG
from tests.runs import done
from tests.servers import MockLLM, mock_llm

TEXT = base64.b64encode(PNG).decode()


@pytest.fixture
def server() -> Iterator[MockLLM]:
    with mock_llm(record=20) as running:
        yield running


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work" / "photos"
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f"{number}.png").write_bytes(PNG + bytes([number]))
    monkeypatch.chdir(folder.parent)
    return folder


def pipeline(server: MockLLM, rows: list[dict[str, Any]], **options: Any) -> Pipeline:
    llm = OpenAILLM(model="m", base_url=server.base_url)
    p = Pipeline("look", llm=llm).from_dicts(rows)
    return p.generate("look", "What is {{ name }}?", **{"images": "photo", **options})


def test_files_of_the_working_directory_are_shown_in_preview_and_run(server: MockLLM, photos: Path) -> None:
    rows = [{"name": f"n{number}", "photo": f"photos/{number}.png"} for number in range(3)]
    p = pipeline(server, rows)
    previewed = p.preview(1).rows[0]
    run = done(p)
    assert [len(row["generations"]) for row in run.distiset().rows()] == [1, 1, 1]
    assert previewed in list(run.distiset().rows())
    assert server.stats()["requests"] == 3
    sent = json.dumps([seen["body"] for seen in server.seen()])
    for number in range(3):
        assert base64.b64encode(PNG + bytes([number])).decode() in sent


def test_a_moved_image_costs_nothing_and_another_one_does(server: MockLLM, photos: Path) -> None:
    done(pipeline(server, [{"name": "a", "photo": "photos/0.png"}]))
    moved = base64.b64encode((photos / "0.png").read_bytes()).decode()
    done(pipeline(server, [{"name": "a", "photo": moved}]))
    assert server.stats()["requests"] == 1
    done(pipeline(server, [{"name": "a", "photo": "photos/1.png"}]))
    assert server.stats()["requests"] == 2


def test_several_columns_and_lists_of_images(server: MockLLM, photos: Path) -> None:
    row = {"name": "a", "photo": ["photos/0.png", "photos/1.png"], "other": "https://a.example/x.png"}
    done(pipeline(server, [row], images=["photo", "other"]))
    [content] = [seen["body"]["messages"][-1]["content"] for seen in server.seen()]
    assert [part["type"] for part in content] == ["text", "image_url", "image_url", "image_url"]
    assert content[3]["image_url"] == {"url": "https://a.example/x.png"}


def test_a_row_without_its_image_fails_alone_and_its_prompt_is_short(server: MockLLM, photos: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"name": "a", "photo": "photos/0.png"},
        {"name": "b", "photo": None},
        {"name": "c", "photo": "../outside.png"},
        {"name": "d [[400x9]]", "photo": TEXT},
    ]
    run = done(pipeline(server, rows))
    errors = run.errors()
    assert list(errors["row"]) == [1, 2, 3]
    assert "outside of the folder" in errors["reason"][1]
    assert errors["prompt"][2] == f"user:\nWhat is d [[400x9]]?\n[image/png, {len(PNG)} bytes]"


def test_the_task_of_1x_and_pictures_of_pil(server: MockLLM) -> None:
    pil = pytest.importorskip("PIL.Image")
    picture = pil.new("RGB", (2, 2), (255, 0, 0))
    file = BytesIO()
    picture.save(file, format="PNG")
    task = TextGenerationWithImage(llm=OpenAILLM(model="m", base_url=server.base_url), image_type="PIL")
    assert task.ask({"instruction": "What?", "image": picture})["generation"]  # type: ignore[call-overload]
    # In rows a picture is kept as the bytes of its file.
    row = {"instruction": "What?", "image": picture}
    [kept] = list(done(Pipeline("pil").from_dicts([row]).map(lambda instruction: {"n": 1})).distiset().rows())
    assert kept["image"] == file.getvalue()
    run = done(Pipeline("pil").from_dicts([row]).ask(task.updated(image_type=None)))
    assert len(list(run.distiset().rows())) == 1
    assert server.stats()["requests"] == 2


def test_a_provider_without_images_is_told_before_the_run() -> None:
    p = Pipeline("look", llm=AnyscaleLLM(model="m", base_url="http://127.0.0.1:1", api_key="k"))
    p = p.from_dicts([{"photo": TEXT}]).generate("look", "What is this?", images="photo")
    with pytest.raises(UnsupportedParameterError, match="no images"):
        p.check()


def test_a_pipeline_from_elsewhere_reads_images_of_the_working_directory_only(
    server: MockLLM, photos: Path, tmp_path: Path
) -> None:
    pipeline(server, [{"name": "a", "photo": "x.png"}], image_folder=str(tmp_path)).save("away.yaml")
    with pytest.raises(UnsafeFileError, match=str(tmp_path)) as told:
        dn.open("away.yaml")
    assert "allow=" in told.value.fix
    assert dn.open("away.yaml", allow=[str(tmp_path)])
    pipeline(server, [{"name": "a", "photo": "x.png"}], image_folder="photos").save("here.yaml")
    assert dn.open("here.yaml")
