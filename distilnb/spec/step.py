"""The step: rows in, rows out. Sources, tasks and steps that see all rows are kinds of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, ValidationError, with_config
from typing_extensions import TypedDict

from distilnb.errors import SpecError, StepConnectionError
from distilnb.rows import ColumnLists, Row
from distilnb.spec.base import Spec, explain_validation
from distilnb.spec.columns import Columns, check_columns
from distilnb.spec.draft import Draft, current_draft

T = TypeVar("T")

# A field that may be left open until `run(parameters=...)`.
RuntimeParameter = Annotated[T | None, "runtime parameter"]

ColumnNames: TypeAlias = "Sequence[str] | Mapping[str, bool]"  # a mapping says whether each is required
StepInput: TypeAlias = list[Row]
Moved: TypeAlias = Callable[
    [], None
]  # called whenever some rows are through: a worker that stands still is stuck
StepOutput: TypeAlias = Iterator[list[Row]]
GeneratorStepOutput: TypeAlias = Iterator[tuple[list[Row], bool]]


class DropRow(Exception):
    """Raised while a row is processed, to leave it out for a reason that is counted. It is no error.

    A step that was given several rows raises it at the first such row; the engine then asks row by row.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@with_config(ConfigDict(extra="forbid"))
class StepResources(TypedDict, total=False):
    """What a step wants of the machine, as plain data: `StepResources(replicas=4)` is `{"replicas": 4}`.

    `replicas` is in how many processes a row step runs at once. Steps of the library, and functions, take what is
    free; a class of your own has one process, which may keep state. Sources, joins and global steps have one always;
    tasks share one, where `max_concurrency` of the model says how much goes on at once. The other fields are kept
    for executors that place steps on machines.
    """

    replicas: Annotated[int, Field(ge=1, le=256)]
    cpus: float | None
    gpus: float | None
    memory: int | None
    resources: dict[str, float] | None


class MadeColumns(NamedTuple):
    """What a step made of the columns of a batch.

    Without `keep` and `n_children` the rows are those that came in. `keep` says for each of them whether it stays;
    `columns` are whole still. `n_children` says how many rows were made of each, which follow each other in
    `columns`. Where the rows made differ in their columns, they are given as dicts instead.
    """

    columns: ColumnLists | None
    keep: Sequence[object] | None = None
    n_children: Sequence[int] | None = None
    reason: str = ""  # why rows do not stay
    rows: list[Row] | None = None  # in place of columns: only those that stay


class Step(Spec):
    """Rows in, rows out.

    A subclass says which columns it reads and makes (`inputs`, `outputs`: a list or a property) and has a
    `process` that takes a list of dicts and yields lists of dicts. `load` makes live things, in the process that
    runs the step, as private attributes.

    >>> class Shout(Step):
    ...     inputs = ["text"]
    ...     outputs = ["loud"]
    ...
    ...     def process(self, rows):
    ...         yield [{**row, "loud": row["text"].upper()} for row in rows]
    >>> [*Shout().process([{"text": "hi"}])]
    [[{'text': 'hi', 'loud': 'HI'}]]
    """

    not_in_digest: ClassVar[frozenset[str]] = frozenset(
        {"name", "input_batch_size", "use_cache", "cache", "resources"}
    )

    # True where an input row may become several, so that the engine asks row by row and knows whose child is whose.
    by_row: ClassVar[bool] = False

    # True for a class of the library that runs a function of the user, which counts on `input_batch_size`; it copies
    # the rows that it gives away.
    runs_user_code: ClassVar[bool] = False

    name: str = ""
    input_mappings: dict[str, str] = Field(default_factory=dict)
    output_mappings: dict[str, str] = Field(default_factory=dict)
    input_batch_size: int = 50
    use_cache: bool = True
    cache: bool = False  # keep what the step makes of each row, between runs: for expensive steps
    resources: StepResources = Field(default_factory=StepResources)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            for problem in error.errors():
                told = problem.get("ctx", {}).get("error")
                if isinstance(told, SpecError):  # a validator of ours said it already, and better
                    raise told from None
            raise explain_validation(type(self).__name__, error, set(type(self).model_fields)) from error

    def model_post_init(self, context: Any, /) -> None:
        """Join the pipeline whose `with` block is open."""
        draft = current_draft()
        if draft is not None:
            draft.add(self)

    # --- what a subclass overrides ---

    @property
    def inputs(self) -> ColumnNames:
        """The columns that the step reads."""
        return []

    @property
    def outputs(self) -> ColumnNames:
        """The columns that the step makes."""
        return []

    def load(self) -> None:
        """Make what the step needs to work, in the process that runs it."""

    def unload(self) -> None:
        """Release what `load` made."""

    def process(self, *inputs: StepInput) -> StepOutput:
        """Yield the rows made of the input rows; one list per predecessor comes in."""
        raise StepConnectionError(
            f"Step {self.name or self.kind()!r} has no `process`.", "Write one that takes a list of dicts."
        )

    def process_columns(self, columns: ColumnLists, n_rows: int, moved: Moved) -> MadeColumns | None:
        """Do what `process` does to columns (name → one value for each of `n_rows` rows), which is cheaper.

        For steps of the library; one that takes long calls `moved` now and then. It must not change the lists, and
        returns None, or raises, for a batch that it cannot do so: then the rows go through `process`, which tells
        whose fault it is.
        """

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        """Return the columns of the rows that leave, given those that arrive from each predecessor."""
        arriving = upstream[0] if upstream else Columns()
        return arriving.adding(self.made())

    def check(self) -> None:
        """Raise what can be known to be wrong before anything runs: a missing key, an empty field."""

    def check_followers(self, followers: Sequence[str]) -> None:
        """Raise when the steps that follow this one do not fit it; `followers` are their names."""

    # --- what the rest of the project asks ---

    def dump(self) -> dict[str, Any]:
        """Return the step as JSON-ready data; its name is always there, also where the class gives it."""
        dumped = super().dump()
        return {"kind": dumped["kind"], "name": self.name, **dumped} if self.name else dumped

    def needed(self) -> list[str]:
        """Return the names of the required columns as they are called upstream."""
        required = self.inputs
        names = (
            [name for name, must in required.items() if must]
            if isinstance(required, Mapping)
            else list(required)
        )
        return [self.input_mappings.get(name, name) for name in names]

    def made(self) -> list[str]:
        """Return the names of the made columns as they are called downstream."""
        return [self.output_mappings.get(name, name) for name in self.outputs]

    def types_made(self) -> dict[str, str]:
        """Return the types of made columns, as they are called downstream, where they are known before a run."""
        return {}

    def expands(self) -> bool:
        """Whether one row may become several, each with an id of its own below it."""
        return self.by_row

    def check_inputs(self, upstream: Sequence[Columns]) -> None:
        """Raise MissingColumnError when a needed column does not arrive."""
        for columns in upstream:
            check_columns(self.name, self.needed(), columns)

    # --- connecting, in a `with Pipeline()` block ---

    def connect(self, *others: Step, routing_batch_function: object = None) -> None:
        """Let this step's rows flow into other steps; with a routing function, each row into some of them."""
        if routing_batch_function is not None:
            route: Step = self >> routing_batch_function  # type: ignore[operator]  # `steps/route.py` takes it
            route.connect(*others)
            return
        draft = self._draft()
        for other in others:
            draft.connect(self, other)

    def __rshift__(self, other: Step | Sequence[Step]) -> Any:
        """`a >> b` and `a >> [b, c]`; returns the right side, so that chains read on."""
        if not isinstance(other, (Step, list, tuple)) and hasattr(type(other), "__rrshift__"):
            return NotImplemented  # a routing makes its own step
        self.connect(*([other] if isinstance(other, Step) else other))
        return Branches(other) if isinstance(other, (list, tuple)) else other

    def __rrshift__(self, others: Sequence[Step]) -> Step:
        """`[a, b] >> c`."""
        for other in others:
            other.connect(self)
        return self

    def _draft(self) -> Draft:
        draft = current_draft()
        if draft is None:
            raise StepConnectionError(
                f"Step {self.name or self.kind()!r} is in no pipeline.",
                "Connect steps inside `with Pipeline() as p:`, or append them with p.then(step).",
            )
        return draft

    def _take_name(self, name: str) -> None:
        # The one write to a frozen step: a `with` block names it before anybody else sees it.
        self.__dict__["name"] = name
        self.__pydantic_fields_set__.add("name")


class Branches(list[Step]):
    """Several steps on the right of `>>`, so that `a >> [b, c] >> d` joins both into d."""

    def __rshift__(self, other: Step) -> Step:
        if not isinstance(other, Step) and hasattr(type(other), "__rrshift__"):
            return NotImplemented
        for step in self:
            step.connect(other)
        return other


class GeneratorStep(Step):
    """A source: makes rows from nothing.

    `process(offset)` yields pairs of a list of rows and whether it is the last; it starts after the first
    `offset` rows, so that a resumed run goes on where it was.
    """

    batch_size: int = 1000

    not_in_digest: ClassVar[frozenset[str]] = Step.not_in_digest | {"batch_size"}

    def process(self, offset: int = 0) -> GeneratorStepOutput:  # type: ignore[override]  # a source has no input
        """Yield (rows, is_last) from the row at `offset` on."""
        raise StepConnectionError(
            f"Source {self.name or self.kind()!r} has no `process`.", "Write one that yields (rows, is_last)."
        )

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        """Return the columns of the source; open when the class does not declare them."""
        made = self.made()
        return Columns.of(made, is_open=not made)

    def n_rows(self) -> int | None:
        """Return the number of rows where it is known without reading them all."""
        return None

    def n_bytes(self) -> int | None:
        """Return the size of all rows in bytes, or more than it, where that is known without reading them."""
        return None

    def rows_at(self, places: Sequence[int]) -> list[dict[str, Any]] | None:
        """Return the rows at these places; None for a source that is read from its start only."""
        return None

    def fingerprint(self) -> str:
        """Return what changes when the source's content changes (path, size, time), where that is cheap to know."""
        return ""


class GlobalStep(Step):
    """A step that sees all rows at once: `process` gets every row of each predecessor, in order."""


class _StandIn(Step):
    """A step of a class that is not here: it can be drawn, not run."""

    model_config = ConfigDict(extra="allow")

    def columns_after(self, upstream: Sequence[Columns]) -> Columns:
        arriving = upstream[0] if upstream else Columns()
        return arriving.opened()


def stand_in(kind: str) -> type[Step]:
    """Return a class in the place of one of the user's, for a reader who must not run the user's code."""
    return type(kind, (_StandIn,), {"__module__": __name__})
