"""A graph of steps, shown: as an outline in text, as DOT source, and as SVG with states and columns."""

from __future__ import annotations

import html
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from distilnb.engine.standing import Standing
from distilnb.engine.status import RunStatus
from distilnb.optional import optional
from distilnb.spec.columns import Columns
from distilnb.spec.graph import Graph
from distilnb.view.drawing import Card, Drawing, describe, flows_right, terms
from distilnb.view.html import MAX_BYTES, Bundle, escape, lines, muted, page, size_bytes
from distilnb.view.layered import draw_layers
from distilnb.view.looks import COLOURS, WARNING
from distilnb.view.svg import EDGE, QUIET, restyle
from distilnb.view.text import ELLIPSIS, clip, one_line, pad, visible, width

MAX_LINE = 110  # columns of a line of text
MAX_OUTLINE = 8_000  # characters of the outline that stands in for a drawing too large to keep


def graph_bundle(
    graph: Graph,
    columns: Mapping[str, Columns] | None = None,
    status: RunStatus | None = None,
    warnings: Sequence[str] = (),
    *,
    title: str = "",
    notes: Sequence[str] = (),
    standing: Mapping[str, Standing] | None = None,
) -> Bundle:
    """Return a graph as text and as HTML, with its title above and notes, lines of plain text, below it."""
    told = [visible(title)] * bool(title) + [outline(graph, columns, status, standing)]
    told += [f"{WARNING.icon} {visible(warning)}" for warning in warnings] + [visible(note) for note in notes]
    head = f"<div><b>{escape(title)}</b></div>" if title else ""
    drawn = draw_svg(graph, columns, status, warnings, standing) if graph.steps else muted("no steps yet")
    below = "".join(f"<div>{escape(note)}</div>" for note in notes)
    shown = page(head, f'<div class="dnb-graph">{drawn}</div>', lines(warnings, WARNING), below)
    if size_bytes(shown) > MAX_BYTES:
        text = escape(outline(graph, columns, status, standing)[:MAX_OUTLINE])
        shown = page(head, f"<pre>{text}</pre>", lines(warnings[:20], WARNING), below)
    return {"text/plain": "\n".join(told), "text/html": shown}


# --- text ---------------------------------------------------------------------


def outline(
    graph: Graph,
    columns: Mapping[str, Columns] | None = None,
    status: RunStatus | None = None,
    standing: Mapping[str, Standing] | None = None,
) -> str:
    """Return a graph as text: how the steps follow each other, then a line on each."""
    if not graph.steps:
        return "no steps yet"
    drawing = describe(graph, columns, status, standing=standing)
    return "\n".join([*_chains(graph), *_step_lines(drawing)])


def _chains(graph: Graph) -> list[str]:
    """Return `a → b`, with branches indented below where they part; joins have a line of their own."""
    heads = [name for name in graph.order() if not _continues(graph, name)]
    roots = [name for name in heads if len(graph.predecessors(name)) != 1]
    told: list[str] = []
    for root in roots:
        parts = " + ".join(_name(name) + _past(graph, name, root) for name in graph.predecessors(root))
        told += _chain(graph, root, f"{parts} → " if parts else "", "", "")
    return told


def _chain(graph: Graph, head: str, lead: str, first: str, later: str) -> list[str]:
    names = [head]
    while len(graph.successors(names[-1])) == 1 and _continues(graph, graph.successors(names[-1])[0]):
        names += graph.successors(names[-1])
    told = [first + lead + " → ".join(map(_name, names))]
    branches = [after for after in graph.successors(names[-1]) if len(graph.predecessors(after)) == 1]
    for branch in branches:
        is_last = branch == branches[-1]
        taken = _terms(graph, names[-1], branch)
        told += _chain(
            graph, branch, taken, later + ("└ " if is_last else "├ "), later + ("  " if is_last else "│ ")
        )
    return told


def _continues(graph: Graph, name: str) -> bool:
    """Whether a step stands on the line of its one predecessor, which it alone follows."""
    before = graph.predecessors(name)
    return len(before) == 1 and len(graph.successors(before[0])) == 1


def _terms(graph: Graph, before: str, after: str) -> str:
    """Return on what terms rows take a branch, as text before its first step."""
    told = terms(graph, before, after)
    return f"[{clip(visible(told), 40)}] " if told else ""


def _past(graph: Graph, before: str, after: str) -> str:
    """Return the same as text behind a route whose rows go straight into a join."""
    told = _terms(graph, before, after).rstrip()
    return f" {told}" if told else ""


def _step_lines(drawing: Drawing) -> list[str]:
    table = []
    for card in drawing.cards:
        state = f"{card.look.icon} {card.state}" if card.look else ""
        table.append((card.title, card.kind, state, card.cost, f"makes {card.made}" if card.made else ""))
    wide = [max(width(row[column]) for row in table) for column in range(4)]
    told = []
    for row in table:
        cells = [pad(cell, w) for cell, w in zip(row, wide, strict=False) if w]
        told.append(clip(("  " + "  ".join([*cells, one_line(row[4], MAX_LINE)])).rstrip(), MAX_LINE))
    return told


def _name(name: str) -> str:
    return clip(visible(name), 40)


# --- drawings -----------------------------------------------------------------


def draw_svg(
    graph: Graph,
    columns: Mapping[str, Columns] | None = None,
    status: RunStatus | None = None,
    warnings: Sequence[str] = (),
    standing: Mapping[str, Standing] | None = None,
    *,
    use_dot: bool | None = None,
) -> str:
    """Return a graph as SVG: laid out by `dot` where it is installed (or `use_dot` says so), else by us.

    Of a run that goes on, whose drawing is soon replaced, no step can have the keyboard's focus.
    """
    drawing = describe(graph, columns, status, warnings, standing)
    if use_dot or (use_dot is None and shutil.which("dot")):
        with optional("lab", what="The drawing of a graph"):
            from graphviz import ExecutableNotFound, Source

        titles = {_node_id(index): card.full for index, card in enumerate(drawing.cards)}
        titles |= {_edge_title(drawing, index): link.full for index, link in enumerate(drawing.links)}
        try:
            drawn = Source(dot_source(drawing)).pipe(format="svg", encoding="utf-8", quiet=True)
            cards = {_node_id(index): card for index, card in enumerate(drawing.cards)}
            return restyle(drawn, drawing, titles, cards)
        except (ExecutableNotFound, subprocess.CalledProcessError):
            if use_dot:
                raise
    return draw_layers(drawing)


def dot_source(drawing: Drawing) -> str:
    """Return a drawing as DOT source; needs the package `graphviz`, not the program."""
    with optional("lab", what="The DOT source of a graph"):
        from graphviz import Digraph

    text = {"fontname": "Helvetica,Arial,sans-serif", "fontsize": "12"}
    is_right = flows_right(drawing)
    dot = Digraph(
        "pipeline",
        graph_attr={
            "rankdir": "LR" if is_right else "TB",
            "bgcolor": "transparent",
            "nodesep": "0.22",
            "ranksep": "0.3" if is_right else "0.32",
            "pad": "0.06",
        },
        node_attr={
            **text,
            "shape": "box",
            "style": "rounded",
            "penwidth": "1.5",
            "color": EDGE,
            "margin": "0.11,0.07",
        },
        edge_attr={
            **text,
            "color": EDGE,
            "penwidth": "1.2",
            "arrowsize": "0.7",
            "fontcolor": QUIET,
            "fontsize": "11",
        },
    )
    ids = {card.name: _node_id(index) for index, card in enumerate(drawing.cards)}
    for card in drawing.cards:
        dot.node(ids[card.name], label=_dot_label(card), color=COLOURS[card.look.tone] if card.look else EDGE)
    for link in drawing.links:
        dot.edge(ids[link.before], ids[link.after], label=_dot_lines(link.label, is_right))
    return str(dot.source)


def _dot_label(card: Card) -> str:
    rows = [f"<B>{_dot_escape(card.title)}</B>"]
    if card.warns:
        rows[0] += f' <FONT COLOR="{COLOURS[WARNING.tone]}">{WARNING.icon}</FONT>'
    if card.kind:
        rows.append(_dot_quiet(card.kind))
    if card.look:
        icon = f'<FONT COLOR="{COLOURS[card.look.tone]}">{card.look.icon}</FONT>'
        rows.append(f"{icon}&nbsp;{_dot_escape(card.state)}")
    if card.cost:
        rows.append(_dot_quiet(card.cost))
    rows += [_dot_quiet(column) for column in card.makes]
    cells = "".join(f'<TR><TD ALIGN="LEFT">{row}</TD></TR>' for row in rows)
    return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="1">{cells}</TABLE>>'


def _dot_lines(lines: Sequence[str], is_right: bool) -> str:
    """Return the label of an edge: centred above one to the right, lined up beside one that goes down."""
    if not lines:
        return ""
    end = "<BR/>" if is_right else '<BR ALIGN="LEFT"/>'
    return (
        f"<{end.join(f'&nbsp;&nbsp;{_dot_escape(line)}&nbsp;' for line in lines)}{'' if is_right else end}>"
    )


def _dot_quiet(text: str) -> str:
    return f'<FONT COLOR="{QUIET}" POINT-SIZE="11">{_dot_escape(text)}</FONT>'


def _dot_escape(text: str) -> str:
    # Graphviz counts an empty cell's height as nothing and reads a backslash even here.
    return (
        html.escape(visible(text) or ELLIPSIS, quote=True).replace("&#x27;", "&#39;").replace("\\", "&#92;")
    )


def _node_id(index: int) -> str:
    return f"n{index}"


def _edge_title(drawing: Drawing, index: int) -> str:
    place = {card.name: number for number, card in enumerate(drawing.cards)}
    link = drawing.links[index]
    return f"{_node_id(place[link.before])}->{_node_id(place[link.after])}"
