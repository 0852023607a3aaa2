"""Drawing tokens: rows of one batch do not know of each other, and the shares are those of the scores."""

from __future__ import annotations

from typing import Any

import pytest

from distilnb.llms.engines.base import Ask
from distilnb.llms.engines.sampling import Row, Sampler

pytestmark = pytest.mark.engines

SCORES = [2.0, 1.0, 0.0, -1.0, -8.0]


def row(**fields: Any) -> Row:
    return Row(ask=Ask(()), max_new_tokens=8, **fields)


def drawn(rows: list[Row], n_draws: int) -> list[list[int]]:
    """Return what each row draws from equal scores, so many times."""
    import torch

    prompt = torch.ones(len(rows), 1, dtype=torch.long)
    sampler = Sampler(rows, 1, torch.ones_like(prompt), torch.device("cpu"))
    scores = torch.tensor([SCORES] * len(rows))
    columns = [sampler(prompt, scores).argmax(-1).tolist() for _ in range(n_draws)]
    return [list(draws) for draws in zip(*columns, strict=True)]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_shares_are_those_of_the_softmax(temperature: float) -> None:
    import torch

    n_draws = 4000
    draws = drawn([row(temperature=temperature, seed=1)], n_draws)[0]
    wanted = (torch.tensor(SCORES) / temperature).softmax(-1).tolist()
    for token, share in enumerate(wanted):
        assert draws.count(token) / n_draws == pytest.approx(share, abs=0.03)


def test_a_seeded_row_draws_the_same_beside_others() -> None:
    alone = drawn([row(seed=3)], 50)[0]
    beside = drawn([row(temperature=0.0), row(seed=4), row(), row(seed=3)], 50)[3]
    assert alone == beside


@pytest.mark.parametrize(
    "fields, tokens",
    [
        ({"temperature": 0.0}, {0}),
        ({"top_k": 1}, {0}),
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.5}, {0}),
        ({"top_p": 0.7}, {0, 1}),
        ({"min_p": 0.3}, {0, 1}),
        ({"min_p": 1.0}, {0}),
        ({}, {0, 1, 2, 3}),
    ],
)
def test_tails_are_cut(fields: dict[str, Any], tokens: set[int]) -> None:
    assert set(drawn([row(**fields, seed=2), row(seed=5)], 400)[0]) - {4} == tokens


def test_penalties_count_what_was_made_and_repetition_the_prompt_too() -> None:
    import torch

    penalties: list[dict[str, Any]] = [
        {},
        {"frequency_penalty": 0.6},
        {"presence_penalty": 1.5},
        {"repetition_penalty": 4.0},
    ]
    rows = [row(temperature=0.0, **penalty) for penalty in penalties]
    ids = torch.tensor([[0, 0, 0]] * 4)  # one of the prompt, two made
    sampler = Sampler(rows, 1, torch.ones(4, 1, dtype=torch.long), torch.device("cpu"))
    assert sampler(ids, torch.tensor([SCORES] * 4)).argmax(-1).tolist() == [0, 1, 1, 1]
    # What pads the prompt was not said.
    padded = Sampler([rows[3]], 1, torch.zeros(1, 1, dtype=torch.long), torch.device("cpu"))
    assert padded(torch.tensor([[0]]), torch.tensor([SCORES])).argmax(-1).tolist() == [0]
