"""How a verb's step gets its name, its place and its columns: pure functions from graph to graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from distilnb.errors import DuplicateStepError, SpecError, StepConnectionError, UnknownKindError, did_you_mean
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_embeddings, as_llm
from distilnb.pipeline.routes import dropping, followed
from distilnb.rows import Row
from distilnb.spec.check import check_flow, takes_several
from distilnb.spec.code import Code
from distilnb.spec.draft import drafting, snake_case
from distilnb.spec.graph import Graph
from distilnb.spec.inline import Inline
from distilnb.spec.step import GeneratorStep, GlobalStep, Step
from distilnb.steps.function import as_step
from distilnb.steps.join import GroupColumns
from distilnb.steps.route import RouteRows
from distilnb.tasks.base import Task
from distilnb.tasks.embedding import EmbeddingGeneration
from distilnb.tasks.generation import TextGeneration
from distilnb.tasks.prometheus import PrometheusEval
from distilnb.tasks.prompt import parse_prompt
from distilnb.tasks.ultrafeedback import UltraFeedback

JUDGES: dict[str, type[Task]] = {"prometheus": PrometheusEval, "ultrafeedback": UltraFeedback}


class Wired(NamedTuple):
    """A graph with a step wired in, the steps at its end, and what to say about it."""

    graph: Graph
    heads: tuple[str, ...]
    note: str = ""


def wire(
    graph: Graph, heads: Sequence[str], step: Step, *, verb: str, name: str, after: str | Sequence[str]
) -> Wired:
    """Append a step behind `after` (or the heads), or replace the one that has its name."""
    explicit = name or step.name
    if explicit in graph.steps:
        return _replace(graph, heads, named(step, explicit))
    before = _predecessors(graph, heads, step, after, explicit or _base_name(step, verb))
    if not explicit and len(before) == 1 and verb and _are_equal(graph.steps[before[0]], step):
        return Wired(graph, tuple(heads), f"{before[0]!r} is an equal step already; nothing was added.")
    step = named(step, explicit or free_name(graph, _base_name(step, verb)))
    graph = followed(graph.appending(step, before), before, step.name, [step.name])
    kept = [head for head in heads if head not in before]
    if after and kept:  # a branch from the middle: it becomes what the next verb follows
        return Wired(graph, (step.name,))
    return Wired(graph, (*kept, step.name))


def _are_equal(one: Step, other: Step) -> bool:
    """Whether two steps do the same; the kind comes first, for the digest of a source takes all its rows."""
    return type(one) is type(other) and one.digest == other.digest


def wire_parallel(graph: Graph, heads: Sequence[str], steps: Sequence[Step]) -> Wired:
    """Append several steps behind the heads, side by side."""
    names = [step.name for step in steps if step.name]
    for name in names:
        if names.count(name) > 1:  # the second would replace the first
            raise DuplicateStepError(f"Two steps are named {name!r}.", "Give one of them another name.")
    ends: list[str] = []
    for step in steps:
        wired = wire(graph, heads, step, verb="", name="", after=())
        graph, ends = wired.graph, [*ends, *wired.heads]
    return Wired(graph, tuple(dict.fromkeys(ends)))


def wire_branches(
    graph: Graph,
    heads: Sequence[str],
    tasks: Sequence[Step],
    join: Step,
    *,
    verb: str,
    name: str,
    after: str,
) -> Wired:
    """Append parallel steps `name_1 … name_k` and the step `name` that joins them."""
    name = name or free_name(graph, verb)
    branches = [f"{name}_{number}" for number in range(1, len(tasks) + 1)]
    if name not in graph.steps:
        before = _predecessors(graph, heads, tasks[0], after, name)
        for branch, task in zip(branches, tasks, strict=True):
            graph = graph.appending(named(task, branch), before)
        graph = followed(graph.appending(named(join, name), branches), before, name, branches)
        return Wired(graph, (*(head for head in heads if head not in before), name))
    first = graph.predecessors(name)
    before = graph.predecessors(first[0]) if graph.is_join(name) else first
    if graph.is_join(name):
        for branch in first:
            graph = dropping(graph, branch)
    edges = tuple(edge for edge in graph.edges if edge[1] != name)
    graph = Graph(graph.steps, edges)
    for branch, task in zip(branches, tasks, strict=True):
        graph = graph.appending(named(task, branch), before)
    graph = graph.replacing(named(join, name))
    graph = Graph(graph.steps, (*graph.edges, *((branch, name) for branch in branches)))
    for route in before:
        step = graph.steps[route]
        if isinstance(step, RouteRows):
            graph = graph.replacing(step.without_step(name, branches))
    return Wired(graph, tuple(heads), f"{name} is replaced.")


def append_branches(
    graph: Graph,
    heads: Sequence[str],
    tasks: Sequence[Step],
    join: Step,
    *,
    llm: LLM | None,
    verb: str,
    name: str,
    after: str,
) -> Wired:
    """Append parallel tasks, with a default model, and the step that joins them; a second time all are replaced.

    Raises what `check_flow` and `check_new_columns` raise.
    """
    tasks = [with_default_model(task, llm) for task in tasks]
    wired = wire_branches(graph, heads, tasks, join, verb=verb, name=name, after=after)
    check_flow(wired.graph)
    check_new_columns(wired.graph, [task for head in wired.heads for task in wired.graph.predecessors(head)])
    return wired


def _replace(graph: Graph, heads: Sequence[str], step: Step) -> Wired:
    old = graph.steps[step.name]
    if isinstance(old, GeneratorStep) != isinstance(step, GeneratorStep):
        raise StepConnectionError(
            f"Step {step.name!r} ({old.kind()}) cannot become a {step.kind()}.",
            "Give the new step another name.",
        )
    if graph.is_join(step.name) and not takes_several(step):  # one model where several were
        branches = graph.predecessors(step.name)
        for branch in branches:
            graph = dropping(graph, branch)
        unique = tuple(dict.fromkeys(graph.edges))
        graph = Graph(graph.steps, unique)
    note = "" if old == step else f"{step.name} is replaced."
    return Wired(graph.replacing(step), tuple(heads), note)


def _predecessors(
    graph: Graph, heads: Sequence[str], step: Step, after: str | Sequence[str], name: str
) -> list[str]:
    if isinstance(step, GeneratorStep):
        return []
    before = [after] if isinstance(after, str) and after else list(after) or list(heads)
    for predecessor in before:
        graph.step(predecessor)
    if not before:
        raise StepConnectionError(
            f"No rows flow into step {name!r}.", "Begin with a source: p.from_dicts([...])."
        )
    if len(before) > 1 and not takes_several(step) and not isinstance(step, GlobalStep):
        raise StepConnectionError(
            f"The pipeline ends in {before}; step {name!r} takes the rows of one step.",
            "Join the branches first with group(...) or combine(), or say after='...'.",
        )
    return before


def _base_name(step: Step, verb: str) -> str:
    """Return what an unnamed step is called: as the user's function, else as the verb, else as its class."""
    function = getattr(step, "function", None)
    if isinstance(function, Code) and verb in ("", "ask") and function.name.isidentifier():
        return function.name
    return verb or snake_case(step.kind())


def rows_given(rows: Sequence[Row]) -> Inline:
    """Return rows as a source holds them; raises NoRowsError here, where none would look like no columns later."""
    inline = Inline.of(rows)
    inline.require()
    return inline


def named(step: Step, name: str) -> Step:
    """Return the step under that name."""
    if step.name == name:
        return step
    with drafting(None):
        return step.updated(name=name)


def free_name(graph: Graph, base: str) -> str:
    """Return `base`, or `base_2`, `base_3` … when it is taken."""
    name, number = base, 1
    while name in graph.steps:
        number += 1
        name = f"{base}_{number}"
    return name


def check_new_columns(graph: Graph, names: Sequence[str]) -> None:
    """Raise SpecError when a task would write over a column that its rows bring along: verbs never overwrite."""
    known = graph.columns()
    for name in names:
        if not isinstance(graph.steps[name], Task):
            continue
        arriving = {column for before in graph.predecessors(name) for column in known[before].names}
        for column in graph.steps[name].made():
            if column in arriving:
                raise SpecError(
                    f"Step {name!r} would overwrite column {column!r}; upstream has {sorted(arriving)}.",
                    "Give its result another name: into='...'.",
                )


def only_source(graph: Graph) -> str:
    """Return the name of the only source; raises StepConnectionError when there are several or none."""
    sources = graph.sources()
    if len(sources) != 1:
        raise StepConnectionError(
            f"The pipeline has the sources {sources}.",
            "Say which one: with_rows(rows, name='...') or start(dataset={'...': rows}).",
        )
    return sources[0]


def rows_by_source(graph: Graph, dataset: object) -> Mapping[str, object]:
    """Return the rows given to a start by the name of their source; raises StepConnectionError for an unknown one."""
    if dataset is None:
        return {}
    if not isinstance(dataset, Mapping):
        return {only_source(graph): dataset}
    for name in dataset:
        if name not in graph.sources():
            raise StepConnectionError(
                f"There is no source {name!r}; the pipeline has {graph.sources()}.",
                did_you_mean(str(name), graph.sources(), "Give rows by the names of sources."),
            )
    return dataset


def with_default_model(step: Step, llm: LLM | None) -> Step:
    """Return a task with the pipeline's model when it names none."""
    if isinstance(step, Task) and step.llm is None and llm is not None and llm.makes == step.asks_for:
        with drafting(None):
            return step.updated(llm=llm)
    return step


# --- what verbs make ------------------------------------------------------------


def generation_tasks(
    prompt: str | None,
    system: str | None,
    models: Sequence[LLM | str | None],
    *,
    k: int,
    into: str,
    **shaped: Any,
) -> list[TextGeneration]:
    """Return one task a model, each making lists of k replies; `shaped` is what their schema is, and how it is kept.

    The columns of a schema are lists too, unless there is one reply a row.
    """
    mappings = {"generation": into, "model_name": models_column(into)}
    with drafting(None):
        fields_made = TextGeneration(**shaped).fields()
    if into != "generations":
        mappings |= {name: f"{into}_{name}" for name in fields_made}
    names = [*mappings.values(), *(name for name in fields_made if name not in mappings)]
    if len(set(names)) < len(names):
        raise SpecError(
            f"The columns {names} would not all have a name of their own.", "Change into= or the schema."
        )
    fields: dict[str, Any] = {
        "num_generations": k,
        "group_generations": True,
        "output_mappings": mappings,
        "system_prompt": system,
        **_prompt_fields(prompt),
        **shaped,
    }
    if fields_made and k == 1 and len(models) == 1:
        fields["unlists_fields"] = True
    if not models:
        raise SpecError("The list of models is empty.", "llm='provider:model', or a list of several.")
    with drafting(None):
        return [TextGeneration(**fields, llm=None if model is None else as_llm(model)) for model in models]


def _prompt_fields(prompt: str | None) -> dict[str, Any]:
    if prompt is None:
        return {}
    return {"messages": parse_prompt(prompt)}


def models_column(into: str) -> str:
    """Return the column with the models of the column of generations."""
    return "generation_models" if into == "generations" else f"{into}_models"


def group_generations(task: TextGeneration) -> Step:
    """Return the step that joins the replies of several models into one list, in the order of the models."""
    columns = task.made()
    columns = [columns[0], columns[-1], *columns[1:-1]]
    with drafting(None):
        return GroupColumns(columns=columns, output_columns=columns, flatten=True)


def shown_images(columns: str | Sequence[str] | None, folder: str) -> dict[str, Any]:
    """Return the fields of a task that say which images it shows; none where it shows none."""
    if not columns:
        return {}
    return {"images": columns if isinstance(columns, str) else [*columns], "image_folder": folder}


def embedding_task(column: str, model: LLM | str, into: str, **fields: Any) -> EmbeddingGeneration:
    """Return the task that makes vectors of a column."""
    with drafting(None):
        return EmbeddingGeneration(
            llm=as_embeddings(model),
            input_mappings={} if column == "text" else {"text": column},
            output_mappings={"embedding": into, "model_name": f"{into}_model"},
            **fields,
        )


def judge_task(
    kind: str | Step | Callable[..., Any],
    name: str,
    over: str,
    graph: Graph,
    options: dict[str, Any],
    llm: LLM | str | None,
) -> Step:
    """Return a judge whose columns collide with no other's."""
    with drafting(None):
        if not isinstance(kind, str):
            step = as_step(kind)
            return step.updated(llm=as_llm(llm)) if llm is not None else step
        if kind not in JUDGES:
            raise UnknownKindError(
                f"There is no judge {kind!r}; there are {sorted(JUDGES)}.", did_you_mean(kind, JUDGES)
            )
        model = None if llm is None else as_llm(llm)
        plain = JUDGES[kind](llm=model, name=name, **options)
        columns = {column: _judged(column, name, graph) for column in plain.made()}
        inputs = {"generations": over} if over != "generations" else {}
        return plain.updated(output_mappings=columns, input_mappings=inputs)


def _judged(column: str, name: str, graph: Graph) -> str:
    """Name a judge's column: plainly for a lone judge, else with the judge's name before it."""
    plain = "judge_model" if column == "model_name" else column
    taken = {made for other, step in graph.steps.items() if other != name for made in step.made()}
    if plain not in taken:
        return plain
    return f"{name}_model" if column == "model_name" else f"{name}_{column}"


def picks_from_list(graph: Graph, heads: Sequence[str]) -> bool:
    """Whether the rows at the end have a list of generations but no single one."""
    known = graph.columns()
    columns = [known[head] for head in heads]
    return any("generations" in names and "generation" not in names for names in columns)
