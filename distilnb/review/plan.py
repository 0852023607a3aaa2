"""The review plan: what people will see and be asked about each row. Pure data, made without a connection."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from distilnb.errors import ReviewError
from distilnb.review.columns import ReviewColumns, Template, find_columns
from distilnb.review.items import Item, read_item
from distilnb.rows import Row, RowId, row_digest
from distilnb.spec.digest import digest_of
from distilnb.view import figures

MAX_AGENT = 200  # characters that Argilla allows for who suggested something
MAX_TERM = 200
MAX_GUIDELINES = 10_000

_GUIDELINES: dict[Template, str] = {
    "preference": "Read the instruction, then rate each generation on its own. Suggestions are a model's.",
    "text generation": "Read the instruction and the generation. Keep it, drop it, or mend it.",
}


class Field(NamedTuple):
    """A text that the reviewer reads."""

    name: str
    title: str
    required: bool = False


class Question(NamedTuple):
    """A question that the reviewer answers. Options: numbers of a rating, labels of a label question."""

    name: str
    kind: Literal["rating", "label", "text"]
    title: str
    options: tuple[int | str, ...] = ()
    required: bool = False


class Property(NamedTuple):
    """A value that records are filtered by."""

    name: str
    kind: Literal["integer", "float", "terms"]


class Suggestion(NamedTuple):
    """An answer that a model gave already; `agent` is its name."""

    question: str
    value: int | str
    agent: str


@dataclass(frozen=True)
class Record:
    """One row as it is reviewed. Its id names row and content: the same text again is the same record."""

    id: str
    row_id: RowId
    ordinal: int  # the row's position among those the plan was made of
    fields: dict[str, str]
    suggestions: tuple[Suggestion, ...] = ()
    metadata: dict[str, int | float | str] = field(default_factory=dict)


class Unfit(NamedTuple):
    """A row that cannot be reviewed, and why."""

    ordinal: int
    row_id: RowId
    reason: str


@dataclass(frozen=True)
class ReviewPlan:
    """Fields, questions and records of a review; `unfit` rows are left out and told."""

    template: Template
    fields: tuple[Field, ...]
    questions: tuple[Question, ...]
    properties: tuple[Property, ...]
    records: tuple[Record, ...]
    unfit: tuple[Unfit, ...] = ()
    guidelines: str = ""
    min_submitted: int = 1
    n_generations: int = 1
    notes: tuple[str, ...] = ()

    @property
    def agents(self) -> tuple[str, ...]:
        """The models whose suggestions are shown."""
        return tuple(
            sorted(
                {s.agent for record in self.records for s in record.suggestions if s.question != "corrected"}
            )
        )

    def require_fit(self) -> None:
        """Raise ReviewError naming every unfit row, or because no row is left."""
        if not self.unfit:
            return
        told = "; ".join(f"row {unfit.ordinal}: {unfit.reason}" for unfit in self.unfit[:20])
        more = f"; and {len(self.unfit) - 20} more" if len(self.unfit) > 20 else ""
        raise ReviewError(
            f"{figures.plural(len(self.unfit), 'row')} cannot be reviewed: {told}{more}.",
            "Filter such rows out, or go on without them.",
        )

    def __str__(self) -> str:
        what: str = self.template
        if self.template == "preference":
            what = f"preference of {figures.plural(self.n_generations, 'generation')}"
        by = f" · suggestions by {', '.join(self.agents)}" if self.agents else ""
        lines = [
            f"review plan: {what}{by} · {figures.plural(len(self.records), 'row')} · {len(self.unfit)} unfit"
        ]
        return "\n".join([*lines, *self.notes])


def plan_review(
    rows: Sequence[Row],
    ids: Sequence[RowId] | None = None,
    *,
    columns: ReviewColumns | None = None,
    run_id: str = "",
    step: str = "",
    guidelines: str = "",
    min_submitted: int = 1,
    scale: tuple[int, int] = (1, 5),
) -> ReviewPlan:
    """Plan the review of rows: preferences where each has several generations, else text generation.

    `ids` are the rows' own (from their content otherwise); `columns` names columns that are not called as
    usual; `run_id` and `step` are noted with each record; ratings are whole numbers of `scale`, within 0 to
    10, and the judge's exact number is kept as metadata. Raises ReviewError when the columns are missing;
    single rows that cannot be reviewed are listed in `unfit`, all at once.
    """
    low, high = scale
    if not 0 <= low < high <= 10:
        raise ReviewError(f"The scale {scale} is not within 0 to 10.", "For instance scale=(1, 5).")
    found = find_columns(rows, columns or ReviewColumns())
    ids = _unique_ids(rows) if ids is None else ids
    maker = _Maker(found.template, scale, {"run": run_id, "step": step})
    seen: dict[RowId, int] = {}
    for ordinal, (row, row_id) in enumerate(zip(rows, ids, strict=True)):
        item = read_item(row, found) if row_id not in seen else f"has the same id as row {seen[row_id]}"
        if isinstance(item, str):
            maker.unfit.append(Unfit(ordinal, row_id, item))
            continue
        seen[row_id] = ordinal
        maker.add(item, ordinal, row_id)
    return replace(
        maker.plan(), guidelines=_guidelines(found.template, guidelines), min_submitted=min_submitted
    )


def row_id_of(record_id: str) -> RowId:
    """Return the id of the row that a record shows."""
    return record_id.rpartition("@")[0] or record_id


def _unique_ids(rows: Sequence[Row]) -> list[RowId]:
    counts: Counter[str] = Counter()
    ids = []
    for row in rows:
        digest = row_digest(row)
        ids.append(f"row:{digest}:{counts[digest]}")
        counts[digest] += 1
    return ids


def _guidelines(template: Template, given: str) -> str:
    return (given.strip() or _GUIDELINES[template])[:MAX_GUIDELINES]


class _Maker:
    """Collects records, and what fields and questions they need together."""

    def __init__(self, template: Template, scale: tuple[int, int], constants: dict[str, str]) -> None:
        self.unfit: list[Unfit] = []
        self._template = template
        self._scale = scale
        self._constants = {name: value[:MAX_TERM] for name, value in constants.items() if value}
        self._records: list[Record] = []
        self._counts: list[int] = []  # of generations, by record
        self._context: dict[str, None] = {}
        self._kinds: dict[str, Literal["integer", "float", "terms"]] = {}
        self._n_clipped = 0

    def add(self, item: Item, ordinal: int, row_id: RowId) -> None:
        fields = {"instruction": item.instruction, **item.context}
        self._context.update(dict.fromkeys(item.context))
        suggestions: list[Suggestion] = []
        metadata: dict[str, int | float | str] = {"row": ordinal, **self._constants}
        if item.judge:
            metadata["judge"] = item.judge[:MAX_TERM]
        for k, text in enumerate(item.generations):
            if text is not None:
                fields[self._named("generation", k)] = text
                self._add_verdict(item, k, suggestions, metadata)
        if self._template == "text generation":
            suggestions += self._text_suggestions(item)
        for name, value in metadata.items():
            kind: Literal["integer", "float", "terms"] = "terms" if isinstance(value, str) else "float"
            self._kinds[name] = "integer" if name == "row" else kind
        self._counts.append(len(item.generations))
        record_id = f"{row_id}@{digest_of(fields, size_bytes=4)}"
        self._records.append(Record(record_id, row_id, ordinal, fields, tuple(suggestions), metadata))

    def _add_verdict(
        self, item: Item, k: int, suggestions: list[Suggestion], metadata: dict[str, int | float | str]
    ) -> None:
        agent = item.judge[:MAX_AGENT]
        rating = item.ratings[k]
        if rating is not None:
            question = "quality" if self._template == "text generation" else f"rating_{k}"
            suggestions.append(Suggestion(question, self._on_scale(rating), agent))
            metadata[self._named("judge_rating", k)] = rating
        rationale = item.rationales[k]
        if rationale and self._template == "preference":
            suggestions.append(Suggestion(f"rationale_{k}", rationale, agent))
        if item.models[k]:
            metadata[self._named("model", k)] = item.models[k][:MAX_TERM]

    def _text_suggestions(self, item: Item) -> list[Suggestion]:
        agent = item.judge[:MAX_AGENT]
        made = [Suggestion("corrected", item.generations[0] or "", item.models[0][:MAX_AGENT])]
        if item.rationales[0]:
            made.append(Suggestion("rationale", item.rationales[0], agent))
        if item.keep is not None:
            made.append(Suggestion("keep", "keep" if item.keep else "drop", agent))
        return made

    def _named(self, name: str, k: int) -> str:
        return f"{name}_{k}" if self._template == "preference" else name

    def _on_scale(self, rating: float) -> int:
        low, high = self._scale
        self._n_clipped += not low <= rating <= high
        return max(low, min(high, math.floor(rating + 0.5)))

    def plan(self) -> ReviewPlan:
        fields = [Field("instruction", "Instruction", required=True)]
        fields += [Field(name, name.replace("_", " ").capitalize()) for name in self._context]
        is_preference = self._template == "preference"
        n = max(self._counts, default=0)
        fields += (
            [Field(f"generation_{k}", f"Generation {k}") for k in range(n)]
            if is_preference
            else [Field("generation", "Generation")]
        )
        return ReviewPlan(
            template=self._template,
            fields=tuple(fields),
            questions=self._preference_questions(n) if is_preference else self._text_questions(),
            properties=tuple(Property(name, kind) for name, kind in sorted(self._kinds.items())),
            records=tuple(self._records),
            unfit=tuple(self.unfit),
            n_generations=n if is_preference else 1,
            notes=self._notes(),
        )

    def _preference_questions(self, n: int) -> tuple[Question, ...]:
        # Whoever submits must answer what is required: no more than every row has.
        required = min(
            (sum(f"generation_{k}" in r.fields for k in range(n)) for r in self._records), default=1
        )
        options = tuple(range(self._scale[0], self._scale[1] + 1))
        made = []
        for k in range(n):
            made.append(
                Question(f"rating_{k}", "rating", f"Rating of generation {k}", options, k < max(1, required))
            )
            made.append(Question(f"rationale_{k}", "text", f"Why this rating of generation {k}"))
        return tuple(made)

    def _text_questions(self) -> tuple[Question, ...]:
        options = tuple(range(self._scale[0], self._scale[1] + 1))
        return (
            Question("keep", "label", "Keep it in the dataset?", ("keep", "drop"), required=True),
            Question("quality", "rating", "Quality of the generation", options),
            Question("rationale", "text", "Why"),
            Question("corrected", "text", "The generation as it should be"),
        )

    def _notes(self) -> tuple[str, ...]:
        if not self._n_clipped:
            return ()
        low, high = self._scale
        told = f"{figures.plural(self._n_clipped, 'rating')} lay outside {low} to {high} and stand at its end"
        return (f"{told}; the exact numbers are in the metadata. Another scale: scale=(1, 10).",)
