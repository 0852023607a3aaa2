from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.view.text import clip, one_line, pad, value_text, visible, width


@pytest.mark.parametrize(
    "text, columns",
    [("abc", 3), ("数据", 4), ("é", 1), ("e\u0301", 1), ("한국", 4), ("👍", 2), ("ｶﾅ", 2), ("", 0)],
)
def test_width_counts_columns(text: str, columns: int) -> None:
    assert width(text) == columns


@given(st.text(), st.integers(2, 40))
def test_what_is_clipped_fits(text: str, columns: int) -> None:
    assert width(clip(text, columns)) <= columns


@given(st.text(), st.integers(2, 40))
def test_what_fits_is_not_clipped(text: str, columns: int) -> None:
    if len(text) <= columns and width(text) <= columns:
        assert clip(text, columns) == text


def test_a_megabyte_on_one_line_is_cut_without_being_measured() -> None:
    assert one_line("x" * 1_000_000, 20) == "x" * 19 + "…"
    assert len(clip("\u0301" * 1_000_000, 20)) < 200


def test_pad_counts_columns() -> None:
    assert pad("数据", 6) == "数据  "
    assert pad("7", 3, right=True) == "  7"
    assert pad("数据", 2) == "数据"


def test_what_would_act_is_shown_as_an_escape() -> None:
    assert visible("\x1b[31mred\r\nnext\tcell\x00") == "\\x1b[31mred\nnext\tcell\\x00"
    assert visible("\u202egnp\u2066") == "\\u202egnp\\u2066"
    assert visible("a\ud800b") == "a\ufffdb"


@given(st.text(alphabet=st.characters(codec=None)))
def test_visible_text_can_be_written_to_a_notebook_file(text: str) -> None:
    assert visible(text).encode("utf-8")[:1] != b"\x1b"


def test_values_as_text() -> None:
    assert value_text(b"abc") == "3 bytes"
    assert value_text({"a": [1, "ü"]}) == '{"a": [1, "ü"]}'
    assert value_text(0.1 + 0.2) == "0.3"
    assert value_text(True) == "True"
