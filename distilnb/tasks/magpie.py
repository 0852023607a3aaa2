"""Magpie: instructions, and conversations, that an aligned model writes of its own accord."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Annotated, Any

from pydantic import Field, model_validator
from typing_extensions import Self

from distilnb.errors import ParseError, SpecError
from distilnb.llms.magpie import MAGPIE, TEMPLATES
from distilnb.llms.request import Message
from distilnb.rows import Row, row_digest
from distilnb.spec.draft import current_draft, snake_case
from distilnb.spec.step import ColumnNames, GeneratorStep, GeneratorStepOutput
from distilnb.tasks.base import Task

# A prompt, several to draw from, or several by name, each with a weight if some are to come more often.
SystemPrompts = str | list[str] | dict[str, str | tuple[str, float]] | None
_COMPLETERS = (
    "OpenAILLM and ClientvLLM (for servers that complete texts), InferenceEndpointsLLM, OllamaLLM, TransformersLLM, "
    "vLLM, LlamaCppLLM, MlxLLM"
)
_REHEARSED = ("Name three uses of argon.", "Why do kites fly?", "Plan a walk for a rainy day.")


class Magpie(Task):
    """Ask a model for what a user might ask it, and for its own reply to that.

    The model gets the text of a conversation up to the user's turn, and goes on. Its class says how that text is
    written: `magpie_pre_query_template` is "llama3", "qwen2", or a text of one's own, which has no form for system
    prompts and further turns. `system_prompt` is one for all, a list to draw from, or a dict of named ones (or pairs of
    one and its weight), drawn for each row by its content and `seed`; a row's own comes first. A conversation is one
    request and one reply where those are counted and kept; equal rows get one each, unless the model repeats itself
    (temperature 0, or a seed).

    Inputs:  system_prompt (str; optional).
    Outputs: instruction (str) and response (str); with `only_instruction` the instruction alone; with `n_turns` above 1
             conversation (list of messages, a dict of role and content each; the last one is the user's with
             `end_with_user`, the first one the system's with `include_system_prompt`); system_prompt_key (str; where
             system_prompt is a dict); model_name (str).
    Errors:  SpecError when the model has no template; ParseError when it wrote nothing at some turn.
    Source:  Magpie, arXiv 2406.08464; the task of that name of distilabel.

    >>> Magpie(only_instruction=True).made()
    ['instruction', 'model_name']
    """

    system_prompt: SystemPrompts = None
    n_turns: Annotated[int, Field(ge=1)] = 1
    end_with_user: bool = False
    include_system_prompt: bool = False
    only_instruction: bool = False
    seed: int = 0

    @model_validator(mode="after")
    def _check_turns(self) -> Self:
        if self.end_with_user and self.n_turns == 1:
            raise SpecError(
                "Magpie with one turn cannot end with the user's.",
                "only_instruction=True asks for just that.",
            )
        if self.only_instruction and self.n_turns > 1:
            raise SpecError("Magpie has only_instruction, and n_turns.", "Give one of them.")
        check_prompts(self.system_prompt)
        return self

    @property
    def inputs(self) -> ColumnNames:
        return {"system_prompt": False}

    @property
    def sendings_per_reply(self) -> int:
        """How many messages the model is asked for, one after the other."""
        return 1 if self.only_instruction else 2 * self.n_turns - self.end_with_user

    @property
    def outputs(self) -> ColumnNames:
        made = ["instruction"] if self.only_instruction else ["instruction", "response"]
        made = made if self.n_turns == 1 else ["conversation"]
        return [*made, *(["system_prompt_key"] if isinstance(self.system_prompt, dict) else []), "model_name"]

    def check(self) -> None:
        super().check()
        assert self.llm is not None  # `check` of a task has raised
        if self.llm.provider == "rehearsal":
            return
        template = self.llm.pre_query_template
        if not template and self.llm.members:
            theirs = [f"{one.label}: {one.pre_query_template or 'none'}" for one in self.llm.senders()]
            raise SpecError(
                f"Magpie's requests are written with one pre-query template, and the models of {self.llm.label} have "
                f"these: {', '.join(theirs)}.",
                "Give all members of a pool, or of a model with a backup, the same magpie_pre_query_template; "
                "models of another family need a Magpie step of their own.",
            )
        if not template and "magpie_pre_query_template" not in type(self.llm).model_fields:
            raise SpecError(
                f"{self.llm.label} ({self.llm.kind()}) writes chats only, and Magpie needs a model that goes on with "
                "a bare text.",
                f"Use one of these, with magpie_pre_query_template='llama3': {_COMPLETERS}.",
            )
        if not template:
            raise SpecError(
                f"{self.llm.label} ({self.llm.kind()}) has no pre-query template, which Magpie needs.",
                "Give it the one of its family: magpie_pre_query_template='llama3' (or 'qwen2', or a text).",
            )
        if template not in TEMPLATES and (self.system_prompt or self.n_turns > 1):
            raise SpecError(
                "A pre-query template of one's own has no form for system prompts and further turns.",
                f"Leave them out, or use one of {sorted(TEMPLATES)}.",
            )

    def format_input(self, input: Row) -> list[Message]:
        _, system = self._chosen(input)
        asked = {"role": MAGPIE, "content": self._template(), "n_messages": self.sendings_per_reply}
        return [{"role": "system", "content": system}, asked] if system else [asked]

    def format_output(self, output: str | None, input: Row) -> dict[str, Any]:
        try:
            turns = json.loads(output or "")
            texts = [str(turn["content"]) for turn in turns]
        except (ValueError, TypeError, LookupError) as error:
            raise ParseError("The reply is no conversation.", "Ask again: run.retry().") from error
        wanted = self.sendings_per_reply
        if len(texts) < wanted:
            who = "user" if len(texts) % 2 == 0 else "assistant"
            raise ParseError(
                f"The model wrote nothing as the {who}, at message {len(texts) + 1} of {wanted}.",
                "Ask again: run.retry(). If it is often so, the pre-query template may not be the model's.",
            )
        name, system = self._chosen(input)
        key = {"system_prompt_key": name} if isinstance(self.system_prompt, dict) else {}
        if self.n_turns > 1:
            lead = [{"role": "system", "content": system}] if self.include_system_prompt and system else []
            return {"conversation": [*lead, *turns], **key}
        return {**dict(zip(("instruction", "response"), texts, strict=False)), **key}

    def rehearse(self, row: Row, rng: Random) -> str | None:
        roles = ["user"] if self.only_instruction else ["user", "assistant"] * self.n_turns
        turns = [{"role": role, "content": f"(rehearsed) {rng.choice(_REHEARSED)}"} for role in roles]
        return json.dumps(turns[:-1] if self.end_with_user else turns)

    def _template(self) -> str:
        return self.llm.pre_query_template if self.llm is not None else ""

    def _chosen(self, row: Row) -> tuple[str | None, str]:
        """Return the system prompt of a row, and its name; "" without one."""
        if row.get("system_prompt"):
            return row.get("system_prompt_key"), str(row["system_prompt"])
        return draw_prompt(self.system_prompt, Random(f"{self.seed}:{row_digest(row)}"))


class MagpieRows(GeneratorStep):
    """The rows of MagpieGenerator: `num_rows` of them, each with the system prompt that was drawn for it.

    Inputs:  none.
    Outputs: system_prompt (str | None); system_prompt_key (str; where system_prompt is a dict).
    Errors:  none.
    Source:  ours.

    >>> next(MagpieRows(num_rows=2, system_prompt="Be kind.").process())
    ([{'system_prompt': 'Be kind.'}, {'system_prompt': 'Be kind.'}], True)
    """

    num_rows: Annotated[int, Field(ge=1)]
    system_prompt: SystemPrompts = None
    seed: int = 0

    @model_validator(mode="after")
    def _check_prompts(self) -> Self:
        check_prompts(self.system_prompt)
        return self

    @property
    def outputs(self) -> ColumnNames:
        return ["system_prompt", *(["system_prompt_key"] if isinstance(self.system_prompt, dict) else [])]

    def process(self, offset: int = 0) -> GeneratorStepOutput:  # type: ignore[override]  # a source
        for start in range(offset, self.num_rows, self.batch_size):
            end = min(start + self.batch_size, self.num_rows)
            yield [self._row(number) for number in range(start, end)], end == self.num_rows

    def n_rows(self) -> int | None:
        return self.num_rows

    def _row(self, number: int) -> Row:
        name, text = draw_prompt(self.system_prompt, Random(f"{self.seed}:{number}"))
        key = {"system_prompt_key": name} if isinstance(self.system_prompt, dict) else {}
        row = {"system_prompt": text or None, **key}
        return {self.output_mappings.get(column, column): value for column, value in row.items()}


def MagpieGenerator(  # as pipelines of 1.x write it
    *,
    num_rows: int,
    system_prompt: SystemPrompts = None,
    seed: int = 0,
    name: str = "",
    batch_size: int = 1000,
    **fields: Any,
) -> Magpie:
    """Make instructions or conversations from nothing: a source of `num_rows` rows, and Magpie behind it.

    Inside `with Pipeline() as p:` both join the pipeline, and Magpie is returned, for what follows to be connected to.
    Other fields are those of Magpie. Outside of one: `Pipeline("p").then(MagpieRows(num_rows=100)).ask(Magpie(...))`.
    Raises StepConnectionError there.
    """
    draft = current_draft()
    if draft is None:
        raise SpecError(
            "MagpieGenerator makes two steps, and there is no pipeline to take them.",
            "Pipeline('p').then(MagpieRows(num_rows=100)).ask(Magpie(...)), or write it inside `with Pipeline()`.",
        )
    keyed = system_prompt if isinstance(system_prompt, dict) else None
    task = Magpie(
        system_prompt=keyed, seed=seed, name=name or _free(draft.steps, "MagpieGenerator"), **fields
    )
    source = MagpieRows(
        num_rows=num_rows,
        system_prompt=system_prompt,
        seed=seed,
        batch_size=batch_size,
        name=f"{task.name}_rows",
    )
    source.connect(task)
    return task


def check_prompts(prompts: SystemPrompts) -> None:
    """Raise SpecError for system prompts that nothing can be drawn from."""
    if prompts is None or isinstance(prompts, str):
        return
    if not prompts:
        raise SpecError("system_prompt is empty.", "Leave it out, or give at least one.")
    if isinstance(prompts, dict) and not sum(weight for _, _, weight in _weighted(prompts)) > 0:
        raise SpecError("The weights of system_prompt add up to nothing.", "Give weights above 0.")


def draw_prompt(prompts: SystemPrompts, random: Random) -> tuple[str | None, str]:
    """Return one of some system prompts and its name; None and "" where there are none."""
    if prompts is None or isinstance(prompts, str):
        return None, prompts or ""
    if isinstance(prompts, list):
        return None, random.choice(prompts)
    weighted = _weighted(prompts)
    [(name, text, _)] = random.choices(weighted, weights=[weight for _, _, weight in weighted])
    return name, text


def _weighted(prompts: Mapping[str, str | tuple[str, float]]) -> Sequence[tuple[str, str, float]]:
    return [
        (name, given, 1.0) if isinstance(given, str) else (name, *given) for name, given in prompts.items()
    ]


def _free(taken: Mapping[str, object], class_name: str) -> str:
    number = 0
    while f"{snake_case(class_name)}_{number}" in taken:
        number += 1
    return f"{snake_case(class_name)}_{number}"
