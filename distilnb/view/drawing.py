"""What a drawing of a graph says: a card for each step, and the new columns on each edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distilnb.engine.standing import Standing
from distilnb.engine.status import RunStatus
from distilnb.errors import SpecError
from distilnb.spec.columns import Columns
from distilnb.spec.graph import Graph
from distilnb.steps.route import RouteRows
from distilnb.view import figures
from distilnb.view.looks import Look, progress, standing_look, step_cost, step_look
from distilnb.view.text import ELLIPSIS, clip, one_line, visible, width

MAX_NAME = 28  # columns of text on a card
MAX_LABEL = 24  # columns of text beside an edge
MAX_LABEL_LINES = 3
ROOMY = 15  # a graph of more steps leaves out classes and columns; a pointer on the step still tells them


@dataclass(frozen=True)
class Card:
    """What the drawing says of one step; `full` is what a pointer on it shows: what was cut, and warnings."""

    name: str
    title: str  # the name, cut
    kind: str
    look: Look | None  # None without a status
    counts: str
    cost: str
    made: str  # all new columns
    makes: tuple[str, ...]  # the same as lines, cut, where no one edge carries them
    warns: bool
    full: str
    is_touched: bool = False  # it, or what it is made of, was edited since it was seen last

    @property
    def state(self) -> str:
        """State and counts on one line, without the icon."""
        return f"{self.look.word} {self.counts}".rstrip() if self.look else ""


@dataclass(frozen=True)
class Link:
    """An edge, and the new columns that flow along it, told where it is the only one that carries them.

    An edge behind a route tells instead on what terms rows take it.
    """

    before: str
    after: str
    label: tuple[str, ...]  # lines, cut
    full: str
    is_routed: bool = False  # its label stands at its end: the edges of a route begin in one point


@dataclass(frozen=True)
class Drawing:
    """All that is drawn, and what is said of it as a whole."""

    cards: tuple[Card, ...]
    links: tuple[Link, ...]
    summary: str
    is_still: bool = True  # it stays as it is for a while: a step may have the keyboard's focus


def describe(
    graph: Graph,
    columns: Mapping[str, Columns] | None = None,
    status: RunStatus | None = None,
    warnings: Sequence[str] = (),
    standing: Mapping[str, Standing] | None = None,
) -> Drawing:
    """Return what a drawing of the graph says. A warning marks the step whose quoted name it holds.

    Without a status `standing` says what is there already and what has changed.
    """
    made = made_columns(graph, columns)
    is_roomy = len(graph.steps) <= ROOMY
    known = standing or {}
    cards = tuple(
        _card(graph, name, made[name], status, warnings, is_roomy, None if status else known.get(name))
        for name in graph.order()
    )
    links = tuple(
        Link(
            before,
            after,
            _link_label(graph, before, after, made[before], is_roomy),
            _link_title(graph, before, after, made[before], is_roomy),
            is_routed=bool(terms(graph, before, after)),
        )
        for before, after in graph.edges
    )
    chain = ", ".join(f"{card.name} {card.state}".rstrip() for card in cards)
    summary = clip(visible(f"{len(cards)} steps: {chain}"), 500)
    return Drawing(cards, links, summary, is_still=status is None or not status.id or status.is_ended)


def made_columns(graph: Graph, columns: Mapping[str, Columns] | None = None) -> dict[str, list[str]]:
    """Return for each step the columns that are new behind it; "…" stands for those nobody can know yet."""
    if columns is None:
        try:
            columns = graph.columns()
        except SpecError:  # a drawing shows a graph that is wrong, too: that is when one looks
            columns = {}
    made: dict[str, list[str]] = {}
    for name, step in graph.steps.items():
        if name not in columns:
            made[name] = list(step.made())
            continue
        upstream = [columns[before] for before in graph.predecessors(name) if before in columns]
        known = {column for arriving in upstream for column in arriving.names}
        made[name] = [column for column in columns[name].names if column not in known]
        if columns[name].is_open and not any(arriving.is_open for arriving in upstream):
            made[name].append(ELLIPSIS)
    return made


def _card(
    graph: Graph,
    name: str,
    made: Sequence[str],
    status: RunStatus | None,
    warnings: Sequence[str],
    is_roomy: bool,
    stands: Standing | None,
) -> Card:
    kind = graph.steps[name].kind()
    step = next((one for one in status.steps if one.name == name), None) if status else None
    look = step_look(step, status) if step and status else None
    counts = progress(step) if step and status and status.id else ""
    cost = step_cost(step) if step else ""
    if stands:
        look = standing_look(stands)
        cost = f"{figures.money(stands.spent_usd)} in previews" if stands.spent_usd else ""
    if cost and not is_roomy:
        counts, cost = f"{counts} · {cost}", ""
    own = [warning for warning in warnings if repr(name) in warning]
    told = [f"{name} ({kind})", *own]
    if look and not (
        status and status.id and not status.is_ended
    ):  # a run that goes on changes it every moment
        told.append(" ".join(filter(None, (look.word, counts, cost))))
    has_edge = len(graph.successors(name)) == 1
    if made:
        told.append(f"makes {', '.join(made)}")
    return Card(
        name=name,
        title=clip(visible(name), MAX_NAME),
        kind=clip(visible(kind), MAX_NAME) if is_roomy and kind != name else "",
        look=look,
        counts=counts,
        cost=cost,
        made=", ".join(made),
        makes=_made_lines(made) if is_roomy and not has_edge else (),
        warns=bool(own),
        full=one_line(" · ".join(told), 400),
        is_touched=stands is not None and (stands.is_edited or stands.is_stale),
    )


def terms(graph: Graph, before: str, after: str) -> str:
    """Return on what terms rows take the edge behind a route, "" for any other edge."""
    route = graph.steps[before]
    return route.label_of(after) if isinstance(route, RouteRows) else ""


def _link_label(
    graph: Graph, before: str, after: str, made: Sequence[str], is_roomy: bool
) -> tuple[str, ...]:
    if told := terms(graph, before, after):
        return (clip(visible(told), MAX_LABEL),)
    return _label(made) if is_roomy and graph.successors(before) == [after] else ()


def _link_title(graph: Graph, before: str, after: str, made: Sequence[str], is_roomy: bool) -> str:
    return one_line(terms(graph, before, after), 400) or (", ".join(made) if is_roomy else "")


def _label(columns: Sequence[str]) -> tuple[str, ...]:
    shown = [clip(visible(column), MAX_LABEL) for column in columns]
    if len(shown) > MAX_LABEL_LINES:
        left_out = len(shown) - MAX_LABEL_LINES + 1
        shown = [*shown[: MAX_LABEL_LINES - 1], f"+{left_out} more"]
    return tuple(shown)


def _made_lines(columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(line if line.startswith("+") else f"+ {line}" for line in _label(columns))


def ranks(drawing: Drawing) -> dict[str, int]:
    """Return for each step how many steps the longest way from a source to it has."""
    rank: dict[str, int] = {}
    for card in drawing.cards:  # in order: each comes after all it depends on
        before = [rank[link.before] for link in drawing.links if link.after == card.name]
        rank[card.name] = max(before, default=-1) + 1
    return rank


def flows_right(drawing: Drawing, max_columns: int = 165) -> bool:
    """Whether the graph, drawn from left to right, is about as wide as a notebook; else it goes down."""
    rank = ranks(drawing)
    widest: dict[int, int] = {}
    for card in drawing.cards:
        # Not the state: a drawing must not turn around while its run goes.
        columns = max(20, width(card.title), width(card.kind))
        widest[rank[card.name]] = max(widest.get(rank[card.name], 0), columns)
    label = max((width(line) for link in drawing.links for line in link.label), default=0)
    return sum(widest.values()) + (label + 6) * (len(widest) - 1) <= max_columns


def card_columns(card: Card) -> int:
    """Return the width of a card in columns of text."""
    texts = [
        card.title + "  " * card.warns,
        card.kind,
        f"  {card.state}",
        card.cost,
        *card.makes,
    ]
    return max(6, *(width(text) for text in texts)) + 3
