"""The card: what made the data, what is missing, how to repeat it; safe whatever the texts hold."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from distilnb.engine.status import StepStatus
from distilnb.export.card import Subset, make_card, outline
from distilnb.export.info import RunInfo

PIPELINE = """
distilnb: {version: 0.1.0, format: 1}
pipeline:
  name: prefs
  llm: {kind: OpenAILLM, model: gpt-4o-mini}
  steps:
    - {kind: LoadDataFromHub, name: load}
    - {kind: TextGeneration, name: answer}
    - {kind: MyJudge, name: judge, llm: [{kind: OpenAILLM, model: gpt-4o}, {kind: MyLLM, model: m}]}
  connections: [[load, answer], [answer, judge]]
classes: {MyJudge: {source: class MyJudge(Task)...}}
"""
INFO = RunInfo(
    pipeline="prefs",
    run_id="prefs-1",
    started_at=1.0,
    ended_at=91.0,
    steps=(
        StepStatus("answer", "TextGeneration", done=409, failed=3, made=409, asked=812, cached=12, input_tokens=1234,
                   output_tokens=99, cost_usd=0.08, truncated=1),
        StepStatus("pick", "FormatTextGenerationDPO", done=400, dropped=9, drop_reasons={"tie": 9}, cost_usd=0.0),
    ),
    failures={"answer": {"refused": 2, "no | reply": 1}},
)  # fmt: skip


def card(info: RunInfo = INFO, *subsets: Subset, **more: Any) -> str:
    return make_card(
        info,
        PIPELINE,
        subsets or [Subset("default", {"train": 400}, ["prompt", "chosen", "rejected"])],
        **more,
    )


def header(text: str) -> dict[str, Any]:
    front: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return front


def test_the_outline_names_step_class_models_and_what_it_reads() -> None:
    assert outline(PIPELINE) == [
        "load    LoadDataFromHub",
        "answer  TextGeneration   openai:gpt-4o-mini      ← load",
        "judge   MyJudge          openai:gpt-4o, MyLLM:m  ← answer",
    ]
    assert outline("no pipeline") == []


def test_the_header_has_tags_size_and_no_licence() -> None:
    front = header(card())
    assert front["tags"] == ["synthetic", "distilnb", "rlaif"]
    assert front["size_categories"] == ["n<1K"]
    assert "license" not in front
    assert "rlaif" not in header(card(INFO, Subset("default", {"train": 5000}, ["text"])))["tags"]


def test_what_the_hub_wrote_in_the_header_stays() -> None:
    front = header(card(header={"configs": [{"config_name": "default"}], "tags": ["mine"], "license": "mit"}))
    assert front["configs"] == [{"config_name": "default"}]
    assert front["tags"] == ["mine", "synthetic", "distilnb", "rlaif"]
    assert front["license"] == "mit"


def test_counts_costs_and_reasons_are_told() -> None:
    text = card()
    assert "run `prefs-1`" in text
    assert (
        "812 requests, 12 more from the cache · 1,234 tokens in, 99 out · cost: $0.08 · took 1 min 30 s"
        in text
    )
    assert "- pick: 9 rows left out, `tie`" in text
    assert "- answer: 2 rows failed, `refused`\n- answer: 1 row failed, `no reply`" in text
    assert "- answer: replies cut off at the token limit: 1" in text


def test_how_to_repeat_names_the_repository() -> None:
    text = card(address="hf://datasets/me/prefs")
    assert "distilnb pipeline run --config hf://datasets/me/prefs\n" in text
    assert 'dn.open("hf://datasets/me/prefs")' in text
    assert "--config out/pipeline.yaml" in card(address="out")


@pytest.mark.parametrize("rehearsed,partial", [(True, False), (False, True), (True, True), (False, False)])
def test_rehearsed_and_partial_are_said_on_top(rehearsed: bool, partial: bool) -> None:
    info = RunInfo(pipeline="p", is_rehearsed=rehearsed, is_partial=partial, state="stopped", reason="budget")
    text = card(info)
    assert ("**Rehearsed.**" in text, "**Partial.** The run is stopped (budget)" in text) == (
        rehearsed,
        partial,
    )
    assert {"rehearsed", "partial"} & set(header(text)["tags"]) == set(info.marks)


def test_a_sample_is_short_and_cannot_leave_its_fence() -> None:
    row = {"text": "x" * 1000, "code": "````\n# not a heading\n```", "list": list(range(20)), "blob": b"abc"}
    text = card(INFO, Subset("default", {"train": 1}, list(row), ["list"], row))
    fence, body = re.search(r"^(`{5,})json\n(.*?)\n\1$", text, re.M | re.S).groups()  # type: ignore[union-attr]
    assert len(fence) == 5
    assert "… (600 more characters)" in body
    assert "… (12 more)" in body
    assert "(3 bytes)" in body
    assert "JSON text, since their values differ in shape from row to row: `list`." in text


def test_text_of_others_cannot_become_markup() -> None:
    info = RunInfo(pipeline="<script>x</script>", description="![x](http://evil)\n# heading", failures={})
    text = card(info, Subset("a`b", {"train": 0}, ["c`<img>"]))
    assert "<script>" not in text
    assert "\n# heading" not in text
    assert "![x](" not in text
    assert "`c <img>`" in text


def test_a_reason_that_quotes_a_reply_is_code_and_a_name_no_markup() -> None:
    image = "![x](http://evil/t.png)"
    why = f"ParseError: `{image}` www.evil.example\n\n{image}"
    step = StepStatus(
        image, "T", failed=1, dropped=2, drop_reasons={image: 1, "": 1}, partial=1, truncated=1, cost_usd=0.0
    )
    text = card(RunInfo(steps=(step,), failures={image: {why: 1}}))
    name = r"!\[x\](http://evil/t.png)"
    assert f"- {name}: 1 row failed, `ParseError: {image} www.evil.example {image}`\n" in text
    assert f"- {name}: 1 row left out, `{image}`\n" in text
    assert f"- {name}: 1 row left out, `no reason`\n" in text
    assert f"| {name} |" in text
    assert image not in re.sub("`[^`\n]*`", "", text)


def test_a_secret_never_stands_in_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_API_KEY", "canary-0123456789")
    row = {"text": "canary-0123456789 and hf_abcdefghijklmnopqrstuv"}
    text = card(RunInfo(description="canary-0123456789"), Subset("default", {"train": 1}, ["text"], (), row))
    assert "canary" not in text
    assert "hf_" not in text
    assert text.count("[secret removed]") == 3
