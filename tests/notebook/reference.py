"""The reference part of docs/magics.md is made of the parsers: `python -m tests.notebook.reference` writes it."""

from __future__ import annotations

import inspect
from pathlib import Path

from distilnb.notebook.magics import CELLS, LINES, DistilMagics
from distilnb.notebook.options import Argument, Command

PAGE = Path(__file__).parents[2] / "docs" / "magics.md"

BEGIN, END = "<!-- made of the parsers by `make pages` -->\n", "<!-- up to here -->\n"


def page(text: str) -> str:
    """Return the page with what stands between its marks made anew."""
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    commands = [*LINES.values(), *CELLS.values()]
    sections = ["## Sub-commands\n", _overview(commands), *map(_section, commands), _settings()]
    return "".join([before, BEGIN, "\n", "\n".join(sections), "\n", END, after])


def _overview(commands: list[Command]) -> str:
    rows = [f"| [`{one.spoken}`](#{_anchor(one)}) | {_sentence(one)} |" for one in commands]
    return "\n".join(["| | |", "|---|---|", *rows, ""])


def _anchor(command: Command) -> str:
    return command.spoken.replace("%", "").replace(" ", "-") + ("-cell" if command.is_cell else "")


def _sentence(command: Command) -> str:
    return (inspect.getdoc(command.call) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def _section(command: Command) -> str:
    told = inspect.getdoc(command.call) or ""
    rows = [f"| `{_cell(_spoken(one))}` | {_cell(one.how.get('help', ''))} |" for one in command.arguments]
    table = ["| | |", "|---|---|", *rows, ""] if rows else []
    title = f"### distil {command.name}{' cell' if command.is_cell else ''}"
    return "\n".join([title, "", f"    {usage(command)}", "", told, "", *table])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def usage(command: Command) -> str:
    """Return a sub-command with all it takes, on one line."""
    return " ".join([command.spoken, *map(_in_usage, command.arguments)])


def _in_usage(argument: Argument) -> str:
    spoken = _spoken(argument, names=argument.names[:1])
    many = " …" if argument.how.get("nargs") == "*" or argument.how.get("action") == "append" else ""
    must = not argument.is_option and not argument.how.get("nargs")
    return f"{spoken}{many}" if must else f"[{spoken}{many}]"


def _spoken(argument: Argument, names: tuple[str, ...] | None = None) -> str:
    how = argument.how
    value = how.get("metavar") or "|".join(how.get("choices", ()))
    if not argument.is_option:
        return str(value)
    takes_none = how.get("action") == "store_true"
    return ", ".join(names or argument.names) + ("" if takes_none else f" {value}")


def _settings() -> str:
    traits = DistilMagics.class_own_traits(config=True) | {
        name: trait
        for name, trait in DistilMagics.class_traits(config=True).items()
        if name != "options_table"
    }
    rows = [
        f"| `%config DistilMagics.{name} = {trait.default_value!r}` | {trait.help} |"
        for name, trait in sorted(traits.items())
        if trait.help
    ]
    lead = (
        "What is set holds for the session; `c.DistilMagics.rows = 3` in IPython's own files holds for all.\n"
    )
    return "\n".join(["## Settings", "", lead, "| with its usual value | |", "|---|---|", *rows, ""])


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
