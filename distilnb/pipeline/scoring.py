"""What votes on pairs of candidates come to: who won how often, and how sure that is. A candidate goes by its key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from distilnb.engine.history import Vote
from distilnb.pipeline.odds import CERTAIN_BELOW, Rate, holm, sign_test, too_few, win_rate


class PairResult(NamedTuple):
    """Two candidates: how many rows either won, and how sure that is.

    `rate` is the first one's share of the rows, a tie counted as half, with Wilson's interval of 95 %; `p` is that of
    the exact sign test, ties left out; `adjusted_p` is Holm's for all pairs together.
    """

    one: str
    other: str
    wins: int
    losses: int
    ties: int
    rate: Rate | None
    p: float
    adjusted_p: float


def pair_results(names: Mapping[str, str], votes: Sequence[Vote]) -> list[PairResult]:
    """Return the result of each pair of candidates (key → name)."""
    found = []
    for one, other in combinations(names, 2):
        winners = [vote.winner for vote in votes if {vote.one, vote.other} == {one, other}]
        wins, losses = winners.count(one), winners.count(other)
        ties = len(winners) - wins - losses
        rate, p = win_rate(wins + ties / 2, len(winners)), sign_test(wins, losses)
        found.append(PairResult(names[one], names[other], wins, losses, ties, rate, p, p))
    adjusted = holm([pair.p for pair in found])
    return [pair._replace(adjusted_p=p) for pair, p in zip(found, adjusted, strict=True)]


def telling_first(pairs: Sequence[PairResult]) -> list[PairResult]:
    """Return the pairs that have votes: those first whose votes are least likely chance, else in their order."""
    return sorted((pair for pair in pairs if pair.rate is not None), key=lambda pair: pair.p)


def points(names: Mapping[str, str], votes: Sequence[Vote]) -> dict[str, tuple[float, int]]:
    """Return how many pair votes each candidate won, a tie as half, and of how many."""
    found = dict.fromkeys(names, (0.0, 0))
    for vote in votes:
        for key in (vote.one, vote.other):
            won, n = found[key]
            found[key] = won + (1.0 if vote.winner == key else 0.5 * (vote.winner == "")), n + 1
    return found


def winner(names: Mapping[str, str], votes: Sequence[Vote]) -> str | None:
    """Return the name of the candidate that won most of its votes; None without any, or where several did."""
    shares = {key: won / n for key, (won, n) in points(names, votes).items() if n}
    top = [key for key, share in shares.items() if share == max(shares.values())]
    return names[top[0]] if len(top) == 1 else None


def percent(rate: Rate) -> str:
    """Return a win rate with its interval."""
    return f"{100 * rate.value:.0f} % ({100 * rate.low:.0f} to {100 * rate.high:.0f} %)"


def in_words(pair: PairResult, n_candidates: int) -> str:
    """Return what a pair came to as a sentence, with no more than its rows can tell."""
    n = pair.wins + pair.losses
    told = f"{pair.one} vs {pair.other}: {pair.wins} won, {pair.losses} lost, {pair.ties} tied"
    if pair.rate is not None:
        told += f", win rate {percent(pair.rate)}"
    if too_few(n):
        return f"{told}; too few to tell"
    told += f"; sign test p = {pair.p:.2g}"
    if n_candidates > 2:
        told += f", of several pairs {pair.adjusted_p:.2g}"
    return told + ("" if pair.adjusted_p < CERTAIN_BELOW else ": no clear difference")
