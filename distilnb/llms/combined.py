"""What all models share that are made of others: they never send, and ask their members in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator

from distilnb.errors import SpecError
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.llms.request import Client
from distilnb.llms.shape import ReplyShape

MemberField = Annotated[LLM, BeforeValidator(as_llm)]

# The places of a list of models, as parameter paths name them: `answer.llm.0.temperature`.
PLACES = frozenset(map(str, range(64)))


# Why a model that makes something else has no place among others, and what to do.
_WHY_TEXTS = {
    "vector": (
        "Vectors of two models do not mix: they differ in length and in what each number means, so none of one can be "
        "compared with any of the other. Use one model; several servers that hold the same one are its base_urls=[...]."
    ),
    "image": (
        "Only models that make texts are combined. Use one model that draws, with base_urls=[...] for several servers; "
        "or draw with two steps, each on a part of the rows."
    ),
}


class CombinedLLM(LLM):
    """A model that is made of others. Keys, prices, limits and parameters are those of its members.

    A subclass lists its `members`, and says in `parts` which of them give each reply to a request.
    """

    shorthand: ClassVar[Mapping[str, frozenset[str]]] = {"llms": PLACES}

    model: str = ""

    def __init__(self, **values: Any) -> None:
        for name in sorted(LLM.model_fields.keys() & values.keys()):
            raise SpecError(
                f"{type(self).__name__} was given {name}=, but it asks nobody itself.",
                f"Give it to its members: dn.llm('provider:model', {name}=...).",
            )
        super().__init__(**values)
        for member in self.members:
            if member.makes != "text":
                raise SpecError(
                    f"{type(self).__name__} was given {member.label}, which makes {member.makes}s.",
                    _WHY_TEXTS[member.makes],
                )

    def identity(self) -> dict[str, Any]:
        """Return what tells it from other combinations; each reply is kept under the identity of who gave it."""
        return {"provider": self.provider, "members": [member.identity() for member in self.members]}

    @property
    def is_deterministic(self) -> bool:
        """Whether equal requests have equal replies: where those of all members have."""
        return all(member.is_deterministic for member in self.members)

    @property
    def reply_shape(self) -> ReplyShape | None:
        """The shape that the members' own settings ask of every reply."""
        return self.members[0].reply_shape

    @property
    def pre_query_template(self) -> str:
        """What Magpie's requests are written with: the template of all members; "" where theirs are different ones."""
        templates = {member.pre_query_template for member in self.members}
        return templates.pop() if len(templates) == 1 else ""

    def check(self) -> None:
        """Raise what is wrong with any member, before any request."""
        for member in self.members:
            member.check()
        shapes = [member.reply_shape for member in self.members]
        if any(shape != shapes[0] for shape in shapes):
            raise SpecError(
                f"The members of {self.label} ask for replies of different shapes.",
                "Give the shape to the task (schema=...), or the same structured_output to each member.",
            )

    def check_images(self) -> None:
        """Raise UnsupportedParameterError where one of the members takes no images: any row may be given to it."""
        for member in self.members:
            member.check_images()

    def probe(self) -> None:
        """Raise UnreachableError when some member's server cannot be reached."""
        for member in self.members:
            member.probe()

    def make_client(self) -> Client:
        """Raise: the members have clients."""
        raise SpecError(f"{self.label} sends nothing itself.", "Ask its members.")

    @property
    def label(self) -> str:
        """The short name in tables: the members' names."""
        return ", ".join(member.label for member in self.members)


def check_members(owner: str, field: str, llms: object, least: int) -> None:
    """Raise SpecError where too few models are listed."""
    if isinstance(llms, (str, LLM)) or not isinstance(llms, (list, tuple)):
        raise SpecError(
            f"{owner} takes {field}= as a list.", f"{field}=['openai:gpt-4o-mini', 'ollama:llama3.2']"
        )
    if len(llms) < least:
        raise SpecError(f"{owner} was given {len(llms)} in {field}=.", f"Give at least {least}.")
