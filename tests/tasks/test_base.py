"""What every task does with the replies of a row."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from distilnb.errors import ParseError, SpecError, StepRowError, TruncatedReplyError
from distilnb.llms.rehearsal import RehearsalLLM
from distilnb.llms.request import Answer, Client, Message, Reply, Request
from distilnb.rows import Row
from distilnb.tasks.base import Partial, Task


class Number(Task):
    """Read a number."""

    inputs = ["q"]
    outputs = ["n"]

    def format_input(self, input: Row) -> list[Message]:
        return [{"role": "user", "content": input["q"]}]

    def format_output(self, output: str | None, input: Row) -> dict[str, Any]:
        if output == "part":
            return Partial({"n": None}, "no number")
        if output == "list":
            return [1]  # type: ignore[return-value]
        if not str(output).isdigit():
            raise ParseError(f"{output!r} is no number.")
        return {"n": int(str(output))}


def replies(*texts: str) -> list[Reply]:
    return [Reply(text, model="m") for text in texts]


def test_one_reply_makes_one_row() -> None:
    made = Number(output_mappings={"n": "x", "model_name": "by"}).rows_from({"q": "?"}, replies("3"))
    assert (made.rows, made.partial) == ([{"q": "?", "x": 3, "by": "m"}], [])


def test_several_replies_make_rows_or_lists() -> None:
    rows = Number(num_generations=2).rows_from({"q": "?"}, replies("3", "4")).rows
    assert [row["n"] for row in rows] == [3, 4]
    grouped = Number(num_generations=2, group_generations=True).rows_from({"q": "?"}, replies("3", "4")).rows
    assert grouped == [{"q": "?", "n": [3, 4], "model_name": ["m", "m"]}]


def test_a_reply_that_fails_fails_the_row_unless_fewer_are_enough() -> None:
    with pytest.raises(ParseError):
        Number(num_generations=2).rows_from({"q": "?"}, replies("3", "x"))
    made = Number(num_generations=2, group_generations=True, min_generations=1).rows_from(
        {}, replies("x", "3")
    )
    assert made.rows == [{"n": [None, 3], "model_name": [None, "m"]}]
    assert made.partial == ["'x' is no number."]


def test_no_reply_is_an_error_not_a_row_that_vanishes() -> None:
    with pytest.raises(ParseError, match="no reply"):
        Number().rows_from({"q": "?"}, [])


def test_a_partial_reply_keeps_the_row_and_the_reason() -> None:
    made = Number().rows_from({"q": "?"}, replies("part"))
    assert (made.rows[0]["n"], made.partial) == (None, ["no number"])


def test_a_truncated_reply_fails_where_whole_ones_are_asked_for() -> None:
    cut = Reply("3", finish_reason="length", model="m")
    assert Number().rows_from({}, [cut]).rows[0]["n"] == 3
    with pytest.raises(TruncatedReplyError):
        Number(on_truncated="fail").rows_from({}, [cut])


def test_what_is_no_dict_is_told() -> None:
    with pytest.raises(StepRowError, match="returned list"):
        Number().rows_from({}, replies("list"))


def test_only_a_task_that_can_rehearse_gives_a_sample() -> None:
    class Rehearsed(Number):
        """Can."""

        def rehearse(self, row: Mapping[str, Any], rng: object) -> str:
            return str(row["q"])

    sample = Rehearsed().request({"q": "7"}).sample
    assert sample is not None
    assert sample(None) == "7"  # type: ignore[arg-type]
    assert Number().request({"q": "7"}).sample is None


def test_a_task_without_a_model_says_so() -> None:
    with pytest.raises(SpecError, match="has no model"):
        Number(name="n").ask({"q": "?"})


class Hanging(RehearsalLLM):
    """A model that never answers, and whose user presses Ctrl-C when it was asked."""

    cancelled: ClassVar[list[str]] = []

    def make_client(self) -> Client:
        return HangingClient()


class HangingClient:
    async def send(self, request: Request) -> Answer:
        os.kill(os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(20)
        except asyncio.CancelledError:
            Hanging.cancelled.append(request.messages[0]["content"])
            raise
        return Answer((Reply("3"),))

    async def close(self) -> None:
        pass


def test_ctrl_c_ends_a_task_that_asks_now() -> None:
    with pytest.raises(KeyboardInterrupt):
        Number(llm=Hanging()).ask({"q": "for ever"})
    assert Hanging.cancelled == ["for ever"]
