"""The budget of a run: a request starts only if what is spent and in flight stays below the limit."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from distilnb.llms.base import LLM
from distilnb.llms.groups import requests_for
from distilnb.llms.magpie import n_sendings
from distilnb.llms.prices import Price
from distilnb.llms.request import Request
from distilnb.llms.usage import Usage, conversation_tokens, prompt_tokens

USUAL_REPLY_TOKENS = 512  # set aside for a reply while no longer one was seen
DRAWN_TOKENS = 6_300  # and for an image: the largest one at the best quality, of OpenAI's gpt-image-1


class BudgetReached(Exception):
    """No further request may start; what is in flight still ends. `limits` are those that were reached."""

    def __init__(self, text: str, limits: dict[str, float]) -> None:
        super().__init__(text)
        self.limits = limits


@dataclass
class Budget:
    """Money and tokens of a run, over its whole life. A limit of None is none; costs are in USD."""

    max_cost: float | None = None
    max_tokens: int | None = None
    spent_cost: float = 0.0
    spent_tokens: int = 0
    _held_cost: float = 0.0
    _held_tokens: int = 0
    _n_held: int = 0
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_limited(self) -> bool:
        """Whether any limit is set."""
        return self.max_cost is not None or self.max_tokens is not None

    def hold(self, cost: float, tokens: int) -> Hold:
        """Return a reservation of at most `cost` USD and `tokens`, not yet taken."""
        return Hold(self, cost, tokens)

    def allows(self, cost: float, tokens: int) -> bool:
        """Whether a request that may cost this much can start now."""
        too_dear = self.max_cost is not None and self.spent_cost + self._held_cost + cost > self.max_cost
        too_long = (
            self.max_tokens is not None and self.spent_tokens + self._held_tokens + tokens > self.max_tokens
        )
        return not (too_dear or too_long)

    def spend(self, cost: float, tokens: int) -> None:
        """Count what was paid."""
        self.spent_cost += cost
        self.spent_tokens += tokens

    def adjust(self, max_cost: float | None, max_tokens: int | None) -> None:
        """Change the limits; whoever waits for one looks again."""
        self.max_cost, self.max_tokens = max_cost, max_tokens
        self._settled.set()

    def reached(self, cost: float, tokens: int) -> BudgetReached:
        """Return the error of a request that would pass a limit, naming that limit."""
        limits: dict[str, float] = {}
        texts = []
        if self.max_cost is not None and self.spent_cost + cost > self.max_cost:
            limits["max_cost"] = self.max_cost
            texts.append(f"max_cost {self.max_cost:g} USD")
        if self.max_tokens is not None and self.spent_tokens + tokens > self.max_tokens:
            limits["max_tokens"] = self.max_tokens
            texts.append(f"max_tokens {self.max_tokens}")
        return BudgetReached(", ".join(texts), limits)


@dataclass
class Hold:
    """What one request may cost, set aside from the moment it starts until its true cost is known."""

    budget: Budget
    cost: float
    tokens: int
    is_taken: bool = False

    async def take(self) -> None:
        """Set the amount aside; waits while requests in flight hold too much, then raises BudgetReached."""
        if self.is_taken:  # a retry of the same request
            return
        budget = self.budget
        while not budget.allows(self.cost, self.tokens):
            if not budget._n_held:
                raise budget.reached(self.cost, self.tokens)
            budget._settled.clear()
            await budget._settled.wait()
        self.is_taken = True
        budget._n_held += 1
        budget._held_cost += self.cost
        budget._held_tokens += self.tokens

    def settle(self, cost: float, tokens: int) -> None:
        """Replace what was set aside by what the request did cost."""
        budget = self.budget
        budget.spend(cost, tokens)
        if self.is_taken:
            self.is_taken = False
            budget._n_held -= 1
            budget._held_cost -= self.cost
            budget._held_tokens -= self.tokens
            if not budget._n_held:
                budget._held_cost = 0.0  # sums of fractions leave a rest, which nobody would ever settle
            budget._settled.set()


def estimate(
    llm: LLM, price: Price | None, request: Request, longest_reply: int = USUAL_REPLY_TOKENS
) -> tuple[float, int]:
    """Return what a request may cost at most, in USD and tokens, before it is sent.

    A model without `max_new_tokens` may write any number; the longest reply so far is the measure then.
    """
    n_turns = n_sendings(request)
    n_requests = requests_for(llm, request, request.n) * n_turns
    n_images = request.n if llm.makes == "image" else 0
    if n_turns > 1:  # conversations: each message is asked for by itself
        each = int(llm.generation_kwargs.get("max_new_tokens") or longest_reply)
        n_input, n_output = (n * request.n for n in conversation_tokens(llm, request, each))
    else:
        n_input, n_output = prompt_tokens(llm, request), _most_output(llm, request, longest_reply)
    cost = price.cost_usd(n_input, n_output, n_requests, n_images) if price else 0.0
    return cost, n_input + n_output


def longest_of(llm: LLM, request: Request, usage: Usage) -> int:
    """Return how many tokens each text came to that a request brought; 0 for vectors and images."""
    if llm.makes != "text":
        return 0
    return -(-usage.output_tokens // (request.n * n_sendings(request)))


def _most_output(llm: LLM, request: Request, longest_reply: int) -> int:
    if llm.makes == "vector":
        return 0
    if llm.makes == "image":
        return DRAWN_TOKENS * request.n if llm.tells_tokens else 0
    return int(llm.generation_kwargs.get("max_new_tokens") or longest_reply) * request.n
