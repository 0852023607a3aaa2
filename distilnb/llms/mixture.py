"""A mixture of agents: several models answer, and one makes one reply of their answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field

from distilnb.llms.base import LLM
from distilnb.llms.combined import CombinedLLM, MemberField, check_members
from distilnb.llms.parts import MadeOf, Part
from distilnb.llms.request import Message, Reply, Request
from distilnb.llms.shape import ReplyShape

_TASK = """\
Several assistants have answered the conversation below, each without knowing of the others. Their answers follow, \
numbered. Write the one reply that the user is to get.

Judge the answers before you use them: any of them may be wrong, biased or incomplete, and that several agree proves \
nothing. Keep what is right, mend what is wrong, add what all of them lack. Reply as if you were the only one who was \
asked: do not mention the answers or compare them, and keep to the language, the form and the length that the \
conversation asks for."""


class MixtureOfAgentsLLM(CombinedLLM):
    """Several models answer each request, and one makes the reply of their answers.

    In each of `rounds`, all of `proposers_llms` answer; from the second round on they are shown the answers of the
    one before. `aggregator_llm` is shown those of the last and gives the reply. So each reply takes rounds ×
    proposers + 1 requests, and each of them is kept for itself: a kill repeats no more than what was in flight, and an
    edited aggregator is all that is asked again. `run.why(row)` shows the answers too.

    Errors: SpecError for no proposer. An answer that fails for good fails the reply; give a proposer a backup
        (`"openai:gpt-4o" | dn.llm("ollama:llama3.2")`) where that should not be.
    Source: Mixture-of-Agents, arXiv 2406.04692; the text of the prompt is ours.

    >>> mixture = MixtureOfAgentsLLM(aggregator_llm="openai:gpt-4o", proposers_llms=["rehearsal"])
    >>> mixture.label
    'openai:gpt-4o of (rehearsal)'
    """

    provider: ClassVar[str] = "mixture"
    title: ClassVar[str] = "A mixture of agents"
    shorthand: ClassVar[dict[str, frozenset[str]]] = {}

    aggregator_llm: MemberField
    proposers_llms: list[MemberField]
    rounds: int = Field(default=1, ge=1)

    def __init__(self, **values: Any) -> None:
        if "proposers_llms" in values:
            check_members("MixtureOfAgentsLLM", "proposers_llms", values["proposers_llms"], 1)
        super().__init__(**values)

    @property
    def members(self) -> tuple[LLM, ...]:
        """The aggregator, then the proposers."""
        return (self.aggregator_llm, *self.proposers_llms)

    @property
    def label(self) -> str:
        """The short name in tables: who gives the replies, and of whose answers."""
        return f"{self.aggregator_llm.label} of ({', '.join(llm.label for llm in self.proposers_llms)})"

    def identity(self) -> dict[str, Any]:
        """Return what tells it from other combinations."""
        return {**super().identity(), "rounds": self.rounds}

    @property
    def reply_shape(self) -> ReplyShape | None:
        """The shape that the aggregator's own settings ask of every reply."""
        return self.aggregator_llm.reply_shape

    @property
    def pre_query_template(self) -> str:
        """None: what an aggregator is shown would stand in the conversation that it should write."""
        return ""

    def parts(self, request: Request, repeat: int = 0) -> list[Part[LLM]]:
        """Return for each reply the aggregator's, made of the answers of the last round."""
        places = range(len(self.proposers_llms))
        proposed = [self.proposers_llms[place].parts(_at(request, place), repeat) for place in places]
        answers = [tuple(of_reply) for of_reply in zip(*proposed, strict=True)]
        parts: list[Part[LLM]] = []
        for index, first in enumerate(answers):
            salt = f"{request.salt}/{index}" if index else request.salt
            own = replace(request, n=1, first=request.first + index, salt=salt)
            before: tuple[Part[LLM], ...] = first
            for _ in range(1, self.rounds):
                before = tuple(
                    _made_of(before, self.proposers_llms[place], _at(own, place), repeat) for place in places
                )
            parts.append(_made_of(before, self.aggregator_llm, own, repeat))
        return parts


def _at(request: Request, place: int) -> Request:
    """Return the request as the proposer at a place is asked: the first one as any model, so that draws stay."""
    return replace(request, place=f"{request.place}/{place}") if place else request


def _made_of(answers: tuple[Part[LLM], ...], llm: LLM, request: Request, repeat: int) -> MadeOf[LLM]:
    def then(replies: Sequence[Reply]) -> Part[LLM]:
        shown = replace(request, messages=with_answers(request.messages, replies))
        return llm.parts(shown, repeat)[0]

    return MadeOf(answers, llm, then)


def with_answers(messages: Sequence[Message], replies: Sequence[Reply]) -> tuple[Message, ...]:
    """Return a conversation that begins with the answers it has got and what is to be made of them."""
    answers = [f"## Answer {number}\n\n{reply.text or '(empty)'}" for number, reply in enumerate(replies, 1)]
    told = "\n\n".join([_TASK, *answers])
    first, *others = messages
    if first["role"] == "system" and isinstance(first["content"], str):
        return ({**first, "content": f"{first['content']}\n\n{told}"}, *others)
    return ({"role": "system", "content": told}, first, *others)
