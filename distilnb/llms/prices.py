"""What replies cost: as the user says, else from the price list of genai-prices as it was installed.

No network, no guess: what is in neither has no price.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from distilnb.errors import SpecError, UnknownPriceError
from distilnb.home import home
from distilnb.llms.address import is_loopback
from distilnb.llms.base import LLM, PRICE_PARTS, is_price
from distilnb.llms.usage import Usage

PRICE_FILE = "prices.yaml"
_SAMPLE_TOKENS = 1000  # few enough for the first tier of prices that grow with the prompt


class Price(NamedTuple):
    """USD per million tokens, and for each request and each image that is drawn."""

    input_usd: float = 0.0
    output_usd: float = 0.0
    request_usd: float = 0.0
    image_usd: float = 0.0

    @property
    def is_free(self) -> bool:
        """Whether nothing is paid."""
        return not any(self)

    @property
    def needs_tokens(self) -> bool:
        """Whether nothing but tokens tells what is to be paid."""
        return not (self.request_usd or self.image_usd or self.is_free)

    def cost_usd(
        self, input_tokens: float, output_tokens: float, n_requests: float = 0, n_images: float = 0
    ) -> float:
        """Return what that much costs."""
        of_tokens = (input_tokens * self.input_usd + output_tokens * self.output_usd) / 1_000_000
        return of_tokens + n_requests * self.request_usd + n_images * self.image_usd

    def of(self, usage: Usage) -> float | None:
        """Return what requests cost; None for images whose tokens were not told, where only those have a price."""
        if usage.n_images and usage.n_guessed and self.needs_tokens:
            return None
        return self.cost_usd(usage.input_tokens, usage.output_tokens, usage.n_requests, usage.n_images)

    def times(self, factor: float) -> Price:
        """Return this price, less what is taken off."""
        return Price(*(part * factor for part in self))


def price_of(llm: LLM) -> Price | None:
    """Return what a model costs: its `price`, the user's own list, nothing on this machine, else the public list's.

    None where it is unknown. The user's list is `$DISTILNB_HOME/prices.yaml`: one line a model, of provider and
    model (or the address of a server and the model), with USD per million tokens in and out, or by other units:

        openai:ft:gpt-4o-mini:me: [0.30, 1.20]
        https://gateway.example/v1 llama-3: [0.10, 0.10]
        openai:dall-e-3: {per_image: 0.04}

    A server on loopback counts as this machine. For one that passes requests on to a paid provider, set `price`.
    Raises SpecError for a list that cannot be read.
    """
    if llm.price is not None:
        return price_from(llm.price)
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
    return price.times(1 - discount)


def check_priced(llm: LLM, step: str = "") -> None:
    """Raise UnknownPriceError where a limit of money could not be kept: nobody knows what the model's replies cost."""
    price = price_of(llm)
    whose = f"{llm.label}, which step {step!r} asks," if step else llm.label
    if price is None:
        raise UnknownPriceError(
            f"max_cost cannot be kept: the price of {whose} is unknown.",
            f"Give it in USD: {_price_words(llm)}, or a line of prices.yaml; or leave max_cost out.",
            provider=llm.provider,
        )
    if price.needs_tokens and not llm.tells_tokens:
        raise UnknownPriceError(
            f"max_cost cannot be kept: {whose} tells no tokens with its images, and only tokens have a price.",
            f"Give it in USD: {_price_words(llm)}; or leave max_cost out.",
            provider=llm.provider,
        )


def _price_words(llm: LLM) -> str:
    if llm.makes == "image":
        return "price={'per_image': 0.04}"
    return "per million tokens, price=(input, output)"


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
    one_request = (
        found.total_price - found.input_price - found.output_price
    )  # of those that cost by themselves too
    return Price(
        float(found.input_price) * per_million,
        float(found.output_price) * per_million,
        float(one_request),
    )


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


_HOW = (
    "Write one line a model: 'openai:gpt-4o-mini: [0.15, 0.60]', USD per million tokens in and out, or "
    "'openai:dall-e-3: {per_image: 0.04}'."
)


def _price(path: Path, name: object, value: Any) -> Price:
    if is_price(value):
        return price_from(value)
    raise SpecError(f"The price of {str(name)!r} in {str(path)!r} is {value!r:.60}.", _HOW)


def price_from(value: Any) -> Price:
    """Return the price that a pair or a dict says, as `is_price` knows them."""
    if isinstance(value, Mapping):
        return Price(*(float(value.get(part, 0.0)) for part in PRICE_PARTS))
    return Price(*map(float, value))
