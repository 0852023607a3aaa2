"""The models that can be asked from here, as a table: `dn.models()`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from distilnb.llms.inventory import Offer, offers, other_offers
from distilnb.view.html import escape, icon, page
from distilnb.view.looks import Look
from distilnb.view.text import clip, one_line, pad, width

if TYPE_CHECKING:
    import pandas as pd

_LOOKS = {
    "ready": Look("✓", "ready", "ok"),
    "no key": Look("○", "no key", "idle"),
    "not running": Look("○", "not running", "idle"),
    "not installed": Look("○", "not installed", "idle"),
}
_HEADS = ("provider", "state", "found at", "models", "use it, or make it ready")
_SHOWN_MODELS = 4


class ModelTable:
    """The providers, those that are ready first; iterating gives `Offer`s."""

    def __init__(self, found: Sequence[Offer]) -> None:
        self._offers = tuple(found)

    def __iter__(self) -> Iterator[Offer]:
        return iter(self._offers)

    def __len__(self) -> int:
        return len(self._offers)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each provider: provider, state, source, models (a tuple of names), line, fix."""
        import pandas as pd

        return pd.DataFrame(self._offers, columns=list(Offer._fields)).set_index("provider")

    def __repr__(self) -> str:
        rows = [list(_HEADS), *(_cells(offer) for offer in self._offers)]
        rows = [[clip(cell, 60) for cell in row[:-1]] + row[-1:] for row in rows]
        wide = [max(width(row[place]) for row in rows) for place in range(len(_HEADS))]
        return "\n".join(
            "  ".join(pad(cell, wide[place]) for place, cell in enumerate(row)).rstrip() for row in rows
        )

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(text)}</th>" for text in _HEADS)
        body = "".join(_row_html(offer) for offer in self._offers)
        return page(f'<div class="dnb-scroll"><table class="dnb-t"><tr>{head}</tr>{body}</table></div>')


def models() -> ModelTable:
    """Return which models can be asked from here: installed providers, keys that are set, local servers by model.

    No key is shown, and nothing but this machine is asked.
    """
    return ModelTable([*offers(), *other_offers()])


def _cells(offer: Offer) -> list[str]:
    look = _LOOKS[offer.state]
    how = offer.line if offer.state == "ready" else offer.fix
    return [
        offer.provider,
        f"{look.icon} {look.word}",
        one_line(offer.source, 60),
        one_line(_told(offer.models), 200),
        one_line(how, 200),
    ]


def _told(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN_MODELS
    return ", ".join(names[:_SHOWN_MODELS]) + (f" and {more} more" if more > 0 else "")


def _row_html(offer: Offer) -> str:
    name, _, *others = _cells(offer)
    look = _LOOKS[offer.state]
    cells = [escape(name), f"{icon(look)} {escape(look.word)}", *(escape(text) for text in others[:-1])]
    kind = ' class="dnb-mono"' if offer.state == "ready" else ""
    return (
        '<tr class="dnb-line">'
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + f"<td{kind}>{escape(others[-1])}</td></tr>"
    )
