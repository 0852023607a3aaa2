"""Conversations that a model writes itself: the text it gets at each turn, and what comes of failures between."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from distilnb.errors import MalformedReplyError, RefusedRequestError, ServerError
from distilnb.llms import (
    ClientvLLM,
    InferenceEndpointsLLM,
    LlamaCppLLM,
    MlxLLM,
    OllamaLLM,
    OpenAILLM,
    TransformersLLM,
    vLLM,
)
from distilnb.llms.base import LLM
from distilnb.llms.calling import answer_now
from distilnb.llms.failures import Target
from distilnb.llms.magpie import MAGPIE, RAW, MagpieClient, read_completion, text_before_user
from distilnb.llms.request import Answer, Reply, Request
from tests.servers import MockLLM, mock_llm

SYSTEM = {"role": "system", "content": "Be kind."}


def conversation(n_messages: int, *before: dict[str, Any], template: str = "qwen2") -> Request:
    return Request((*before, {"role": MAGPIE, "content": template, "n_messages": n_messages}))


class Writer:
    """Answers with the given texts in turn; an error among them is raised."""

    def __init__(self, *texts: str | Exception) -> None:
        self.texts = list(texts)
        self.asked: list[Any] = []
        self.is_closed = False

    async def send(self, request: Request) -> Answer:
        self.asked.append(request.messages)
        text = self.texts.pop(0)
        if isinstance(text, Exception):
            raise text
        return Answer((Reply(text, "length" if "long" in text else "stop", "m", 10, 2),))

    async def close(self) -> None:
        self.is_closed = True


def turns_of(answer: Answer) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in json.loads(answer.replies[0].text or "")]


def test_the_model_goes_on_at_the_users_turn_and_answers_as_in_any_chat() -> None:
    chat, raw = Writer("Because.", "Yes."), Writer(" Why?<|im_end|>\n<|im_start|>assistant", "Really?\n")
    client = MagpieClient(chat, raw)
    answer = asyncio.run(client.send(conversation(4, SYSTEM)))
    assert turns_of(answer) == [
        *(("user", "Why?"), ("assistant", "Because.")),
        *(("user", "Really?"), ("assistant", "Yes.")),
    ]
    system = "<|im_start|>system\nBe kind.<|im_end|>\n"
    assert [messages[0]["content"] for messages in raw.asked] == [
        f"{system}<|im_start|>user\n",
        f"{system}<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nBecause.<|im_end|>\n<|im_start|>user\n",
    ]
    assert {messages[0]["role"] for messages in raw.asked} == {RAW}
    assert chat.asked[0] == (SYSTEM, {"role": "user", "content": "Why?"})
    assert len(chat.asked[1]) == 4
    [reply] = answer.replies
    assert (reply.input_tokens, reply.output_tokens, reply.model, reply.finish_reason) == (40, 8, "m", "stop")


def test_a_turn_that_was_cut_off_marks_the_conversation() -> None:
    [reply] = asyncio.run(MagpieClient(Writer("Ok."), Writer("a long one")).send(conversation(2))).replies
    assert reply.is_truncated


def test_a_failure_between_the_turns_loses_none_of_those_before() -> None:
    async def main() -> None:
        chat, raw = Writer(ServerError("busy"), "Because."), Writer("Why?")
        client = MagpieClient(chat, raw)
        request, other = conversation(2), conversation(2)
        with pytest.raises(ServerError):
            await client.send(request)
        answer = await client.send(request)  # as a caller does who tries again
        assert turns_of(answer) == [("user", "Why?"), ("assistant", "Because.")]
        assert (len(raw.asked), len(chat.asked)) == (1, 2)
        raw.texts, chat.texts = ["Who?"], ["Me."]
        assert turns_of(await client.send(other)) == [("user", "Who?"), ("assistant", "Me.")]

    asyncio.run(main())


def test_a_model_that_writes_nothing_ends_the_conversation_there() -> None:
    assert turns_of(asyncio.run(MagpieClient(Writer(), Writer(" ")).send(conversation(2)))) == []


def test_other_requests_are_chats_and_both_clients_are_closed() -> None:
    async def main() -> None:
        chat, raw = Writer("Hello."), Writer()
        client = MagpieClient(chat, raw)
        await client.send(Request(({"role": "user", "content": "hi"},)))
        assert (len(chat.asked), len(raw.asked)) == (1, 0)
        await client.close()
        assert (chat.is_closed, raw.is_closed) == (True, True)

    asyncio.run(main())


def test_a_text_of_ones_own_has_no_form_for_what_is_before_it() -> None:
    assert text_before_user("User: ", []) == "User: "
    with pytest.raises(RefusedRequestError, match="no form"):
        text_before_user("User: ", [SYSTEM])


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {}}]}'])
def test_an_answer_that_completes_no_text_is_said_so(body: bytes) -> None:
    with pytest.raises(MalformedReplyError, match="completes no text"):
        read_completion(body, Target("openai", "m", "here"))


# --- over HTTP ---


def served(server: MockLLM, kind: type[LLM] = OpenAILLM, **fields: Any) -> LLM:
    path = {"ClientvLLM": "/vllm/v1", "InferenceEndpointsLLM": "/huggingface/v1"}.get(kind.__name__, "/v1")
    url = server.base_url.removesuffix("/v1") + path
    return kind(**{"model": "m", "base_url": url, "magpie_pre_query_template": "llama3", **fields})


@pytest.mark.parametrize("kind", [OpenAILLM, ClientvLLM, InferenceEndpointsLLM])
@pytest.mark.parametrize("transport", ["aiohttp", "sdk"])
def test_servers_complete_the_users_turn_and_chat_the_rest(kind: type[LLM], transport: str) -> None:
    with mock_llm(record=5) as server:
        given = {"max_new_tokens": 20, "temperature": 0.5, "seed": 3, "stop": ["END"], "logprobs": True}
        llm = served(server, kind, transport=transport, generation_kwargs=given)
        answer = answer_now(llm, conversation(2, SYSTEM, template="llama3"))
        first, second = server.seen()
    assert [role for role, _ in turns_of(answer)] == ["user", "assistant"]
    assert first["path"].endswith("/completions")
    assert "chat" not in first["path"]
    assert first["body"] == {
        "model": "m",
        "prompt": "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\n",
        "max_tokens": 20,
        "temperature": 0.5,
        "seed": 3,
        "stop": ["END", "<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>"],
    }
    assert second["path"].endswith("/chat/completions")
    assert [message["role"] for message in second["body"]["messages"]] == ["system", "user"]


def test_ollama_goes_on_with_a_text_past_its_template_and_chats_the_rest() -> None:
    with mock_llm(record=5) as server:
        given = {"max_new_tokens": 20, "seed": 3, "stop": ["END"], "logprobs": True}
        url = f"{server.base_url.removesuffix('/v1')}/ollama"
        llm = OllamaLLM(
            model="m",
            base_url=url,
            magpie_pre_query_template="llama3",
            generation_kwargs=given,
            max_retries=0,
        )
        answer = answer_now(llm, conversation(2, SYSTEM, template="llama3"))
        first, second = server.seen()
    assert [role for role, _ in turns_of(answer)] == ["user", "assistant"]
    assert answer.replies[0].input_tokens
    assert first["path"].endswith("/api/generate")
    assert first["body"]["raw"] is True
    assert first["body"]["prompt"].startswith(
        "<|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    )
    assert first["body"]["prompt"].endswith("<|start_header_id|>user<|end_header_id|>\n\n")
    assert first["body"]["options"] == {
        "num_predict": 20,
        "seed": 3,
        "stop": ["END", "<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>"],
    }
    assert "logprobs" not in first["body"]
    assert second["path"].endswith("/api/chat")
    assert [message["role"] for message in second["body"]["messages"]] == ["system", "user"]


def test_a_text_of_ones_own_goes_out_as_it_is() -> None:
    with mock_llm(record=5) as server:
        answer_now(served(server, magpie_pre_query_template="Q: "), conversation(1, template="Q: "))
        [seen] = server.seen()
    assert seen["body"] == {"model": "m", "prompt": "Q: "}


@pytest.mark.parametrize("kind", [TransformersLLM, vLLM, LlamaCppLLM, MlxLLM])
def test_models_on_this_machine_have_the_fields_too(kind: type[LLM]) -> None:
    made = kind(model="some/model.gguf", use_magpie_template=True, magpie_pre_query_template="qwen2")  # type: ignore[call-arg]
    assert made.pre_query_template == "qwen2"
    assert isinstance(made.make_client(), MagpieClient)
    assert not isinstance(kind(model="some/model.gguf").make_client(), MagpieClient)
