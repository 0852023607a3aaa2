"""Images in messages, as each provider writes them; and what is said where one takes none."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from distilnb.errors import RefusedRequestError, UnsupportedParameterError
from distilnb.llms.images import Image, image_of, with_images
from distilnb.llms.request import Request
from distilnb.tasks import TextGenerationWithImage
from tests.llms.conformance.providers import BLIND, Provider, Server, Subject, behaviour, send, text_of
from tests.servers import MockLLM

# A PNG of one pixel.
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
ADDRESS = "https://pictures.example/kite.png"


def in_one_alphabet(text: str) -> str:
    """Return text with base64 in its usual alphabet: Google's SDK writes the one for addresses."""
    return text.translate(str.maketrans("-_", "+/"))


def asking(*images: Image) -> Request:
    system: dict[str, Any] = {"role": "system", "content": "Be brief."}
    return Request(tuple(with_images([system, {"role": "user", "content": "What is this?"}], images)))


def refuses(provider: Subject, server: Server, request: Request, words: str) -> None:
    with pytest.raises(RefusedRequestError, match=words):
        send(provider.model(server), request)
    if isinstance(server, MockLLM):
        assert server.stats()["requests"] == 0


@behaviour("an image, with its bytes", images="file", unreal=BLIND)
def test_the_bytes_of_an_image_arrive(provider: Provider, server: MockLLM) -> None:
    image = image_of(PNG, "photo")
    if "file" not in provider.cls.takes_images:
        return refuses(provider, server, asking(image), "is sent no images")
    assert text_of(
        send(provider.model(server), asking(image, image))
    )  # a wrong form is refused by the server
    (seen,) = server.seen()
    sent = json.dumps(seen["body"])
    assert in_one_alphabet(sent).count(base64.b64encode(PNG).decode()) == 2
    assert "What is this?" in sent
    return None


@behaviour("an image, by its address", images="url", unreal=BLIND)
def test_the_address_of_an_image_arrives(provider: Provider, server: MockLLM) -> None:
    image = image_of(ADDRESS, "photo")
    if "url" not in provider.cls.takes_images:
        words = "takes the bytes of images" if provider.cls.takes_images else "is sent no images"
        return refuses(provider, server, asking(image), words)
    assert text_of(send(provider.model(server), asking(image)))
    (seen,) = server.seen()
    assert ADDRESS in json.dumps(seen["body"])
    return None


@behaviour("a part of OpenAI's protocol, for every provider", images="file", unreal=BLIND)
def test_parts_of_openais_protocol_are_understood(provider: Provider, server: MockLLM) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
    parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": uri}}]
    request = Request(({"role": "user", "content": parts},))
    if "file" not in provider.cls.takes_images:
        return refuses(provider, server, request, "is sent no images")
    assert text_of(send(provider.model(server), request))
    (seen,) = server.seen()
    assert base64.b64encode(PNG).decode() in in_one_alphabet(json.dumps(seen["body"]))
    return None


@behaviour("images are refused before the run where none are taken")
def test_a_provider_without_images_is_refused_by_the_check(provider: Subject, server: Server) -> None:
    task = TextGenerationWithImage(name="look", llm=provider.model(server))
    if provider.cls.takes_images:
        task.check()
        return
    with pytest.raises(UnsupportedParameterError, match="is sent no images"):
        task.check()
