"""What replies cost: as the user says, else from the price list of genai-prices as it was installed.

No network, no guess: what is in neither has no price.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from distilnb.errors import SpecError
from distilnb.home import home
from distilnb.llms.address import is_loopback
from distilnb.llms.base import LLM

PRICE_FILE = "prices.yaml"
_SAMPLE_TOKENS = 1000  # few enough for the first tier of prices that grow with the prompt


class Price(NamedTuple):
    """USD per million tokens."""

    input_usd: float
    output_usd: float

    @property
    def is_free(self) -> bool:
        """Whether nothing is paid."""
        return self.input_usd == 0 and self.output_usd == 0

    def cost_usd(self, input_tokens: float, output_tokens: float) -> float:
        """Return what that many tokens cost."""
        return (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1_000_000


def price_of(llm: LLM) -> Price | None:
    """Return what a model costs: its `price`, the user's own list, nothing on this machine, else the public list's.

    None where it is unknown. The user's list is `$DISTILNB_HOME/prices.yaml`: one line a model, of provider and
    model (or the address of a server and the model), with USD per million tokens in and out:

        openai:ft:gpt-4o-mini:me: [0.30, 1.20]
        https://gateway.example/v1 llama-3: [0.10, 0.10]

    A server on loopback counts as this machine. For one that passes requests on to a paid provider, set `price`.
    Raises SpecError for a list that cannot be read.
    """
    if llm.price is not None:
        return Price(*llm.price)
    own = own_prices()
    for name in (f"{llm.endpoint} {llm.model}", llm.label):
        if name in own:
            return own[name]
    if llm.is_local or (llm.endpoints and all(map(is_loopback, llm.endpoints))):
        return Price(0.0, 0.0)
    return _listed(llm.provider, llm.endpoint, llm.model)


def run_price_of(llm: LLM) -> Price | None:
    """Return what a run pays for a model: less than `price_of` where it goes by offline batch.

    The model's `offline_batch_discount` counts, else the public list's own prices for batches, else what the provider
    takes off at its own host. A server of somebody else's takes nothing off that it does not say.
    """
    price = price_of(llm)
    if price is None or not llm.goes_by_batch:
        return price
    from distilnb.llms.remote import RemoteLLM

    assert isinstance(llm, RemoteLLM)
    discount = llm.offline_batch_discount
    if discount is None:
        listed = _listed(llm.provider, llm.endpoint, llm.model)
        in_batch = _listed(llm.provider, llm.endpoint, llm.model, in_batch=True)
        if in_batch is not None and listed == price and in_batch != price:
            return in_batch
        discount = llm.batch_discount if llm.is_own else 0.0
    return Price(price.input_usd * (1 - discount), price.output_usd * (1 - discount))


def cost_usd(llm: LLM, input_tokens: int, output_tokens: int) -> float | None:
    """Return what that many tokens cost; None when the price is unknown.

    >>> from distilnb.llms.openai import OpenAILLM
    >>> cost_usd(OpenAILLM(model="gpt-4o-mini", price=(0.15, 0.6)), 1_000_000, 500_000)
    0.45
    """
    price = price_of(llm)
    return None if price is None else price.cost_usd(input_tokens, output_tokens)


@lru_cache(maxsize=256)
def _listed(provider: str, endpoint: str, model: str, *, in_batch: bool = False) -> Price | None:
    from genai_prices import Usage, calc_price

    how = {"processing": "batch"} if in_batch else None
    usage = Usage(input_tokens=_SAMPLE_TOKENS, output_tokens=_SAMPLE_TOKENS)
    try:
        if endpoint:
            found = calc_price(usage, model, provider_api_url=endpoint, price_context=how)
        else:
            found = calc_price(usage, model, provider_id=provider, price_context=how)
    except LookupError:
        return None
    if found.model_price.input_mtok is None:  # listed, but by other units than tokens
        return None
    per_million = 1_000_000 / _SAMPLE_TOKENS
    return Price(float(found.input_price) * per_million, float(found.output_price) * per_million)


# --- the user's own list ------------------------------------------------------


def own_prices() -> Mapping[str, Price]:
    """Return the user's own list; empty where there is none."""
    path = home() / PRICE_FILE
    try:
        changed_ns = os.stat(path).st_mtime_ns
    except OSError:
        return {}
    return _read_prices(path, changed_ns)


@lru_cache(maxsize=4)
def _read_prices(path: Path, changed_ns: int) -> Mapping[str, Price]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SpecError(f"The price list {str(path)!r} cannot be read: {error}.", _HOW) from error
    if not isinstance(data, Mapping):
        data = {} if data is None else {"": data}
    return {str(name): _price(path, name, value) for name, value in data.items()}


_HOW = "Write one line a model: 'openai:gpt-4o-mini: [0.15, 0.60]', USD per million tokens in and out."


def _price(path: Path, name: object, value: Any) -> Price:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    if is_pair and all(isinstance(n, (int, float)) and not isinstance(n, bool) and n >= 0 for n in value):
        return Price(float(value[0]), float(value[1]))
    raise SpecError(f"The price of {str(name)!r} in {str(path)!r} is {value!r:.60}.", _HOW)
