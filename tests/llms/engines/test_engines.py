"""What holds of the real engines in process alone; what holds of all models is in tests/llms/conformance."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from distilnb.errors import ModelError, RefusedRequestError
from distilnb.llms.calling import answer_now
from distilnb.llms.local import LocalLLM
from distilnb.llms.request import Answer, Request
from distilnb.llms.shape import ReplyShape
from tests.llms.engines.real import IN_PROCESS, RealEngine, Served

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

PROMPT = "Name three uses of argon."

Make = Callable[..., LocalLLM]


@pytest.fixture(params=IN_PROCESS, ids=lambda engine: engine.kind)
def make(request: pytest.FixtureRequest, serve: Callable[[RealEngine], Served]) -> Make:
    """Return what makes the tiny model for an engine, with generation parameters."""
    engine: RealEngine = request.param
    served = serve(engine)

    def made(*, model_fields: dict[str, Any] | None = None, **generation: Any) -> LocalLLM:
        wanted = {"temperature": 1.0, "max_new_tokens": 12, **generation}
        llm = engine.model(served, **(model_fields or {}), generation_kwargs=wanted)
        assert isinstance(llm, LocalLLM)
        return llm

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


def test_temperature_0_repeats_itself_whatever_is_asked_beside_it(make: Make) -> None:
    greedy, warm = make(temperature=0), make(temperature=1.5)
    alone = text_of(ask(greedy))
    together = ask_many([(greedy, PROMPT), (warm, "Say something else."), (warm, "x"), (greedy, PROMPT)])
    assert [text_of(answer) for answer in (together[0], together[3])] == [alone, alone]


def test_n_replies_share_the_usage(make: Make) -> None:
    replies = ask(make(), n=3).replies
    assert [bool(reply.input_tokens) for reply in replies] == [True, False, False]


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


def test_a_value_that_is_none_of_its_parameter_fails_alone(make: Make) -> None:
    async def run() -> list[Any]:
        clients = [make(temperature=value).make_client() for value in (0, "warm", 0)]
        request = Request(({"role": "user", "content": PROMPT},))
        sent = [client.send(request) for client in clients]
        try:
            return list(await asyncio.gather(*sent, return_exceptions=True))
        finally:
            await asyncio.gather(*(client.close() for client in clients))

    fine, refused, also_fine = asyncio.run(run())
    assert isinstance(refused, RefusedRequestError)
    assert text_of(fine) == text_of(also_fine)


def test_a_schema_may_hold_any_character(make: Make) -> None:
    words = ['the "third" one', "a\\b", "two\nlines", "é"]
    schema = {
        "type": "object",
        "properties": {'the "word"': {"enum": words}},
        "required": ['the "word"'],
        "additionalProperties": False,
    }
    found = make(max_new_tokens=90).ask(PROMPT, schema=schema, max_reasks=0)
    assert found['the "word"'] in words


def test_a_choice_may_hold_any_character(make: Make) -> None:
    choices = ['the "third" one', "a\\b", "é"]
    assert make(max_new_tokens=40).ask(PROMPT, schema=choices, max_reasks=0) in choices


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
