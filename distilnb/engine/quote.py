"""The quote for a run: requests, tokens, money and time of each task, from what is known before it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

from distilnb.engine.forecast import NOTHING, Interval, Zeros, total_of_more
from distilnb.engine.foresee import Outlook, Use
from distilnb.llms.base import LLM, limits_key
from distilnb.llms.prices import run_price_of

# Tokens for each character of a prompt, where no provider has counted one yet: from code to Chinese.
TOKENS_PER_CHARACTER = Interval(1 / 6, 1 / 4, 1.0)
PROMPT_SPREAD = 0.1  # of tokens for each character, among prompts of one template
TIME_SPREAD = 0.3


@dataclass(frozen=True)
class StepQuote:
    """What one task will ask for. None is unknown: no row came so far, no price is known, nothing was timed.

    `requests` are those to be sent, `cached` those that the reply cache answers. Costs are in USD. `seconds` is how
    long the requests of this task alone take at its model's limits.
    """

    name: str
    model: str
    requests: Interval | None
    cached: int
    input_tokens: Interval | None
    output_tokens: Interval | None
    cost_usd: Interval | None
    seconds: Interval | None
    has_price: bool = True
    is_offline: bool = False  # by offline batch: nobody knows how long that takes, but for a day at most

    @property
    def tokens(self) -> Interval | None:
        """Input and output together."""
        return sum_of([self.input_tokens, self.output_tokens])


class Work(NamedTuple):
    """What the requests of one task take at its model: how long they are in flight, added up, and their tokens."""

    key: object  # of the model: those of one key share its limits
    llm: LLM
    requests: Interval | None
    tokens: Interval | None
    in_flight_s: Interval | None


def quote_step(
    name: str, llm: LLM, outlook: Outlook, reply_seconds: Sequence[float]
) -> tuple[StepQuote, Work]:
    """Return the quote of one task, and its work for `run_seconds`."""
    requests = _requests(outlook)
    input_tokens, output_tokens = _input_tokens(outlook, requests), _output_tokens(outlook, requests, llm)
    tokens = sum_of([input_tokens, output_tokens])
    in_flight_s = _in_flight_s(requests, () if llm.goes_by_batch else reply_seconds)
    work = Work((llm.digest, limits_key(llm)), llm, requests, tokens, in_flight_s)
    quote = StepQuote(
        name=name,
        model=llm.label,
        requests=requests,
        cached=round(outlook.n_cached * outlook.scale),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost_usd=_cost(llm, requests, input_tokens, output_tokens, outlook.n_sendings),
        seconds=run_seconds([work]),
        has_price=run_price_of(llm) is not None,
        is_offline=llm.goes_by_batch,
    )
    return quote, work


def quote_task(
    name: str, llm: LLM, outlook: Outlook, reply_seconds: Callable[[LLM], Sequence[float]]
) -> tuple[StepQuote, list[Work]]:
    """Return the quote of one task with all its models, and the work of each; `reply_seconds` are told of a model.

    What nothing is known of yet of one model is measured by what is known of the others.
    """
    if not outlook.shares:
        quote, work = quote_step(name, llm, outlook, reply_seconds(llm))
        return quote, [work]
    quotes, works = [], []
    for sender, share in outlook.shares:
        if not share.answered:
            share = replace(share, answered=[one for _, other in outlook.shares for one in other.answered])
        quote, work = quote_step(name, sender, share, reply_seconds(sender) or reply_seconds(llm))
        quotes.append(quote)
        works.append(work)
    whole = StepQuote(
        name=name,
        model=llm.label,
        requests=sum_of(quote.requests for quote in quotes),
        cached=sum(quote.cached for quote in quotes),
        input_tokens=sum_of(quote.input_tokens for quote in quotes),
        output_tokens=sum_of(quote.output_tokens for quote in quotes),
        cost_usd=sum_of(quote.cost_usd for quote in quotes),
        seconds=run_seconds(works),
        has_price=all(quote.has_price for quote in quotes),
        is_offline=llm.goes_by_batch,
    )
    return whole, works


def sum_of(parts: Iterable[Interval | None]) -> Interval | None:
    """Return the sum; None where one part is unknown."""
    known = []
    for part in parts:
        if part is None:
            return None
        known.append(part)
    return reduce(Interval.plus, known, NOTHING)


# --- what is asked ------------------------------------------------------------


def _requests(outlook: Outlook) -> Interval | None:
    n_unsent = sum(one.n_requests for one in outlook.unsent) * outlook.scale
    # More than one where replies were asked again.
    of_each = [one.n_requests / one.n_first for one in outlook.answered]
    sure = total_of_more(of_each, n_unsent, usual_spread=0.0, zeros="none") or Interval.exactly(n_unsent)
    behind = _behind(outlook, lambda use: use.n_requests, usual_spread=0.0)
    return None if behind is None else sure.plus(behind)


def _input_tokens(outlook: Outlook, requests: Interval | None) -> Interval | None:
    if requests is None:
        return None
    # Each request of a row sends its messages.
    lengths = [unsent.n_characters for unsent in outlook.unsent for _ in range(unsent.n_requests)]
    told = [
        (one.n_characters, one.input_tokens / one.n_first) for one in outlook.answered if one.input_tokens
    ]
    if told:
        intercept, slope = line_through(told)
        fitted = sum(intercept + slope * length for length in lengths)
        errors = [n_tokens / max(1e-9, intercept + slope * length) for length, n_tokens in told]
        error = total_of_more(errors, len(lengths), usual_spread=PROMPT_SPREAD, zeros="none") or NOTHING
        sure = error.times(fitted / len(lengths)) if lengths else NOTHING
    else:
        sure = TOKENS_PER_CHARACTER.times(sum(lengths))
    return sum_of([sure.times(outlook.scale), _behind(outlook, lambda use: use.input_tokens)])


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return intercept and slope of the tokens of prompts by their length in characters, neither below zero.

    A chat's roles and marks cost tokens beside its text: short prompts have more tokens for each character.

    >>> line_through([(100, 35), (300, 85)]), line_through([(100, 25)])
    ((10.0, 0.25), (0.0, 0.25))
    """
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else -1.0
    intercept = mean_y - slope * mean_x
    if slope >= 0 and intercept >= 0:
        return intercept, slope
    return (0.0, mean_y / mean_x) if mean_x else (mean_y, 0.0)


def _output_tokens(outlook: Outlook, requests: Interval | None, llm: LLM) -> Interval | None:
    if requests is None:
        return None
    if llm.makes == "vector" or (llm.makes == "image" and not any(a.output_tokens for a in outlook.answered)):
        return NOTHING
    n_replies = sum(unsent.n_replies for unsent in outlook.unsent) * outlook.scale
    lengths = [one.output_tokens / one.n_replies for one in outlook.answered]
    total = sum_of(
        [
            total_of_more(lengths, n_replies, zeros="none"),
            _behind(outlook, lambda use: use.output_tokens),
        ]
    )
    longest = llm.generation_kwargs.get("max_new_tokens")
    if total is None or not isinstance(longest, int):
        return total
    per_request = max([one.n_replies for one in outlook.answered], default=1)
    n_behind = requests.high - sum(one.n_requests for one in outlook.unsent) * outlook.scale
    return total.at_most(longest * (n_replies + max(0.0, n_behind) * per_request))


def _behind(
    outlook: Outlook, figure: Callable[[Use], float], *, usual_spread: float | None = None
) -> Interval | None:
    """Return the total of a figure over the rows that are open here."""
    seen = [figure(use) for use in outlook.per_row]
    n_open = outlook.n_open * outlook.scale
    zeros: Zeros = "usual" if outlook.is_sieved else "rare"
    if usual_spread is None:
        return total_of_more(seen, n_open, zeros=zeros)
    total = total_of_more(seen, n_open, usual_spread=usual_spread, zeros=zeros)
    if total is not None and seen and max(seen) <= 1:
        return total.at_most(n_open)
    return total


def _cost(
    llm: LLM,
    requests: Interval | None,
    input_tokens: Interval | None,
    output_tokens: Interval | None,
    n_sendings: int,
) -> Interval | None:
    price = run_price_of(llm)
    if (price is not None and price.is_free) or requests == NOTHING:
        return NOTHING
    if price is None or requests is None or input_tokens is None or output_tokens is None:
        return None
    is_drawn = llm.makes == "image"
    if is_drawn and price.needs_tokens and not output_tokens.high:  # which nobody has told
        return None
    sent = requests.times(n_sendings)
    ends = zip(input_tokens, output_tokens, sent, requests if is_drawn else NOTHING, strict=True)
    return Interval(*(price.cost_usd(*end) for end in ends))


# --- how long it takes --------------------------------------------------------


def _in_flight_s(requests: Interval | None, reply_seconds: Sequence[float]) -> Interval | None:
    if requests is None:
        return None
    if not requests.high:
        return NOTHING
    total = total_of_more(reply_seconds, requests.expected or 1, usual_spread=TIME_SPREAD, zeros="none")
    if total is None or not requests.expected:
        return total
    n_low, n_high = requests.low / requests.expected, requests.high / requests.expected
    return Interval(total.low * n_low, total.expected, total.high * n_high)


def run_seconds(works: Sequence[Work], busy_s: Mapping[str, float] | None = None) -> Interval | None:
    """Return how long a run takes: as long as its busiest model, or step, and the first row's way through the rest.

    Everything goes on at the same time, so models do not wait for each other but at the beginning and the end.
    `busy_s` has the seconds of processor that other steps need for all rows. None where nothing was timed and no
    limit per minute tells.
    """
    shared: dict[object, list[Work]] = {}
    for work in works:
        shared.setdefault(work.key, []).append(work)
    each = [_model_seconds(together) for together in shared.values()]
    first = [_per_request(work) for work in works]
    if any(one is None for one in (*each, *first)):
        return None
    known = [one for one in each if one is not None] + [Interval.exactly(s) for s in (busy_s or {}).values()]
    if not known:
        return NOTHING
    longest = Interval(*(max(ends) for ends in zip(*known, strict=True)))
    return longest.plus(Interval.exactly(sum(one for one in sorted(filter(None, first))[:-1])))


def _per_request(work: Work) -> float | None:
    """Return how long one request takes; None where that is unknown."""
    if work.requests is None or work.in_flight_s is None:
        return None
    return work.in_flight_s.expected / max(work.requests.expected, 1.0)


def _model_seconds(works: Sequence[Work]) -> Interval | None:
    """Return how long the requests to one model take, at its concurrency and its limits per minute."""
    llm = works[0].llm
    requests = sum_of([work.requests for work in works])
    in_flight_s = sum_of([work.in_flight_s for work in works])
    tokens = sum_of([work.tokens for work in works])
    if requests is None or in_flight_s is None or (llm.tpm and tokens is None):
        return None
    ends = []
    for index in range(3):
        n_requests = requests[index] / llm.texts_per_request
        slots = min(float(llm.max_concurrency), max(1.0, n_requests))
        seconds = [in_flight_s[index] / llm.texts_per_request / slots]
        if llm.rpm:
            seconds.append(60 * n_requests / llm.rpm)
        if llm.tpm and tokens is not None:
            seconds.append(60 * tokens[index] / llm.tpm)
        ends.append(max(seconds))
    return Interval(*ends)
