"""The exact prompts of the judges. A change here is a change of what every user pays for: look at it.

Write them anew with DISTILNB_WRITE_SNAPSHOTS=1.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distilnb.tasks import PrometheusEval, Task, UltraFeedback

FOLDER = Path(__file__).parent / "snapshots"
ROW = {
    "instruction": "Name a fish.",
    "generation": "Salmon.",
    "generations": ["Salmon.", "魚です。"],
    "reference": "Cod.",
}
ASPECTS = ("overall-rating", "honesty", "instruction-following", "helpfulness", "truthfulness")
RUBRICS = ("factual-validity", "helpfulness", "harmlessness", "honesty", "reasoning")
TASKS: dict[str, Task] = {
    **{f"ultrafeedback-{aspect}": UltraFeedback(aspect=aspect) for aspect in ASPECTS},  # type: ignore[arg-type]
    **{f"prometheus-absolute-{rubric}": PrometheusEval(rubric=rubric) for rubric in RUBRICS},
    "prometheus-absolute-reference": PrometheusEval(reference=True),
    "prometheus-relative": PrometheusEval(mode="relative"),
    "prometheus-relative-reference": PrometheusEval(mode="relative", reference=True),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_prompt_is_that_of_its_snapshot(name: str) -> None:
    text = "\n\n".join(f"[{one['role']}]\n{one['content']}" for one in TASKS[name].format_input(ROW)) + "\n"
    path = FOLDER / f"{name}.txt"
    if os.environ.get("DISTILNB_WRITE_SNAPSHOTS"):
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_there_is_no_snapshot_of_a_prompt_that_is_gone() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(TASKS)
