"""After a step was edited and previewed, its preview says what the steps below will ask of the same rows."""

from __future__ import annotations

from typing import Any

import distilnb as dn
from distilnb import Pipeline
from distilnb.pipeline.below import MAX_TOLD

ROWS = [{"id": i, "instruction": f"Name {i} uses of argon."} for i in range(20)]


def prefs(**options: Any) -> Pipeline:
    start = Pipeline("prefs", llm=dn.llm("rehearsal", **options)).from_dicts(ROWS)
    return start.generate("answer", "{{ instruction }}", k=2).judge().to_dpo()


def below(pipeline: Pipeline, step: str = "answer", n: int | None = None) -> str:
    return pipeline[step].preview(n).below


def test_what_a_judge_will_ask_is_told_and_what_is_free() -> None:
    p = prefs()
    assert below(p) == "judge asks 5, to_dpo is free"
    assert below(p, n=8) == "judge asks 8, to_dpo is free"
    assert below(p, "judge", 8) == "to_dpo is free"
    assert below(p, n=8) == "judge asks nothing, to_dpo is free"
    edited = p.generate("answer", "Now: {{ instruction }}", k=2)
    assert below(edited) == "judge asks 5, to_dpo is free"
    assert below(p) == "judge asks nothing, to_dpo is free"  # as it was before


def test_it_is_shown_as_text_and_in_html() -> None:
    preview = prefs()["answer"].preview()
    assert "\nbelow: judge asks 5, to_dpo is free\n" in repr(preview)
    assert ">below: judge asks 5, to_dpo is free<" in preview._repr_mimebundle_()["text/html"]


def test_the_last_step_and_a_whole_pipeline_have_nothing_below() -> None:
    p = prefs()
    assert below(p, "to_dpo") == ""
    assert p.preview().below == ""
    assert "below" not in repr(p.preview())


def test_the_price_is_told_where_there_is_one() -> None:
    p = prefs(price=(1000, 1000))
    assert below(p).startswith("judge asks 5 ($")


def test_no_code_of_the_user_runs_for_it() -> None:
    calls: list[object] = []

    def note(generations: list[str]) -> dict[str, Any]:
        calls.append(generations)
        return {"n": len(generations)}

    p = prefs().drop_step("to_dpo").drop_step("judge").map(note, makes=["n"])
    p = p.generate("more", "Of {{ n }}", into="more").generate("most", "Of {{ more }}", into="most")
    assert below(p) == "more asks about 5, most asks about 5, map asks no model"
    assert calls == []


def test_what_the_users_own_steps_cost_is_not_told() -> None:
    p = prefs().drop_step("to_dpo").map(lambda id: {"n": id}, makes=["n"]).filter("n >= 0")
    assert below(p) == "judge asks 5, filter is free, map asks no model"
    p = p.map(lambda id: {"m": id}, makes=["m"], name="again")
    assert below(p) == "judge asks 5, filter is free, map, again ask no model"


def test_what_waits_for_a_reply_is_counted_once_a_row() -> None:
    p = prefs().drop_step("to_dpo").generate("more", "Because {{ rationales }}", into="more")
    assert below(p, n=7) == "judge asks 7, more asks 7"


def test_a_judge_that_cannot_be_asked_does_not_keep_the_step_above_from_its_preview() -> None:
    p = prefs().judge(llm="openai:gpt-4o")  # there is no key
    preview = p["answer"].preview()
    assert (len(preview.rows), preview.below) == (5, "")


def test_many_steps_are_told_in_short() -> None:
    p = prefs().drop_step("to_dpo").drop_step("judge")
    for number in range(MAX_TOLD + 2):
        p = p.generate(f"m{number}", "Of {{ generations }}", into=f"m{number}")
    assert below(p).endswith(", m5 asks 5, 2 more ask")
    for number in range(MAX_TOLD + 3):
        p = p.filter(f"id >= -{number}")
    assert "filter_6 and 3 more are free" in below(p)
