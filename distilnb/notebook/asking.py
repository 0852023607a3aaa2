"""Asking before spending: what may cost more than the user's limit shows its quote, and waits for a word."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilnb.notebook.session import Session
from distilnb.view.figures import money, plural

if TYPE_CHECKING:
    from distilnb.pipeline.measure import Quote

CONFIRM_COST_OVER = 1.0  # USD


def may_spend(session: Session, quote: Quote, *, is_confirmed: bool) -> bool:
    """Whether requests of that quote may be sent; else say what they cost, and how to send them.

    A price that nobody knows may be any.
    """
    limit = getattr(getattr(session, "settings", None), "confirm_cost_over", CONFIRM_COST_OVER)
    is_small = quote.cost_usd is not None and quote.cost_usd <= limit
    if is_confirmed or is_small or not quote.requests:
        return True
    session.say(
        f"{plural(quote.requests, 'request')}, {'' if quote.cost_usd is None else 'about '}{money(quote.cost_usd)}: "
        "nothing was asked yet. Run the line again with -y to ask."
    )
    return False
