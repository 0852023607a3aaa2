"""Parts of a source that several workers read: given, let in in their order, and named as if read in one go."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.engine.admission import Admission, Renaming
from distilnb.engine.digests import DigestLog
from distilnb.engine.parts import Round
from distilnb.engine.rundir import RunDir
from distilnb.ids import IdMaker, name_again, name_first, row_digests
from distilnb.rows import Row


def test_parts_are_given_in_order_and_those_of_a_dead_worker_first() -> None:
    parts = Round(n_in=2)
    for worker in ("one", "two", "one"):
        parts.give(worker)
    assert (parts.given, parts.next_number, parts.n_open) == ({2: "one", 3: "two", 4: "one"}, 5, 3)
    parts.lost_worker("one")
    assert (parts.given, parts.next_number, parts.n_open) == ({3: "two"}, 2, 1)
    parts.give("two")
    parts.give("three")
    parts.give("three")
    assert parts.given == {3: "two", 2: "two", 4: "three", 5: "three"}


def told(number: int, rows: list[Row], first: int) -> dict[str, Any]:
    """Return what a worker tells of a part, `first` as it counted it."""
    return {
        "part": number,
        "files": [{"path": f"{number}.json", "n_rows": len(rows)}] if rows else [],
        "first": first,
        "digests": row_digests(rows).hex(),
    }


@given(
    numbers=st.lists(st.integers(0, 5), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=6),
    miscounts=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_ids_and_numbers_are_those_of_one_pass_whatever_comes_first(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], cuts: list[int], miscounts: bool, seed: int
) -> None:
    """Parts come in any order; some workers die while they name a part again; now and then the runner dies."""
    chance, run = Random(seed), RunDir(tmp_path_factory.mktemp("run"))
    rows = [{"n": number} for number in numbers]
    edges = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
    parts = [rows[a:b] for a, b in pairwise(edges)]
    firsts = [edge + miscounts for edge in edges]
    ids: list[str] = []
    places: list[int] = []
    n_in = 0
    while n_in < len(parts):
        log = DigestLog(run.digests("load"), len(ids))
        admission = Admission("load", log, n_in, len(ids))
        waiting = [told(number, parts[number], firsts[number]) for number in range(n_in, len(parts))]
        renamed: dict[int, dict[str, Any]] = {}
        while waiting and chance.random() < 0.95:  # else the runner dies
            message = waiting.pop(chance.randrange(len(waiting)))
            for answer in admission.take(message):
                if isinstance(answer, Renaming):
                    renamed[answer.number] = answer.order
                    again = told(answer.number, parts[answer.number], firsts[answer.number])
                    waiting.append(again if chance.random() < 0.3 else {**again, "is_named": True})
                    continue
                number = answer["part"]
                assert number == n_in
                named = name_first("load", bytes.fromhex(answer["digests"]))
                first = answer["first"]
                if answer.get("is_named"):
                    name_again(named, renamed[number]["again"])
                    first = renamed[number]["first"]
                ids += named
                places += range(first, first + len(named))
                n_in += 1
    assert ids == IdMaker("load").make_all(rows)
    assert places == [*range(len(rows))]


def test_digests_beyond_what_the_journal_has_are_forgotten(tmp_path: Path) -> None:
    path, joined = tmp_path / "digests" / "load", row_digests([{"n": n} for n in (1, 2, 1)])
    log = DigestLog(path, 0)
    assert log.count(joined) == [(2, 1)]
    assert log.count(joined) == [(0, 2), (1, 1), (2, 3)]
    assert DigestLog(path, 3).count(joined) == [(0, 2), (1, 1), (2, 3)]
    assert DigestLog(path, 1).count(joined[8:]) == [(1, 1)]
