"""Our own drawing of a graph, for where there is no `dot`: steps in layers, edges as curves, pure Python."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from distilnb.view.drawing import Card, Drawing, Link, card_columns, flows_right, ranks
from distilnb.view.looks import COLOURS, WARNING
from distilnb.view.svg import EDGE, svg_frame, svg_group, svg_root, svg_text
from distilnb.view.text import width

LINE = 16  # pixels from one line of text to the next
PAD = 9
COLUMN = 7.0  # pixels that a column of text may take at 12 px
SMALL_LINE = 13
SMALL_COLUMN = 6.2
GAP = 22  # between the cards of a layer
SWEEPS = 6


@dataclass
class Box:
    """A place in a layer: a card, or the bend of an edge that passes through it."""

    width: float
    height: float
    card: Card | None = None
    label: float = 0.0  # the width of a label above it, to the right of its middle
    x: float = 0.0  # the middle
    y: float = 0.0
    before: list[Box] = field(default_factory=list)
    after: list[Box] = field(default_factory=list)


def draw_layers(drawing: Drawing) -> str:
    """Return the drawing as SVG."""
    is_right = flows_right(drawing)
    layers, paths = _layers(drawing)
    _untangle(layers)
    size = _place(layers, drawing, is_right)
    shapes = [_draw_link(link, path, is_right) for link, path in zip(drawing.links, paths, strict=True)]
    shapes += [_draw_card(box, box.card, drawing.is_still) for layer in layers for box in layer if box.card]
    return svg_root(drawing, *size, "".join(shapes))


def _layers(drawing: Drawing) -> tuple[list[list[Box]], list[list[Box]]]:
    """Return the boxes of each layer, and for each edge the boxes that it goes through."""
    rank = ranks(drawing)
    layers: list[list[Box]] = [[] for _ in range(max(rank.values(), default=-1) + 1)]
    boxes: dict[str, Box] = {}
    for card in drawing.cards:
        boxes[card.name] = Box(card_columns(card) * COLUMN, _height(card), card)
        layers[rank[card.name]].append(boxes[card.name])
    paths = []
    for link in drawing.links:
        path = [boxes[link.before]]
        for between in range(rank[link.before] + 1, rank[link.after]):
            path.append(Box(8, 8))
            layers[between].append(path[-1])
        path.append(boxes[link.after])
        if link.is_routed:
            path[1].label = max((width(line) for line in link.label), default=0) * SMALL_COLUMN + 8
        for one, other in pairwise(path):
            one.after.append(other)
            other.before.append(one)
        paths.append(path)
    return layers, paths


def _untangle(layers: list[list[Box]]) -> None:
    """Sort each layer by the middle of its neighbours, forth and back, which takes away most crossings."""
    for sweep in range(SWEEPS):
        is_forth = sweep % 2 == 0
        for index in range(1, len(layers)) if is_forth else range(len(layers) - 2, -1, -1):
            fixed = {id(box): place for place, box in enumerate(layers[index - 1 if is_forth else index + 1])}
            own = {id(box): place for place, box in enumerate(layers[index])}

            def middle(box: Box) -> float:
                near = [fixed[id(other)] for other in (box.before if is_forth else box.after)]  # noqa: B023
                return sum(near) / len(near) if near else own[id(box)]  # noqa: B023

            layers[index].sort(key=middle)


def _place(layers: list[list[Box]], drawing: Drawing, is_right: bool) -> tuple[float, float]:
    """Give each box its middle, and return width and height of the whole."""
    label = max((width(line) for link in drawing.links for line in link.label), default=0)
    n_lines = max((len(link.label) for link in drawing.links), default=0)
    between = 30 + label * SMALL_COLUMN if is_right else 30 + n_lines * SMALL_LINE
    across = _spread(layers, is_right)
    along = 4.0
    for layer in layers:
        depth = max(box.width if is_right else box.height for box in layer)
        for box in layer:
            box.x, box.y = (
                (along + depth / 2, across[id(box)]) if is_right else (across[id(box)], along + depth / 2)
            )
            if is_right:
                box.width = depth
            elif box.card is None:  # an edge passes straight through a layer
                box.height = depth
        along += depth + between
    boxes = [box for layer in layers for box in layer]
    if is_right:
        return along - between + 4, max(box.y + box.height / 2 for box in boxes) + 4
    beside = label * SMALL_COLUMN / 2  # a label stands to the right of its edge
    return max(box.x + max(box.width / 2, box.label, beside) for box in boxes) + 4, along - between + 4


def _spread(layers: list[list[Box]], is_right: bool) -> dict[int, float]:
    """Return for each box its middle across the flow: in line with its neighbours, never upon another."""
    middle: dict[int, float] = {}
    for layer in layers:
        _set_apart(layer, [0.0] * len(layer), middle, is_right)
    for sweep in range(SWEEPS):
        is_forth = sweep % 2 == 0
        for layer in layers if is_forth else reversed(layers):
            near = [(box.before if is_forth else box.after) or [box] for box in layer]
            wanted = [sum(middle[id(other)] for other in others) / len(others) for others in near]
            _set_apart(layer, wanted, middle, is_right)
    least = min(
        (middle[id(box)] - _across(box, is_right) / 2 for layer in layers for box in layer), default=0
    )
    return {key: value - least + 4 for key, value in middle.items()}


def _set_apart(layer: list[Box], wanted: list[float], middle: dict[int, float], is_right: bool) -> None:
    """Move boxes from where they are wanted, to both sides alike, until none touches the next."""
    need = [(_across(one, is_right) + _across(other, is_right)) / 2 + GAP for one, other in pairwise(layer)]
    pushed, pulled = list(wanted), list(wanted)
    for index, space in enumerate(need):
        pushed[index + 1] = max(pushed[index + 1], pushed[index] + space)
    for index in range(len(need) - 1, -1, -1):
        pulled[index] = min(pulled[index], pulled[index + 1] - need[index])
    for box, low, high in zip(layer, pulled, pushed, strict=True):
        middle[id(box)] = (low + high) / 2


def _across(box: Box, is_right: bool) -> float:
    return box.height if is_right else max(box.width, 2 * box.label)


def _height(card: Card) -> float:
    lines = 1 + bool(card.kind) + bool(card.look) + bool(card.cost) + len(card.makes)
    return lines * LINE + 2 * PAD - 4


def _draw_card(box: Box, card: Card, is_still: bool) -> str:
    left, top = box.x - box.width / 2, box.y - box.height / 2
    colour = COLOURS[card.look.tone] if card.look else EDGE
    frame = svg_frame(left, top, left + box.width, top + box.height, colour, is_touched=card.is_touched)
    x, y = left + PAD, top + PAD + 9
    texts = [svg_text(x, y, card.title, bold=True)]
    if card.warns:
        texts.append(svg_text(left + box.width - PAD - 12, y, WARNING.icon, colour=COLOURS[WARNING.tone]))
    if card.kind:
        y += LINE
        texts.append(svg_text(x, y, card.kind, small=True))
    if card.look:
        y += LINE
        texts += [svg_text(x, y, card.look.icon, colour=colour), svg_text(x + 16, y, card.state)]
    for line in ([card.cost] if card.cost else []) + list(card.makes):
        y += LINE
        texts.append(svg_text(x, y, line, small=True))
    return svg_group("node", card.full, frame + "".join(texts), card=card, is_still=is_still)


def _draw_link(link: Link, path: list[Box], is_right: bool) -> str:
    points = [(_exit(box, is_right), _entry(box, is_right)) for box in path]
    curve = "M{:.1f},{:.1f}".format(*points[0][0])
    for (start, _), (_, end) in pairwise(points):
        curve += _curve(start, end, is_right)
        if end is not points[-1][1]:
            curve += "L{:.1f},{:.1f}".format(*_exit(path[[p[1] for p in points].index(end)], is_right))
    x, y = points[-1][1]
    tip = (
        f"{x},{y} {x - 8},{y - 3.5} {x - 8},{y + 3.5}"
        if is_right
        else f"{x},{y} {x - 3.5},{y - 8} {x + 3.5},{y - 8}"
    )
    shapes = f'<path d="{curve}" fill="none" stroke="{EDGE}"/><polygon points="{tip}" fill="{EDGE}"/>'
    return svg_group("edge", link.full, shapes + _draw_label(link, points[0][0], points[1][1], is_right))


def _draw_label(link: Link, start: tuple[float, float], end: tuple[float, float], is_right: bool) -> str:
    if not link.label:
        return ""
    texts = []
    if is_right:  # beside the end, above the line: branches of one step have their ends apart
        x = end[0] - 14 - max(width(line) for line in link.label) * SMALL_COLUMN
        y = end[1] - 6 - (len(link.label) - 1) * SMALL_LINE
    elif link.is_routed:
        x, y = end[0] + 6, end[1] - 5
    else:
        x, y = start[0] + 8, start[1] + 15  # where the curve still goes straight down
    for line in link.label:
        texts.append(svg_text(x, y, line, small=True))
        y += SMALL_LINE
    return "".join(texts)


def _entry(box: Box, is_right: bool) -> tuple[float, float]:
    return (box.x - box.width / 2, box.y) if is_right else (box.x, box.y - box.height / 2)


def _exit(box: Box, is_right: bool) -> tuple[float, float]:
    return (box.x + box.width / 2, box.y) if is_right else (box.x, box.y + box.height / 2)


def _curve(start: tuple[float, float], end: tuple[float, float], is_right: bool) -> str:
    (x1, y1), (x2, y2) = start, end
    if is_right:
        middle = (x1 + x2) / 2
        return f"C{middle:.1f},{y1:.1f} {middle:.1f},{y2:.1f} {x2:.1f},{y2:.1f}"
    middle = (y1 + y2) / 2
    return f"C{x1:.1f},{middle:.1f} {x2:.1f},{middle:.1f} {x2:.1f},{y2:.1f}"
