"""The same behaviour of every real engine, on the tiny model, through the model host."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from distilnb.errors import ModelError, RefusedRequestError
from distilnb.llms import LlamaCppLLM, TransformersLLM, vLLM
from distilnb.llms.calling import answer_now
from distilnb.llms.local import LocalLLM
from distilnb.llms.request import Answer, Request
from distilnb.llms.shape import ReplyShape

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

PROMPT = "Name three uses of argon."
ENGINES = ["transformers", "llama_cpp", "vllm"]
BOOK = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "grade": {"enum": ["a", "b"]}},
    "required": ["ok", "grade"],
    "additionalProperties": False,
}

Make = Callable[..., LocalLLM]


@pytest.fixture(params=ENGINES)
def make(request: pytest.FixtureRequest, tiny_model: Path) -> Make:
    """Return what makes the tiny model for an engine, with generation parameters."""
    if find_spec(request.param) is None:
        pytest.skip(f"the package {request.param!r} is not installed")
    fields: dict[str, Any]
    kind: type[LocalLLM]
    if request.param == "transformers":
        kind, fields = TransformersLLM, {"model": str(tiny_model)}
    elif request.param == "llama_cpp":
        gguf = request.getfixturevalue("tiny_gguf")
        kind, fields = LlamaCppLLM, {"model_path": str(gguf), "n_ctx": 512}
    else:
        extra = {"enforce_eager": True, "max_model_len": 512, "max_num_seqs": 16}
        kind, fields = vLLM, {"model": str(tiny_model), "extra_kwargs": extra}

    def made(*, model_fields: dict[str, Any] | None = None, **generation: Any) -> LocalLLM:
        wanted = {"max_new_tokens": 12, **generation}
        return kind(**fields, **(model_fields or {}), generation_kwargs=wanted)

    return made


def ask(llm: LocalLLM, content: str = PROMPT, *, system: str = "", **request: Any) -> Answer:
    messages = [{"role": "user", "content": content}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return answer_now(llm, Request(tuple(messages), **request))


def text_of(answer: Answer) -> str:
    return str(answer.replies[0].text)


def ask_many(asked: Sequence[tuple[LocalLLM, str]]) -> list[Answer]:
    """Ask all at once: each model through a client of its own."""

    async def run() -> list[Answer]:
        clients = [llm.make_client() for llm, _ in asked]
        requests = [Request(({"role": "user", "content": content},)) for _, content in asked]
        try:
            return list(
                await asyncio.gather(
                    *(client.send(one) for client, one in zip(clients, requests, strict=True))
                )
            )
        finally:
            await asyncio.gather(*(client.close() for client in clients))

    return asyncio.run(run())


def n_tokens_of(tiny_model: Path, messages: list[dict[str, str]]) -> int:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_model_passes_its_check_and_answers(make: Make) -> None:
    llm = make()
    llm.check()
    assert llm.ask(PROMPT)


def test_temperature_0_repeats_itself_whatever_is_asked_beside_it(make: Make) -> None:
    greedy, warm = make(temperature=0), make(temperature=1.5)
    alone = text_of(ask(greedy))
    together = ask_many([(greedy, PROMPT), (warm, "Say something else."), (warm, "x"), (greedy, PROMPT)])
    assert [text_of(answer) for answer in (together[0], together[3])] == [alone, alone]


def test_the_system_message_counts(make: Make) -> None:
    assert text_of(ask(make(temperature=0))) != text_of(ask(make(temperature=0), system="Be brief."))


def test_n_replies_differ_and_share_the_usage(make: Make) -> None:
    replies = ask(make(), n=3).replies
    assert len({reply.text for reply in replies}) == 3
    assert [bool(reply.input_tokens) for reply in replies] == [True, False, False]


def test_the_prompt_is_the_chat_template_and_counted(make: Make, tiny_model: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    reply = ask(make(), system="Be brief.").replies[0]
    assert reply.input_tokens == n_tokens_of(tiny_model, messages)


def test_the_limit_ends_a_reply_and_says_so(make: Make) -> None:
    reply = ask(make(max_new_tokens=5, temperature=0)).replies[0]
    assert (reply.finish_reason, reply.output_tokens) == ("length", 5)
    assert reply.is_truncated


def test_a_seed_repeats_the_replies_and_another_does_not(make: Make) -> None:
    first = [reply.text for reply in ask(make(seed=7), n=2).replies]
    again = [reply.text for reply in ask(make(seed=7), n=2).replies]
    other = [reply.text for reply in ask(make(seed=8), n=2).replies]
    assert first == again
    assert first[0] != first[1]
    assert first != other


def test_without_a_seed_equal_requests_differ(make: Make) -> None:
    assert len({text_of(ask(make(temperature=1.3))) for _ in range(3)}) > 1


def test_a_stop_string_ends_the_reply_and_is_not_in_it(make: Make) -> None:
    whole = text_of(ask(make(temperature=0)))
    stop = whole[6:8]
    reply = ask(make(temperature=0, stop=[stop, "\u2603"])).replies[0]
    assert reply.text == whole[: whole.index(stop)]
    assert reply.finish_reason == "stop"
    assert reply.output_tokens is not None
    assert reply.output_tokens < 12


def test_logprobs_are_told_of_each_token(make: Make) -> None:
    answer = ask(make(temperature=0, logprobs=True, top_logprobs=3, max_new_tokens=4))
    content = answer.extra["logprobs"][0]["content"]
    assert len(content) == 4
    assert "".join(one["token"] for one in content) == text_of(answer)
    for one in content:
        tops = one["top_logprobs"]
        assert len(tops) >= 3
        assert one["token"] == tops[0]["token"]
        assert one["logprob"] == pytest.approx(tops[0]["logprob"])
        assert 0 >= tops[0]["logprob"] >= tops[1]["logprob"] >= tops[2]["logprob"]


def test_parameters_change_what_is_drawn(make: Make) -> None:
    greedy = text_of(ask(make(temperature=0)))
    for only_the_best in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        assert text_of(ask(make(temperature=1.0, **only_the_best))) == greedy
    for against_repeats in (
        {"frequency_penalty": 2.0},
        {"presence_penalty": 2.0},
        {"repetition_penalty": 3.0},
    ):
        assert text_of(ask(make(temperature=0, max_new_tokens=40, **against_repeats))) != text_of(
            ask(make(temperature=0, max_new_tokens=40))
        )


def test_replies_are_held_to_a_schema(make: Make) -> None:
    for n in range(4):
        reply = text_of(
            ask(make(max_new_tokens=64), f"{PROMPT} {n}", shape=ReplyShape("json", BOOK), mode="grammar")
        )
        data = json.loads(reply, strict=False)
        assert data.keys() == {"ok", "grade"}
        assert isinstance(data["ok"], bool)
        assert data["grade"] in ("a", "b")


def test_replies_are_held_to_a_pattern(make: Make) -> None:
    shape = ReplyShape("regex", pattern=r"[A-C]{2}-(red|blue)\d{1,3}")
    for n in range(4):
        reply = text_of(ask(make(max_new_tokens=40), f"{PROMPT} {n}", shape=shape, mode="grammar"))
        assert re.fullmatch(shape.pattern, reply)


def test_replies_are_held_to_choices(make: Make) -> None:
    shape = ReplyShape("choice", choices=("yes", "no, never", 'the "third" one'))
    replies = {text_of(ask(make(max_new_tokens=40), f"{n}?", shape=shape, mode="grammar")) for n in range(8)}
    assert replies <= set(shape.choices)


def test_held_and_free_replies_are_made_side_by_side(make: Make) -> None:
    async def run() -> list[Answer]:
        client = make(max_new_tokens=40).make_client()
        messages = ({"role": "user", "content": PROMPT},)
        held = Request(messages, shape=ReplyShape("choice", choices=("yes", "no")), mode="grammar")
        try:
            return list(await asyncio.gather(*(client.send(one) for one in (held, Request(messages), held))))
        finally:
            await client.close()

    first, free, second = (text_of(answer) for answer in asyncio.run(run()))
    assert {first, second} <= {"yes", "no"}
    assert free not in {"yes", "no"}


def test_any_script_comes_through(make: Make, tiny_model: Path) -> None:
    content = "Größe 漢字 🦜 \u200b"
    reply = ask(make(), content).replies[0]
    assert reply.input_tokens == n_tokens_of(tiny_model, [{"role": "user", "content": content}])


def test_a_prompt_beyond_the_context_is_refused_with_its_length(make: Make) -> None:
    with pytest.raises(RefusedRequestError, match=r"The prompt has [0-9]+ tokens; the context"):
        ask(make(), "argon " * 3000)


def test_an_image_is_refused(make: Make) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}
    request = Request(({"role": "user", "content": [part]},))
    with pytest.raises(RefusedRequestError, match="image_url"):
        answer_now(make(), request)


def test_a_refused_request_leaves_the_others_alone(make: Make) -> None:
    async def run() -> list[Any]:
        client = make().make_client()
        contents = [PROMPT, "argon " * 3000, "Hello."]
        requests = [Request(({"role": "user", "content": content},)) for content in contents]
        try:
            return list(await asyncio.gather(*map(client.send, requests), return_exceptions=True))
        finally:
            await client.close()

    fine, refused, also_fine = asyncio.run(run())
    assert isinstance(refused, ModelError)
    assert isinstance(fine, Answer)
    assert isinstance(also_fine, Answer)


def test_many_requests_at_once_are_all_answered(make: Make) -> None:
    llm = make(max_new_tokens=4)
    answers = ask_many([(llm, f"{PROMPT} {number}") for number in range(40)])
    assert all(answer.replies[0].output_tokens for answer in answers)


def test_an_unfinished_reply_of_the_assistant_is_gone_on_with(make: Make) -> None:
    if make().provider == "gguf":
        pytest.skip("not shipped: llama.cpp's chat completion always begins a new turn")
    messages = ({"role": "user", "content": PROMPT}, {"role": "assistant", "content": "First, in lamps"})
    begun = answer_now(make(temperature=0), Request(messages)).replies[0]
    new = ask(make(temperature=0)).replies[0]
    assert begun.text != new.text


def test_another_chat_template_is_another_prompt(make: Make) -> None:
    template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    reply = ask(make(model_fields={"chat_template": template}), "a").replies[0]
    assert reply.input_tokens == 1


def test_a_killed_host_is_replaced_and_the_request_answered(make: Make) -> None:
    llm = make(temperature=0)
    before = text_of(ask(llm))
    info = llm.host().place().info()
    assert info is not None
    os.kill(info.pid, signal.SIGKILL)
    assert text_of(ask(llm)) == before
