"""Letting a comparison wait where what it asks may cost more than `confirm_cost_over`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, TypeVar

from distilnb.notebook.session import Session
from distilnb.notebook.waiting import USUAL_ROWS, Waiting
from distilnb.spec.base import Spec
from distilnb.spec.digest import digest_of
from distilnb.view.display import Output
from distilnb.view.figures import money, plural

if TYPE_CHECKING:
    from distilnb.pipeline.measure import Quote

T = TypeVar("T")


def as_key(value: Any) -> Hashable:
    """Return what tells apart what a word of a line stands for: a variable may hold another model later."""
    if isinstance(value, Spec):
        return value.kind(), digest_of(value.dump())
    if isinstance(value, (list, tuple)):
        return tuple(as_key(item) for item in value)
    word: Hashable = value
    return word


def quoted_when_dear(
    session: Session,
    key: Hashable,
    what: str,
    quote: Quote,
    n_rows: int,
    do: Callable[[], T],
    show_at: Callable[[T, Output], bool] = lambda result, output: False,
) -> T | Waiting[T]:
    """Do what asks the requests of a quote, or show the quote and let it wait.

    What no price is known for is asked without a word, as long as it is for no more rows than a Sample usually has.
    """
    limit, is_few = session.settings.confirm_cost_over, n_rows <= USUAL_ROWS
    if not quote.requests or (is_few if quote.cost_usd is None else quote.cost_usd <= limit):
        return do()
    cost = "" if quote.cost_usd is None else f", about {money(quote.cost_usd)}"
    told = f"{what}: {plural(quote.requests, 'request')}{cost}"
    return session.let_wait(
        key, Waiting(session, what, told, quote.cost_usd, do, is_bound=False, show_at=show_at)
    )
