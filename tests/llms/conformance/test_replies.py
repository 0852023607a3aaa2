"""What comes back from a model that answers."""

from __future__ import annotations

import json

import pytest

from distilnb.errors import UnsupportedParameterError
from distilnb.llms.base import LLM
from distilnb.llms.request import Request
from tests.llms.conformance.providers import MODEL, UNTOLD, Provider, behaviour, call, send, text_of
from tests.llms.scripted import ask
from tests.servers import MockLLM

WORDS = 32  # in a reply of the mock server


def supported(model: LLM, name: str) -> bool:
    """Tell whether a model has a parameter; where not, see that its check says so by name."""
    if name in model.parameters:
        return True
    with pytest.raises(UnsupportedParameterError, match=f"no parameter '{name}'"):
        model.updated(generation_kwargs={name: 1}).check()
    return False


@behaviour("a plain reply")
def test_a_reply_has_text_reason_and_model(provider: Provider, server: MockLLM) -> None:
    answer = send(provider.model(server), "hello")
    (reply,) = answer.replies
    assert len(text_of(answer).split()) == WORDS
    assert (reply.finish_reason, reply.is_truncated) == ("stop", False)
    assert reply.model == MODEL
    assert answer.request_id or provider.kind == "OllamaLLM"  # whose protocol has none


@behaviour("a chat of several turns")
def test_all_turns_arrive_in_order(provider: Provider, server: MockLLM) -> None:
    turns = [("user", "one"), ("assistant", "two"), ("user", "three")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    assert text_of(send(provider.model(server), Request(messages)))
    (seen,) = server.seen()
    sent = json.dumps(seen["body"])
    places = [sent.index(f'"{text}"') for _, text in turns]
    assert places == sorted(places)
    assert text_of(send(provider.model(server), Request(messages[:1]))) != text_of(
        send(provider.model(server), Request(messages))
    )


@behaviour("a system message")
def test_a_system_message_arrives_and_counts(provider: Provider, server: MockLLM) -> None:
    messages = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"})
    with_system = text_of(send(provider.model(server), Request(messages)))
    (seen,) = server.seen()
    assert "Be brief." in json.dumps(seen["body"])
    assert with_system != text_of(send(provider.model(server), "hello"))


@behaviour("n replies")
def test_n_replies_differ_and_are_asked_for_as_often_as_the_provider_needs(
    provider: Provider, server: MockLLM
) -> None:
    model = provider.model(server, generation_kwargs={"seed": 7} if "seed" in provider.cls.parameters else {})
    (answer,) = call(model, ask("three of them", n=3))
    texts = [reply.text for reply in answer.replies]
    assert len(texts) == 3
    assert all(texts)
    n_requests = 1 if model.max_n is None else -(-3 // model.max_n)
    assert server.stats()["requests"] == n_requests
    if n_requests == 1 or "seed" in model.parameters:
        assert len(set(texts)) == 3


@behaviour("stop", needs="stop")
def test_a_reply_ends_before_a_stop_sequence(provider: Provider, server: MockLLM) -> None:
    model = provider.model(server)
    if supported(model, "stop"):
        whole = text_of(send(model, "hello"))
        word = whole.split()[5]
        for stop in (word, [word]):
            answer = send(model.updated(generation_kwargs={"stop": stop}), "hello")
            assert text_of(answer).strip() == whole[: whole.index(word)].strip()
            assert answer.replies[0].finish_reason == "stop"


@behaviour("seed", needs="seed")
def test_equal_seeds_bring_equal_replies(provider: Provider, server: MockLLM) -> None:
    model = provider.model(server)
    if supported(model, "seed"):
        texts = [
            text_of(send(model.updated(generation_kwargs={"seed": seed}), "hello")) for seed in (1, 1, 2)
        ]
        assert texts[0] == texts[1] != texts[2]


@behaviour("logprobs", needs="logprobs")
def test_logprobs_come_in_one_form(provider: Provider, server: MockLLM) -> None:
    model = provider.model(server)
    has_top = supported(model, "top_logprobs")
    if supported(model, "logprobs"):
        wanted = {"logprobs": True, **({"top_logprobs": 2} if has_top else {})}
        answer = send(model.updated(generation_kwargs=wanted), "hello")
        (told,) = answer.extra["logprobs"]
        assert "".join(token["token"] for token in told["content"]) == text_of(answer)
        assert all(token["logprob"] <= 0 for token in told["content"])
        assert all(isinstance(token["top_logprobs"], list) for token in told["content"])


@behaviour("a token limit", needs="max_new_tokens")
def test_a_reply_at_its_limit_says_that_it_is_cut(provider: Provider, server: MockLLM) -> None:
    model = provider.model(server, generation_kwargs={"max_new_tokens": 5})
    answer = send(model, "hello")
    assert len(text_of(answer).split()) == 5
    assert answer.replies[0].is_truncated


@behaviour("usage")
def test_tokens_are_those_that_the_server_counted(provider: Provider, server: MockLLM) -> None:
    (reply,) = send(provider.model(server), "hello there").replies
    stats = server.stats()
    assert (reply.input_tokens, reply.output_tokens) == (stats["prompt_tokens"], stats["completion_tokens"])
    assert reply.output_tokens == WORDS


@behaviour("unicode")
def test_any_script_arrives_as_it_was_written(provider: Provider, server: MockLLM) -> None:
    text = '日本語 𝔘𝔫𝔦 🎏 עברית \u0000 "quoted" \\ \n end'
    assert text_of(send(provider.model(server), text))
    (seen,) = server.seen()
    assert json.dumps(text)[1:-1] in json.dumps(seen["body"])


@behaviour("a long input")
def test_a_long_input_arrives_whole(provider: Provider, server: MockLLM) -> None:
    text = "long words " * 20_000
    assert text_of(send(provider.model(server), text))
    (seen,) = server.seen()
    assert text in json.dumps(seen["body"])


@behaviour("an empty reply")
@pytest.mark.parametrize("mark", ["empty", "null"])
def test_an_empty_reply_is_a_reply(provider: Provider, server: MockLLM, mark: str) -> None:
    (reply,) = send(provider.model(server), f"hello [[{mark}]]").replies
    assert not reply.text
    assert reply.finish_reason == "stop"


@behaviour("a filtered reply")
def test_a_reply_that_the_filter_cut_says_so(provider: Provider, server: MockLLM) -> None:
    (reply,) = send(provider.model(server), "hello [[filtered]]").replies
    untold = UNTOLD.get(provider.kind)
    assert reply.finish_reason in ([untold] if untold else ["content_filter", "refusal"])
