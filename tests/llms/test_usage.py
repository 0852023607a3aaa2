"""What requests took: as the provider has told it, else by the length of what was said."""

from __future__ import annotations

import pytest

from distilnb.llms import AnthropicLLM, OpenAIEmbeddings, OpenAIImageGeneration, OpenAILLM
from distilnb.llms.magpie import MAGPIE
from distilnb.llms.parts import Ask
from distilnb.llms.prices import Price
from distilnb.llms.request import Reply, Request
from distilnb.llms.usage import Usage, prompt_tokens, usage_of, usages_of

TEXTS = OpenAILLM(model="m")
HI = Request(({"role": "user", "content": "x" * 30},), n=3)


def test_what_was_told_is_taken_as_it_is() -> None:
    replies = [Reply("a", input_tokens=7, output_tokens=2), Reply("b", input_tokens=0, output_tokens=3)]
    assert usage_of(TEXTS, HI, replies) == Usage(7, 5, 1)
    assert usage_of(TEXTS, HI, []) == Usage()


def test_what_was_not_told_is_guessed_once_a_request_and_rather_too_high() -> None:
    replies = [Reply("abcdef"), Reply("ナイス"), Reply(None)]
    assert usage_of(TEXTS, HI, replies) == Usage(10 + 8, 2 + 3, 1, 0, 3)
    one_each = AnthropicLLM(model="m")
    assert usage_of(one_each, HI, replies) == Usage(3 * 18, 5, 3, 0, 3)
    half = [Reply("abcdef", input_tokens=4)]
    assert usage_of(TEXTS, HI, half) == Usage(4, 2, 1, 0, 1)


def test_a_vector_has_no_tokens_of_its_own() -> None:
    vectors = OpenAIEmbeddings(model="m")
    assert usage_of(vectors, HI, [Reply("AAAA")]) == Usage(18, 0, 1, 0, 1)
    assert usage_of(vectors, HI, [Reply("AAAA", input_tokens=5)]) == Usage(5, 0, 1)


def test_the_tokens_of_a_picture_are_not_guessed_and_cost_what_is_said_of_pictures() -> None:
    drawn = usage_of(OpenAIImageGeneration(model="dall-e-3"), HI, [Reply("iVBO" * 1000)])
    assert drawn == Usage(0, 0, 1, 1, 1)
    assert Price(1.0, 1.0).of(drawn) is None
    assert Price(image_usd=0.04).of(drawn) == 0.04
    assert Price(1.0, 1.0, request_usd=0.5).of(drawn) == 0.5
    assert Price(0.0, 0.0).of(drawn) == 0.0


def test_a_conversation_sends_all_that_stands_before_each_message() -> None:
    asked = {"role": MAGPIE, "content": "qwen2", "n_messages": 4}
    request = Request(({"role": "system", "content": "x" * 30}, asked))
    [before] = [prompt_tokens(TEXTS, Request(request.messages[:1]))]
    told = usage_of(TEXTS, request, [Reply("x" * 120, input_tokens=9, output_tokens=9)])
    assert told == Usage(9, 9, 4)
    # Four messages of ten tokens each: nothing, one, two and three of them stood before.
    guessed = usage_of(TEXTS, request, [Reply("x" * 120)])
    assert guessed == Usage(4 * before + 10 * (0 + 1 + 2 + 3), 40, 4, 0, 1)


def test_replies_of_several_requests_are_taken_apart_and_those_asked_again_count_as_requests() -> None:
    first, second = Ask(TEXTS, HI, 0), Ask(TEXTS, HI, 1)
    other = Ask(AnthropicLLM(model="m"), HI, 0)
    counted = Reply("a", input_tokens=1, output_tokens=1)
    usages = usages_of([counted] * 4, [first, second, other, first])
    assert [(llm.provider, usage.n_requests, usage.tokens) for llm, usage in usages] == [
        ("openai", 2, 6),
        ("anthropic", 1, 2),
    ]


@pytest.mark.parametrize("fixed, n_requests", [({}, 1), ({"seed": 7}, 2)])
def test_replies_that_are_no_neighbours_have_taken_two_requests_where_a_seed_is_set(
    fixed: dict[str, int], n_requests: int
) -> None:
    llm = OpenAILLM(model="m", generation_kwargs=fixed)
    asks = [Ask(llm, HI, index) for index in range(3)]
    [(_, apart)] = usages_of([Reply("a"), Reply("c")], [asks[2], asks[0]])
    [(_, together)] = usages_of([Reply("b"), Reply("a"), Reply("c")], [asks[1], asks[0], asks[2]])
    assert (apart.n_requests, together.n_requests) == (n_requests, 1)


def test_each_conversation_is_asked_for_by_itself() -> None:
    asked = {"role": MAGPIE, "content": "qwen2", "n_messages": 4}
    told = Reply("x", input_tokens=9, output_tokens=9)
    assert usage_of(TEXTS, Request((asked,), n=2), [told, told]).n_requests == 8
