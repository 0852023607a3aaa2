"""The task: a step that asks a model. It renders a request from a row and makes columns of the reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from distilnb.errors import ParseError, SpecError, StepRowError, TruncatedReplyError
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.llms.request import Message, Reply, Request
from distilnb.llms.shape import ReplyShape
from distilnb.rows import Row
from distilnb.spec.step import Step
from distilnb.spec.template import is_missing, missing_value

_GIVE_ONE = {
    "text": "Give it one (llm='openai:gpt-4o-mini'), or the pipeline: Pipeline('name', llm=...).",
    "vector": "Give it one: model='openai:text-embedding-3-small'.",
    "image": "Give it one: model='openai:gpt-image-1'.",
}

LLMField = Annotated[LLM, BeforeValidator(as_llm)]


@dataclass(frozen=True)
class TaskRows:
    """What the replies of one row became: the new rows, and why some part of them is missing."""

    rows: list[Row]
    partial: list[str] = field(default_factory=list)


class Partial(dict[str, Any]):
    """Columns of which some part is None, and why: what `format_output` returns when a reply can be used in
    part.
    """

    def __init__(self, columns: dict[str, Any], reason: str) -> None:
        super().__init__(columns)
        self.reason = reason


class Task(Step):
    """A step that asks a model.

    A subclass writes `format_input` (row → messages) and `format_output` (reply, row → new columns), both
    pure. With `num_generations` k > 1 each row brings k replies: k rows, or with `group_generations` one row
    where each made column is a list of k.

    Outputs: what `outputs` lists, and `model_name` (str; the model that answered).
    Errors:  MissingValueError when a column the prompt needs is None; ParseError when a reply cannot be used
             (the row is quarantined); a row where at least `min_generations` replies can be used goes on with
             None in the places of the others.

    Where replies should have a shape (`schema_for`), one that cannot be used is asked for again with what is wrong
    with it, at most `max_reasks` times.
    """

    not_in_digest: ClassVar[frozenset[str]] = Step.not_in_digest | {
        "on_truncated",
        "min_generations",
        "max_reasks",
    }

    asks_for: ClassVar[Literal["text", "vector", "image"]] = "text"  # what its model makes

    llm: LLMField | None = None
    num_generations: int = Field(default=1, ge=1)
    group_generations: bool = False
    min_generations: int | None = Field(default=None, ge=1)
    max_reasks: int = Field(default=2, ge=0)
    on_truncated: Literal["keep", "fail"] = "keep"

    @property
    def sendings_per_reply(self) -> int:
        """How many times a model is asked for one reply: more than once where it writes a conversation."""
        return 1

    # --- what a subclass writes ---

    def format_input(self, input: Row) -> list[Message]:
        """Return the messages to send for a row."""
        raise SpecError(f"Task {self.kind()} has no `format_input`.", "Return a list of messages for a row.")

    def format_output(self, output: str | None, input: Row) -> dict[str, Any]:
        """Return the columns made of one reply. Raises ParseError when it cannot be used."""
        raise SpecError(
            f"Task {self.kind()} has no `format_output`.", "Return a dict of columns for a reply."
        )

    def schema_for(self, row: Row) -> dict[str, Any] | None:
        """Return the JSON schema that replies should follow, or None for free text."""
        return None

    def rehearse(self, row: Row, rng: Random) -> str | None:
        """Return a reply that `format_output` accepts, for rehearsals without a model; None: any words will
        do.
        """
        return None

    def shaper(self) -> Callable[[Row], ReplyShape | None]:
        """Return what tells the shape of a row's replies: that of `schema_for`, else what the model asks of all."""
        if type(self).schema_for is Task.schema_for:
            shape = self.llm.reply_shape if self.llm is not None else None
            return lambda row: shape

        def of_schema(row: Row) -> ReplyShape | None:
            schema = self.schema_for(row)
            return None if schema is None else ReplyShape("json", schema)

        return of_schema

    # --- what the engine calls ---

    def made(self) -> list[str]:
        """Return the made columns, `model_name` among them, as they are called downstream."""
        names = dict.fromkeys([*self.outputs, "model_name"])
        return [self.output_mappings.get(name, name) for name in names]

    def expands(self) -> bool:
        """Whether each row becomes several."""
        return self.num_generations > 1 and not self.group_generations

    def check(self) -> None:
        """Raise SpecError without a model or with cache=True, else what the model's own check raises."""
        if self.cache:
            raise SpecError(
                f"Step {self.name!r} has cache=True, but a task's replies are always kept.", "Leave it out."
            )
        if self.llm is None:
            raise SpecError(f"Step {self.name!r} has no model.", _GIVE_ONE[self.asks_for])
        if self.llm.makes != self.asks_for:
            raise SpecError(
                f"Step {self.name!r} needs a model that makes {self.asks_for}s; {self.llm.label} makes "
                f"{self.llm.makes}s.",
                _GIVE_ONE[self.asks_for],
            )
        self.llm.check()

    def request(self, row: Row) -> Request:
        """Render the request of a row. Raises MissingValueError naming the column that is None or absent."""
        return self.requester()(row)

    def requester(self) -> Callable[[Row], Request]:
        """Return what renders the requests of many rows; what all rows share is found out here, once."""
        must_have_value = self._must_have_value()
        can_rehearse = type(self).rehearse is not Task.rehearse
        n_replies = self.num_generations
        shape_of = self.shaper()

        def request(row: Row) -> Request:
            for column in must_have_value:
                if is_missing(row.get(column)):
                    raise missing_value(column, row)
            messages = self.format_input(row)
            if isinstance(messages, str):  # a 1.x task for base models returns the bare prompt
                messages = [{"role": "user", "content": messages}]
            sample = partial(_rehearsed, self, row) if can_rehearse else None
            return Request(tuple(messages), n_replies, shape_of(row), sample)

        return request

    def complaint(self, reply: Reply, row: Row) -> str:
        """Return what is wrong with a reply, as the model is told when it is asked again; "" when nothing is."""
        try:
            self._columns_of(reply, self.seen(row), [])
        except (ParseError, TruncatedReplyError) as error:
            return error.what
        except Exception:  # noqa: BLE001 - a user's parser may raise anything; asking again would not help it
            return ""
        return ""

    def rows_from(self, row: Row, replies: Sequence[Reply]) -> TaskRows:
        """Make the outgoing rows of a row from its replies, in the order of their index.

        Raises ParseError (or TruncatedReplyError) when fewer than `min_generations` of them can be used; that
        is all of them unless set otherwise.
        """
        if not replies:
            raise ParseError("The model returned no reply.", "Ask again: run.retry().")
        seen = self.seen(row)
        made: list[dict[str, Any] | None] = []
        reasons: list[str] = []
        failure: Exception | None = None
        for reply in replies:
            try:
                made.append(self._columns_of(reply, seen, reasons))
            except (ParseError, TruncatedReplyError) as error:
                failure = error
                reasons.append(str(error))
                made.append(None)
        usable = sum(columns is not None for columns in made)
        if failure is not None and usable < (self.min_generations or len(replies)):
            raise failure
        empty = dict.fromkeys(self.made()) if usable < len(made) else {}
        columns = [empty if one is None else one for one in made]
        if self.group_generations:
            names = dict.fromkeys(name for one in columns for name in one)
            lists = {name: [one.get(name) for one in columns] for name in names}
            single = {name: columns[0].get(name) for name in self._single()}
            return TaskRows([{**row, **lists, **single}], reasons)
        return TaskRows([{**row, **one} for one in columns], reasons)

    # --- by hand ---

    def ask(self, row: Row, llm: object = None) -> dict[str, Any] | list[dict[str, Any]]:
        """Ask about one row now and return the new columns; several generations give a list of such dicts.

        The row has the columns under the names that they have upstream. `llm` stands in for the task's own
        model. Works in a notebook too; Ctrl-C ends the request. Raises what a run would note for the row: ModelError,
        MissingValueError or ParseError.

        >>> from distilnb.tasks import UltraFeedback
        >>> judge = UltraFeedback(llm="rehearsal")
        >>> len(judge.ask({"instruction": "Say hi.", "generations": ["Hi!", "No."]})["ratings"])
        2
        """
        from distilnb.llms.calling import replies_now

        if llm is None:
            self.check()
        model = self.llm if llm is None else as_llm(llm)
        assert model is not None  # `check` has raised
        entering = self.seen(row)
        request = self.request(entering)
        replies = replies_now(
            model, request, lambda reply: self.complaint(reply, entering), max_reasks=self.max_reasks
        )
        made = self.rows_from(entering, replies).rows
        new = [
            {name: one[name] for name in one if name in self.made() or name not in entering} for one in made
        ]
        return new[0] if len(new) == 1 else new

    def seen(self, row: Row) -> Row:
        """Return the row with columns also under the names that the task uses."""
        if not self.input_mappings:
            return row
        renamed = {name: row[actual] for name, actual in self.input_mappings.items() if actual in row}
        return {**row, **renamed}

    def _single(self) -> list[str]:
        """Return the made columns that `group_generations` makes no list of."""
        return []

    def _must_have_value(self) -> list[str]:
        """Return the columns that may not be None."""
        required = self.inputs
        if isinstance(required, Mapping):
            return [name for name, must in required.items() if must]
        return list(required)

    def _columns_of(self, reply: Reply, row: Row, reasons: list[str]) -> dict[str, Any]:
        if reply.is_truncated and self.on_truncated == "fail":
            raise TruncatedReplyError("The reply was cut off at the token limit.", "Raise max_new_tokens.")
        columns = self.format_output(reply.text, row)
        if not isinstance(columns, Mapping):
            raise StepRowError(
                f"`format_output` of {self.kind()} returned {type(columns).__name__}.",
                "Return a dict of columns.",
            )
        if isinstance(columns, Partial):
            reasons.append(columns.reason)
        columns = {**columns, "model_name": columns.get("model_name", reply.model)}
        if not self.output_mappings:
            return columns
        return {self.output_mappings.get(name, name): value for name, value in columns.items()}


def _rehearsed(task: Task, row: Row, rng: Random) -> str:
    return task.rehearse(row, rng) or ""
