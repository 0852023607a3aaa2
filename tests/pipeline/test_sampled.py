"""The Sample grows into a regression set: rows are pinned with copies, and a later version is told what got worse.

The mock server counts every request.
"""

from __future__ import annotations

from typing import Any

import pytest

from distilnb import Pipeline
from distilnb.errors import InputError
from tests.pipeline.writers import HOSTILE, asked, model
from tests.servers import MockLLM


def rows(n: int) -> list[dict[str, Any]]:
    return [{"i": i, "x": f"text {i}"} for i in range(n)]


def texts(server: MockLLM, prompt: str = "{{ x }}", n: int = 30) -> Pipeline:
    return Pipeline("texts", llm=model(server)).from_dicts(rows(n)).generate("answer", prompt)


def pinned(p: Pipeline) -> list[int]:
    return p.sample.to_pandas()["row"].tolist()


# --- which rows ---------------------------------------------------------------------------------------------------


def test_rows_are_added_and_dropped_and_every_preview_has_them(server: MockLLM) -> None:
    p = texts(server)
    usual = pinned(p)
    assert len(usual) == len(p.preview().rows) == 5
    free = [i for i in range(30) if i not in usual][:2]
    p.sample.add(*free)
    assert pinned(p) == [*usual, *free]
    assert len(p.sample) == 7
    asked(server)
    preview = p.preview()
    assert [row["i"] for row in preview.rows] == sorted([*usual, *free])
    assert asked(server) == {"writer": 2}
    p.sample.drop(usual[0], free[1])
    assert pinned(p) == [*usual[1:], free[0]]
    assert usual[0] not in [row["i"] for row in p.preview(12).rows]  # it is not drawn again
    p.sample.add(usual[0])
    assert pinned(p) == [*usual[1:], free[0], usual[0]]


def test_a_row_that_is_pinned_is_not_pinned_twice(server: MockLLM) -> None:
    p = texts(server)
    usual = pinned(p)
    p.preview(9)
    p.sample.add(usual[0])
    assert pinned(p) == usual
    ninth = next(row["i"] for row in p.preview(9).rows if row["i"] not in usual)
    p.sample.add(ninth)
    assert pinned(p) == [*usual, ninth]
    assert len({row["i"] for row in p.preview(9).rows}) == 9


def test_rows_are_named_by_their_id_too(server: MockLLM) -> None:
    p = texts(server)
    p.sample.add(next(i for i in range(30) if i not in pinned(p)))
    row_id = p.sample.to_pandas().index[-1]
    p.sample.drop(row_id)
    assert len(p.sample) == 5
    p.sample.add(row_id)
    assert p.sample.to_pandas().index[-1] == row_id


def test_added_rows_are_copies_that_outlive_their_source(server: MockLLM) -> None:
    p = texts(server)
    added = next(i for i in range(29, 0, -1) if i not in pinned(p))
    p.sample.add(added)
    shorter = p.with_rows([row for row in rows(30) if row["i"] != added])
    assert shorter.sample.to_pandas()["i"].tolist()[-1] == added
    assert added in [row["i"] for row in shorter.preview().rows]
    reordered = p.with_rows(rows(30)[::-1])
    assert sorted(reordered.sample.to_pandas()["i"]) == sorted(p.sample.to_pandas()["i"])


def test_a_row_far_down_a_long_source_can_be_pinned(server: MockLLM) -> None:
    p = Pipeline("long", llm=model(server)).from_dicts(rows(10_500))
    p.sample.add(10_400)
    assert pinned(p)[-1] == 10_400
    assert pinned(p.with_rows(rows(10_501)))[-1] == 10_400


def test_wrong_rows_are_told_and_change_nothing(server: MockLLM) -> None:
    p = texts(server)
    usual = pinned(p)
    with pytest.raises(InputError, match="has no row 99"):
        p.sample.add(next(i for i in range(30) if i not in usual), 99)
    with pytest.raises(InputError, match="Row 99 of 'load' is not pinned; these are"):
        p.sample.drop(usual[0], 99)
    with pytest.raises(InputError, match="No row would be left"):
        p.sample.drop(*usual)
    assert pinned(p) == usual


def test_of_several_sources_each_has_its_own(server: MockLLM) -> None:
    p = Pipeline("two").from_dicts(rows(9), name="one").from_dicts(rows(9), name="other")
    assert len(p.sample) == 10
    with pytest.raises(InputError, match=r"The pipeline has the sources \['one', 'other'\]"):
        p.sample.add(1)
    free = next(
        i for i in range(9) if i not in [row["i"] for row in p.sample.to_pandas().to_dict("records")[5:]]
    )
    p.sample.add(free, source="other")
    assert len(p.sample) == 11


# --- check ----------------------------------------------------------------------------------------------------------


def test_a_check_of_the_same_version_asks_nothing_and_finds_nothing(server: MockLLM) -> None:
    p = texts(server)
    p.preview()
    asked(server)
    accepted = p.sample.accept()
    assert asked(server) == {}
    assert "none worse, 5 the same" in repr(accepted)
    found = p.sample.check()
    assert (found.asked, found.worse, found.better, found.changed) == (0, [], [], [])
    assert asked(server) == {}


def test_a_check_tells_what_fails_now(server: MockLLM) -> None:
    p = texts(server)
    bad = pinned(p)[1]
    p.sample.accept()
    edited = texts(server, f"{{% if i == {bad} %}}[[empty]]{{% endif %}} {{{{ x }}}}")
    quoted = edited.sample.check(ask=False)
    assert quoted.quote.requests == 5
    asked(server)
    found = edited.sample.check()
    assert asked(server) == {"writer": 5}
    assert found.worse == [bad]
    frame = found.to_pandas().set_index("row")
    assert frame.loc[bad, "reason"].startswith("failed: The reply is empty.")
    assert "1 worse" in repr(found)
    assert "against answer@1" in repr(found)
    edited.sample.accept()
    mended = p.sample.check()  # the old prompt against the new measure
    assert mended.better == [bad]
    assert "no longer failed" in repr(mended)
    assert mended.asked == 0


def test_a_check_tells_what_is_cut_off_now(server: MockLLM) -> None:
    p = texts(server)
    p.sample.accept()
    short = p.generate("answer", "{{ x }}", llm=model(server, generation_kwargs={"max_new_tokens": 1}))
    found = short.sample.check()
    assert found.worse == sorted(found.worse, key=pinned(p).index)
    assert len(found.worse) == 5
    assert set(found.to_pandas()["reason"]) == {"cut off at the token limit"}


def test_a_check_tells_what_is_rated_lower_now(server: MockLLM) -> None:
    def judged(prompt: str) -> Pipeline:
        p = texts(server, prompt).rename(x="instruction", name="named")
        return p.judge(llm=model(server, "rater"))

    first, second = judged("{{ x }}"), judged("Again: {{ x }}")
    first.sample.accept()
    found = second.sample.check()
    then = {row["i"]: row["ratings"][0] for row in first.preview().rows}
    now = {row["i"]: row["ratings"][0] for row in second.preview().rows}
    assert sorted(found.worse) == sorted(i for i in then if now[i] < then[i])
    assert sorted(found.better) == sorted(i for i in then if now[i] > then[i])
    assert sorted(found.changed) == sorted(i for i in then if now[i] == then[i])
    assert found.worse + found.better  # else this test tells nothing
    other_judge = second.judge(llm=model(server, "rater"), aspect="honesty").sample.check()
    assert (other_judge.worse, other_judge.better) == ([], [])  # its ratings are on another scale


def test_a_check_tells_what_a_filter_leaves_out_now(server: MockLLM) -> None:
    p = texts(server)
    gone = max(pinned(p))
    p.filter("i >= 0", name="kept").sample.accept()
    found = p.filter(f"i < {gone}", name="kept").sample.check()
    assert found.worse == [gone]
    assert "left out" in repr(found)


def test_a_check_shows_changed_texts(server: MockLLM) -> None:
    p = texts(server)
    p.sample.accept()
    found = texts(server, "New: {{ x }}").sample.check()
    assert len(found.changed) == 5
    assert "none worse, 5 changed" in repr(found)
    assert repr(found).count("≠ changed · row") == 5
    assert "[-" in repr(found)
    assert "<ins>" in found._repr_mimebundle_()["text/html"]


def test_rows_that_were_added_since_are_new(server: MockLLM) -> None:
    p = texts(server)
    p.sample.accept()
    p.sample.add(next(i for i in range(30) if i not in pinned(p)))
    found = p.sample.check()
    assert (found.worse, found.changed) == ([], [])
    assert "1 new, 5 the same" in repr(found)


def test_without_a_measure_a_check_says_so(server: MockLLM) -> None:
    found = texts(server).sample.check()
    assert "nothing was accepted yet: p.sample.accept() makes this the measure" in repr(found)
    assert found.worse == []


def test_hostile_texts_are_shown_and_not_obeyed(server: MockLLM) -> None:
    p = Pipeline("hostile", llm=model(server, "hostile")).from_dicts([{"x": HOSTILE}])
    p.generate("answer", "One {{ x }}").sample.accept()
    edited = p.generate("answer", "Two {{ x }}")
    assert edited.sample.check().changed == [0]
    for bundle in (edited.sample.check()._repr_mimebundle_(), edited.sample._repr_mimebundle_()):
        assert "<script" not in bundle["text/html"]
        assert "<img" not in bundle["text/html"]
        for text in bundle.values():
            assert not {"\x1b", "\u202e"} & set(text)
