"""The steps and the model that drawn pipelines are made of. What each does with a row depends on its content alone."""

from __future__ import annotations

import asyncio
import ctypes
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from distilnb.errors import RefusedRequestError, ServerError
from distilnb.llms.base import LLM
from distilnb.llms.request import Answer, Message, Reply, Request
from distilnb.rows import Row
from distilnb.spec.step import DropRow, GlobalStep, Step
from distilnb.tasks.generation import TextGeneration


def chance(*parts: object, below: int) -> int:
    """Return a number from 0 to `below` - 1 that `parts` alone decide."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % below


# Weather: what a step or a model does not take in the foul one, it takes in the fair one. It turns when a run is
# through, before what failed is done again, and never back: what failed may pass, and what has passed passes again.


def is_fair() -> bool:
    """Whether the weather of this home has turned."""
    return _fair().exists()


def turn_fair() -> None:
    """Turn the weather."""
    _fair().parent.mkdir(parents=True, exist_ok=True)
    _fair().touch()


def _fair() -> Path:
    return Path(os.environ["DISTILNB_HOME"], "fair-weather")


class Salted(Step):
    """The base of steps whose decisions two of them should not share."""

    salt: int = 0

    def chance(self, row: Row, below: int) -> int:
        return chance(type(self).__name__, self.salt, row["text"], below=below)


class Mark(Salted):
    """Changes every row."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        yield [{**row, "text": f"{row['text']}/{self.salt}"} for row in rows]


class InPlace(Salted):
    """Changes the rows that it was given, and gives them in pieces."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        for row in rows:
            row["seen"] = self.salt
            yield [row]


class Sift(Salted):
    """Leaves every third row out."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        yield [row for row in rows if self.chance(row, 3)]


class Refuse(Salted):
    """Drops every fourth row for a reason."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        for row in rows:
            if not self.chance(row, 4):
                raise DropRow("it is a fourth")
        yield [{**row} for row in rows]


class Stumble(Salted):
    """Raises at every fourth row."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        for row in rows:
            if not self.chance(row, 4):
                raise ValueError(f"stumbled over {row['text']}")
        yield rows


class Falter(Salted):
    """Raises at every third row, as long as the weather is foul."""

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        for row in rows:
            if not self.chance(row, 3) and not is_fair():
                raise OSError(f"no way to {row['text']}")
        yield [{**row, "text": f"{row['text']}+{self.salt}"} for row in rows]


class Clash(Salted):
    """Joins rows, and raises at every fourth."""

    def process(self, *inputs: list[Row]) -> Iterator[list[Row]]:
        for partners in zip(*inputs, strict=True):
            joined: Row = {}
            for row in partners:
                joined.update(row)
            if not self.chance(joined, 4):
                raise ValueError(f"clashed over {joined['text']}")
            yield [{**joined, "text": f"{joined['text']}&{self.salt}"}]


class Split(Salted):
    """Makes none to three rows of one."""

    by_row: ClassVar[bool] = True

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        yield [{**row, "text": f"{row['text']}:{i}"} for row in rows for i in range(self.chance(row, 4))]


FATES: list[Callable[[str], None]] = []  # the simulation's, which turns a death into one of its own


class WorkerDied(Exception):
    """What a row does where there is no worker to kill: in the process that drew it."""


def perish(how: str, home: int) -> None:
    """End this process, or hang it for ever without letting anything else in it run, unless it is `home`."""
    for fate in FATES:
        fate(how)
    if os.getpid() == home:
        raise WorkerDied(how)
    if how == "hang":
        ctypes.PyDLL(None).sleep(3600)  # keeps Python's lock
    os._exit(7)


class Deadly(Salted):
    """Kills the worker at every third row, or another share of them, or hangs it."""

    one_in: int = 3

    home: (
        int  # given, not a default: a default is not written into the plan, and the worker would make its own
    )

    def is_deadly(self, row: Row) -> bool:
        return not self.chance(row, self.one_in)

    def process(self, rows: list[Row]) -> Iterator[list[Row]]:  # type: ignore[override]
        for row in rows:
            if self.is_deadly(row):
                perish("hang" if self.salt == 3 else "death", self.home)
        yield [{**row} for row in rows]


class DeadlyPrompt(TextGeneration):
    """Kills the worker while every sixth row is rendered."""

    home: int

    def format_input(self, input: Row) -> list[Message]:
        if not chance("DeadlyPrompt", input["text"], below=6):
            perish("death", self.home)
        return super().format_input(input)


class Backwards(GlobalStep):
    """Turns the order round, and leaves the first out."""

    def process(self, *inputs: list[Row]) -> Iterator[list[Row]]:
        yield [row for rows in inputs for row in rows][:0:-1]


class Tally(GlobalStep):
    """Makes new rows: how many there are of each first letter."""

    def process(self, *inputs: list[Row]) -> Iterator[list[Row]]:
        counts = Counter(str(row["text"])[:1] for rows in inputs for row in rows)
        yield [{"text": f"{letter}{n}"} for letter, n in counts.items()]


class Oracle(LLM):
    """A model whose replies depend on the request alone, and whose latency is another for each."""

    provider: ClassVar[str] = "oracle"
    is_local: ClassVar[bool] = True
    not_in_digest: ClassVar[frozenset[str]] = LLM.not_in_digest | {"slowness_s"}

    model: str = "oracle"
    slowness_s: float = 0.05

    def make_client(self) -> OracleClient:
        return OracleClient(self)


class OracleClient:
    """Answers in this process.

    `n_requests` counts all that were begun, `n_replies` the replies to those of them that will be answered.
    """

    def __init__(self, llm: Oracle) -> None:
        self._llm = llm
        self._n_busy: Counter[str] = Counter()
        self.n_requests = 0
        self.n_replies = 0

    async def send(self, request: Request) -> Answer:
        self.n_requests += 1
        text = str(request.messages)
        answered = oracle_replies(self._llm.model, request, request.salt)
        is_busy = not chance("busy", text, below=5) and not self._n_busy[text + request.salt]
        self._n_busy[text + request.salt] += 1
        if not is_busy and answered:
            self.n_replies += request.n
        await asyncio.sleep(self._llm.slowness_s * chance("slow", text, request.salt, below=20) / 20)
        if is_busy:
            raise ServerError("The oracle is busy.", "Ask again.")
        if not answered:
            raise RefusedRequestError("The oracle does not like the question.", "Ask another.")
        return Answer(tuple(answered))

    async def close(self) -> None:
        self._n_busy.clear()


def oracle_replies(model: str, request: Request, salt: str) -> list[Reply]:
    """Return the replies to a request: some are empty, which no task can use; none when it is refused.

    A row that is asked anew, and every row in fair weather, gets others: whichever of several rows with an equal
    request asks first, they are the same, so that all may share them.
    """
    text = str(request.messages)
    fate = chance("refused", model, text, below=18)
    if fate == 0 or (fate == 1 and not is_fair()):
        return []
    number, _, first = salt.partition("/")  # the replies before `first` are there already
    repeat, _, attempt = number.partition("+")
    indices = range(int(first or 0), int(first or 0) + request.n)
    which = ("fair",) * request.n if is_fair() else ("again",) * request.n if attempt else indices
    return [Reply(_text(model, text, int(repeat or 0), one)) for one in which]


def _text(*parts: object) -> str:
    return str(chance(*parts, below=1000)) if chance("mute", *parts, below=7) else ""
