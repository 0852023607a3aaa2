"""The dataset card: what made the data, what was left out, what it cost, and how to make it again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distilnb.engine.status import StepStatus
from distilnb.errors import DistilnbError
from distilnb.export.info import RunInfo
from distilnb.rows import Row
from distilnb.spec.files import read_data
from distilnb.spec.plain_yaml import dump_yaml
from distilnb.spec.registry import COMBINED, MODELS, TASKS, load_kind
from distilnb.spec.trust import without_secrets
from distilnb.view import figures
from distilnb.view.text import pad, visible, width

MAX_TEXT = 400  # characters of one value in a sample record
MAX_ITEMS = 8  # items of one list in a sample record
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_PREFERENCE = ({"chosen", "rejected"}, {"generations", "ratings"})


@dataclass(frozen=True)
class Subset:
    """What the card tells of one subset: rows by split, columns, and one row to look at."""

    name: str
    n_rows: Mapping[str, int]
    columns: Sequence[str]
    json_columns: Iterable[str] = ()
    sample: Row | None = None
    data_files: Mapping[str, str] = field(default_factory=dict)  # split → pattern, where the card names them


def make_card(
    info: RunInfo,
    pipeline_text: str,
    subsets: Sequence[Subset],
    *,
    address: str = "",
    header: Mapping[str, Any] | None = None,
) -> str:
    """Return a dataset card: a YAML header and Markdown.

    `address` is where the folder with `pipeline.yaml` is (`hf://datasets/me/prefs`); `header` holds entries
    that stay, such as the `configs` which the Hub's own writer made.
    """
    parts = [
        f"# {_inline(info.pipeline)}",
        *_marks(info),
        _inline(info.description),
        _made_by(info, subsets),
        *_how_made(info, pipeline_text),
        *_left_out(info),
        *(_describe(subset) for subset in subsets),
        _repeat(address),
    ]
    body = "\n\n".join(part for part in parts if part)
    front = {**(header or {}), **_front(info, subsets, header or {})}
    return without_secrets(f"---\n{dump_yaml(front)}---\n\n{body}\n")


# --- header -------------------------------------------------------------------


def _front(info: RunInfo, subsets: Sequence[Subset], header: Mapping[str, Any]) -> dict[str, Any]:
    n_rows = sum(sum(subset.n_rows.values()) for subset in subsets)
    front: dict[str, Any] = {
        "tags": list(dict.fromkeys([*header.get("tags", ()), *_tags(info, subsets)])),
        "size_categories": [next((name for limit, name in _SIZES if n_rows < limit), "1M<n<10M")],
    }
    files = [
        {
            "config_name": subset.name,
            "data_files": [{"split": split, "path": path} for split, path in subset.data_files.items()],
        }
        for subset in subsets
        if subset.data_files
    ]
    return {**front, "configs": files} if files else front


def _tags(info: RunInfo, subsets: Sequence[Subset]) -> list[str]:
    is_preference = any(wanted <= set(subset.columns) for subset in subsets for wanted in _PREFERENCE)
    return ["synthetic", "distilnb", *(["rlaif"] if is_preference else []), *info.marks]


# --- text ---------------------------------------------------------------------


def _marks(info: RunInfo) -> list[str]:
    marks = []
    if info.is_rehearsed:
        marks.append(
            "> **Rehearsed.** No language model wrote these replies: they come from distilnb's rehearsal "
            "model, which tries out a pipeline for nothing. Test with them; do not train on them."
        )
    if info.is_partial:
        why = f" ({_inline(info.reason)})" if info.reason else ""
        state = "not complete" if info.state == "finished" else _inline(info.state)
        marks.append(
            f"> **Partial.** The run is {state}{why}; these are the rows that were finished "
            "when the dataset was written."
        )
    return marks


def _made_by(info: RunInfo, subsets: Sequence[Subset]) -> str:
    rows = sum(sum(subset.n_rows.values()) for subset in subsets)
    asked = sum(step.asked for step in info.steps)
    facts = [f"{figures.plural(rows, 'row')} in {figures.plural(len(subsets), 'subset')}"]
    if info.steps:
        cached = sum(step.cached for step in info.steps)
        facts.append(f"{figures.plural(asked, 'request')}, {figures.count(cached)} more from the cache")
        inputs, outputs = (sum(getattr(s, f"{k}_tokens") for s in info.steps) for k in ("input", "output"))
        facts.append(f"{figures.count(inputs)} tokens in, {figures.count(outputs)} out")
        facts.append(f"cost: {figures.money(info.cost_usd)}")
    if info.started_at and info.ended_at:
        facts.append(f"took {figures.duration(info.ended_at - info.started_at)}")
    made = f"Made with distilnb {info.version}" + (f", run `{_code(info.run_id)}`" if info.run_id else "")
    return f"{made}: {' · '.join(facts)}."


def _how_made(info: RunInfo, pipeline_text: str) -> list[str]:
    parts = ["## How it was made"]
    if lines := outline(pipeline_text):
        parts += [_fence("\n".join(lines)), "Prompts and parameters: [`pipeline.yaml`](pipeline.yaml)."]
    if info.steps:
        parts.append(_steps_table(info.steps))
    if info.edited:
        parts.append("\n".join(_edited_lines(info)))
    return parts if len(parts) > 1 else []


def _edited_lines(info: RunInfo) -> list[str]:
    """Say how many rows another version of a step has made than the one in `pipeline.yaml`."""
    return [
        f"- {_inline(step)}: {figures.plural(n_rows, 'row')} made by version {_inline(version)} of the step, "
        "edited for rows that had failed"
        for step, versions in info.edited.items()
        for version, n_rows in versions.items()
    ]


def outline(pipeline_text: str) -> list[str]:
    """Return the graph of a pipeline file as lines: step, class, model, and the steps it reads.

    It reads text only and builds nothing, so that it works for classes that are not here.
    """
    try:
        pipeline = read_data(pipeline_text)
    except DistilnbError:
        return []
    before: dict[str, list[str]] = {}
    for source, target in pipeline.get("connections") or []:
        before.setdefault(str(target), []).append(str(source))
    cells = [
        [str(step.get("name", "")), str(step["kind"]), _models_of(step, pipeline.get("llm"))]
        for step in pipeline.get("steps") or []
    ]
    widths = [max((width(row[i]) for row in cells), default=0) for i in range(3)]
    lines = []
    for row in cells:
        arrow = f"← {', '.join(before[row[0]])}" if row[0] in before else ""
        text = "  ".join(pad(cell, size) for cell, size in zip(row, widths, strict=True) if size)
        lines.append(visible(f"{text}  {arrow}".rstrip()))
    return lines


def _models_of(step: Mapping[str, Any], default: Any) -> str:
    own = step.get("llm") or (default if step["kind"] in TASKS else None)
    models = own if isinstance(own, list) else [own]
    return ", ".join(label for model in models if isinstance(model, dict) for label in _model_labels(model))


def _model_labels(model: Mapping[str, Any]) -> list[str]:
    """Return the names of a model, or of those that one is made of."""
    members = [one for value in model.values() for one in (value if isinstance(value, list) else [value])]
    inner = [one for one in members if isinstance(one, dict) and "kind" in one]
    is_combined = model.get("kind") in COMBINED
    return [label for one in inner for label in _model_labels(one)] if is_combined else [_model_label(model)]


def _model_label(model: Mapping[str, Any]) -> str:
    kind, name = str(model.get("kind", "")), str(model.get("model", ""))
    provider = getattr(load_kind(kind), "provider", "") if kind in MODELS else ""
    return ":".join(part for part in (provider or kind, name) if part)


def _steps_table(steps: Sequence[StepStatus]) -> str:
    lines = [
        "| step | rows in | rows out | failed | left out | requests | from cache | cost |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for step in steps:
        numbers = (step.ended, step.made, step.failed, step.dropped, step.asked, step.cached)
        counts = " | ".join(figures.count(number) for number in numbers)
        lines.append(f"| {_inline(step.name)} | {counts} | {figures.money(step.cost_usd)} |")
    return "\n".join(lines)


def _left_out(info: RunInfo) -> list[str]:
    lines = []
    for step in info.steps:
        name = _inline(step.name)
        lines += [
            f"- {name}: {figures.plural(n, 'row')} left out, {_quoted(why)}"
            for why, n in _sorted(step.drop_reasons)
        ]
        reasons = info.failures.get(step.name) or ({"no reason kept": step.failed} if step.failed else {})
        lines += [
            f"- {name}: {figures.plural(n, 'row')} failed, {_quoted(why)}" for why, n in _sorted(reasons)
        ]
        if step.partial:
            lines.append(f"- {name}: {figures.plural(step.partial, 'row')} kept with a part missing")
        if step.truncated:
            lines.append(f"- {name}: replies cut off at the token limit: {step.truncated}")
    return ["## What was left out", "\n".join(lines)] if lines else []


def _sorted(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))


def _describe(subset: Subset) -> str:
    splits = ", ".join(f"{_inline(split)} {figures.plural(n, 'row')}" for split, n in subset.n_rows.items())
    columns = ", ".join(f"`{_code(name)}`" for name in subset.columns)
    parts = [f"## Subset `{_code(subset.name)}`", f"{splits}. Columns: {columns or 'none'}."]
    if json_columns := sorted(subset.json_columns):
        names = ", ".join(f"`{_code(name)}`" for name in json_columns)
        parts.append(f"JSON text, since their values differ in shape from row to row: {names}.")
    if subset.sample is not None:
        parts += ["A record, long values shortened:", _fence(_sample_text(subset.sample), "json")]
    return "\n\n".join(parts)


def _repeat(address: str) -> str:
    config = f"{address}/pipeline.yaml" if address and not address.startswith("hf://") else address
    config = config or "pipeline.yaml"
    return "\n\n".join(
        [
            "## Make it again",
            _fence(f"distilnb pipeline run --config {config}", "sh"),
            "or, in a notebook, look first and run then:",
            _fence(f'import distilnb as dn\n\npipeline = dn.open("{config}")', "python"),
        ]
    )


# --- safe pieces --------------------------------------------------------------


def _sample_text(row: Row) -> str:
    return json.dumps(_shortened(row), ensure_ascii=False, indent=2, default=str)


def _shortened(value: Any) -> Any:
    if isinstance(value, str):
        rest = len(value) - MAX_TEXT
        text = visible(value)
        return f"{text[:MAX_TEXT]}… ({figures.count(rest)} more characters)" if rest > 0 else text
    if isinstance(value, bytes):
        return f"({figures.count(len(value))} bytes)"
    if isinstance(value, dict):
        return {visible(str(key)): _shortened(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        rest = len(value) - MAX_ITEMS
        return [_shortened(item) for item in value[:MAX_ITEMS]] + ([f"… ({rest} more)"] if rest > 0 else [])
    return value


def _fence(text: str, language: str = "") -> str:
    """Return a code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _inline(text: str) -> str:
    """Return text for a line of Markdown: no HTML, no markup, no line break."""
    return re.sub(r"([\\`*_\[\]#|])", r"\\\1", _flat(text))


def _quoted(text: str) -> str:
    """Return a reason, which may quote a reply of a model, as code: even an address in it is no link."""
    return f"`{_code(text).strip() or 'no reason'}`"


def _code(text: str) -> str:
    return re.sub(r"[`|\s]+", " ", visible(text))


def _flat(text: str) -> str:
    plain = re.sub(r"\s+", " ", visible(text)).strip()
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
