"""What comes back from a model that answers."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from distilnb.errors import UnsupportedParameterError
from distilnb.llms.base import LLM
from distilnb.llms.request import Answer, Request
from tests.llms.conformance.providers import (
    MODEL,
    NO_FILTER,
    UNTOLD,
    Provider,
    Server,
    Subject,
    behaviour,
    call,
    parameters_of,
    send,
    text_of,
)
from tests.llms.engines.real import N_CONTEXT, RealEngine, Served
from tests.llms.scripted import ask
from tests.servers import MockLLM

WORDS = 32  # in a reply of the mock server
LIMIT = 16  # tokens of a reply of a real engine, which seldom ends before


def supported(model: LLM, name: str) -> bool:
    """Tell whether a model has a parameter; where not, see that its check says so by name."""
    if name in parameters_of(model):
        return True
    with pytest.raises(UnsupportedParameterError, match=f"no parameter '{name}'"):
        model.updated(generation_kwargs={name: 1}).check()
    return False


def arrived(answer: Answer, server: Served, *messages: Mapping[str, object]) -> bool:
    """Tell whether an engine read all that was sent, by the tokens that it counted."""
    return answer.replies[0].input_tokens == server.n_tokens(*messages)


@behaviour("a plain reply")
def test_a_reply_has_text_reason_and_model(provider: Subject, server: Server) -> None:
    model = provider.model(server)
    model.check()
    answer = send(model, "hello")
    (reply,) = answer.replies
    assert text_of(answer)
    if isinstance(provider, RealEngine):
        assert (reply.finish_reason, reply.is_truncated) in (("stop", False), ("length", True))
        assert reply.model
        return
    assert len(text_of(answer).split()) == WORDS
    assert (reply.finish_reason, reply.is_truncated) == ("stop", False)
    assert reply.model == MODEL
    assert answer.request_id or provider.kind == "OllamaLLM"  # whose protocol has none


@behaviour("a chat of several turns")
def test_all_turns_arrive_in_order(provider: Subject, server: Server) -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    answer = send(provider.model(server), Request(messages))
    if isinstance(server, MockLLM):
        (seen,) = server.seen()
        sent = json.dumps(seen["body"])
        places = [sent.index(f'"{text}"') for _, text in turns]
        assert places == sorted(places)
    else:
        assert arrived(answer, server, *messages)
        assert text_of(send(provider.model(server), Request(messages[::-1]))) != text_of(answer)
    assert text_of(send(provider.model(server), Request(messages[:1]))) != text_of(answer)


@behaviour("a system message")
def test_a_system_message_arrives_and_counts(provider: Subject, server: Server) -> None:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"})
    with_system = send(provider.model(server), Request(messages))
    if isinstance(server, MockLLM):
        (seen,) = server.seen()
        assert "Be brief." in json.dumps(seen["body"])
    else:
        assert arrived(with_system, server, *messages)
    assert text_of(with_system) != text_of(send(provider.model(server), "hello"))


@behaviour("n replies")
def test_n_replies_differ_and_are_asked_for_as_often_as_the_provider_needs(
    provider: Subject, server: Server
) -> None:
    has_seed = "seed" in parameters_of(provider.model(server))
    wanted = {"temperature": 1.0, **({"seed": 7} if has_seed else {})}
    model = provider.model(server, generation_kwargs=wanted)
    (answer,) = call(model, ask("three of them", n=3))
    texts = [reply.text for reply in answer.replies]
    assert len(texts) == 3
    assert all(texts)
    n_requests = 1 if model.max_n is None else -(-3 // model.max_n)
    if isinstance(server, MockLLM):
        assert server.stats()["requests"] == n_requests
    if n_requests == 1 or has_seed:
        assert len(set(texts)) == 3


@behaviour("stop", needs="stop")
def test_a_reply_ends_before_a_stop_sequence(provider: Subject, server: Server) -> None:
    model = provider.model(server)
    if supported(model, "stop"):
        whole = text_of(send(model, "hello"))
        piece = whole.split()[5] if isinstance(server, MockLLM) else whole[6:8]  # gibberish has few words
        for stop in (piece, [piece, "\u2603"]):
            answer = send(provider.model(server, generation_kwargs={"stop": stop}), "hello")
            assert text_of(answer).strip() == whole[: whole.index(piece)].strip()
            assert answer.replies[0].finish_reason == "stop"


@behaviour("seed", needs="seed")
def test_equal_seeds_bring_equal_replies(provider: Subject, server: Server) -> None:
    if supported(provider.model(server), "seed"):
        drawn = [{"temperature": 1.0, "seed": seed} for seed in (1, 1, 2)]
        texts = [text_of(send(provider.model(server, generation_kwargs=wanted), "hello")) for wanted in drawn]
        assert texts[0] == texts[1] != texts[2]


@behaviour("logprobs", needs="logprobs")
def test_logprobs_come_in_one_form(provider: Subject, server: Server) -> None:
    model = provider.model(server)
    has_top = supported(model, "top_logprobs")
    if supported(model, "logprobs"):
        wanted = {"logprobs": True, **({"top_logprobs": 2} if has_top else {})}
        answer = send(provider.model(server, generation_kwargs=wanted), "hello")
        (told,) = answer.extra["logprobs"]
        assert "".join(token["token"] for token in told["content"]) == text_of(answer)
        assert all(token["logprob"] <= 0 for token in told["content"])
        assert all(isinstance(token["top_logprobs"], list) for token in told["content"])
        if isinstance(server, Served):
            for token in told["content"]:  # the likeliest was taken
                best, second, *_ = token["top_logprobs"]
                assert best["token"] == token["token"]
                assert best["logprob"] == pytest.approx(token["logprob"])
                assert second["logprob"] <= best["logprob"]


@behaviour("a token limit", needs="max_new_tokens")
def test_a_reply_at_its_limit_says_that_it_is_cut(provider: Subject, server: Server) -> None:
    answer = send(provider.model(server, generation_kwargs={"max_new_tokens": 5}), "hello")
    if isinstance(server, MockLLM):
        assert len(text_of(answer).split()) == 5
    assert answer.replies[0].output_tokens == 5
    assert answer.replies[0].is_truncated


@behaviour("usage")
def test_tokens_are_those_that_the_server_counted(provider: Subject, server: Server) -> None:
    answer = send(provider.model(server), "hello there")
    (reply,) = answer.replies
    if isinstance(server, Served):
        assert arrived(answer, server, {"role": "user", "content": "hello there"})
        assert reply.output_tokens == LIMIT
        assert reply.is_truncated
        return
    stats = server.stats()
    assert (reply.input_tokens, reply.output_tokens) == (stats["prompt_tokens"], stats["completion_tokens"])
    assert reply.output_tokens == WORDS


@behaviour("unicode")
def test_any_script_arrives_as_it_was_written(provider: Subject, server: Server) -> None:
    text = '日本語 𝔘𝔫𝔦 🎏 עברית \u0000 "quoted" \\ \n end'
    answer = send(provider.model(server), text)
    assert text_of(answer)
    if isinstance(server, Served):
        assert arrived(answer, server, {"role": "user", "content": text})
        return
    (seen,) = server.seen()
    assert json.dumps(text)[1:-1] in json.dumps(seen["body"])


@behaviour("a long input")
def test_a_long_input_arrives_whole(provider: Subject, server: Server) -> None:
    if isinstance(server, Served):
        message = {"role": "user", "content": "a word " * 150}
        assert N_CONTEXT / 2 < server.n_tokens(message) < N_CONTEXT - LIMIT
        assert arrived(send(provider.model(server), message["content"]), server, message)
        return
    text = "long words " * 20_000
    assert text_of(send(provider.model(server), text))
    (seen,) = server.seen()
    assert text in json.dumps(seen["body"])


@behaviour("an empty reply")
@pytest.mark.parametrize("mark", ["empty", "null"])
def test_an_empty_reply_is_a_reply(provider: Subject, server: Server, mark: str) -> None:
    model = provider.model(server)
    if isinstance(server, Served):  # what it says first is where it has to stop
        model = provider.model(server, generation_kwargs={"stop": [text_of(send(model, "hello"))[:1]]})
    (reply,) = send(model, f"hello [[{mark}]]" if isinstance(server, MockLLM) else "hello").replies
    assert not reply.text
    assert reply.finish_reason == "stop"


@behaviour("a filtered reply", unreal=NO_FILTER)
def test_a_reply_that_the_filter_cut_says_so(provider: Provider, server: MockLLM) -> None:
    (reply,) = send(provider.model(server), "hello [[filtered]]").replies
    untold = UNTOLD.get(provider.kind)
    assert reply.finish_reason in ([untold] if untold else ["content_filter", "refusal"])
