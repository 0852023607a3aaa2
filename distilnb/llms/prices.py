"""What replies cost, from the price list of genai-prices as it was installed: no network, no guess."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from distilnb.llms.address import is_loopback
from distilnb.llms.base import LLM

_SAMPLE_TOKENS = 1000  # few enough for the first tier of prices that grow with the prompt


class Price(NamedTuple):
    """USD per million tokens."""

    input_usd: float
    output_usd: float

    def cost_usd(self, input_tokens: int, output_tokens: int) -> float:
        """Return what that many tokens cost."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1_000_000


def price_of(llm: LLM) -> Price | None:
    """Return what a model costs: its `price`, nothing on this machine, else the list's; None if unknown.

    A server on loopback counts as this machine. For one that passes requests on to a paid provider, set
    `price`.
    """
    if llm.price is not None:
        return Price(*llm.price)
    if llm.is_local or (llm.endpoint and is_loopback(llm.endpoint)):
        return Price(0.0, 0.0)
    return _listed(llm.provider, llm.endpoint, llm.model)


def cost_usd(llm: LLM, input_tokens: int, output_tokens: int) -> float | None:
    """Return what that many tokens cost; None when the price is unknown.

    >>> from distilnb.llms.openai import OpenAILLM
    >>> cost_usd(OpenAILLM(model="gpt-4o-mini", price=(0.15, 0.6)), 1_000_000, 500_000)
    0.45
    """
    price = price_of(llm)
    return None if price is None else price.cost_usd(input_tokens, output_tokens)


@lru_cache(maxsize=256)
def _listed(provider: str, endpoint: str, model: str) -> Price | None:
    from genai_prices import Usage, calc_price

    usage = Usage(input_tokens=_SAMPLE_TOKENS, output_tokens=_SAMPLE_TOKENS)
    try:
        if endpoint:
            found = calc_price(usage, model, provider_api_url=endpoint)
        else:
            found = calc_price(usage, model, provider_id=provider)
    except LookupError:
        return None
    if found.model_price.input_mtok is None:  # listed, but by other units than tokens
        return None
    per_million = 1_000_000 / _SAMPLE_TOKENS
    return Price(float(found.input_price) * per_million, float(found.output_price) * per_million)
