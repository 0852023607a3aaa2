"""Versions of prompts: numbers that never change, a way back that costs nothing, differences that ask for nothing new.

The mock server counts every request, so "asks 0" is its word, not ours.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb import Pipeline, task
from distilnb.errors import InputError, SpecError, UnknownStepError, UnknownVersionError
from tests.pipeline.writers import HOSTILE, asked, model
from tests.servers import MockLLM

FIRST = "{{ instruction }}"
SECOND = "Be terse.\n{{ instruction }}"
THIRD = "system:\nBe terse.\nuser:\n{{ instruction }}"


def rows(n: int) -> list[dict[str, Any]]:
    return [{"instruction": f"Say {i}."} for i in range(n)]


def prefs(server: MockLLM, prompt: str = FIRST, n: int = 20, **options: Any) -> Pipeline:
    p = Pipeline("prefs", llm=model(server)).from_dicts(rows(n))
    return p.generate("answer", prompt, k=2, **options).judge(llm=model(server, "judge"))


# --- numbers ----------------------------------------------------------------------------------------------------


def test_numbers_follow_first_sight_and_an_old_text_has_its_old_number(server: MockLLM) -> None:
    for prompt in (FIRST, SECOND, THIRD):
        prefs(server, prompt).preview(2)
    assert [prefs(server, prompt)["answer"].version for prompt in (THIRD, FIRST, SECOND, FIRST)] == [
        3,
        1,
        2,
        1,
    ]


def test_model_parameters_and_number_of_replies_are_no_part_of_a_version(server: MockLLM) -> None:
    p = prefs(server)
    assert p["answer"].version == 1
    bare = Pipeline("prefs").from_dicts(rows(2)).generate("answer", FIRST, into="replies", llm="rehearsal")
    assert bare["answer"].version == 1
    hot = model(server, generation_kwargs={"temperature": 0.9})
    assert p.generate("answer", FIRST, k=3, llm=hot)["answer"].version == 1
    assert p.generate("answer", FIRST, k=2, schema=["yes", "no"])["answer"].version == 2
    assert p.judge(llm=model(server, "judge"), aspect="honesty")["judge"].version == 2
    assert p["judge"].version == 1


def test_numbers_are_the_same_in_a_later_process(server: MockLLM) -> None:
    prefs(server, SECOND).preview(1)
    prefs(server, FIRST).preview(1)
    program = f"""
from distilnb import Pipeline
p = Pipeline("prefs", llm="rehearsal").from_dicts([{{"instruction": "hi"}}])
print(p.generate("answer", {FIRST!r})["answer"].version, p.generate("answer", {SECOND!r})["answer"].version)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["2", "1"]


def test_pipelines_of_other_names_have_numbers_of_their_own(server: MockLLM) -> None:
    prefs(server, FIRST).preview(1)
    other = Pipeline("other", llm=model(server)).from_dicts(rows(2)).generate("answer", SECOND)
    assert other["answer"].version == 1


def test_a_prompt_that_several_models_get_is_one(server: MockLLM) -> None:
    both = prefs(server, llm=[model(server, "a"), model(server, "b")])
    assert both["answer"].version == 1
    preview = both.preview(2)
    assert [step.version for step in preview.data().steps] == [None, 1, 1, 1, 1]
    back = prefs(server, SECOND, llm=[model(server, "a"), model(server, "b")]).use("answer@1")
    asked(server)
    assert back.preview(2).asked == 0
    assert asked(server) == {}
    assert back.digest == both.digest


def test_the_body_of_a_task_function_is_no_part_of_its_prompt(server: MockLLM) -> None:
    @task
    def topic(reply: str) -> dict[str, str]:
        """Name the topic of {{ instruction }}."""
        return {"topic": reply}

    p = Pipeline("topics", llm=model(server)).from_dicts(rows(3)).ask(topic)
    assert p["topic"].version == 1

    @task
    def topic(reply: str) -> dict[str, str]:
        """Name the topic of {{ instruction }}."""
        return {"topic": reply.strip()}

    mended = Pipeline("topics", llm=model(server)).from_dicts(rows(3)).ask(topic)
    assert mended["topic"].version == 1
    assert mended.digest != p.digest


# --- who saw them ---------------------------------------------------------------------------------------------


def test_versions_tell_who_saw_them_and_what_they_came_to(server: MockLLM) -> None:
    p = prefs(server)
    p.preview(3)
    p.preview(3)
    edited = prefs(server, SECOND)
    edited.preview(3)
    run = edited.start(rows=4)
    run.wait(60)
    asked(server)
    first, second = edited["answer"].versions
    assert asked(server) == {}  # it looks at what is known
    assert [one.name for one in (first, second)] == ["answer@1", "answer@2"]
    assert [(one.previews, one.runs) for one in (first, second)] == [(2, 0), (1, 1)]
    assert [one.is_current for one in (first, second)] == [False, True]
    assert first.at <= second.at
    for one in (first, second):
        assert one.figures.n_rows == one.figures.n_rated == 3
        assert one.figures.output_tokens
        assert one.figures.cost_usd
        assert one.figures.seconds
        assert 1 <= (one.figures.rating or 0) <= 5
    assert "{+Be terse. +}" in repr(edited["answer"].versions)
    frame = edited["answer"].versions.to_pandas()
    assert frame.loc["answer@2", "runs"] == 1


def test_a_step_that_asks_nothing_has_no_versions(server: MockLLM) -> None:
    with pytest.raises(
        SpecError, match=r"asks no model, so it has no versions\.\nThese have: \['answer', 'judge'\]"
    ):
        _ = prefs(server)["load"].versions


# --- going back -----------------------------------------------------------------------------------------------


def test_going_back_asks_nothing(server: MockLLM) -> None:
    first = prefs(server)
    seen = first.preview(5)
    edited = prefs(server, SECOND)
    edited.preview(5)
    asked(server)
    back = edited.use("answer@1")
    assert back.digest == first.digest
    assert back.preview(5).rows == seen.rows
    assert edited["answer@1"].preview(5).reused == 5
    assert asked(server) == {}
    assert back.notes == ("answer has the prompt of answer@1 now.",)


def test_a_run_of_an_earlier_version_asks_for_what_was_not_asked_then(server: MockLLM) -> None:
    prefs(server).run(show=False)
    edited = prefs(server, SECOND)
    edited.preview(5)
    asked(server)
    edited.use("answer@1").run(show=False)
    assert asked(server) == {}


def test_a_version_keeps_the_model_that_the_step_has_now(server: MockLLM) -> None:
    prefs(server).preview(1)
    other = prefs(server, SECOND, llm=model(server, "other"))
    step = other.use("answer@1")["answer"].step
    assert step.llm.model == "other"  # type: ignore[attr-defined]


def test_the_prompt_of_a_version_is_rendered_for_free(server: MockLLM) -> None:
    prefs(server).preview(1)
    edited = prefs(server, THIRD)
    assert repr(edited["answer@1"].prompt({"instruction": "Hi."})) == "user:\nHi."
    assert repr(edited["answer@2"].prompt({"instruction": "Hi."})) == "system:\nBe terse.\n\nuser:\nHi."


def test_unknown_versions_are_told_with_those_that_there_are(server: MockLLM) -> None:
    p = prefs(server)
    p.preview(1)
    with pytest.raises(
        UnknownVersionError, match=r"no version 7; there is answer@1\.\nDid you mean 'answer@1'"
    ):
        p.use("answer@7")
    with pytest.raises(UnknownStepError, match="Did you mean 'answer'"):
        p.use("anwser@1")
    with pytest.raises(UnknownStepError, match="answer@first"):
        p.use("answer@first")


def test_a_version_of_another_kind_of_task_is_refused(server: MockLLM) -> None:
    p = prefs(server)
    p.preview(1)
    other = p.judge("prometheus", mode="relative", llm=model(server, "judge"))
    with pytest.raises(
        SpecError, match="That version of step 'judge' is a UltraFeedback; the step is a Prometheus"
    ):
        other.use("judge@1")


# --- differences ----------------------------------------------------------------------------------------------


def test_a_difference_of_previewed_versions_asks_nothing(server: MockLLM) -> None:
    prefs(server).preview(5)
    edited = prefs(server, SECOND)
    edited.preview(5)
    asked(server)
    found = edited.diff("answer@1", "answer@2")
    assert asked(server) == {}
    assert (found.left, found.right, found.asked, found.reused) == ("answer@1", "answer@2", 0, 20)
    frame = found.to_pandas()
    assert sorted(set(frame["column"])) == ["generations[0]", "generations[1]"]
    assert len(frame) == 10
    known = edited.use("answer@1").preview(5).rows
    assert frame["answer@1"].tolist() == [text for row in known for text in row["generations"]]
    text = repr(found)
    assert "{+Be terse." in text
    assert "judge " in text
    assert "too few to tell" in text
    assert sum(found.judged) == 5


def test_a_difference_asks_what_is_not_answered_yet(server: MockLLM) -> None:
    prefs(server).preview(5)
    edited = prefs(server, SECOND)
    assert edited["answer"].version == 2
    asked(server)
    quoted = edited.diff("answer@1", ask=False)
    assert asked(server) == {}
    assert quoted.quote.requests == 10  # five of the step, five of the judge behind it
    assert (quoted.quote.cost_usd or 0) > 0
    assert "5 answers not asked yet" in repr(quoted)
    assert edited.diff("answer@1", judge=False).asked == 5
    assert asked(server) == {"writer": 5}
    assert edited.diff("answer@1").asked == 5
    assert asked(server) == {"judge": 5}
    assert edited.preview(5).asked == 0


def test_a_difference_says_which_version_failed_on_a_row(server: MockLLM) -> None:
    p = Pipeline("failing", llm=model(server)).from_dicts([{"x": "fine"}, {"x": "bad"}])
    p.generate("answer", "Say {{ x }}").preview(2)
    edited = p.generate("answer", "Say {{ x }} {% if x == 'bad' %}[[empty]]{% endif %}")
    found = edited.diff("answer@1", "answer@2")
    assert "✕ answer@2: The reply is empty." in repr(found)
    assert "failed 0 → 1" in repr(found)


def test_figures_of_a_difference_are_of_the_rows_that_both_answered(server: MockLLM) -> None:
    p = Pipeline("failing", llm=model(server)).from_dicts([{"x": "fine"}, {"x": "bad"}])
    p.generate("answer", "Say {{ x }}").preview(2)
    edited = p.generate("answer", "Say {{ x }}. {% if x == 'bad' %}[[empty]]{% endif %}")
    told = repr(edited.diff("answer@1", "answer@2"))
    assert "in the 1 row that both answered · tokens in" in told
    assert "failed 0 → 1" in told
    same = Pipeline("fine", llm=model(server)).from_dicts([{"x": "fine"}])
    same.generate("answer", "Say {{ x }}").preview(1)
    alone = repr(same.generate("answer", "Say {{ x }}. ").diff("answer@1", "answer@2"))
    figures = re.compile(r"tokens in .*? · cost [^·\n]*?(?= ·|\n)")
    assert figures.search(told)[0] == figures.search(alone)[0]  # type: ignore[index]


def test_the_ratings_of_a_difference_are_of_rows_rated_in_both(server: MockLLM) -> None:
    p = Pipeline("failing", llm=model(server)).from_dicts(
        [{"instruction": f"{n}"} for n in range(4)] + [{"instruction": "bad"}]
    )
    judged = p.generate("answer", "Say {{ instruction }}", k=2).judge(llm=model(server, "judge"))
    judged.preview(5)
    edited = judged.generate(
        "answer", "Say {{ instruction }} {% if instruction == 'bad' %}[[empty]]{% endif %}", k=2
    )
    found = edited.diff("answer@1", "answer@2")
    frame = found.to_pandas().drop_duplicates("row_id")
    assert frame["left_rating"].notna().sum() == 5
    both = frame[frame["right_rating"].notna()]
    assert len(both) == 4
    means = [f"{both[side].mean():.2g}" for side in ("left_rating", "right_rating")]
    assert f"judge {means[0]} → {means[1]} in 4 rows rated in both (too few to tell" in repr(found)


def test_differences_of_two_steps_or_of_nothing_are_refused(server: MockLLM) -> None:
    p = prefs(server)
    p.preview(1)
    with pytest.raises(InputError, match="are versions of two steps"):
        p.diff("answer@1", "judge@1")
    with pytest.raises(InputError, match=r"Both versions are answer@1\."):
        p.diff("answer@1")
    with pytest.raises(SpecError, match="asks no model"):
        p.diff("load")


def test_hostile_texts_are_shown_and_not_obeyed(server: MockLLM) -> None:
    p = Pipeline("hostile", llm=model(server, "hostile")).from_dicts([{"x": HOSTILE}])
    p.generate("answer", "<script>{{ x }} one").preview(1)
    edited = p.generate("answer", "<script>{{ x }} \x1b[1m two <b>")
    found = edited.diff("answer@1", "answer@2")._repr_mimebundle_()
    listed = edited["answer"].versions._repr_mimebundle_()
    for bundle in (found, listed):
        html = bundle["text/html"]
        assert "<script" not in html
        assert "<img" not in html
        assert "<b>" not in html.replace("<b>hostile · ", "")
        for text in bundle.values():
            assert not {"\x1b", "\u202e"} & set(text)


def test_a_difference_of_long_texts_is_small(server: MockLLM) -> None:
    long = "word " * 200_000
    p = Pipeline("long", llm="rehearsal").from_dicts([{"x": long}, {"x": "数据" * 100_000}])
    p.generate("answer", "{{ x }}").preview(2)
    found = p.generate("answer", "More {{ x }}").diff("answer@1")
    assert len(found._repr_mimebundle_()["text/html"]) < 20_000


def test_it_works_with_prompts_that_no_history_can_render(server: MockLLM) -> None:
    """A version whose variables are gone from the rows has no figures, and is listed still."""
    old = Pipeline("gone", llm=model(server)).from_dicts([{"a": "x"}]).generate("answer", "{{ a }}")
    old.preview(1)
    new = Pipeline("gone", llm=model(server)).from_dicts([{"b": "x"}]).generate("answer", "{{ b }}")
    new.preview(1)
    first, second = new["answer"].versions
    assert first.figures.n_rows == 0
    assert second.figures.n_rows == 1


# --- in a file --------------------------------------------------------------------------------------------------


def test_a_file_brings_the_versions_along(
    server: MockLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for prompt in (FIRST, SECOND, THIRD):
        prefs(server, prompt).preview(1)
    p = prefs(server, SECOND)
    p.save(tmp_path / "prefs.yaml")
    monkeypatch.setenv("DISTILNB_HOME", str(tmp_path / "elsewhere"))
    opened = dn.open(tmp_path / "prefs.yaml", allow=["127.0.0.1"])
    assert opened.digest == p.digest
    assert [one.name for one in opened["answer"].versions] == ["answer@1", "answer@2", "answer@3"]
    assert opened["answer"].version == 2
    assert opened.use("answer@3").digest == prefs(server, THIRD).digest
    assert Pipeline.from_yaml(opened.to_yaml()).to_yaml() == opened.to_yaml()


def test_a_file_changes_no_number_that_is_taken(
    server: MockLLM, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    prefs(server, SECOND).preview(1)
    prefs(server, FIRST).save(tmp_path / "prefs.yaml")
    assert prefs(server, THIRD)["answer"].version == 2
    text = prefs(server, THIRD).to_yaml()
    monkeypatch.setenv("DISTILNB_HOME", str(tmp_path / "elsewhere"))
    prefs(server, FIRST).preview(1)
    opened = Pipeline.from_yaml(text)
    numbers = {one.prompt: one.number for one in opened["answer"].versions}
    assert numbers[f"user:\n{FIRST}"] == 1
    assert sorted(numbers.values()) == [1, 2, 3]
    assert numbers["system:\nBe terse.\nuser:\n{{ instruction }}"] == 2


NO_VERSIONS = [
    "{number: 3, at: .inf, kind: TextGeneration, fields: {messages: [[user, hi]]}}",
    "{number: 3, at: .nan, kind: TextGeneration, fields: {messages: [[user, hi]]}}",
    "{number: 3, at: -1.0e+18, kind: TextGeneration, fields: {messages: [[user, hi]]}}",
    f"{{number: 3, at: {10**400}, kind: TextGeneration, fields: {{messages: [[user, hi]]}}}}",
    f"{{number: {2**70}, at: 0, kind: TextGeneration, fields: {{messages: [[user, hi]]}}}}",
    f"{{number: {2**63 - 1}, at: 0, kind: TextGeneration, fields: {{messages: [[user, hi]]}}}}",
    "{number: 3, at: 0, kind: TextGeneration, fields: {messages: 5}}",
    "{number: 3, at: 0, kind: TextGeneration, fields: {messages: [[user]]}}",
    "{number: 3, at: 0, kind: TextGeneration, fields: {messages: [[user, 5]]}}",
]


@pytest.mark.parametrize("entry", NO_VERSIONS)
def test_what_could_not_be_shown_later_is_no_version(server: MockLLM, entry: str) -> None:
    opened = Pipeline.from_yaml(f"{prefs(server).to_yaml()}\nhistory: {{answer: [{entry}]}}\n")
    versions = opened["answer"].versions
    assert [one.number for one in versions] == [1]
    assert "answer@1" in repr(versions)


def test_a_history_that_is_no_history_is_passed_over(server: MockLLM) -> None:
    text = prefs(server).to_yaml()
    for history in (
        "history: {answer: 7, nobody: []}",
        "history: {answer: [3, {number: one}, {number: 1, at: 0, kind: Nothing, fields: {}}]}",
        "history: {answer: [{number: 4, at: 0.5, kind: TextGeneration, fields: {messages: [[user, hi]]}}]}",
    ):
        opened = Pipeline.from_yaml(f"{text}\n{history}\n")
        assert opened.digest == prefs(server).digest
    assert [one.number for one in opened["answer"].versions] == [4, 5]
    assert opened.use("answer@4")["answer"].prompt({"instruction": "x"}) == (
        {"role": "user", "content": "hi"},
    )


def test_a_version_from_a_file_that_cannot_be_built_is_told(server: MockLLM) -> None:
    text = prefs(server).to_yaml()
    history = (
        "history: {answer: [{number: 1, at: 0, kind: TextGeneration, fields: {llm: {kind: OpenAILLM}}}]}"
    )
    opened = Pipeline.from_yaml(f"{text}\n{history}\n")
    with pytest.raises(SpecError, match=r"holds \['llm'\], which are no words"):
        opened.use("answer@1")
