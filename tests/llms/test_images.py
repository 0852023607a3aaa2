"""Images: found in what a column holds, named by their content, refused where they lead out or are none."""

from __future__ import annotations

import base64
import math
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from distilnb.engine.ask import prompt_text
from distilnb.engine.budget import estimate
from distilnb.engine.cache import request_digests
from distilnb.errors import RefusedRequestError, StepRowError
from distilnb.llms import AnthropicLLM, VertexAILLM, images
from distilnb.llms.images import IMAGE_TOKENS, Image, for_openai, image_of, parts_of, with_images
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.request import Request
from distilnb.llms.tokens import Size, size_of
from tests.llms.conformance.test_images import PNG

TEXT = base64.b64encode(PNG).decode()
OTHERS = {
    "image/jpeg": b"\xff\xd8\xff\xe0" + bytes(60),
    "image/gif": b"GIF89a" + bytes(60),
    "image/webp": b"RIFF\x00\x00\x00\x00WEBP" + bytes(60),
}


class Picture:
    """What PIL's images have in common with it: they can be saved."""

    def save(self, file: BytesIO, format: str) -> None:
        assert format == "PNG"
        file.write(PNG)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "kite.png").write_bytes(PNG)
    (tmp_path / "secret.png").write_bytes(PNG)
    return tmp_path / "photos"


def request_of(image: Image) -> Request:
    return Request(tuple(with_images([{"role": "user", "content": "What is this?"}], [image])))


# --- what a column may hold ---


def test_the_same_content_is_the_same_image_whatever_it_came_as(folder: Path) -> None:
    given: list[Any] = [
        PNG,
        bytearray(PNG),
        TEXT,
        f"data:image/png;base64,{TEXT}",
        "\n".join(TEXT[i : i + 20] for i in range(0, len(TEXT), 20)),
        "kite.png",
        str(folder / "kite.png"),
        {"bytes": PNG, "path": None},
        {"bytes": None, "path": "kite.png"},
        Picture(),
    ]
    found = [image_of(value, "photo", folder=str(folder)) for value in given]
    assert len({*found}) == 1
    assert {image.content() for image in found} == {PNG}
    llm = OpenAILLM(model="m")
    assert len(set(request_digests(llm, [request_of(image) for image in found]))) == 1
    assert len({repr(for_openai(request_of(image).messages)) for image in found}) == 1


@pytest.mark.parametrize("kind, data", OTHERS.items())
def test_the_kind_of_a_file_is_seen_by_its_content(kind: str, data: bytes) -> None:
    assert image_of(data, "photo").media_type == kind
    assert image_of(base64.b64encode(data).decode(), "photo").media_type == kind


def test_an_address_is_an_image_by_its_text() -> None:
    image = image_of(" https://a.example/kite.png ", "photo")
    assert (image.url, image.content()) == ("https://a.example/kite.png", b"")
    digests = request_digests(
        OpenAILLM(model="m"),
        [request_of(image_of(f"https://a.example/{name}", "photo")) for name in ("a", "b", "a")],
    )
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    "value, words",
    [
        (None, "holds a NoneType"),
        (7, "holds a int"),
        ("nowhere.png", "cannot be read"),
        ("", "cannot be read"),
        ("no\0where", "cannot be read"),
        (b"%PDF-1.7", "no image of a kind that models read"),
        (f"data:image/png;base64,{TEXT[:-7]}!", "no base64"),
        ("A" + " " * 39, "cannot be read"),  # as long as base64 text, of letters that are none
        ("AAAAA" + " " * 60 + "A" * 40, "cannot be read"),
        ("https:///kite.png", "without a host"),
        ("https://me:pass@a.example/kite.png", "a password"),
    ],
)
def test_what_is_no_image_is_told_with_the_column(value: object, words: str, folder: Path) -> None:
    with pytest.raises(StepRowError, match=f"'photo'.*{words}"):
        image_of(value, "photo", folder=str(folder))


def test_base64_text_that_is_set_far_in_is_found_too(folder: Path) -> None:
    assert image_of(TEXT[:5] + "\n" + " " * 70 + TEXT[5:], "photo", folder=str(folder)).content() == PNG


@pytest.mark.parametrize(
    "form, fields",
    [
        ("PNG", {}),
        ("GIF", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}),
    ],
)
def test_the_size_of_an_image_is_read_from_its_head(form: str, fields: dict[str, Any]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    file = BytesIO()
    pillow.new("RGB", (123, 45)).save(file, form, **fields)
    assert image_of(file.getvalue(), "photo").size == (123, 45)
    assert size_of(file.getvalue()[:9]) is None


def test_an_image_is_counted_by_its_models_rule_and_as_a_usual_one_where_none_is_known() -> None:
    def image(*size: int) -> Image:
        return Image(digest="d", size=Size(*size))

    def counted(model: str, *size: int, base_url: str | None = None) -> int:
        return OpenAILLM(model=model, base_url=base_url).image_tokens(image(*size))

    assert [counted("gpt-4o", *size) for size in ((512, 512), (1024, 1024), (2048, 4096))] == [255, 765, 1105]
    assert counted("gpt-4o-mini", 512, 512) == 2833 + 5667
    assert counted("gpt-4.1-mini", 1024, 1024) == math.ceil(1024 * 1.62)
    assert counted("gpt-4.1-mini", 9000, 9000) == math.ceil(1536 * 1.62)
    assert counted("openai/gpt-4o", 1024, 1024, base_url="https://gateway.example/v1") == 765
    assert counted("some-other", 1024, 1024) == IMAGE_TOKENS
    assert OpenAILLM(model="gpt-4o").image_tokens(Image(url="https://a.example/x.png")) == IMAGE_TOKENS
    assert AnthropicLLM(model="m").image_tokens(image(1000, 1000)) == 1334
    assert AnthropicLLM(model="m").image_tokens(image(8000, 8000)) == 1600
    assert VertexAILLM(model="m").image_tokens(image(384, 384)) == 258
    assert VertexAILLM(model="m").image_tokens(image(960, 540)) == 6 * 258


def test_a_form_that_is_asked_for_is_the_only_one(folder: Path) -> None:
    assert image_of("kite.png", "photo", kind="path", folder=str(folder)).content() == PNG
    assert image_of(TEXT, "photo", kind="base64").content() == PNG
    for kind, value in (("url", TEXT), ("path", TEXT), ("base64", "kite.png"), ("PIL", PNG), ("bytes", TEXT)):
        with pytest.raises(StepRowError, match="photo"):
            image_of(value, "photo", kind=kind, folder=str(folder))  # type: ignore[arg-type]


def test_an_image_that_is_too_large_is_told_before_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_IMAGE_BYTES", 10)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("it was read"))
    for value in (PNG, "kite.png"):
        with pytest.raises(StepRowError, match="at most 10 are sent"):
            image_of(value, "photo", folder=str(folder))


# --- files ---


@pytest.mark.parametrize(
    "path", ["../secret.png", "{outside}", "link.png", "sub/../../secret.png", "~/x.png"]
)
def test_a_path_does_not_lead_out_of_its_folder(path: str, folder: Path) -> None:
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    path = path.replace("{outside}", str(folder.parent / "secret.png"))
    with pytest.raises(StepRowError, match="outside of the folder") as told:
        image_of(path, "photo", folder=str(folder))
    assert "image_folder=" in told.value.fix


def test_a_folder_or_a_device_is_no_image(folder: Path) -> None:
    with pytest.raises(StepRowError, match="it is no file"):
        image_of(".", "photo", folder=str(folder))
    with pytest.raises(StepRowError, match="it is no file"):
        image_of("/dev/zero", "photo", folder="/dev")


def test_a_file_that_changes_before_it_is_sent_is_not_sent(folder: Path) -> None:
    image = image_of("kite.png", "photo", folder=str(folder))
    (folder / "kite.png").write_bytes(OTHERS["image/gif"])
    with pytest.raises(RefusedRequestError, match="was changed"):
        image.address()
    (folder / "kite.png").unlink()
    with pytest.raises(RefusedRequestError, match="cannot be read any more"):
        image.address()


# --- in messages ---


def test_images_come_behind_the_text_of_the_last_message_of_the_user() -> None:
    image = image_of(PNG, "photo")
    messages = [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "user", "content": "Three"},
    ]
    made = with_images(messages, [image, image])
    assert made[:2] == messages[:2]
    assert list(parts_of(made[2])) == ["Three", image, image]
    assert messages[2]["content"] == "Three"


def test_what_is_shown_tells_of_an_image_and_does_not_hold_it() -> None:
    text = prompt_text(request_of(image_of(PNG, "photo")))
    assert text == f"user:\nWhat is this?\n[image/png, {len(PNG)} bytes]"
    assert "PNG" not in repr(image_of(PNG, "photo"))
    raw = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT}"}}]
    assert prompt_text(Request(({"role": "user", "content": raw},))) == "user:\n[image_url]"


def test_a_budget_sets_tokens_aside_for_an_image_and_not_for_its_text() -> None:
    llm = OpenAILLM(model="m", generation_kwargs={"max_new_tokens": 1})
    large = PNG + bytes(3_000_000)
    raw = {"type": "image_url", "image_url": {"url": f"data:;base64,{base64.b64encode(large).decode()}"}}
    for request in (request_of(image_of(large, "photo")), Request(({"role": "user", "content": [raw]},))):
        _, tokens = estimate(llm, None, request)
        assert 1000 < tokens < 3000


@pytest.mark.parametrize(
    "part",
    ["text", {"type": "input_audio"}, {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}],
)
def test_a_part_that_nobody_knows_is_refused(part: object) -> None:
    with pytest.raises(RefusedRequestError, match=re.compile("part of type")):
        list(parts_of({"role": "user", "content": [part]}))
