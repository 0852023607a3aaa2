"""Steps made of the user's functions: over columns, over whole rows, over batches, and sources."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, ClassVar, Literal, overload

from distilnb.errors import SpecError, StepConnectionError, StepRowError, UnknownParameterError, did_you_mean
from distilnb.rows import ColumnLists, Row
from distilnb.spec.code import Code, CodeField, source_of
from distilnb.spec.columns import Columns
from distilnb.spec.digest import digest_of
from distilnb.spec.draft import current_draft
from distilnb.spec.signature import (
    Signature,
    check_reads,
    describe_function,
    literal_columns,
    returns_several,
    signature_of,
)
from distilnb.spec.step import (
    ColumnNames,
    DropRow,
    GeneratorStep,
    GeneratorStepOutput,
    GlobalStep,
    MadeColumns,
    Moved,
    Step,
    StepInput,
    StepOutput,
)
from distilnb.steps.results import merged, merged_columns, originals, rows_in, wrong_result

StepType = Literal["normal", "global", "generator"]


class MapRows(Step):
    """Make columns of each row by a function that returns them as a dict.

    The function's parameters are the columns it reads; `row` is the whole row. Columns that it returns are
    added, or replaced where they exist.

    Inputs:  the columns that the function's parameters name.
    Outputs: `made_columns`; when not given, the keys of the dict that the function returns, as far as its
             source tells them, else unknown before the run.
    Errors:  StepRowError when the function returns no dict; whatever it raises, at that row.
    Source:  ours.

    >>> [*MapRows(function=lambda text: {"words": len(text.split())}).process([{"text": "a b"}])]
    [[{'text': 'a b', 'words': 2}]]
    """

    function: CodeField
    made_columns: list[str] | None = None

    @property
    def inputs(self) -> ColumnNames:
        return _columns_read(self.function)

    @property
    def outputs(self) -> ColumnNames:
        return (
            self.made_columns
            if self.made_columns is not None
            else literal_columns(self.function.source) or []
        )

    def check(self) -> None:
        """Raise SpecError for a function of whole batches."""
        if self.function.is_live and signature_of(self.function.live).batch:
            raise SpecError(
                f"The function {self.function.name!r} of step {self.name!r} takes whole batches.",
                "Its parameters are columns, or `row`; for batches there is the decorator `step`.",
            )

    def check_inputs(self, upstream: Sequence[Columns]) -> None:
        for columns in upstream:
            check_reads(self.name, self.needed(), columns)

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        after = super().columns_after(upstream)
        is_told = self.made_columns is not None or literal_columns(self.function.source) is not None
        return after if is_told else after.opened()

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        signature, function = signature_of(self.function.live), self.function.live
        yield [merged(row, signature.call(function, dict(row), {}), self.function.name) for row in rows]

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns | None:
        live = self.function.live
        return merged_columns(columns, signature_of(live).map(live, columns, moved), n_rows)


class FunctionStep(Step):
    """A step made of a function by `step`.

    Inputs:  `reads`, else the columns that the function's parameters name.
    Outputs: `makes`, else the keys of the dicts that it returns as far as its source tells them.
    Errors:  StepRowError when it returns something else than rows; whatever it raises, at that row. None
             leaves the row out, and that is counted.
    Source:  the decorator of that name of distilabel; the form whose parameters are columns is ours.
    """

    runs_user_code: ClassVar[bool] = True

    function: CodeField
    reads: list[str] | dict[str, bool] | None = None
    makes: list[str] | dict[str, bool] | None = None
    settings: dict[str, Any] = {}

    @property
    def shorthand(self) -> Mapping[str, frozenset[str]]:  # type: ignore[override]  # the function tells them
        """The settings, so that `run(parameters={"shout": {"mark": "!!"}})` finds them."""
        return {"settings": frozenset(_settings_of(self.function))}

    @property
    def by_row(self) -> bool:  # type: ignore[override]  # the function tells, not the class
        """Whether the function makes several rows of one, as far as its source tells."""
        if self._signature().batch or not self.function.is_live:
            return False
        return returns_several(self.function.live, self.function.source)

    @property
    def inputs(self) -> ColumnNames:
        return self.reads if self.reads is not None else _columns_read(self.function)

    @property
    def outputs(self) -> ColumnNames:
        if self.makes is not None:
            return self.makes
        return [] if self._signature().batch else literal_columns(self.function.source) or []

    def check(self) -> None:
        """Raise SpecError for a setting without a value."""
        _check_settings(self.name, self.function, self.settings)

    def check_inputs(self, upstream: Sequence[Columns]) -> None:
        if len(upstream) > 1 and not self._signature().takes_several:
            raise StepConnectionError(
                f"The function of step {self.name!r} takes rows of one step; {len(upstream)} flow into it.",
                "Take them all: def join(*inputs); or join them first with GroupColumns or CombineOutputs.",
            )
        for columns in upstream:
            check_reads(self.name, self.needed(), columns)

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        after = Columns.of(name for columns in upstream for name in columns.names).adding(self.made())
        is_told = self.makes is not None or bool(self.outputs)
        is_open = not is_told or any(columns.is_open for columns in upstream)
        return Columns(after.names, is_open=is_open)

    def process(self, *inputs: StepInput) -> StepOutput:
        signature = self._signature()
        if signature.batch:
            yield from self._process_batch(signature, inputs)
        else:
            yield [
                new
                for rows in inputs
                for row in rows
                for new in self._made_of(row, signature, len(rows) == 1)
            ]

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns | None:
        made = (
            None if self.by_row else self._signature().map(self.function.live, columns, moved, self.settings)
        )
        return merged_columns(columns, made, n_rows, reason=f"{self.function.name} returned None")

    def _process_batch(self, signature: Signature, inputs: tuple[StepInput, ...]) -> StepOutput:
        """Call the function on whole batches; it gets copies, for it may change rows in place."""
        copies = [[dict(row) for row in rows] for rows in inputs]
        if signature.takes_several:
            made = self.function.live(*copies, **self.settings)
        else:
            made = signature.call(self.function.live, {}, self.settings, given={signature.batch: copies[0]})
        rows = list(rows_in(made, self.function.name))
        if len(rows) < len(copies[0]):
            rows = originals(rows, copies[0], inputs[0])
        yield rows

    def _made_of(self, row: Row, signature: Signature, is_alone: bool) -> list[Row]:
        made = signature.call(self.function.live, dict(row), self.settings)
        if made is None:
            raise DropRow(f"{self.function.name} returned None")
        if isinstance(made, dict):
            return [{**row, **made}]
        if not isinstance(made, (list, tuple, Iterator)):
            raise wrong_result(self.function.name, made)
        several = [merged(row, one, self.function.name) for one in made]
        if len(several) != 1 and not is_alone and not self.by_row:
            # The source did not tell. The error makes the engine call row by row: so it knows whose they are.
            raise StepRowError(
                f"{self.function.name} made {len(several)} rows of one.", "Annotate it: -> list[dict]."
            )
        return several

    def _signature(self) -> Signature:
        return signature_of(self.function.live) if self.function.is_live else Signature()


class GlobalFunctionStep(FunctionStep, GlobalStep):
    """A function that sees all rows at once: `@step(step_type="global")`.

    Inputs:  as FunctionStep.
    Outputs: as FunctionStep.
    Errors:  whatever it raises is the step's failure, not a row's.
    Source:  the decorator of that name of distilabel.
    """


class FunctionSource(GeneratorStep):
    """A source made of a function by `@step(step_type="generator")`.

    The function yields dicts, lists of dicts, or (list of dicts, is_last). With a parameter `offset` it
    starts there itself, else the rows before are skipped.

    Inputs:  none.
    Outputs: `makes`, else the keys of the dicts that it yields as far as its source tells them.
    Errors:  StepRowError when it yields something else.
    Source:  the decorator of that name of distilabel; yielding single rows is ours.
    """

    function: CodeField
    makes: list[str] | dict[str, bool] | None = None
    settings: dict[str, Any] = {}

    @property
    def shorthand(self) -> Mapping[str, frozenset[str]]:  # type: ignore[override]  # the function tells them
        """The settings, so that `run(parameters=...)` finds them."""
        return {"settings": frozenset(_settings_of(self.function))}

    @property
    def outputs(self) -> ColumnNames:
        return self.makes if self.makes is not None else literal_columns(self.function.source) or []

    def check(self) -> None:
        """Raise SpecError for a setting without a value."""
        _check_settings(self.name, self.function, self.settings)

    def process(self, offset: int = 0) -> GeneratorStepOutput:  # type: ignore[override]  # a source
        takes_offset = "offset" in inspect.signature(self.function.live).parameters
        settings = {**self.settings, "offset": offset} if takes_offset else self.settings
        rows = rows_in(self.function.live(**settings), self.function.name)
        rows = rows if takes_offset else islice(rows, offset, None)
        names = self.output_mappings
        batch = list(islice(rows, self.batch_size))
        while True:
            following = list(islice(rows, self.batch_size))
            yield (
                [{names.get(name, name): value for name, value in row.items()} for row in batch],
                not following,
            )
            if not following:
                return
            batch = following


_KINDS: Mapping[str, type[Step]] = {
    "normal": FunctionStep,
    "global": GlobalFunctionStep,
    "generator": FunctionSource,
}


@dataclass(frozen=True, eq=False)
class StepFactory:
    """What `step` makes of a function: called with `name=` and its settings it gives a step.

    Called with positional arguments it is the function itself, to try it in a cell.
    """

    function: Callable[..., Any]
    reads: Sequence[str] | Mapping[str, bool] | None = None
    makes: Sequence[str] | Mapping[str, bool] | None = None
    step_type: StepType = "normal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.function.__doc__)
        object.__setattr__(self, "__name__", getattr(self.function, "__name__", "function"))
        object.__setattr__(self, "__wrapped__", self.function)

    def __call__(self, *arguments: Any, **values: Any) -> Any:
        """Return a step, or with positional arguments what the function returns."""
        return self.function(*arguments, **values) if arguments else self.to_step(**values)

    def to_step(self, **values: Any) -> Step:
        """Return a step of the function; `values` are fields of the step and settings of the function.

        Raises UnknownParameterError for a value that is neither.
        """
        kind = _KINDS[self.step_type]
        fields = {name: value for name, value in values.items() if name in kind.model_fields}
        settings = {name: value for name, value in values.items() if name not in fields}
        self._check_settings(settings, kind)
        if not fields.get("name") and (draft := current_draft()) is not None:
            fields["name"] = _free_name(self.function.__name__, draft.steps)
        if self.step_type != "generator":
            fields.setdefault("reads", _listed(self.reads))
        return kind(function=self.function, makes=_listed(self.makes), settings=settings, **fields)

    def _check_settings(self, settings: Mapping[str, Any], kind: type[Step]) -> None:
        signature = inspect.signature(self.function).parameters
        for name in settings:
            if name not in signature:
                known = [*signature, *kind.model_fields]
                raise UnknownParameterError(
                    f"The step {self.function.__name__!r} has no setting {name!r}; its parameters are "
                    f"{list(signature)}.",
                    did_you_mean(name, known),
                )

    # The digest of another function that names this one asks for these two.

    @property
    def digest(self) -> str:
        """The identity of the function's own source."""
        return digest_of(source_of(self.function))

    def dump(self) -> dict[str, str]:
        """Return the JSON-ready description of the function and of all that it reaches."""
        return describe_function(self.function)


@overload
def step(function: Callable[..., Any], /) -> StepFactory: ...


@overload
def step(
    *,
    inputs: Sequence[str] | Mapping[str, bool] | None = None,
    outputs: Sequence[str] | Mapping[str, bool] | None = None,
    step_type: StepType = "normal",
) -> Callable[[Callable[..., Any]], StepFactory]: ...


def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    inputs: Sequence[str] | Mapping[str, bool] | None = None,
    outputs: Sequence[str] | Mapping[str, bool] | None = None,
    step_type: StepType = "normal",
) -> StepFactory | Callable[[Callable[..., Any]], StepFactory]:
    """Make a step of a function.

    In the simple form the function's parameters are the columns that it reads (`row`: the whole row, `rows`:
    the whole batch; a parameter after `*` is a setting). It returns a dict of columns to add, a list of such
    dicts for several rows, or None to leave the row out.

    In the form of 1.x, `@step(inputs=[...], outputs=[...], step_type="normal" | "global" | "generator")`, the
    function takes a list of dicts (annotated `StepInput`) and yields lists of dicts.

    >>> @step
    ... def shout(text, *, mark="!"):
    ...     return {"loud": text.upper() + mark}
    >>> [*shout(mark="!!").process([{"text": "hi"}])]
    [[{'text': 'hi', 'loud': 'HI!!'}]]
    >>> shout("try it")
    {'loud': 'TRY IT!'}
    """
    if step_type not in ("normal", "global", "generator"):
        raise SpecError(f"There is no step type {step_type!r}.", "One of 'normal', 'global', 'generator'.")

    def decorate(function: Callable[..., Any]) -> StepFactory:
        if step_type == "global" and not signature_of(function).batch:
            raise SpecError(
                f"The global step {function.__name__!r} takes columns of one row.",
                "A global step sees all rows: name its parameter `rows`, or annotate it StepInput.",
            )
        reads = inputs
        if reads is None and outputs is not None and _takes_batches(function, step_type):
            reads = []
        return StepFactory(function, reads, outputs, step_type)

    return decorate if function is None else decorate(function)


def as_step(value: object) -> Step:
    """Return the step that a value stands for: a step, what `step` or `task` made, a class, or a function.

    Raises SpecError for anything else.
    """
    if isinstance(value, Step):
        return value
    to_step = getattr(value, "to_step", None)
    if callable(to_step):
        made = to_step()
        if isinstance(made, Step):
            return made
    if isinstance(value, type) and issubclass(value, Step):
        return value()
    if inspect.isfunction(value):
        return StepFactory(value).to_step()
    raise SpecError(
        f"{value!r:.80} is no step.",
        "Give a step, or a function whose parameters are the columns that it reads.",
    )


# --- what functions take ---------------------------------------------------------


def _settings_of(function: Code) -> dict[str, inspect.Parameter]:
    """Return the parameters that are neither rows, columns, nor the offset of a source."""
    if not function.is_live:
        return {}
    signature = signature_of(function.live)
    taken = {*signature.columns, "row", "offset", signature.batch}
    if signature.batch:
        taken -= set(signature.columns)  # a function of batches finds its columns in the rows
    parameters = inspect.signature(function.live).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {one.name: one for one in parameters if one.name not in taken and one.kind not in kinds}


def _check_settings(step: str, function: Code, settings: Mapping[str, Any]) -> None:
    for name, parameter in _settings_of(function).items():
        if parameter.default is parameter.empty and name not in settings:
            raise SpecError(
                f"Step {step!r} has no value for {name!r}, a setting of {function.name}.",
                f"Give it: {function.name}({name}=...), or in run(parameters=...).",
            )


def _columns_read(function: Code) -> dict[str, bool]:
    """Return the columns that the parameters name, and whether each is required."""
    if not function.is_live:
        return {}
    signature = signature_of(function.live)
    return {**dict.fromkeys(signature.columns, True), **dict.fromkeys(signature.optional_columns, False)}


def _takes_batches(function: Callable[..., Any], step_type: StepType) -> bool:
    return step_type == "generator" or bool(signature_of(function).batch)


def _listed(names: Sequence[str] | Mapping[str, bool] | None) -> list[str] | dict[str, bool] | None:
    return dict(names) if isinstance(names, Mapping) else None if names is None else list(names)


def _free_name(base: str, taken: Mapping[str, object]) -> str:
    return next(name for number in count() if (name := f"{base}_{number}") not in taken)
