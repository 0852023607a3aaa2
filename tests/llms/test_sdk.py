from __future__ import annotations

import asyncio
import importlib.util
import time
from typing import Any

import pytest

from distilnb.errors import MissingPackageError, RefusedRequestError
from distilnb.llms.anthropic import AnthropicLLM
from distilnb.llms.cohere import CohereLLM
from distilnb.llms.litellm import LiteLLM
from distilnb.llms.ollama import OllamaLLM
from distilnb.llms.request import Answer, Reply, Request
from distilnb.llms.sdk import Response, SdkClient, SdkLLM, split_system, text_of
from distilnb.llms.vertexai import VertexAILLM

KINDS = [AnthropicLLM, CohereLLM, LiteLLM, OllamaLLM, VertexAILLM]


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_that_is_missing_is_told_before_the_run_with_its_extra(
    kind: type[SdkLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError) as caught:
        kind(model="m", api_key="k").check()
    package = kind.package.partition(".")[0]
    assert str(caught.value) == (
        f"{kind.__name__} needs the package {package!r}, which is not installed.\n"
        f"pip install 'distilnb[{kind.extra_name}]'"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_sdk_never_gets_to_find_a_key_by_itself(
    kind: type[SdkLLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(kind.key_variable or "OPENAI_API_KEY", "sk-canary-0123456789")
    client: Any = kind(model="m", base_url="https://other.example").make_client()
    assert isinstance(client, SdkClient)
    assert client.key == "no-key"


class _SlowToImport(SdkClient):
    """An SDK that takes longer to import than a request may take."""

    is_open = False

    def open(self) -> None:
        if not self.is_open:
            time.sleep(2 * self.timeout_s)
            self.is_open = True

    async def ask(self, request: Request) -> Answer:
        self.open()
        for _ in range(3):  # a time limit that is over shows when the loop comes by
            await asyncio.sleep(0)
        return Answer((Reply("hi", "stop", "m", 1, 1),))

    def response_of(self, error: Exception) -> Response | None:
        return None

    async def close(self) -> None:
        pass


def test_what_the_import_of_an_sdk_takes_is_not_the_requests_time() -> None:
    client = _SlowToImport(OllamaLLM(model="m", timeout=0.05))
    answer = asyncio.run(client.send(Request(({"role": "user", "content": "hello"},))))
    assert [reply.text for reply in answer.replies] == ["hi"]


def test_messages_of_the_system_are_taken_apart_wherever_they_stand() -> None:
    user, reply = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}
    systems = [{"role": "system", "content": text} for text in ("a", "b")]
    assert split_system((systems[0], user, systems[1], reply)) == ("a\n\nb", [user, reply])
    assert split_system((user,)) == ("", [user])


def test_text_is_read_from_parts_and_nothing_else_is_dropped_silently() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text_of({"role": "user", "content": parts}) == "ab"
    image = {"type": "image_url", "image_url": {"url": "https://x.example/i.png"}}
    with pytest.raises(RefusedRequestError, match="holds an image"):
        text_of({"role": "user", "content": [*parts, image]})


def test_a_further_reply_has_a_seed_of_its_own() -> None:
    from distilnb.llms.sdk import seeded

    assert seeded({"seed": 5, "top_p": 1}, Request((), first=2)) == {"seed": 7, "top_p": 1}
    assert seeded({"seed": 5}, Request(())) == {"seed": 5}
    assert seeded({}, Request((), first=2)) == {}
