"""Pipeline: typed fluent verbs over an immutable graph. Each verb makes a step and returns a new pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from distilnb.errors import StepConnectionError
from distilnb.export.distiset import Distiset
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.pipeline import routes, starting, wiring
from distilnb.pipeline.iterating import Iterating
from distilnb.pipeline.preview import Preview, run_preview
from distilnb.rows import Row
from distilnb.run import Run
from distilnb.spec.check import Checked, check_flow, check_graph
from distilnb.spec.code import Code
from distilnb.spec.draft import drafting
from distilnb.spec.files import PipelineFile, to_record
from distilnb.spec.parameters import with_parameters
from distilnb.spec.step import GeneratorStep, Step
from distilnb.steps.best import BestGeneration
from distilnb.steps.columns import DropColumns, ExpandColumns, KeepColumns, MergeColumns, RenameColumns
from distilnb.steps.dedup import ExactDedup
from distilnb.steps.filter import FilterRows, TakeRows
from distilnb.steps.function import MapRows, as_step
from distilnb.steps.join import CombineOutputs, GroupColumns, How
from distilnb.steps.sources import (
    LoadDataFromDicts,
    LoadDataFromDisk,
    LoadDataFromFileSystem,
    LoadDataFromHub,
)
from distilnb.steps.training import FormatTextGenerationDPO, FormatTextGenerationSFT

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset

    from distilnb.pipeline.estimate import Estimate

Model: TypeAlias = "LLM | str"
AnyStep: TypeAlias = "Step | Callable[..., Any]"  # a step, or a function made one by `dn.step` or `dn.task`


class Pipeline(Iterating):
    """An immutable graph of named steps.

    Verbs return a new pipeline; `llm` is the model of every task that names none.

    >>> p = Pipeline("shout").from_dicts([{"text": "hi"}]).map(lambda row: {"loud": row["text"].upper()})
    >>> list(p.graph.steps)
    ['load', 'map']

    The class form builds the same: `with Pipeline("name") as p: load >> task`.
    """

    # --- appending ---

    def then(self, step: AnyStep, *, name: str = "", after: str | Sequence[str] = ()) -> Pipeline:
        """Append a step, or replace the one of that name in place, keeping what follows.

        `after` names the steps whose rows it reads; those at the end are meant when it is left out.
        """
        with drafting(None):
            return self._append(as_step(step), verb="", name=name, after=after)

    def _append(self, step: Step, *, verb: str, name: str = "", after: str | Sequence[str] = ()) -> Pipeline:
        """Wire a step in; `verb` is the base of its name when nobody gave one."""
        step = wiring.with_default_model(step, self.llm)
        wired = wiring.wire(self._graph, self._heads, step, verb=verb, name=name, after=after)
        pipeline = self._with(wired.graph, wired.heads, note=wired.note)
        check_flow(pipeline.graph)
        if verb in ("generate", "judge", "embed"):
            wiring.check_new_columns(pipeline.graph, wired.heads)
        return pipeline

    def __rshift__(self, other: AnyStep | Sequence[AnyStep]) -> Pipeline:
        """`p >> step`; `p >> [a, b]` branches, and a step after that joins the branches."""
        if isinstance(other, Step) or not isinstance(other, Sequence):
            return self.then(other)
        if not other:
            raise StepConnectionError("There is no step in the list.", "p >> [a, b]")
        with drafting(None):
            steps = [wiring.with_default_model(as_step(one), self.llm) for one in other]
        wired = wiring.wire_parallel(self._graph, self._heads, steps)
        check_flow(wired.graph)
        return self._with(wired.graph, wired.heads)

    def drop_step(self, name: str) -> Pipeline:
        """Remove a step; what came before it flows into what came after it."""
        graph = routes.dropping(self._graph, name)
        return self._with(graph, graph.leaves())

    def route(
        self,
        branches: Mapping[str, routes.Branch] | Sequence[AnyStep] = (),
        *,
        when: Mapping[str, str | Callable[..., bool]] | None = None,
        default: str = "",
        n: int | None = None,
        weights: Mapping[str, float] | None = None,
        by: Callable[..., str | Sequence[str]] | None = None,
        seed: int = 0,
        name: str = "",
        after: str = "",
    ) -> Pipeline:
        """Send each row into some of several branches, which `combine` or `group` joins again.

        A branch is a step, or a function from the pipeline so far to a longer one; the same pipeline again goes
        straight on. A row takes each branch whose condition in `when` holds (else `default`; without one it is left
        out), or `n` of them drawn by its id (with `weights`: the more often the heavier), or those that `by` names
        (its first parameter gets their names, further ones are columns).

        >>> p = Pipeline("sizes").from_dicts([{"n": 2}, {"n": 300}])
        >>> branches = {"small": lambda q: q.map(lambda n: {"bits": 8}), "large": lambda q: q}
        >>> p = p.route(branches, when={"small": "n < 256"}, default="large").combine()
        >>> p.graph.predecessors("combine")
        ['map', 'route']
        """
        chosen = {"n": n, "weights": weights, "when": when, "default": default, "function": by, "seed": seed}
        step = routes.route_step(self._graph, name, branches, chosen)
        start = self._append(step, verb="route", name=name, after=after)
        route = name or next(
            (new for new in start.graph.steps if new not in self._graph.steps), start._heads[-1]
        )
        if not isinstance(branches, Mapping):
            return start._with(start.graph, [route]) >> branches if branches else start
        pipeline = start._with(*routes.with_branches(start._with, start.graph, route, branches))
        check_flow(pipeline.graph)
        return pipeline

    # --- sources ---

    def from_dicts(self, rows: Sequence[Row], *, name: str = "load") -> Pipeline:
        """Take rows from a list of dicts."""
        return self._source(LoadDataFromDicts(data=wiring.rows_given(rows), name=name))

    def from_pandas(self, frame: pd.DataFrame, *, name: str = "load") -> Pipeline:
        """Take rows from a DataFrame; NaN and NaT become None."""
        return self.from_dicts(starting.rows_of(frame), name=name)

    def from_dataset(self, dataset: Dataset, *, name: str = "load") -> Pipeline:
        """Take rows from a `datasets.Dataset`."""
        return self.from_dicts(starting.rows_of(dataset), name=name)

    def from_hub(self, repo_id: str, *, split: str = "train", name: str = "load", **options: Any) -> Pipeline:
        """Take rows from a dataset on the Hugging Face Hub; options are those of LoadDataFromHub."""
        return self._source(LoadDataFromHub(repo_id=repo_id, split=split, name=name, **options))

    def from_files(
        self, files: str | Sequence[str] | Path, *, name: str = "load", **options: Any
    ) -> Pipeline:
        """Take rows from files (jsonl, json, csv, parquet, arrow, txt), by path or pattern."""
        data_files: Any = str(files) if isinstance(files, (str, Path)) else [str(file) for file in files]
        step = LoadDataFromFileSystem(data_files=data_files, name=name, **options)
        step.check()  # a wrong path is told here, not at the first preview
        return self._source(step)

    def from_disk(self, path: str | Path, *, name: str = "load", **options: Any) -> Pipeline:
        """Take rows from a dataset, or a Distiset, saved on disk."""
        step = LoadDataFromDisk(dataset_path=str(path), name=name, **options)
        step.check()
        return self._source(step)

    def with_rows(self, rows: Sequence[Row], *, name: str | None = None) -> Pipeline:
        """Give other rows to a source: its name may be left out when there is one."""
        source = name or wiring.only_source(self._graph)
        with drafting(None):
            step = LoadDataFromDicts(data=wiring.rows_given(rows), name=source)
        return self._with(self._graph.replacing(step), self._heads)

    def _source(self, step: GeneratorStep) -> Pipeline:
        if step.name in self._graph.steps:
            return self._with(self._graph.replacing(step), self._heads)
        graph = self._graph.appending(step)
        return self._with(graph, [*(self._heads if self._graph.steps else ()), step.name])

    # --- rows and columns ---

    def map(
        self,
        function: Callable[..., Row],
        *,
        makes: Sequence[str] | None = None,
        cache: bool = False,
        name: str = "",
        after: str = "",
    ) -> Pipeline:
        """Add columns by a function: parameters that are column names get those, `row` gets the whole row.

        `makes` lists the new columns, for the check; `cache` keeps what an expensive function returns.
        """
        made = None if makes is None else list(makes)
        step = MapRows(function=Code.of(function), made_columns=made, cache=cache)
        return self._append(step, verb="map", name=name, after=after)

    def filter(self, condition: str | Callable[..., bool], *, name: str = "", after: str = "") -> Pipeline:
        """Keep the rows for which an expression ("chosen_rating >= 4") or a function is true."""
        test = condition if isinstance(condition, str) else Code.of(condition)
        return self._append(FilterRows(condition=test), verb="filter", name=name, after=after)

    def expand(
        self, columns: str | Sequence[str] | Mapping[str, str], *, name: str = "", after: str = ""
    ) -> Pipeline:
        """Make a row of each item of list columns; a mapping renames them (list column → new column)."""
        chosen: Any = [columns] if isinstance(columns, str) else columns
        return self._append(ExpandColumns(columns=chosen), verb="expand", name=name, after=after)

    def rename(self, columns: Mapping[str, str] | None = None, *, name: str = "", **renamed: str) -> Pipeline:
        """Rename columns: `rename({"old": "new"})` or `rename(old="new")`."""
        step = RenameColumns(columns={**(columns or {}), **renamed})
        return self._append(step, verb="rename", name=name)

    def keep(self, *columns: str, name: str = "", after: str = "") -> Pipeline:
        """Keep these columns, in this order."""
        return self._append(KeepColumns(columns=list(columns)), verb="keep", name=name, after=after)

    def drop(self, *columns: str, name: str = "", after: str = "") -> Pipeline:
        """Drop these columns."""
        return self._append(DropColumns(columns=list(columns)), verb="drop", name=name, after=after)

    def take(self, n: int, *, name: str = "", after: str = "") -> Pipeline:
        """Keep the first n rows."""
        return self._append(TakeRows(n=n), verb="take", name=name, after=after)

    def merge(self, *columns: str, into: str, name: str = "", after: str = "") -> Pipeline:
        """Put several columns of a row into one list column."""
        step = MergeColumns(columns=list(columns), output_column=into)
        return self._append(step, verb="merge", name=name, after=after)

    def group(
        self,
        *columns: str,
        into: Sequence[str] | str = (),
        flatten: bool = False,
        how: How = "inner",
        name: str = "",
        after: str | Sequence[str] = (),
    ) -> Pipeline:
        """Join branches (those at the end, or `after`): the same column of each becomes one list column.

        `how` says what becomes of a row that a branch lost: "inner" quarantines it, "left" keeps it with None unless
        its first branch lost it, "outer" keeps it in any case.
        """
        targets = [into] if isinstance(into, str) else list(into)
        step = GroupColumns(columns=list(columns), output_columns=targets or None, flatten=flatten, how=how)
        return self._append(step, verb="group", name=name, after=after)

    def combine(self, *, how: How = "inner", name: str = "", after: str | Sequence[str] = ()) -> Pipeline:
        """Join branches (those at the end, or `after`): the columns of all, row by row; `how` as in `group`."""
        return self._append(CombineOutputs(how=how), verb="combine", name=name, after=after)

    def dedup(self, *columns: str, name: str = "", after: str = "") -> Pipeline:
        """Keep the first of rows that are equal in these columns (in all, when none is named)."""
        return self._append(ExactDedup(columns=list(columns)), verb="dedup", name=name, after=after)

    # --- asking ---

    def generate(
        self,
        name: str = "",
        prompt: str | None = None,
        *,
        system: str | None = None,
        llm: Model | Sequence[Model] | None = None,
        k: int = 1,
        into: str = "generations",
        schema: object = None,
        max_reasks: int = 2,
        images: str | Sequence[str] | None = None,
        image_folder: str = ".",
        after: str = "",
    ) -> Pipeline:
        """Ask a model for k replies a row; several models give k replies each, in their order.

        `prompt` is a Jinja template whose variables are columns ("{{ instruction }}" when left out); lines that
        are only `system:`, `user:` or `assistant:` start a message. Sampling parameters belong to the model:
        `llm=dn.llm("openai:gpt-4o-mini", temperature=0.7)`.

        `schema` is what a reply should be: a pydantic model, a JSON schema (a dict), a regular expression, a list of
        choices, or "{{ column }}" for a column with one for each row. A reply that does not fit is asked for again, at
        most `max_reasks` times, with what is wrong with it. `images` names the columns with images to show: addresses,
        files of `image_folder`, base64 text or bytes.

        Makes: `into` (list[str]) and `generation_models` (list[str]; `<into>_models` for another `into`). With a schema
        of objects also a column for each field, of other JSON `value`: with one reply a row the value itself, else a
        list of k; for another `into` they begin with `<into>_`.
        """
        models: list[Model | None] = [llm] if llm is None or isinstance(llm, (LLM, str)) else [*llm]
        shaped = {"schema": schema, "max_reasks": max_reasks}
        shaped |= wiring.shown_images(images, image_folder)
        tasks = wiring.generation_tasks(prompt, system, models, k=k, into=into, **shaped)
        if len(tasks) == 1:
            return self._append(tasks[0], verb="generate", name=name, after=after)
        join = wiring.group_generations(tasks[0])
        options: dict[str, Any] = {"llm": self.llm, "verb": "generate", "name": name, "after": after}
        wired = wiring.append_branches(self._graph, self._heads, tasks, join, **options)
        return self._with(wired.graph, wired.heads, note=wired.note)

    def judge(
        self,
        kind: str | AnyStep = "ultrafeedback",
        *,
        llm: Model | None = None,
        name: str = "judge",
        over: str = "generations",
        after: str = "",
        **options: Any,
    ) -> Pipeline:
        """Rate generations by a judge: "ultrafeedback" (aspect= or rubric=), "prometheus" (mode=, rubric=) or a task.

        Makes: `ratings`, `rationales` and `judge_model` for a lone judge; a further judge's columns begin with its
        name (`honesty_ratings`).
        """
        step = wiring.judge_task(kind, name, over, self._graph, options, llm)
        return self._append(step, verb="judge", name=name, after=after)

    def ask(self, task: AnyStep, *, llm: Model | None = None, name: str = "", after: str = "") -> Pipeline:
        """Append any task: an object of a task class, or a function made one by `dn.task`."""
        with drafting(None):
            step = as_step(task)
            if llm is not None:
                step = step.updated(llm=as_llm(llm))
        return self._append(step, verb="ask", name=name, after=after)

    def embed(
        self,
        column: str,
        *,
        model: Model,
        into: str = "embedding",
        prefix: str = "",
        normalize: bool = False,
        name: str = "",
        after: str = "",
    ) -> Pipeline:
        """Make a vector of the text in a column: `p.embed("instruction", model="openai:text-embedding-3-small")`.

        `prefix` stands before each text; `normalize` gives each vector the length 1. Makes: `into` (list[float]) and
        `<into>_model`.
        """
        step = wiring.embedding_task(column, model, into, prefix=prefix, normalize=normalize)
        return self._append(step, verb="embed", name=name, after=after)

    # --- training data ---

    def to_dpo(
        self,
        *,
        strategy: Literal["worst", "random"] = "worst",
        keep_ties: bool = False,
        name: str = "",
        after: str = "",
    ) -> Pipeline:
        """Make preference pairs: the best-rated reply is chosen, the worst (or a random worse one) rejected.

        Makes: prompt, prompt_id, chosen, chosen_rating, chosen_model, rejected, rejected_rating, rejected_model.
        """
        step = FormatTextGenerationDPO(strategy=strategy, keep_ties=keep_ties)
        return self._append(step, verb="to_dpo", name=name, after=after)

    def to_sft(self, *, name: str = "", after: str = "") -> Pipeline:
        """Make prompt and completion messages for supervised fine-tuning.

        Reads `generation`, or of `generations` the best rated (the first, without ratings). Makes: prompt,
        prompt_id, messages.
        """
        start = self
        if wiring.picks_from_list(self._graph, [after] if after else self._heads):
            start, after = self._append(BestGeneration(), verb="best", after=after), ""
        return start._append(FormatTextGenerationSFT(), verb="to_sft", name=name, after=after)

    # --- checking, looking, running ---

    def check(self) -> Checked:
        """Check everything that can be known before a run: columns, cycles, keys. Nothing is asked or started."""
        return check_graph(self.graph)

    def preview(
        self, n: int | None = None, *, parameters: Mapping[str, Any] | None = None, show: bool = False
    ) -> Preview:
        """Run every step on n pinned rows (by default the Sample), in this process; a run will use the same replies.

        `show` displays each step as it comes. Costs what the asked requests cost; what was asked before is free.
        """
        return run_preview(self.name, with_parameters(self.graph, parameters), n, show=show)

    def estimate(
        self,
        rows: int | None = None,
        *,
        n: int = 5,
        parameters: Mapping[str, Any] | None = None,
        ask: bool = True,
    ) -> Estimate:
        """Quote a run before it costs: requests, tokens, money and time of each step, with an interval.

        It previews n pinned rows first (what that costs, it tells); what the reply cache holds of all rows is not
        counted again. `rows` limits each source, as in `start`. With `ask=False` nothing is asked, and what the
        cache does not tell is unknown.
        """
        from distilnb.pipeline.estimate import make_estimate

        return make_estimate(self.name, with_parameters(self.graph, parameters), rows, n, ask=ask)

    def start(
        self,
        *,
        rows: int | None = None,
        dataset: object = None,
        parameters: Mapping[str, Any] | None = None,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        max_time: float | None = None,
        on_error: Literal["quarantine", "null", "raise"] = "quarantine",
        executor: Literal["local"] = "local",
        cache: Literal["on", "off", "refresh"] = "on",
        new: bool = False,
    ) -> Run:
        """Start a background run and return its handle at once.

        `rows` limits each source, `dataset` replaces the rows of the only source (of several: a dict by their
        names). `max_cost` (USD), `max_tokens` and `max_time` (seconds, without pauses) stop the run; they count
        over its whole life, and `run.adjust` changes them. With `on_error="null"` a row that fails goes on, with
        None in the columns of that step; with "raise" it ends the run. While an equal run is going, that one is
        returned; `new` starts another.

        Of many rows given in the program the first are written before it returns and the others by a thread of this
        process. Do not change them. A script that ends waits for that thread; a process that is killed before has
        lost the rest of the rows, and its run fails and says so.
        """
        pipeline = self
        for source, given in wiring.rows_by_source(self.graph, dataset).items():
            pipeline = pipeline.with_rows(starting.rows_of(given), name=source)
        graph = with_parameters(pipeline.graph, parameters)
        options: dict[str, Any] = {"on_error": on_error, "executor": executor, "cache": cache, "rows": rows}
        options |= {"max_cost": max_cost, "max_tokens": max_tokens, "max_time": max_time}
        file = PipelineFile(self.name, graph, description=self.description, llm=self.llm)
        return starting.start(graph, name=self.name, text=lambda: to_record(file), options=options, new=new)

    def run(self, *, show: bool = True, **options: Any) -> Distiset:
        """Start, wait, and return the result; takes what `start` takes.

        Raises RunNotFinishedError when the run was stopped and RunFailedError when it failed. In a script the first
        Ctrl-C stops gracefully and the second at once; in a notebook an interrupt detaches and the run goes on.
        """
        return starting.wait_for_result(self.start(**options), show=show)
