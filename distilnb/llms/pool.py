"""A pool of models: of each row some are drawn, and its replies are shared out among them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from distilnb.errors import SpecError
from distilnb.llms.base import LLM
from distilnb.llms.combined import CombinedLLM, MemberField, check_members
from distilnb.llms.parts import Part
from distilnb.llms.request import Request


class LLMPool(CombinedLLM):
    """Several models that take turns by chance: k replies to a request are those of different members.

    Of `llms`, `n` are drawn for each row (all, when left out). Of k replies, with k less than the members drawn, k
    different members give one each; else each gives k // n of them, and different ones give what is left over. The
    replies stand in the order of the list, and `generation_models` tells whose they are. `weights`, one positive
    number a member, make some be drawn more often: the first draw takes each by its share, the next ones by the
    share among those that are left.

    The draw depends on the request's text, how many equal ones came before, and the places in the list: not on the
    models that stand there. So preview, run and resume draw alike; an edited member asks its own part again, and a
    member that is added at the end takes some rows from each. A reply that the member gave alone, to another run, is
    used again.

    Errors: SpecError for fewer than two members, or an `n` or `weights` that do not fit them.
    Source: the class of that name of distilabel 0.6; `n` and `weights` are ours.

    >>> pool = LLMPool(llms=["openai:gpt-4o-mini", "rehearsal"], n=1, weights=[1, 3])
    >>> pool.label
    'pool(openai:gpt-4o-mini, rehearsal)'
    """

    provider: ClassVar[str] = "pool"
    title: ClassVar[str] = "A pool"

    llms: list[MemberField]
    n: int | None = Field(default=None, ge=1)
    weights: list[float] | None = None

    def __init__(self, **values: Any) -> None:
        if "llms" in values:
            check_members("LLMPool", "llms", values["llms"], 2)
        super().__init__(**values)

    @model_validator(mode="after")
    def _check_draw(self) -> Self:
        if self.n is not None and self.n > len(self.llms):
            raise SpecError(
                f"n is {self.n}; the pool has {len(self.llms)} models.", "Lower n, or add models."
            )
        weights = self.weights
        if weights is not None and len(weights) != len(self.llms):
            raise SpecError(
                f"There are {len(weights)} weights for {len(self.llms)} models.", "Give one for each model."
            )
        if weights is not None and not all(0 < weight < math.inf for weight in weights):
            raise SpecError(
                f"The weights are {weights}.", "Give numbers above 0; leave out whom nobody is to ask."
            )
        return self

    @property
    def members(self) -> tuple[LLM, ...]:
        """The models of the pool."""
        return tuple(self.llms)

    @property
    def label(self) -> str:
        """The short name in tables: the members' names."""
        return f"pool({super().label})"

    @property
    def is_deterministic(self) -> bool:
        """Never: equal requests are drawn different members."""
        return False

    def parts(self, request: Request, repeat: int = 0) -> list[Part[LLM]]:
        """Return the replies of the members drawn, in the order of the list."""
        weights = self.weights or [1.0] * len(self.llms)
        shares = shares_of(draw(request, repeat, weights, pools_within(self)), self.n, request.n)
        drawn = [(member, share) for member, share in zip(self.llms, shares, strict=True) if share]
        parts: list[Part[LLM]] = []
        given: list[tuple[dict[str, Any], int]] = []
        for member, share in drawn:
            own = replace(request, n=share)
            if len(drawn) > 1:
                # One model twice, with two keys: its replies are counted together, or both would give the same one.
                identity = member.identity()
                first = sum(n for whose, n in given if whose == identity)
                given.append((identity, share))
                if first:
                    own = replace(own, first=request.first + first, salt=f"{request.salt}/{first}")
            parts += member.parts(own, repeat)
        return parts


def pools_within(llm: LLM) -> int:
    """Return how many pools are nested in a model, at its deepest."""
    return max((pools_within(one) + isinstance(one, LLMPool) for one in llm.members), default=0)


def draw(request: Request, repeat: int, weights: Sequence[float], level: int = 0) -> list[int]:
    """Return all places of a pool in the order in which they are drawn without replacement, by weight.

    Each place has a number of its own by chance, of the exponential distribution with its weight as rate; the
    smallest comes first. So a place that is added or left out changes nothing about the order of the others. `level`
    keeps a pool of pools from drawing as those in it do: some of their members would never be asked. So do the places
    of a mixture's proposers with pools that stand there.
    """
    about = [request.messages, request.shape.key if request.shape else None, repeat]
    if level or request.place:
        about.append(level)
    if request.place:
        about.append(request.place)
    said = json.dumps(about, default=str)
    seed = hashlib.blake2b(said.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return sorted(range(len(weights)), key=lambda place: (_waiting_time(seed, place, weights[place]), place))


def shares_of(order: Sequence[int], n: int | None, k: int) -> list[int]:
    """Return how many of k replies each place of a pool gives, of which n take part in the order drawn.

    >>> shares_of([2, 0, 1], None, 2), shares_of([2, 0, 1], None, 5), shares_of([2, 0, 1], 1, 2)
    ([1, 0, 1], [2, 1, 2], [0, 0, 2])
    """
    drawn = order[: n or len(order)]
    each, left = divmod(k, len(drawn))
    shares = [0] * len(order)
    for rank, place in enumerate(drawn):
        shares[place] = each + (rank < left)
    return shares


def _waiting_time(seed: bytes, place: int, weight: float) -> float:
    digest = hashlib.blake2b(seed + str(place).encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest, "big") + 0.5) / 2**64
    return -math.log(uniform) / weight
