from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilnb.view.table import rows_table
from tests.view.samples import HOSTILE, check_html

ROWS = [
    {"instruction": "Name three uses of beeswax.", "generations": ["Candles", "Polish"], "rating": 4},
    {"instruction": "列出蜂蜡的用途", "generations": ["蜡烛", None], "rating": None},
    {"instruction": "Why?", "generations": [], "rating": 3.5},
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_text_form_is_aligned_by_columns_of_text() -> None:
    shown = rows_table(ROWS, ordinals=[17, 203, 4], failed={203: "ParseError: no rating"}, n_rows=412)
    assert shown.text == (
        "  row  instruction                  generations             rating\n"
        "✕ 203  列出蜂蜡的用途               [0] 蜡烛 [1] None         None\n"
        "       failed: ParseError: no rating\n"
        "   17  Name three uses of beeswax.  [0] Candles [1] Polish       4\n"
        "    4  Why?                         []                         3.5\n"
        "… 409 more rows"
    )
    assert repr(shown) == shown.text


def test_failed_rows_come_first_then_partial_ones_with_icon_word_and_reason() -> None:
    shown = rows_table(ROWS, failed={2: "broke"}, partial={1: "half"})
    told = check_html(shown.html)
    assert told.index("✕ failed: broke") < told.index("◐ partial: half") < told.index("beeswax")


def test_a_row_that_failed_before_it_had_columns_is_shown() -> None:
    shown = rows_table(ROWS, ordinals=[1, 2, 3], failed={9: "gone"})
    assert "gone" in check_html(shown.html)
    assert "9  failed: gone" in shown.text


def test_none_a_list_and_long_text_have_forms_of_their_own() -> None:
    html = rows_table([{"a": None, "b": ["x", "y"], "c": "word " * 200}], max_chars=50).html
    check_html(html)
    assert ">None</i>" in html
    assert '<ol class="dnb-items" start="0"><li>' in html
    assert "<details><summary" in html
    assert html.count("word") >= 200


def test_more_rows_and_columns_than_shown_are_counted() -> None:
    shown = rows_table([{f"column_{i}": i for i in range(20)}] * 30, max_rows=5)
    told = check_html(shown.html)
    assert "25 more rows not shown" in told
    assert "8 more columns: column_12, column_13" in told


def test_no_rows_make_a_table_too() -> None:
    assert rows_table([]).text == "  row"
    check_html(rows_table([]).html)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_stays_text_wherever_it_stands(text: str) -> None:
    row = {
        text: text,
        "list": [text, {text: text}, [text]],
        "chat": [{"role": text, "content": text}],
        "long": text * 99,
    }
    shown = rows_table([row], failed={0: text}, highlight=[text])
    check_html(shown.html)
    assert "\x1b" not in shown.text
    assert "\u202e" not in shown.text


@pytest.mark.parametrize(
    "text", ["x" * 1_000_000, "<&\"'" * 250_000, "数" * 300_000, "\n" * 1_000_000, "\x1b" * 10**6]
)
def test_however_large_the_rows_the_table_is_small(text: str) -> None:
    rows = [{f"c{i}": text for i in range(8)} | {"list": [text] * 50, "deep": {"a": [text]}}] * 12
    shown = rows_table(rows, max_rows=12)
    check_html(shown.html)
    assert len(shown.html.encode()) < 20_000
    assert len(shown.text.encode()) < 20_000
    assert "cut to keep the notebook small" in shown.html or "too large" in shown.html


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), VALUES, max_size=5), max_size=4))
def test_any_rows_can_be_shown(rows: list[dict[str, Any]]) -> None:
    shown = rows_table(rows)
    assert len(shown.html.encode()) < 20_000
    shown.text.encode()


def test_chat_messages_are_read_as_such() -> None:
    told = check_html(
        rows_table(
            [{"chat": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}]
        ).html
    )
    assert "user: hi" in told
    assert "assistant: yo" in told
