"""What becomes of a request that fails: each provider's errors are one family."""

from __future__ import annotations

import asyncio
import pickle
import socket
import traceback

import pytest

from distilnb.errors import (
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    MalformedReplyError,
    ModelError,
    QuotaExhaustedError,
    RateLimitError,
    RefusedRequestError,
    RequestTimeoutError,
    ServerError,
    UnknownModelError,
    UnreachableError,
)
from distilnb.llms.base import LLM
from distilnb.llms.calling import Caller
from distilnb.llms.request import Answer, Client, Request
from tests.llms.conformance.providers import (
    CANARY,
    FAULT,
    NO_ADDRESS,
    NO_FILTER,
    NO_KEY,
    ONE_MODEL,
    OWN_FILE,
    Provider,
    Server,
    Subject,
    behaviour,
    call,
    run,
    send,
    text_of,
)
from tests.llms.engines.real import LONG, N_CONTEXT, Served
from tests.llms.scripted import ask
from tests.servers import MockLLM


def fail(model: LLM, mark: str, kind: type[ModelError]) -> ModelError:
    """Ask what fails by a mark, and return the error; see that it names the provider and shows no key."""
    error = failing(model, f"hello [[{mark}x9]]", kind)
    assert str(error).startswith((model.provider, f"No answer from {model.provider}"))
    return error


def failing(model: LLM, request: Request | str, kind: type[ModelError]) -> ModelError:
    """Ask what fails, and return the error; see that it is of the family, and shows no key."""
    with pytest.raises(ModelError) as caught:
        send(model, request)
    error = caught.value
    assert type(error) is kind
    assert error.provider == model.provider
    assert error.hint
    shown = "".join(traceback.format_exception(error))
    assert CANARY not in shown
    assert CANARY.encode() not in pickle.dumps(error)
    return error


@behaviour("a wrong key (401)", unreal={"in process": NO_KEY})
def test_a_wrong_key_is_fatal(provider: Subject, server: Server) -> None:
    if isinstance(server, Served):
        error = failing(provider.model(server, api_key="sk-of-another"), "hello", AuthenticationError)
    else:
        error = fail(provider.model(server), "401", AuthenticationError)
    assert (error.fatal, error.retryable) == (True, False)
    assert "api_key=" in error.hint


@behaviour(
    "an unknown model (404)",
    unreal={"llama.cpp's server, by `OpenAILLM`": ONE_MODEL, "in process": OWN_FILE},
)
def test_an_unknown_model_is_fatal(provider: Subject, server: Server) -> None:
    if isinstance(server, Served):
        error = failing(provider.model(server, model="nope"), "hello", UnknownModelError)
    else:
        error = fail(provider.model(server), "404", UnknownModelError)
    assert (error.fatal, error.retryable) == (True, False)


@behaviour("too many requests (429)", unreal=FAULT)
def test_a_limit_tells_how_long_to_wait(provider: Provider, server: MockLLM) -> None:
    error = fail(provider.model(server), "429", RateLimitError)
    assert (error.fatal, error.retryable) == (False, True)
    assert error.retry_after_s == pytest.approx(0.05)


@behaviour("waiting and asking again", unreal=FAULT)
def test_a_limited_request_is_sent_again(provider: Provider, server: MockLLM) -> None:
    (answer,) = call(provider.model(server), ask("hello [[429]]"))
    assert text_of(answer)
    assert server.stats()["requests"] == 3


@behaviour("no credit left", unreal=FAULT)
def test_an_account_without_credit_is_fatal(provider: Provider, server: MockLLM) -> None:
    error = fail(provider.model(server), "quota", QuotaExhaustedError)
    assert (error.fatal, error.retryable) == (True, False)


@behaviour("a failing server (500, overloaded)", unreal=FAULT)
@pytest.mark.parametrize("mark", ["500", "busy"])
def test_a_server_that_fails_is_asked_again(provider: Provider, server: MockLLM, mark: str) -> None:
    error = fail(provider.model(server), mark, ServerError)
    assert (error.fatal, error.retryable) == (False, True)
    (answer,) = call(provider.model(server), ask(f"again [[{mark}x1]]"))
    assert text_of(answer)


@behaviour("an invalid request (400)")
def test_what_the_provider_calls_invalid_is_refused(provider: Subject, server: Server) -> None:
    if isinstance(server, Served):
        nonsense = provider.model(server, generation_kwargs={"temperature": "warm"})
        error = failing(nonsense, "hello", RefusedRequestError)
    else:
        error = fail(provider.model(server), "400", RefusedRequestError)
    assert (error.fatal, error.retryable) == (False, False)


@behaviour("a refused prompt (content filter)", unreal=NO_FILTER)
def test_a_prompt_that_the_filter_refuses_fails_alone(provider: Provider, server: MockLLM) -> None:
    error = fail(provider.model(server), "filter", ContentFilterError)
    assert (error.fatal, error.retryable) == (False, False)


@behaviour("a prompt that is too long")
def test_a_prompt_that_is_too_long_fails_alone(provider: Subject, server: Server) -> None:
    if isinstance(server, Served):
        error = failing(provider.model(server), "argon " * 3000, ContextLengthError)
        assert str(N_CONTEXT) in str(error)
    else:
        error = fail(provider.model(server), "context", ContextLengthError)
    assert (error.fatal, error.retryable) == (False, False)


@behaviour("a malformed answer", unreal=FAULT)
def test_what_is_no_answer_is_malformed(provider: Provider, server: MockLLM) -> None:
    error = fail(provider.model(server), "garbage", MalformedReplyError)
    assert (error.fatal, error.retryable) == (False, True)


@behaviour("a timeout")
def test_a_server_that_never_answers_times_out(provider: Subject, server: Server) -> None:
    if isinstance(server, Served):
        wanted = {"max_new_tokens": LONG, "temperature": 0}  # drawn tokens may end it early
        slow = provider.model(server, timeout=0.1, generation_kwargs=wanted)
        error = failing(slow, "hello", RequestTimeoutError)
        assert text_of(send(provider.model(server), "hello"))
    else:
        error = fail(provider.model(server, timeout=0.1), "never", RequestTimeoutError)
    assert error.retryable
    assert "within 0.1 s" in str(error)


@behaviour("giving up before the request was sent", unreal=FAULT)
def test_a_request_that_is_given_up_at_once_leaves_nothing_behind(
    provider: Provider, server: MockLLM
) -> None:
    for timeout_s in (0.002, 0.004, 0.008, 0.016, 0.032):  # an SDK is met at different points of its work
        fail(provider.model(server, timeout=timeout_s), "never", RequestTimeoutError)
    assert text_of(send(provider.model(server), "hello"))


@behaviour("a broken connection", unreal=FAULT)
def test_a_connection_that_breaks_is_unreachable(provider: Provider, server: MockLLM) -> None:
    assert fail(provider.model(server), "reset", UnreachableError).retryable


@behaviour("nobody listening", unreal={"in process": NO_ADDRESS})
def test_a_port_where_nothing_listens_is_unreachable(provider: Subject, server: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    model = provider.model(server, base_url=f"http://127.0.0.1:{port}")
    assert fail(model, "500", UnreachableError).retryable
    with pytest.raises(UnreachableError, match=f"Nothing listens at 127.0.0.1:{port}"):
        model.probe()


@behaviour("cancelling")
def test_a_cancelled_request_ends_and_the_client_works_on(provider: Subject, server: Server) -> None:
    async def main() -> str:
        client = provider.model(server, generation_kwargs={"max_new_tokens": LONG}).make_client()
        for _ in range(9):  # a real engine may be done on a machine that is late to look
            task = asyncio.ensure_future(client.send(ask("hello [[never]]")))
            if isinstance(server, MockLLM):
                while server.stats()["in_flight"] == 0:
                    await asyncio.sleep(0.001)
            else:
                await asyncio.wait([task], timeout=0.05)
            if not task.done():
                break
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        answer = await client.send(ask("hello"))
        await client.close()
        await client.close()
        return text_of(answer)

    assert run(main())


class Counting:
    """A client that counts how many of its requests are on their way."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.n_now = self.n_most = 0

    async def send(self, request: Request) -> Answer:
        self.n_now += 1
        self.n_most = max(self.n_most, self.n_now)
        try:
            return await self.client.send(request)
        finally:
            self.n_now -= 1

    async def close(self) -> None:
        await self.client.close()


@behaviour("a cap on requests in flight")
def test_no_more_requests_are_in_flight_than_allowed(provider: Subject, server: Server) -> None:
    model = provider.model(server, max_concurrency=3)
    requests = [ask(f"number {i} [[slow]]") for i in range(9)]
    if isinstance(server, MockLLM):
        call(model, *requests)
        stats = server.stats()
        assert (stats["ok"], stats["max_in_flight"]) == (9, 3)
        return

    async def main() -> int:
        caller = Caller.of(model)
        client = caller.client = Counting(caller.client)

        async def one(request: Request) -> str:
            async with caller.asking(request) as answer:
                return text_of(answer)

        assert all(await asyncio.gather(*map(one, requests)))
        await caller.close()
        return client.n_most

    assert run(main()) == 3
