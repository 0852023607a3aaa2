"""The mock model server, proved with OpenAI's own client."""

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletion

from tests.servers import MockLLM, mock_llm
from tests.servers.mock_llm import Config, serve

ROOT = Path(__file__).parents[2]
JUDGE = "{each}#### Output for Text {i}\nRating: {score}\nRationale: {digest} fine\n\n{/each}"


@pytest.fixture(scope="module")
def server() -> Iterator[MockLLM]:
    with mock_llm(models=("mock-model", "judge"), templates={"judge": JUDGE}) as running:
        yield running


@pytest.fixture
def client(server: MockLLM) -> Iterator[openai.OpenAI]:
    server.reset()
    with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, prompt: str, **options: Any) -> ChatCompletion:
    options = {"model": "mock-model", **options}
    reply: ChatCompletion = client.chat.completions.create(
        messages=[{"role": "user", "content": prompt}], **options
    )
    return reply


def text_of(reply: ChatCompletion) -> str:
    return reply.choices[0].message.content or ""


def with_server(config: Config, test: Callable[[openai.AsyncOpenAI], Awaitable[None]]) -> None:
    """Run a test against a server of its own, in the test's own loop."""

    async def run() -> None:
        runner, port = await serve(config)
        url = f"http://127.0.0.1:{port}/v1"
        try:
            async with openai.AsyncOpenAI(
                base_url=url, api_key="sk-given-0123456789", max_retries=0
            ) as client:
                await test(client)
        finally:
            await runner.cleanup()

    asyncio.run(run())


async def ask_async(client: openai.AsyncOpenAI, prompt: str, **options: Any) -> str:
    options = {"model": "mock-model", **options}
    reply: ChatCompletion = await client.chat.completions.create(
        messages=[{"role": "user", "content": prompt}], **options
    )
    return text_of(reply)


# replies ---------------------------------------------------------------------------------------------------


def test_equal_requests_have_equal_replies(client: openai.OpenAI) -> None:
    first, second, other = ask(client, "one"), ask(client, "one"), ask(client, "two")
    assert text_of(first) == text_of(second) != text_of(other)
    assert first.usage is not None
    assert first.usage.completion_tokens == len(text_of(first).split()) == 32


def test_choices_differ_and_carry_logprobs(client: openai.OpenAI) -> None:
    reply = ask(client, "several", n=3, logprobs=True, top_logprobs=2)
    texts = [choice.message.content for choice in reply.choices]
    assert len(set(texts)) == 3
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == texts[0]
    assert len(logprobs.content[0].top_logprobs) == 2


def test_a_limit_cuts_the_reply_and_says_so(client: openai.OpenAI) -> None:
    reply = ask(client, "short", max_tokens=5)
    assert reply.choices[0].finish_reason == "length"
    assert len(text_of(reply).split()) == 5


def test_a_schema_is_satisfied(client: openai.OpenAI) -> None:
    class Address(pydantic.BaseModel):
        street: str
        number: int = pydantic.Field(ge=1, le=9)

    class Person(pydantic.BaseModel):
        name: str
        homes: list[Address] = pydantic.Field(min_length=2, max_length=3)
        age: int | None

    reply = client.chat.completions.parse(
        model="mock-model", messages=[{"role": "user", "content": "who"}], response_format=Person
    )
    person = reply.choices[0].message.parsed
    assert isinstance(person, Person)
    assert len(person.homes) in (2, 3)


def test_a_forced_tool_is_called(client: openai.OpenAI) -> None:
    parameters = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    choice = {"type": "function", "function": {"name": "weather"}}
    reply = ask(client, "rain?", tools=[tool], tool_choice=choice)
    calls = reply.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert (calls[0].function.name, json.loads(calls[0].function.arguments)) == ("weather", {"city": "Oslo"})


def test_a_stream_says_what_the_whole_reply_says(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "stream"}]
    chunks = list(
        client.chat.completions.create(
            model="mock-model", messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(pieces) == text_of(ask(client, "stream"))
    assert chunks[-1].usage is not None


def test_completions_and_embeddings_parse(client: openai.OpenAI) -> None:
    text = client.completions.create(model="mock-model", prompt="once upon").choices[0].text
    vectors = client.embeddings.create(model="mock-model", input=["a", "b"], dimensions=8).data
    assert len(text.split()) == 32
    assert [len(row.embedding) for row in vectors] == [8, 8]
    assert math.hypot(*vectors[0].embedding) == pytest.approx(1.0, abs=1e-5)
    assert vectors[0].embedding != vectors[1].embedding


def test_models_are_listed_and_a_missing_one_is_an_error(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mock-model", "judge"]
    assert client.models.retrieve("judge").id == "judge"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no-model")
    assert caught.value.code == "model_not_found"


def test_a_judge_rates_every_text_that_its_prompt_numbers(client: openai.OpenAI) -> None:
    reply = text_of(ask(client, "<text 1> a\n<text 2> b\n<text 3> c", model="judge"))
    ratings = [line for line in reply.splitlines() if line.startswith("Rating: ")]
    assert [int(line[-1]) in range(1, 6) for line in ratings] == [True] * 3
    assert "Output for Text 3" in reply


def test_vary_makes_each_reply_depend_on_sampling_and_repetition() -> None:
    async def check(client: openai.AsyncOpenAI) -> None:
        texts = [await ask_async(client, "same") for _ in range(3)]
        texts.append(await ask_async(client, "same", temperature=0.7))
        assert len(set(texts)) == 4

    with_server(Config(vary=True), check)


# faults by a mark in the prompt ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mark,error,code",
    [
        ("[[401]]", openai.AuthenticationError, "invalid_api_key"),
        ("[[404]]", openai.NotFoundError, "model_not_found"),
        ("[[500]]", openai.InternalServerError, "server_error"),
    ],
)
def test_a_marked_prompt_always_fails(
    client: openai.OpenAI, mark: str, error: type[openai.APIStatusError], code: str
) -> None:
    for _ in range(3):
        with pytest.raises(error) as caught:
            ask(client, f"please {mark}")
        assert caught.value.code == code
    assert text_of(ask(client, "please"))


def test_a_limited_prompt_is_answered_the_third_time(server: MockLLM, client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, "slow down [[429]]")
    assert caught.value.response.headers["Retry-After"] == "0.05"
    assert text_of(ask(client.with_options(max_retries=1), "slow down [[429]]"))
    stats = server.stats()
    assert stats["injected_errors"] == {"429": 2}
    assert (stats["requests"], stats["ok"], stats["duplicate_prompts"]) == (3, 1, 2)


def test_a_mark_may_say_how_often(client: openai.OpenAI) -> None:
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            ask(client, "again [[500x2]]")
    assert text_of(ask(client, "again [[500x2]]"))


def test_a_mark_may_name_the_model_that_fails(client: openai.OpenAI) -> None:
    assert text_of(ask(client, "rate this [[500@judge]]"))
    with pytest.raises(openai.InternalServerError):
        ask(client, "rate this [[500@judge]]", model="judge")


def test_a_hanging_request_ends_when_its_client_leaves(server: MockLLM, client: openai.OpenAI) -> None:
    with pytest.raises(openai.APITimeoutError):
        ask(client.with_options(timeout=0.2), "wait [[never]]")
    while server.stats()["in_flight"]:
        pass
    assert server.stats()["ok"] == 0


def test_content_is_spoiled_as_marked(client: openai.OpenAI) -> None:
    empty, null = ask(client, "[[empty]]"), ask(client, "[[null]]")
    assert empty.choices[0].message.content == ""
    assert null.choices[0].message.content is None
    half, length = ask(client, "[[half]]").choices[0], ask(client, "[[length]]").choices[0]
    assert half.finish_reason == "stop"
    assert len(half.message.content or "") < len(length.message.content or "")
    assert length.finish_reason == "length"


def test_garbage_is_no_json(client: openai.OpenAI) -> None:
    with pytest.raises(json.JSONDecodeError):
        ask(client, "[[garbage]]")


# keys, models, limits, rates -------------------------------------------------------------------------------


def test_another_key_is_refused_and_not_quoted_whole() -> None:
    async def check(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError) as caught:
            await ask_async(client, "hello")
        assert caught.value.code == "invalid_api_key"
        assert "given" not in str(caught.value)
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
        assert await ask_async(client.with_options(api_key="sk-right"), "hello")

    with_server(Config(require_key="sk-right"), check)


def test_only_known_models_answer_when_told_so() -> None:
    async def check(client: openai.AsyncOpenAI) -> None:
        assert await ask_async(client, "hello")
        with pytest.raises(openai.NotFoundError, match="`gpt-nope` does not exist") as caught:
            await ask_async(client, "hello", model="gpt-nope")
        assert caught.value.code == "model_not_found"

    with_server(Config(known_models_only=True), check)


def test_too_many_at_once_are_told_to_wait() -> None:
    async def check(client: openai.AsyncOpenAI) -> None:
        asked = (ask_async(client, f"prompt {number}") for number in range(3))
        results = await asyncio.gather(*asked, return_exceptions=True)
        refused = [result for result in results if isinstance(result, openai.RateLimitError)]
        assert len(refused) == 2
        assert refused[0].response.headers["Retry-After"] == "2"

    with_server(Config(max_concurrency=1, latency_ms=200, retry_after=1.5), check)


def test_random_faults_hit_the_same_prompts_each_time() -> None:
    outcomes: list[list[bool]] = []

    async def check(client: openai.AsyncOpenAI) -> None:
        asked = (ask_async(client, f"prompt {number}") for number in range(40))
        results = await asyncio.gather(*asked, return_exceptions=True)
        outcomes.append([isinstance(result, openai.APIError) for result in results])

    for _ in range(2):
        with_server(Config(error_500_rate=0.3, error_reset_rate=0.1, seed=7), check)
    assert outcomes[0] == outcomes[1]
    assert 4 < sum(outcomes[0]) < 30


def test_an_idle_connection_is_closed_after_its_time() -> None:
    async def check() -> None:
        runner, port = await serve(Config(keep_alive_s=0.05))
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /health HTTP/1.1\r\nHost: mock\r\n\r\n")
            heard = await asyncio.wait_for(reader.read(), 30)  # until the server closes: nobody else does
            writer.close()
        finally:
            await runner.cleanup()
        assert heard.startswith(b"HTTP/1.1 200")
        assert heard.endswith(b'{"status": "ok"}')

    asyncio.run(check())


# the process -----------------------------------------------------------------------------------------------


def test_the_server_ends_with_a_killed_parent() -> None:
    program = (
        "import os, signal\n"
        "from tests.servers import mock_llm\n"
        "with mock_llm() as server:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The server inherits the error stream: the call returns when the last process that holds it has ended.
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, timeout=60, check=False
    )
    assert done.returncode == -9
    assert done.stderr == b""


def test_a_flag_that_does_not_exist_is_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="ended with 2 before it was ready"), mock_llm(latency_s=1):
        pass
    assert "--latency-s" in capfd.readouterr().err


@pytest.mark.parametrize("target", ["tests/servers/mock_llm", "tests/servers/mock_llm/__main__.py"])
def test_it_starts_as_a_path(target: str) -> None:
    command = [sys.executable, target, "--port", "0", "--with-stdin"]
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.startswith("mock-llm listening on http://127.0.0.1:")
    assert (done.returncode, done.stderr) == (0, "")
