"""Tab in a line of `%distil` or `%%distil`: sub-commands, options, and the names that exist right now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from glob import glob
from typing import Any

from IPython.core.error import UsageError

from distilnb.notebook.build import verbs
from distilnb.notebook.magics import CELLS, LINES
from distilnb.notebook.options import Argument, Command, Completes
from distilnb.notebook.session import Session
from distilnb.spec.parameters import paths_in


def complete(session: Session, event: Any) -> list[str]:
    """Return what may stand at the cursor; `event` is IPython's: the line, and the word that is begun."""
    commands = CELLS if event.line.lstrip().startswith("%%") else LINES
    before = event.text_until_cursor.split()[1:]
    if before and not event.text_until_cursor[-1].isspace():
        before.pop()  # the word that is begun
    if not before:
        return [*commands, "-h"]
    command = commands.get(before[0])
    if command is None:
        return []
    options = [name for one in command.arguments if one.is_option for name in one.names]
    if event.symbol.startswith("-"):
        return [*options, "-h"]
    expected = _expected(command, before[1:])
    if expected is None:
        return []
    if expected.completes == "model":
        return _model_words(session, event)
    word = event.text_until_cursor.rpartition(" ")[2]
    if "@" in word:
        return _behind_at(session, word, event.symbol)
    return sorted(set(_candidates(session, expected, event.symbol)))


def _behind_at(session: Session, word: str, symbol: str) -> list[str]:
    """Return the versions that are begun; IPython takes only what stands behind the @ for the word."""
    kept = word[: len(word) - len(symbol)] if word.endswith(symbol) else word
    return [name.removeprefix(kept) for name in _versions(session, word) if name.startswith(kept)]


def _expected(command: Command, words: list[str]) -> Argument | None:
    """Return the argument that the next word belongs to."""
    by_name = {name: one for one in command.arguments if one.is_option for name in one.names}
    positionals = [one for one in command.arguments if not one.is_option]
    n_given, takes_value = 0, None
    for word in words:
        if takes_value:
            takes_value = None
        elif word in by_name:
            takes_value = by_name[word] if by_name[word].how.get("action") != "store_true" else None
        else:
            n_given += 1
    if takes_value or n_given < len(positionals):
        return takes_value or positionals[n_given]
    return positionals[-1] if positionals and positionals[-1].how.get("nargs") in ("*", "+") else None


def _candidates(session: Session, argument: Argument, begun: str) -> Iterable[str]:
    find: Mapping[Completes, Callable[[], Iterable[str]]] = {
        "pipeline": session.pipelines,
        "step": lambda: [*_steps(session, begun), *_versions(session, begun)],
        "version": lambda: _versions(session, begun) or _steps(session, begun),
        "use": lambda: [*session.pipelines(), *_versions(session, begun)],
        "target": lambda: [*session.pipelines(), *_steps(session, begun)],
        "run": lambda: [*_runs(), *session.pipelines()],
        "verb": verbs,
        "sample": lambda: ("show", "add", "drop", "check", "accept"),
        "column": lambda: _columns(session),
        "model": lambda: _models(session),
        "param": lambda: _parameters(session, begun),
        "judge": _judges,
        "path": lambda: [*_sources(session), *glob(f"{begun}*")],
        "": lambda: (),
    }
    return find[argument.completes]()


def _steps(session: Session, begun: str) -> Iterable[str]:
    variable, dot, _ = begun.partition(".")
    try:
        graph = session.pipeline(variable if dot else None).pipeline.graph
    except UsageError:  # there is no such pipeline: nothing to offer
        return ()
    return [f"{variable}.{name}" if dot else name for name in graph.steps]


def _versions(session: Session, begun: str) -> list[str]:
    """Return the versions of prompts, such as `answer@2`."""
    from distilnb.pipeline.versions import version_names

    variable, dot, _ = begun.partition(".")
    try:
        pipeline = session.pipeline(variable if dot else None).pipeline
    except UsageError:
        return []
    names = version_names(pipeline.name, pipeline.graph)
    return [f"{variable}.{name}" if dot else name for name in names]


def _parameters(session: Session, begun: str) -> Iterable[str]:
    """Return the fields of steps and of their models, as far as they are begun."""
    try:
        graph = session.pipeline().pipeline.graph
    except UsageError:
        return ()
    return [path for path in paths_in(graph) if path.startswith(begun)]


def _judges() -> Iterable[str]:
    from distilnb.pipeline.wiring import JUDGES

    return JUDGES


def _columns(session: Session) -> Iterable[str]:
    try:
        graph = session.pipeline().pipeline.graph
    except UsageError:
        return ()
    columns = graph.columns()
    return [name for leaf in graph.leaves() for name in columns[leaf].names]


def _runs() -> Iterable[str]:
    from distilnb.engine.rundir import all_run_dirs

    return [run.run_id for run in all_run_dirs()]


def _models(session: Session) -> Iterable[str]:
    from distilnb.llms.base import LLM
    from distilnb.llms.inventory import model_names

    variables = [name for name, value in session.namespace.items() if isinstance(value, LLM)]
    return [*variables, *model_names()]


def _model_words(session: Session, event: Any) -> list[str]:
    """Return the models that may follow; IPython takes only what stands behind a colon, or a comma, for the word."""
    typed = event.text_until_cursor
    word = "" if not typed or typed[-1].isspace() else typed.split()[-1]
    begun = word.rpartition(",")[2]
    kept = len(begun) - len(event.symbol) if begun.endswith(event.symbol) else 0
    if kept < 0:  # the symbol reaches over the comma
        return sorted({word[: len(word) - len(begun)] + name for name in _models(session)})
    return sorted({name[kept:] for name in _models(session) if name.startswith(begun[:kept])})


def _sources(session: Session) -> Iterable[str]:
    own = [(name, value) for name, value in session.namespace.items() if not name.startswith("_")]
    return [*(name for name, value in own if _holds_rows(value)), "hub:"]


def _holds_rows(value: object) -> bool:
    if isinstance(value, list):
        return bool(value) and isinstance(value[0], dict)
    return hasattr(value, "iterrows") or hasattr(value, "column_names")
