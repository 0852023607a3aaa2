"""Sub-commands that build a pipeline: `new`, `use`, `add`, `drop`, `show`."""

from __future__ import annotations

import inspect
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError

from distilnb.notebook.options import AFTER, GENERATIONS, INTO, LLM, PIPELINE, Command, argument, nearest
from distilnb.notebook.session import Session
from distilnb.notebook.words import unquoted

if TYPE_CHECKING:
    from distilnb.pipeline import Pipeline, StepView


_ONE_DEFAULT = "A pipeline has one default model; name several where they are asked."


def new(session: Session, options: Namespace) -> Pipeline:
    """Make a pipeline from a source, in a variable of its name.

    SOURCE is a file or a pattern, a folder of a saved dataset, hub:owner/name, or a variable that holds a
    DataFrame, a list of dicts or a Dataset.
    """
    from distilnb.pipeline import Pipeline

    if not options.name.isidentifier():
        raise UsageError(f"{options.name!r} is no name for a variable.")
    pipeline = Pipeline(
        options.name,
        llm=session.one_model(
            options.llm, "A pipeline has one default model; name several where they are asked."
        ),
    )
    return session.assign(options.name, _with_source(pipeline, options.source, session))


def _with_source(pipeline: Pipeline, source: str, session: Session) -> Pipeline:
    if source.startswith("hub:"):
        return pipeline.from_hub(source.removeprefix("hub:"))
    value = session.namespace.get(source)
    if isinstance(value, (str, Path)) or value is None:
        path = str(source if value is None else value)
        return pipeline.from_disk(path) if Path(path).is_dir() else pipeline.from_files(path)
    if hasattr(value, "iterrows"):
        return pipeline.from_pandas(value)
    if hasattr(value, "column_names"):
        return pipeline.from_dataset(value)
    return pipeline.from_dicts(value)


def use(session: Session, options: Namespace) -> Pipeline:
    """Make a pipeline the current one; `use answer@1` gives a step the prompt of that version again."""
    if "@" not in options.target:
        return session.pipeline(options.target).pipeline
    target = session.target(options.target, options.pipeline)
    return session.assign(target.variable, target.pipeline)


def add(session: Session, options: Namespace) -> Pipeline:
    """Call a verb of the pipeline and keep what it returns: add filter "stars >= 4".

    Arguments are Python literals, variables that hold functions, models or steps, or else text.
    """
    target = session.pipeline(options.pipeline)
    verb = _verb(options.verb)
    positional, named = _arguments(session, options)
    _check_call(options.verb, verb, positional, named)
    return session.assign(target.variable, verb(target.pipeline, *positional, **named))


def verbs() -> dict[str, Callable[..., Pipeline]]:
    """Return the fluent verbs: public methods that return a pipeline."""
    from distilnb.pipeline import Pipeline

    return {
        name: method
        for name, method in vars(Pipeline).items()
        if inspect.isfunction(method)
        and not name.startswith("_")
        and inspect.signature(method).return_annotation == "Pipeline"
    }


def _verb(name: str) -> Callable[..., Pipeline]:
    known = verbs()
    if name not in known:
        raise UsageError(f"%distil add: there is no verb {name!r}.{nearest(name, known)}")
    return known[name]


def _arguments(session: Session, options: Namespace) -> tuple[list[Any], dict[str, Any]]:
    given = {"k": options.generations, "into": options.into, "after": options.after, "name": options.name}
    named = {name: value for name, value in given.items() if value is not None}
    if options.llm:
        # A verb whose model is none for chats calls it so, and finds it by its name itself.
        takes_model = "model" in inspect.signature(_verb(options.verb)).parameters
        named |= (
            {"model": session.value(options.llm)} if takes_model else {"llm": session.models(options.llm)}
        )
    positional = []
    for word in options.arguments:
        name, equals, text = word.partition("=")
        if equals and name.isidentifier() and not text.startswith("="):
            named[name] = session.models(unquoted(text)) if name == "llm" else session.value(text)
        else:
            positional.append(session.value(word))
    return positional, named


def _check_call(
    name: str, verb: Callable[..., Pipeline], positional: list[Any], named: dict[str, Any]
) -> None:
    signature = inspect.signature(verb)
    try:
        signature.bind(None, *positional, **named)
    except TypeError as error:
        known = [parameter for parameter in signature.parameters if parameter != "self"]
        unknown = [word for word in named if word not in known]
        hint = nearest(unknown[0], known) if unknown else f" {name} takes {known}."
        raise UsageError(f"%distil add {name}: {error}.{hint}") from error


def drop(session: Session, options: Namespace) -> Pipeline:
    """Remove a step; what came before it flows into what came after it."""
    target = session.target(options.step, options.pipeline)
    if not target.step:
        raise UsageError(
            f"%distil drop: name a step; {target.variable} has {list(target.pipeline.graph.steps)}."
        )
    return session.assign(target.variable, target.pipeline.drop_step(target.step))


def show(session: Session, options: Namespace) -> Pipeline | StepView:
    """Show the graph of a pipeline, or what a step reads and makes."""
    target = session.target(options.target, options.pipeline)
    return target.pipeline[target.step] if target.step else target.pipeline


COMMANDS = (
    Command(
        "new",
        new,
        (
            argument("name", metavar="NAME", help="of the pipeline and its variable"),
            argument(
                "source",
                metavar="SOURCE",
                help="file, pattern, folder, hub:repo or variable",
                completes="path",
            ),
            LLM,
        ),
    ),
    Command(
        "use",
        use,
        (
            argument("target", metavar="PIPELINE|STEP@N", help="a pipeline, or a version", completes="use"),
            PIPELINE,
        ),
    ),
    Command(
        "add",
        add,
        (
            argument(
                "verb", metavar="VERB", help="generate, judge, filter, map, to_dpo, …", completes="verb"
            ),
            argument("arguments", nargs="*", metavar="ARG", help="value or name=value", completes="column"),
            argument("--name", metavar="NAME", help="of the step"),
            LLM,
            GENERATIONS,
            INTO,
            AFTER,
            PIPELINE,
        ),
        keeps_quotes=True,
    ),
    Command("drop", drop, (argument("step", metavar="STEP", completes="step"), PIPELINE)),
    Command(
        "show",
        show,
        (
            argument("target", nargs="?", metavar="TARGET", help="pipeline or step", completes="target"),
            PIPELINE,
        ),
    ),
)
