"""Who is drawn from a pool: k different members, by weight, and the same ones whenever the same is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from distilnb.errors import SpecError
from distilnb.llms.mixture import MixtureOfAgentsLLM
from distilnb.llms.parts import MadeOf
from distilnb.llms.pool import LLMPool, draw, shares_of
from distilnb.llms.rehearsal import RehearsalLLM
from distilnb.llms.request import Reply, Request
from distilnb.llms.shape import ReplyShape

N_ROWS = 4000


def ask(number: int, n: int = 1) -> Request:
    return Request(({"role": "user", "content": f"Question {number}"},), n=n)


def members(n: int) -> list[RehearsalLLM]:
    return [RehearsalLLM(model=f"m{number}") for number in range(n)]


def whose(pool: LLMPool, request: Request, repeat: int = 0) -> list[tuple[str, int]]:
    """Return the model of each reply, and which of its own replies it is."""
    return [(part.llm.model, part.index) for part in pool.parts(request, repeat)]  # type: ignore[union-attr]


@pytest.mark.parametrize("k", range(1, 11))
@pytest.mark.parametrize("n", [None, 1, 2, 3])
def test_k_replies_are_shared_out_among_the_members_drawn(k: int, n: int | None) -> None:
    pool = LLMPool(llms=members(3), n=n)
    drawn = n or 3
    for number in range(50):
        given = whose(pool, ask(number, k))
        counts = Counter(model for model, _ in given)
        assert len(given) == k
        assert len(counts) == min(k, drawn)
        assert set(counts.values()) <= {k // drawn, k // drawn + 1}
        assert sum(count > k // drawn for count in counts.values()) == k % drawn
        assert given == sorted(given)  # in the order of the list, each member's replies from its first on


def test_everybody_is_drawn_as_often_and_gives_what_is_left_over_as_often() -> None:
    pool = LLMPool(llms=members(4))
    for k in (1, 2, 3, 5, 6):
        counts = Counter(model for number in range(N_ROWS) for model, _ in whose(pool, ask(number, k)))
        for count in counts.values():
            assert abs(count / (N_ROWS * k / 4) - 1) < 0.06  # four standard deviations, and more


def test_pools_that_propose_in_one_mixture_draw_each_for_itself_in_every_round() -> None:
    def drawn(parts: Sequence[Any]) -> tuple[str, ...]:
        return tuple(part.llm.model for part in parts)

    pools = [LLMPool(llms=members(4), n=1) for _ in range(3)]
    mixture = MixtureOfAgentsLLM(aggregator_llm=RehearsalLLM(), proposers_llms=pools, rounds=2)
    firsts: Counter[tuple[str, ...]] = Counter()
    seconds: Counter[tuple[str, ...]] = Counter()
    for number in range(1000):
        [last] = mixture.parts(ask(number))
        assert isinstance(last, MadeOf)
        [*round_2] = last.parts
        [*round_1] = round_2[0].parts  # type: ignore[union-attr]
        firsts[drawn(round_1)] += 1
        seconds[drawn([part.then([Reply("An answer.")]) for part in round_2])] += 1  # type: ignore[union-attr]
        assert round_1[0].llm is pools[0].parts(ask(number))[0].llm  # type: ignore[union-attr]
    for counts in (firsts, seconds):
        alike = sum(n for models, n in counts.items() if len({*models}) == 1) / 1000
        assert len(counts) > 50  # of 64
        assert abs(alike - 1 / 16) < 0.035  # four standard deviations, and more


def test_weights_are_the_shares_of_the_first_draw() -> None:
    pool = LLMPool(llms=members(3), weights=[1, 3, 6])
    counts = Counter(whose(pool, ask(number))[0][0] for number in range(N_ROWS))
    for model, share in (("m0", 0.1), ("m1", 0.3), ("m2", 0.6)):
        assert abs(counts[model] / N_ROWS - share) < 0.032  # four standard deviations of the largest


def test_the_second_draw_goes_by_the_weights_of_those_that_are_left() -> None:
    pool = LLMPool(llms=members(3), weights=[1, 3, 6])
    pairs = Counter(tuple(sorted(m for m, _ in whose(pool, ask(number, 2)))) for number in range(N_ROWS))
    # P(m1, m2) = 0.3 * 6/7 + 0.6 * 3/4
    assert abs(pairs["m1", "m2"] / N_ROWS - (0.3 * 6 / 7 + 0.6 * 3 / 4)) < 0.032


def test_an_edited_member_changes_nothing_about_the_draw() -> None:
    before, after = LLMPool(llms=members(3)), LLMPool(llms=[*members(2), RehearsalLLM(model="other")])
    for number in range(200):
        renamed = [("other" if model == "m2" else model, at) for model, at in whose(before, ask(number, 2))]
        assert sorted(renamed) == sorted(whose(after, ask(number, 2)))


def test_a_member_added_at_the_end_only_takes_rows() -> None:
    before, after = LLMPool(llms=members(3)), LLMPool(llms=members(4))
    pairs = [(whose(before, ask(number)), whose(after, ask(number))) for number in range(400)]
    assert all(old == new or new == [("m3", 0)] for old, new in pairs)
    assert 60 < sum(old != new for old, new in pairs) < 140


def test_equal_requests_are_drawn_by_their_number_and_shapes_count() -> None:
    pool = LLMPool(llms=members(3))
    assert len({whose(pool, ask(1), repeat)[0] for repeat in range(20)}) == 3
    shaped = [replace(ask(1), shape=ReplyShape("regex", pattern=f"a{number}")) for number in range(20)]
    assert len({whose(pool, request)[0] for request in shaped}) == 3
    assert whose(pool, ask(1), 7) == whose(pool, ask(1), 7)
    assert not pool.is_deterministic


def test_a_pool_of_pools_asks_everybody() -> None:
    one, two, three, four = members(4)
    pool = LLMPool(llms=[LLMPool(llms=[one, two]), LLMPool(llms=[three, four])])
    counts = Counter(whose(pool, ask(number))[0][0] for number in range(N_ROWS))
    for llm in (one, two, three, four):
        assert abs(counts[llm.model] / N_ROWS - 0.25) < 0.03  # four standard deviations


def test_a_draw_never_changes_with_a_version() -> None:
    """Cached replies of every pool lie under the members that were drawn then."""
    drawn = [draw(ask(number), 0, [1.0] * 5) for number in range(3)]
    assert drawn == [[1, 2, 3, 4, 0], [2, 0, 4, 3, 1], [4, 3, 2, 0, 1]]
    assert shares_of(drawn[0], 2, 5) == [0, 3, 2, 0, 0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"llms": ["rehearsal"]},
        {"llms": "rehearsal"},
        {"llms": ["rehearsal", "rehearsal:b"], "n": 3},
        {"llms": ["rehearsal", "rehearsal:b"], "weights": [1]},
        {"llms": ["rehearsal", "rehearsal:b"], "weights": [1, 0]},
        {"llms": ["rehearsal", "rehearsal:b"], "weights": [1, float("nan")]},
    ],
)
def test_what_makes_no_pool_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SpecError):
        LLMPool(**wrong)
