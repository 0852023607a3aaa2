"""Texts of failures: short ones in the message, long ones in a file beside the batch, all of them read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from distilnb.engine.apply import Failure
from distilnb.engine.failures import MAX_INLINE, pack_failures, unpack_failure
from distilnb.engine.wire import encode
from distilnb.errors import StoreError

HALF = "half of a character: \ud83d"


@pytest.mark.parametrize("prompt", ["short", "x" * 5_000_000, "写诗 🙂\n" * MAX_INLINE, HALF, ""])
def test_every_text_comes_back_whole(tmp_path: Path, prompt: str) -> None:
    failures = [
        Failure("a:1:0", "ask", "ParseError", "no number", prompt=prompt, reply=f"{prompt}!", order=[7, 1]),
        Failure("a:2:0", "ask", "ParseError", f"why: {prompt}", traceback=prompt, order=[8]),
    ]
    packed = pack_failures(failures, tmp_path, tmp_path / "one.errors.jsonl")
    assert len(encode({"errors": packed})) < 2 * (MAX_INLINE + 1000)
    assert [error["row"] for error in packed] == [7, 8]
    read = [unpack_failure(error, tmp_path) for error in packed]
    for failure, error in zip(failures, read, strict=True):
        assert (error["reason"], error["prompt"]) == (failure.reason, failure.prompt)
        assert (error["reply"], error["traceback"]) == (failure.reply, failure.traceback)


def test_what_no_database_takes_goes_by_file(tmp_path: Path) -> None:
    [error] = pack_failures([Failure("a:1:0", "s", "E", HALF)], tmp_path, tmp_path / "one.errors.jsonl")
    assert error["texts"] == "one.errors.jsonl:0"
    error["reason"].encode()


def test_short_texts_make_no_file(tmp_path: Path) -> None:
    pack_failures([Failure("a:1:0", "s", "E", "why")], tmp_path, tmp_path / "one.errors.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_lost_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read from"):
        unpack_failure({"texts": "gone.errors.jsonl:0"}, tmp_path)
