"""Which columns each task reads and makes: the table of distilabel 1.5.3, written out."""

from __future__ import annotations

import pytest

from distilnb.spec.registry import TASKS, load_kind
from distilnb.tasks import (
    EmbeddingGeneration,
    ImageGeneration,
    Magpie,
    PrometheusEval,
    Task,
    TextGeneration,
    TextGenerationWithImage,
    UltraFeedback,
    task,
)

FLAT = ["ratings", "rationales", "model_name"]
TYPED = ["types", "rationales", "ratings", "rationales-for-ratings", "model_name"]


@task
def summary(text: str) -> None:
    """Summarise: {{ text }}."""


@task(inputs=["question"], outputs=["answer"])
def old(output: str, input: dict[str, str]) -> dict[str, str]:
    """---
    system_prompt: |
        Be terse.
    user_message_template: |
        {question}
    ---
    """  # noqa: D400, D415 - the form of 1.x
    return {"answer": output}


# task, columns that must be there, columns it makes
TABLE: list[tuple[Task, list[str], list[str]]] = [
    (TextGeneration(), ["instruction"], ["generation", "model_name"]),
    (
        TextGeneration(template="{{ a }} {{ b }}", columns=["b", "a"]),
        ["a", "b"],
        ["generation", "model_name"],
    ),
    (TextGeneration(messages="system:\n{{ s }}\nuser:\n{{ u }}"), ["s", "u"], ["generation", "model_name"]),
    (TextGenerationWithImage(), ["instruction", "image"], ["generation", "model_name"]),
    (UltraFeedback(), ["instruction", "generations"], FLAT),
    (UltraFeedback(aspect="overall-rating"), ["instruction", "generations"], FLAT),
    (UltraFeedback(aspect="honesty"), ["instruction", "generations"], FLAT),
    (UltraFeedback(aspect="instruction-following"), ["instruction", "generations"], FLAT),
    (UltraFeedback(aspect="helpfulness"), ["instruction", "generations"], TYPED),
    (UltraFeedback(aspect="truthfulness"), ["instruction", "generations"], TYPED),
    (PrometheusEval(), ["instruction", "generation"], ["feedback", "result", "model_name"]),
    (
        PrometheusEval(reference=True),
        ["instruction", "generation", "reference"],
        ["feedback", "result", "model_name"],
    ),
    (PrometheusEval(mode="relative"), ["instruction", "generations"], ["feedback", "result", "model_name"]),
    (
        PrometheusEval(mode="relative", reference=True),
        ["instruction", "generations", "reference"],
        ["feedback", "result", "model_name"],
    ),
    (EmbeddingGeneration(), ["text"], ["embedding", "model_name"]),
    (ImageGeneration(), ["prompt"], ["image", "model_name"]),
    (ImageGeneration(save_artifacts=True), ["prompt"], ["image", "image_path", "model_name"]),
    (Magpie(), [], ["instruction", "response", "model_name"]),
    (Magpie(only_instruction=True), [], ["instruction", "model_name"]),
    (Magpie(n_turns=2), [], ["conversation", "model_name"]),
    (
        Magpie(system_prompt={"kind": "Be kind."}),
        [],
        ["instruction", "response", "system_prompt_key", "model_name"],
    ),
    (summary(), ["text"], ["summary", "model_name"]),
    (old(), ["question"], ["answer", "model_name"]),
]


@pytest.mark.parametrize("one, needed, made", TABLE)
def test_a_task_reads_and_makes_the_columns_of_the_table(
    one: Task, needed: list[str], made: list[str]
) -> None:
    assert (one.needed(), one.made()) == (needed, made)


def test_a_system_prompt_is_an_optional_column_of_text_generation() -> None:
    assert dict(TextGeneration().inputs) == {"system_prompt": False, "instruction": True}
    assert dict(TextGeneration(use_system_prompt=False).inputs) == {"instruction": True}


def test_the_table_has_every_task_of_the_registry() -> None:
    assert {row[0].kind() for row in TABLE} == set(TASKS)


@pytest.mark.parametrize("kind", TASKS)
def test_the_docstring_of_a_task_tells_its_inputs_outputs_errors_and_source(kind: str) -> None:
    told = load_kind(kind).__doc__ or ""
    assert [name for name in ("Inputs:", "Outputs:", "Errors:", "Source:") if name not in told] == []
