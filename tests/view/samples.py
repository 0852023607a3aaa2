"""Graphs, statuses and texts that the tests of this folder share."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

from distilnb.engine.status import RunState, RunStatus, StepStatus
from distilnb.spec.graph import Graph
from distilnb.spec.step import GeneratorStep, Step

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "image": '"><img src=x onerror="alert(1)">',
    "style": "</style></pre></details><b onmouseover=alert(1)>",
    "entity": "&lt;script&gt; &#60;iframe&#62;",
    "quotes": "' onclick='alert(1)' \" onfocus=\"alert(1)",
    "ansi": "\x1b[31mred\x1b[0m\x1b]8;;http://evil\x07link\x07",
    "bidi": "abc\u202egnp.exe\u2066x",
    "nul": "a\x00b\ud800c\ufffe\r\n",
    "chinese": "请用中文列出蜂蜡的三种用途",
    "template": "{{ x }} {% raw %} %s {0} \\N",
}
TAGS = frozenset(
    [
        "style",
        "div",
        "span",
        "b",
        "i",
        "br",
        "table",
        "thead",
        "tbody",
        "colgroup",
        "col",
        "tr",
        "th",
        "td",
        "ol",
        "li",
        "details",
        "summary",
        "pre",
        "svg",
        "title",
        "desc",
        "g",
        "path",
        "polygon",
        "polyline",
        "ellipse",
        "rect",
        "text",
    ]
)


class Source(GeneratorStep):
    outputs = ["id", "instruction"]


class Making(Step):
    makes: list[str] = []

    @property
    def outputs(self) -> list[str]:
        return self.makes


def chain(*names: str) -> Graph:
    """Return load → answer → judge, or a chain of steps of other names."""
    graph = Graph().appending(Source(name="load"))
    before = "load"
    for name, makes in zip(
        names or ("answer", "judge"), (["generations", "models"], ["ratings"]), strict=False
    ):
        graph = graph.appending(Making(name=name, makes=makes), [before])
        before = name
    return graph


def branches() -> Graph:
    """Return a graph that parts in three, joins two of them, and ends in three leaves."""
    graph = Graph().appending(Source(name="load"))
    for name in ("a", "b", "c"):
        graph = graph.appending(Making(name=name, makes=[f"{name}_text"]), ["load"])
    graph = graph.appending(Making(name="group", makes=["texts"]), ["a", "b"])
    graph = graph.appending(Making(name="to_sft", makes=["messages"]), ["group"])
    return graph.appending(Making(name="to_dpo", makes=["chosen", "rejected"]), ["group"])


def large(n_steps: int = 30) -> Graph:
    """Return a graph of many steps with branches and joins."""
    graph = Graph().appending(Source(name="load"))
    for i in range(1, n_steps):
        before = ["load"] if i < 4 else [f"step_{i - 3}"] if i % 5 else [f"step_{i - 3}", f"step_{i - 2}"]
        graph = graph.appending(Making(name=f"step_{i}", makes=[f"column_{i}"]), before)
    return graph


def status(state: RunState = "running", **changes: object) -> RunStatus:
    """Return a run of `chain()` half way."""
    steps = (
        StepStatus("load", "Source", "finished", done=412, made=412),
        StepStatus(
            "answer", "Making", "running", 412, 306, 3, made=306, asked=600, cached=14, input_tokens=41_200,
            output_tokens=123_456, cost_usd=0.06, rows_per_s=41.2,
        ),
        StepStatus("judge", "Making", "running", 1000, 317, 1, 2, made=317, asked=320, cost_usd=0.35, rows_per_s=13.1),
    )  # fmt: skip
    run = RunStatus("prefs-8c1d", "prefs", state, steps, started_at=1000.0)
    return replace(run, **changes)  # type: ignore[arg-type]


class _Checker(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.bad += [f"<{tag}>"] * (tag not in TAGS)
        for name, value in attrs:
            if name not in {"xmlns", "title", "aria-label"} and "://" in (value or ""):
                self.bad.append(f"{tag} {name}={value}")
            if name.startswith("on") or (name in {"href", "src", "action", "xlink:href"}):
                self.bad.append(f"{tag} {name}={value}")
        if tag not in {"br", "col", "path", "polygon", "polyline", "ellipse", "rect"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.bad.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def check_html(html: str) -> str:
    """Assert that HTML holds only our tags, well nested, with nothing that acts or is fetched; return its text."""
    checker = _Checker()
    checker.feed(html)
    checker.close()
    assert checker.bad == []
    assert checker.open == []
    assert html.count("</style>") <= html.count("<style>") <= 1
    assert not re.search(r"@import|url\(", html)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    html.encode("utf-8")
    return "".join(checker.text)
