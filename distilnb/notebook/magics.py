"""`%distil` and `%%distil`: find the sub-command, parse its line, call it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand

from distilnb.notebook import build, cells, files, iterate, look, runs
from distilnb.notebook.options import Command, HelpShown, nearest
from distilnb.notebook.session import Session
from distilnb.notebook.settings import Settings
from distilnb.notebook.words import split_words, unquoted

LINES: Mapping[str, Command] = {
    one.name: one
    for one in (*build.COMMANDS, *look.COMMANDS, *iterate.COMMANDS, *runs.COMMANDS, *files.COMMANDS)
}
CELLS: Mapping[str, Command] = {one.name: one for one in (*cells.COMMANDS, *files.CELLS)}


@magics_class
class DistilMagics(Settings, Magics):
    """The one magic of distilnb, for a line and for a cell."""

    def __init__(self, shell: Any, session: Session) -> None:
        super().__init__(shell)
        self.session = session
        session.settings = self

    def forget(self) -> None:
        """Take back what these magics left in their shell beside themselves."""
        self.short_errors = True
        configurables: list[Any] = self.session.shell.configurables
        if self in configurables:
            configurables.remove(self)

    @no_var_expand  # a prompt holds braces of its own
    @line_cell_magic
    def distil(self, line: str, cell: str | None = None) -> object:
        """Build, look at and run pipelines: `%distil VERB [TARGET] [options]`; `%distil VERB -h` tells more.

        Alone, `%distil` lists them all. `%config DistilMagics` shows what can be set.
        """
        silent = line.rstrip().endswith(";")
        try:
            result = call(self.session, line.rstrip().removesuffix(";"), cell)
        except HelpShown:
            return None
        return None if silent else result


def call(session: Session, line: str, body: str | None) -> object:
    """Call the sub-command of a line, or of a cell, and return what it returns."""
    try:
        words = split_words(line)
    except ValueError as error:
        raise UsageError(f"%distil: {error}") from error
    commands = LINES if body is None else CELLS
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(overview())
        return None
    command = _find(words[0], commands)
    rest = words[1:] if command.keeps_quotes else [unquoted(word) for word in words[1:]]
    options = command.parser().read(rest)
    return command.call(session, options) if body is None else command.call(session, options, body)


def _find(name: str, commands: Mapping[str, Command]) -> Command:
    if name in commands:
        return commands[name]
    other = CELLS if commands is LINES else LINES
    if name in other:
        raise UsageError(f"{name!r} is a {'cell' if other is CELLS else 'line'}: {other[name].spoken} …")
    mark = "%distil" if commands is LINES else "%%distil"
    raise UsageError(
        f"{mark}: there is no {name!r}; there are {', '.join(commands)}.{nearest(name, commands)}"
    )


def overview() -> str:
    """Return a line for each sub-command."""
    every = [*LINES.values(), *CELLS.values()]
    width = max(len(one.spoken) for one in every)
    told = [f"{one.spoken:{width}}  {(one.call.__doc__ or '').splitlines()[0]}" for one in every]
    return "\n".join([*told, "", "%distil VERB -h tells its options.", ""])
