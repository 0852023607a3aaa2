"""SVG that fits any page: text in the page's colour, no background, a description for who cannot see it."""

from __future__ import annotations

import hashlib
import re
from xml.etree import ElementTree

from distilnb.view.drawing import Card, Drawing
from distilnb.view.html import escape
from distilnb.view.looks import COLOURS

EDGE = COLOURS["idle"]
QUIET = "#777777"  # what the DOT source writes for quiet text
FONT = "var(--jp-ui-font-family,system-ui,sans-serif)"
SMALL = "11"

_NUMBER = re.compile(r"-?\d+\.\d{2,}")


def svg_root(drawing: Drawing, width: float, height: float, body: str, view_box: str = "") -> str:
    """Return the whole SVG: at most as wide as the page, but scrolled before it gets too small to read."""
    # Named by content: an equal graph saved again changes nothing in the notebook file.
    name = (
        "dnb-"
        + hashlib.blake2b((drawing.summary + body).encode("utf-8", "replace"), digest_size=5).hexdigest()
    )
    role = "group" if drawing.is_still else "img"  # an image hides its parts from a screen reader
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="{role}" aria-labelledby="{name}-t {name}-d" '
        f'width="{width:.0f}" height="{height:.0f}" viewBox="{view_box or f"0 0 {width:.0f} {height:.0f}"}" '
        f'style="max-width:100%;min-width:{0.72 * width:.0f}px;height:auto" fill="currentColor" stroke-width="1.3" '
        f'font-size="12" font-family="{FONT}">'
        f'<title id="{name}-t">Pipeline graph</title>'
        f'<desc id="{name}-d">{escape(drawing.summary)}</desc>{body}</svg>'
    )


def svg_group(kind: str, title: str, body: str, *, card: Card | None = None, is_still: bool = False) -> str:
    """Return the shapes of a node or an edge, with what a pointer on them shows; a screen reader says a node's.

    In a drawing that is still the Tab key goes from node to node.
    """
    told = f"<title>{escape(title)}</title>" if title else ""
    if card is None:
        hidden = ' aria-hidden="true"' * bool(told)
        return f'<g class="{kind}"{hidden}>{told}{body}</g>'
    focus = ' tabindex="0"' * is_still
    return f'<g class="{kind}" role="img"{focus}>{told}{body}</g>'


def svg_text(
    x: float, y: float, text: str, *, colour: str = "", bold: bool = False, small: bool = False
) -> str:
    """Return one line of text."""
    style = f' fill="{colour}"' * bool(colour) + ' font-weight="600"' * bold
    style += f' font-size="{SMALL}" opacity=".75"' * small
    return f'<text x="{_short(x)}" y="{_short(y)}"{style}>{escape(text)}</text>'


def restyle(dot_svg: str, drawing: Drawing, titles: dict[str, str], cards: dict[str, Card]) -> str:
    """Return the SVG that `dot` made as one that fits any page; `titles` and `cards` go by dot's own title."""
    root = ElementTree.fromstring(dot_svg.encode("utf-8"))
    view_box = root.get("viewBox", "0 0 100 100")
    _, _, width, height = (float(part) for part in view_box.split())
    graph = next(child for child in root if _tag(child) == "g")
    groups = [_restyle_group(group, titles, cards, drawing.is_still) for group in graph if _tag(group) == "g"]
    body = f'<g transform="{escape(graph.get("transform", ""))}">{"".join(groups)}</g>'
    # dot counts in points; its numbers read as pixels make fontsize 12 a text of 12 px.
    return svg_root(drawing, width, height, body, view_box)


def _restyle_group(
    group: ElementTree.Element, titles: dict[str, str], cards: dict[str, Card], is_still: bool
) -> str:
    kind = group.get("class", "")
    title, card = "", None
    shapes = []
    for element in group.iter():
        tag = _tag(element)
        if tag == "title":
            title, card = titles.get(element.text or "", ""), cards.get(element.text or "")
        elif tag == "text":
            shapes.append(_restyle_text(element))
        elif kind == "node" and tag == "path":
            shapes.append(_frame(element, is_touched=card is not None and card.is_touched))
        elif tag in {"path", "polygon", "polyline", "ellipse"}:
            shapes.append(_restyle_shape(tag, element))
    return svg_group(kind, title, "".join(shapes), card=card, is_still=is_still)


def _restyle_text(element: ElementTree.Element) -> str:
    colour = element.get("fill", "")
    is_small = colour == QUIET
    return svg_text(
        float(element.get("x", 0)),
        float(element.get("y", 0)),
        element.text or "",
        colour="" if is_small else colour,
        bold=element.get("font-weight") == "bold",
        small=is_small,
    )


def _frame(element: ElementTree.Element, *, is_touched: bool) -> str:
    """Return the frame of a card; dot's own has rounder corners the larger the card is."""
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", element.get("d", ""))]
    return svg_frame(
        min(numbers[::2]),
        min(numbers[1::2]),
        max(numbers[::2]),
        max(numbers[1::2]),
        element.get("stroke", ""),
        is_touched=is_touched,
    )


def svg_frame(
    left: float, top: float, right: float, bottom: float, colour: str, *, is_touched: bool = False
) -> str:
    """Return the frame of a card, bold where the card was touched by an edit."""
    bold = ' stroke-width="3"' * is_touched
    return (
        f'<rect x="{_short(left)}" y="{_short(top)}" width="{_short(right - left)}" '
        f'height="{_short(bottom - top)}" rx="6" fill="none" stroke="{colour}"{bold}/>'
    )


def _restyle_shape(tag: str, element: ElementTree.Element) -> str:
    kept = {name: element.get(name, "") for name in ("points", "d", "cx", "cy", "rx", "ry", "fill", "stroke")}
    if kept["fill"] in {"white", "#ffffff", "transparent"}:
        kept["fill"] = "none"
    if kept["fill"] == kept["stroke"]:
        kept["stroke"] = ""
    kept["d"] = _NUMBER.sub(lambda number: f"{float(number[0]):.0f}", kept["d"])  # half a pixel of a curve
    kept["points"] = _NUMBER.sub(lambda number: f"{float(number[0]):.1f}", kept["points"])  # an arrow's tip
    attributes = " ".join(f'{name}="{escape(value)}"' for name, value in kept.items() if value)
    return f"<{tag} {attributes}/>"


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]
