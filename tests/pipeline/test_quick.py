"""The quote that is there at once: it looks at few rows, pins none, and never says too little."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb import Pipeline
from distilnb.engine import sample
from distilnb.errors import NoRowsError, StepConnectionError
from distilnb.pipeline.quick import GLANCE_ROWS, QuickQuote, quick_quote
from distilnb.steps import LoadDataFromDicts

PRICE = (100.0, 100.0)


def rows(n: int, words: int = 3) -> list[dict[str, Any]]:
    return [{"i": i, "text": f"{i} " + "word " * words} for i in range(n)]


def priced(given: Any, **options: Any) -> Pipeline:
    llm = dn.llm("rehearsal", price=PRICE, **options)
    start = Pipeline("quick", llm=llm)
    source = start.from_dicts(given) if isinstance(given, list) else start.from_files(given)
    return source.generate("answer", "Say {{ text }}")


def quick(pipeline: Pipeline, n_rows: int | None = None) -> QuickQuote:
    return quick_quote(pipeline.name, pipeline.graph, n_rows)


def high(quote: QuickQuote) -> float:
    assert quote.estimate is not None
    assert quote.estimate.cost_usd is not None
    return quote.estimate.cost_usd.high


def test_of_few_rows_it_is_the_quote_itself() -> None:
    p = priced(rows(60))
    p.preview(5)
    found, whole = quick(p), p.estimate(ask=False)
    assert (found.doubt, found.can_be_sharper) == (1.0, False)
    assert found.estimate is not None
    assert found.estimate.cost_usd == whole.cost_usd
    assert found.most_usd == high(found)
    assert "a quick quote" not in repr(found.estimate)


def test_of_many_rows_it_looks_at_few_from_all_over_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    n_rows = 50_000
    p = priced(rows(n_rows))
    p.preview(5)
    read: list[int] = []
    at = LoadDataFromDicts.rows_at

    def rows_at(self: LoadDataFromDicts, places: Any) -> Any:
        read.extend(places)
        return at(self, places)

    monkeypatch.setattr(LoadDataFromDicts, "rows_at", rows_at)
    found = quick(p)
    assert len(read) <= GLANCE_ROWS + sample.MEASURED_ROWS
    assert max(read) > 0.99 * n_rows
    assert found.estimate is not None
    assert found.estimate.rows == n_rows
    assert f"a quick quote: {GLANCE_ROWS:,} rows stand for 50,000" in repr(found.estimate)
    assert found.can_be_sharper
    assert found.doubt is not None
    assert 2.0 <= found.doubt < 2.5
    assert found.estimate["answer"].requests is not None
    assert found.estimate["answer"].requests.expected + found.estimate["answer"].cached == n_rows


def test_a_long_list_is_looked_into_further_but_no_file_of_that_length_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilnb.pipeline.quick.MANY_ROWS", 2000)
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(3000)))
    assert quick(priced(rows(3000))).can_be_sharper
    assert not quick(priced(str(path))).can_be_sharper


def test_it_pins_nothing_and_asks_nothing(home: Path) -> None:
    found = quick(priced(rows(2000)))
    assert found.estimate is not None
    assert found.estimate.cost_usd is None  # no reply is known
    assert found.most_usd is None
    assert [*home.rglob("sample-*")] == []


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_file_that_begins_with_its_short_rows_is_not_taken_for_short(tmp_path: Path, suffix: str) -> None:
    long = [*rows(2000), *[{"i": i, "text": "word " * 300} for i in range(2000)]]
    path = tmp_path / f"rows.{suffix}"
    if suffix == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in long))
    else:
        path.write_text("i,text\n" + "".join(f"{row['i']},{row['text']}\n" for row in long))
    p = priced(str(path))
    p.preview(5)
    found = quick(p)
    assert found.most_usd is not None
    whole = p.estimate(ask=False)
    assert whole.cost_usd is not None
    assert whole["answer"].input_tokens is not None
    truth = (4000 * 4 + sum(len(row["text"]) for row in long)) / 4 * PRICE[0] / 1e6
    assert found.most_usd > truth
    assert found.most_usd > whole.cost_usd.high


def test_a_row_in_a_thousand_that_is_a_book_is_seen_in_a_list() -> None:
    given = rows(4000)
    for row in given[7::400]:
        row["text"] = "word " * 20_000
    p = priced(given)
    p.preview(5)
    found, whole = quick(p), p.estimate(ask=False)
    assert found.most_usd is not None
    assert whole.cost_usd is not None
    assert found.most_usd > whole.cost_usd.expected


def test_rows_that_were_not_looked_at_are_not_taken_for_cached() -> None:
    p = priced(rows(3000))
    p.preview(3000)
    more = priced([*rows(3000), {"i": 3000, "text": "new " * 50_000}])
    found = quick(more)
    assert found.most_usd is None  # all that it saw is cached, and nobody knows what is not
    assert found.estimate is not None
    half = priced([*rows(3000), *[{"i": i, "text": f"{i} new"} for i in range(3000)]])
    most = quick(half).most_usd
    assert most is not None
    assert most > 3 * high(quick(half))


def test_what_only_few_rows_come_to_is_badly_known_and_what_none_does_not_at_all() -> None:
    def passing(each: int) -> QuickQuote:
        p = Pipeline("few", llm=dn.llm("rehearsal", price=PRICE)).from_dicts(rows(20_000))
        p = p.filter(f"i % {each} == 0").generate("answer", "Say {{ text }}")
        p.preview(8000 if each < 1000 else 5)
        return quick(p)

    few, none = passing(500), passing(19_999)
    assert few.doubt is None or few.doubt > 2.0
    assert none.most_usd is None


def test_a_limit_of_rows_limits_it() -> None:
    p = priced(rows(5000))
    p.preview(5)
    found = quick(p, 200)
    assert found.estimate is not None
    assert (found.estimate.rows, found.doubt) == (200, 1.0)


@dn.step(outputs=["text"], step_type="generator")
def endless(offset: int = 0) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    raise AssertionError("it was read")
    yield [], True


def test_a_source_that_cannot_be_counted_is_not_read() -> None:
    p = Pipeline("endless", llm=dn.llm("rehearsal", price=PRICE)) >> endless()
    p = p.generate("answer", "Say {{ text }}")
    found = quick(p)
    assert (found.estimate, found.most_usd, found.can_be_sharper) == (None, None, False)
    assert "the rows of endless cannot be counted without reading them all" in found.lack
    limited = quick(p, 300)
    assert (limited.estimate, limited.most_usd, limited.can_be_sharper) == (None, None, True)


@pytest.mark.parametrize("limit", [None, 2000, 50])
def test_a_large_file_is_not_counted_but_told_by_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    monkeypatch.setattr("distilnb.steps.files._COUNTED_BYTES", 1000)
    path = tmp_path / "large.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(3000)))
    p = priced(str(path))
    p.preview(5)
    found = quick(p, limit)
    assert found.estimate is not None
    assert found.most_usd is None  # so it is asked
    assert found.estimate.rows == pytest.approx(min(3000, limit or 3000), rel=0.2)
    assert ", by the size of the files" in repr(found.estimate)
    assert found.can_be_sharper


def test_a_step_that_is_slow_on_these_rows_runs_on_the_sample_alone() -> None:
    calls: list[int] = []

    def slow(i: int) -> dict[str, Any]:
        import time

        calls.append(i)
        time.sleep(0.002)
        return {"half": i // 2}

    p = Pipeline("slow", llm=dn.llm("rehearsal", price=PRICE)).from_dicts(rows(900))
    p = p.map(slow, makes=["half"]).generate("answer", "{{ text }} {{ half }}")
    assert quick(p).estimate is not None
    assert len(calls) == 5


def test_what_is_wrong_with_a_pipeline_is_told() -> None:
    with pytest.raises(NoRowsError):
        quick(priced([]))
    with pytest.raises(StepConnectionError):
        quick_quote("wrong", priced(rows(3)).graph.keeping({"answer"}), None)


@pytest.mark.parametrize("turn", [0, 1])
def test_rows_that_take_turns_are_seen_at_each(turn: int) -> None:
    given = rows(8000)
    for row in given[turn::2]:
        row["text"] = "word " * 100
    p = Pipeline("turns", llm=dn.llm("rehearsal", price=(100.0, 0.0))).from_dicts(given)
    p = p.generate("answer", "Say {{ text }}")
    p.preview(5)
    found, whole = quick(p).most_usd, p.estimate(ask=False).cost_usd
    assert found is not None
    assert whole is not None
    assert whole.high < found < 4 * whole.high


def test_rows_of_a_packed_file_have_no_length_and_the_quote_says_so(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows(1500)).encode()))
    p = priced(str(path))
    p.preview(5)
    found = quick(p)
    assert (found.most_usd, found.doubt) == (None, None)
    assert found.lack == "how long the rows of load are cannot be told"
    assert f"stand for 1,500; {found.lack}" in repr(found.estimate)
