"""A model with backups: what it does not answer, the next one does."""

from __future__ import annotations

from typing import Any, ClassVar

from distilnb.errors import UnreachableError
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.llms.combined import CombinedLLM, MemberField, check_members
from distilnb.llms.parts import FirstOf, Part
from distilnb.llms.request import Request


class FallbackLLM(CombinedLLM):
    """The first of several models that answers: `dn.llm("openai:gpt-4o") | "ollama:llama3.2"`.

    The next one is asked where an error of the one before is final: all retries used up, a wrong key, an unknown
    model, a server that is not there, content that is refused. A server that fails one request after the other is
    left alone for half a minute, and the rows of that time go to the next one at once. A run stops only for an
    error that no member is left for.

    A reply of a backup is noted as such, with the reason: later previews and runs use it again, and do not ask the
    first model for that row once more. A reply that the backup gave alone, to another run, stands in for nothing.

    Errors: SpecError for fewer than two members.

    >>> (as_llm("openai:gpt-4o-mini") | "rehearsal").label
    'openai:gpt-4o-mini | rehearsal'
    """

    provider: ClassVar[str] = "fallback"
    title: ClassVar[str] = "A model with a backup"

    llms: list[MemberField]

    def __init__(self, **values: Any) -> None:
        if "llms" in values:
            check_members("FallbackLLM", "llms", values["llms"], 2)
            flat: list[LLM] = []
            for llm in map(as_llm, values["llms"]):
                flat += llm.llms if isinstance(llm, FallbackLLM) else [llm]
            values["llms"] = flat
        super().__init__(**values)

    @property
    def members(self) -> tuple[LLM, ...]:
        """The models, in the order in which they are asked."""
        return tuple(self.llms)

    @property
    def label(self) -> str:
        """The short name in tables."""
        return " | ".join(member.label for member in self.members)

    def parts(self, request: Request, repeat: int = 0) -> list[Part[LLM]]:
        """Return for each reply the members that may give it."""
        return [
            FirstOf(choices) for choices in zip(*(m.parts(request, repeat) for m in self.llms), strict=True)
        ]

    def probe(self) -> None:
        """Raise UnreachableError when no member's server can be reached."""
        for number, member in enumerate(self.members, 1):
            try:
                return member.probe()
            except UnreachableError:
                if number == len(self.members):
                    raise
