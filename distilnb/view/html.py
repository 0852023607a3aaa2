"""Static HTML in small: escaping, one style sheet, and the few fragments that everything shown is made of.

No script, no address outside, no fixed background: text takes the page's colour, borders and icons are
middle tones.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from distilnb.view.looks import COLOURS, Look, Tone
from distilnb.view.text import visible

Bundle: TypeAlias = dict[str, str]  # MIME type → data, as `_repr_mimebundle_` returns it

NO_MATH = "mathjax_ignore tex2jax_ignore"  # for version 3, and for 2, which nbconvert's pages have
MAX_BYTES = 20_000  # of one output: notebooks are kept in version control, and read again years later

_LINE = "var(--jp-border-color2,rgba(128,128,128,.35))"

# Each output carries its own copy: a cell may be cleared, or cut out, without the others losing their looks.
# The doubled class outweighs JupyterLab's rules for rendered HTML.
STYLE = f"""<style>
.dnb{{font:13px/1.5 var(--jp-ui-font-family,system-ui,sans-serif);max-width:100%;margin:2px 0 6px}}
.dnb *{{box-sizing:border-box}}
.widget-html-content:has(>.dnb){{min-width:0}}
.dnb .dnb-scroll{{overflow-x:auto}}
.dnb .dnb-muted{{opacity:.72}}
.dnb .dnb-mono,.dnb pre{{font-family:var(--jp-code-font-family,ui-monospace,monospace);font-size:12px}}
.dnb .dnb-head{{display:flex;flex-wrap:wrap;align-items:center;gap:2px 14px;margin:5px 0 6px}}
.dnb .dnb-badge{{border:1px solid;border-radius:9px;padding:0 7px;font-size:11px;font-weight:600;
white-space:nowrap}}
.dnb .dnb-card{{border:1px solid {_LINE};border-radius:6px;padding:8px 12px}}
.dnb.dnb table.dnb-t{{table-layout:auto;border-collapse:collapse;width:100%;margin:0;font-size:13px;border:0}}
.dnb.dnb table.dnb-t tr,.dnb.dnb table.dnb-t tr:hover{{background:transparent}}
.dnb.dnb table.dnb-t th,.dnb.dnb table.dnb-t td{{text-align:left;vertical-align:top;padding:4px 10px 4px 0;
border:0;line-height:1.45;font-weight:400;overflow-wrap:anywhere;white-space:normal;
min-width:88px}}
.dnb.dnb table.dnb-t th{{font-weight:600;white-space:nowrap}}
.dnb.dnb table.dnb-t th.dnb-wide{{min-width:190px}}
.dnb.dnb table.dnb-t tr.dnb-line>*{{border-top:1px solid {_LINE}}}
.dnb.dnb table.dnb-t .dnb-num{{min-width:0;text-align:right;
font-variant-numeric:tabular-nums;white-space:nowrap}}
.dnb.dnb table.dnb-t tr.dnb-under>td{{padding-top:0}}
.dnb.dnb table.dnb-t td.dnb-name{{white-space:nowrap}}
.dnb.dnb table.dnb-lineup th{{vertical-align:bottom}}
.dnb.dnb table.dnb-lineup th.dnb-num{{white-space:normal;overflow-wrap:normal;min-width:78px}}
.dnb .dnb-told-below{{margin:4px 0 8px}}
.dnb details{{margin:0;padding:0;border:0;background:none}}
.dnb summary{{cursor:pointer;padding:0;margin:0}}
.dnb details[open]>summary .dnb-clip{{display:none}}
.dnb .dnb-text{{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate}}
.dnb.dnb pre{{white-space:pre-wrap;overflow-wrap:anywhere;margin:3px 0 6px;padding:6px 9px;background:none;
color:inherit;word-break:normal;border:1px solid {_LINE};border-radius:4px;max-height:300px;
overflow-y:auto;line-height:1.4}}
.dnb.dnb ol.dnb-items{{margin:0;padding-left:2.1em}}
.dnb.dnb ol.dnb-items>li{{margin:0;padding:0}}
.dnb .dnb-folds{{display:flex;flex-wrap:wrap;gap:0 16px;font-size:12px}}
.dnb .dnb-folds>details[open]{{flex-basis:100%}}
.dnb .dnb-bar{{display:flex;height:9px;border-radius:5px;overflow:hidden;background:rgba(128,128,128,.22);
margin-top:5px}}
.dnb .dnb-bar>i{{display:block;height:100%}}
.dnb .dnb-told>span{{display:inline-block;margin-right:12px}}
.dnb .dnb-graph{{overflow-x:auto;margin:2px 0;padding:3px}}
.dnb g.node:focus{{outline:2px solid {COLOURS["busy"]};outline-offset:2px}}
{"".join(f".dnb .dnb-{tone}{{color:{c}}}.dnb i.dnb-{tone}{{background:{c}}}" for tone, c in COLOURS.items())}
</style>""".replace("\n", "")


_OUR_CLASS = re.compile(r"\bdnb-[\w-]+")


@dataclass(frozen=True)
class Shown:
    """One thing in its two lasting forms; Jupyter takes the HTML, a terminal the text."""

    text: str
    html: str

    def bundle(self) -> Bundle:
        """Return the forms by MIME type."""
        return {"text/plain": self.text, "text/html": self.html}

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        return self.bundle()

    def __repr__(self) -> str:
        return self.text


def escape(text: object) -> str:
    """Return text that is safe in HTML, between tags and in quoted attributes, with nothing hidden in it."""
    return html.escape(visible(str(text)), quote=True)


def page(*parts: str) -> str:
    """Return parts as one output with the part of the style that it needs."""
    content = ours("".join(parts))
    return style_of(frozenset(_OUR_CLASS.findall(content))) + content


@lru_cache(maxsize=64)
def style_of(classes: frozenset[str]) -> str:
    """Return the rules of the style that can hold where only these of our classes are used."""
    rules = STYLE.removeprefix("<style>").removesuffix("</style>").split("}")[:-1]
    kept = [rule for rule in rules if any(_uses(one, classes) for one in rule.partition("{")[0].split(","))]
    return f"<style>{'}'.join(kept)}}}</style>"


def _uses(selector: str, classes: frozenset[str]) -> bool:
    return all(name in classes for name in _OUR_CLASS.findall(selector))


def ours(content: str, *, role: str = "") -> str:
    """Return safe HTML in what makes it ours: the style holds in it, and MathJax leaves it alone.

    JupyterLab typesets outputs: a text with "$5 and $10" in it, a model's or our own, would become a formula.
    """
    role = f' role="{role}"' if role else ""
    return f'<div class="dnb {NO_MATH}"{role}>{content}</div>'


def size_bytes(text: str) -> int:
    """Return how much a piece of HTML adds to a notebook file."""
    return len(text.encode("utf-8", "replace"))


def muted(text: str) -> str:
    """Return plain text as a quiet remark."""
    return f'<span class="dnb-muted">{escape(text)}</span>'


def icon(look: Look) -> str:
    """Return the icon in its tone; the word must stand beside it."""
    return f'<span class="dnb-{look.tone}" aria-hidden="true">{look.icon}</span>'


def marked(look: Look) -> str:
    """Return icon and word."""
    return f"{icon(look)} {escape(look.word)}"


def badge(text: str, tone: Tone) -> str:
    """Return a short word in a rounded frame; the tone is the frame's, words keep the page's contrast."""
    return f'<span class="dnb-badge" style="border-color:{COLOURS[tone]}">{escape(text)}</span>'


def fold(summary: str, body: str, limit: int) -> str:
    """Return a long text behind a triangle; what is beyond `limit` characters is left out and counted."""
    left_out = len(body) - limit
    rest = f"\n… {left_out:,} more characters" if left_out > 0 else ""
    text = escape(body[:limit] + rest)
    return f'<details><summary>{escape(summary)}</summary><pre dir="auto">{text}</pre></details>'


def lines(texts: Iterable[str], look: Look) -> str:
    """Return remarks, one a line, each with the icon."""
    return "".join(f"<div>{icon(look)} {escape(text)}</div>" for text in texts)
