"""Sub-commands as data: name, arguments, and the function that is called; and the parser of their lines."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, NoReturn

from IPython.core.error import UsageError

Completes = Literal[
    "",
    "pipeline",
    "step",
    "version",
    "use",
    "sample",
    "target",
    "run",
    "verb",
    "column",
    "model",
    "path",
    "param",
    "judge",
]


class HelpShown(Exception):
    """The line asked for help, and has it."""


class Parser(argparse.ArgumentParser):
    """A parser that ends no process: what is wrong becomes one line, a UsageError."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{self.prog}: {message}")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """Parse words, options and arguments in any order; an unknown option is told with the nearest one."""
        if {"-h", "--help"} & set(words):
            sys.stdout.write(self.format_help())
            raise HelpShown
        options, unknown = self.parse_known_intermixed_args(list(words))
        if unknown:
            self.error(f"unrecognised {unknown[0]!r}.{nearest(unknown[0], self._option_string_actions)}")
        return options


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" or "".

    >>> nearest("--max-cots", ["--max-cost", "--rows"])
    " Did you mean '--max-cost'?"
    """
    near = get_close_matches(word.partition("=")[0], list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


@dataclass(frozen=True)
class Argument:
    """An argument of a sub-command as argparse takes it, and what completes it."""

    names: tuple[str, ...]
    how: Mapping[str, Any]
    completes: Completes = ""

    @property
    def is_option(self) -> bool:
        """Whether it is written with a dash."""
        return self.names[0].startswith("-")


def argument(*names: str, completes: Completes = "", **how: Any) -> Argument:
    """Describe an argument."""
    return Argument(names, how, completes)


@dataclass(frozen=True)
class Command:
    """A sub-command. `call` takes the session and the options; that of a cell takes the body too."""

    name: str
    call: Callable[..., object]
    arguments: tuple[Argument, ...] = ()
    is_cell: bool = False
    keeps_quotes: bool = False  # its words are Python values

    @property
    def spoken(self) -> str:
        """The sub-command as it is written."""
        return f"{'%%' if self.is_cell else '%'}distil {self.name}"

    def parser(self) -> Parser:
        """Return the parser of its line; `-h` shows the first sentence of the function's docstring."""
        parser = Parser(
            prog=self.spoken,
            description=inspect.cleandoc(self.call.__doc__ or ""),
            allow_abbrev=False,
            add_help=False,  # `read` sees to it
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        for one in self.arguments:
            parser.add_argument(*one.names, **one.how)
        parser.add_argument("-h", "--help", action="store_true", help="show this")
        return parser


# Options mean one thing everywhere.
PIPELINE = argument(
    "-p", "--pipeline", metavar="PIPELINE", help="the pipeline's variable", completes="pipeline"
)
ROWS = argument("-n", "--rows", type=int, metavar="N", help="how many rows")
GENERATIONS = argument("-k", "--generations", type=int, metavar="K", help="replies per row and model")
INTO = argument("--into", metavar="COLUMN", help="the column that is made")
LIKE = argument("--like", metavar="STEP", help="take what is not said from that step", completes="step")
AFTER = argument("--after", metavar="STEP", help="the step whose rows it reads", completes="step")
LLM = argument("--llm", metavar="X[,Y]", help="a variable, or provider:model", completes="model")
PARAM = argument(
    "--param",
    action="append",
    default=[],
    metavar="STEP.FIELD=VALUE",
    help="for this time; may be repeated",
    completes="param",
)
NO_PREVIEW = argument("--no-preview", action="store_true", help="only change the pipeline; ask nothing")
MAX_COST = argument("--max-cost", type=float, metavar="USD", help="stop before more is spent")
MAX_TOKENS = argument("--max-tokens", type=int, metavar="N", help="stop before more tokens are used")
WAIT = argument("--wait", action="store_true", help="wait until the run has ended")
YES = argument("-y", "--yes", action="store_true", help="spend without asking first")
