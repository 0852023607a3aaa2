"""What `run.why` tells is what happened: compared with the rows, errors and counts of real runs."""

from __future__ import annotations

from typing import Any

import pytest

import distilnb as dn
from distilnb.engine import story as story_module
from distilnb.engine.rendering import render
from distilnb.engine.story import Chapter, Story
from distilnb.errors import InputError, ParseError
from distilnb.rows import Row
from distilnb.run import Run
from distilnb.tasks.generation import TextGeneration
from distilnb.view.story import RowStory
from tests.view.samples import check_html

ROWS = [{"text": f"word {n}", "n": n} for n in range(12)]


def no_threes(n: int) -> dict[str, Any]:
    if n == 3:
        raise ValueError("no <threes>")
    return {"double": 2 * n}


def done(p: dn.Pipeline, **options: Any) -> Run:
    run = p.start(**options)
    run.wait(60)
    return run


def chapters(told: RowStory) -> dict[str, Chapter]:
    return {chapter.steps[-1]: chapter for chapter in told.story.chapters}


def test_each_row_has_come_and_gone_as_its_story_tells() -> None:
    p = dn.Pipeline("p", llm="rehearsal").from_dicts(ROWS).map(no_threes, makes=["double"])
    p = p.generate("answer", "Say {{ text }} {{ double }}", k=2).expand("generations").filter("n != 5")
    run = done(p)
    answers, leaf = run.rows("answer"), run.rows("filter")
    for n in range(12):
        story = run.why(n)
        told = chapters(story)
        assert (story.story.ordinal, told["load"].made[story.story.row_id]) == (n, ROWS[n])
        if n == 3:
            [failure] = told["map"].failures
            assert (failure["kind"], told["answer"].state, told["filter"].state) == (
                "ValueError",
                "lost",
                "lost",
            )
            continue
        row_id = story.story.row_id
        [question] = told["answer"].questions
        assert question.messages == ({"role": "user", "content": f"Say word {n} {2 * n}"},)
        assert [reply.text for reply in question.replies] == list(answers.loc[row_id, "generations"])
        assert question.cost_usd == 0
        expected = [name for name in leaf.index if name.startswith(f"{row_id}.")]
        assert list(told["filter"].made) == expected
        assert bool(told["filter"].left_out) is (n == 5)
        assert told["filter"].steps == ("expand", "filter")


def test_each_request_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[str] = []

    def counted(task: Any, row: Row) -> Any:
        rendered.append(task.name)
        return render(task, row)

    run = done(dn.Pipeline("p", llm="rehearsal").from_dicts(ROWS).generate("answer", "Say {{ text }}"))
    monkeypatch.setattr(story_module, "render", counted)
    [question] = chapters(run.why(2))["answer"].questions
    assert question.replies
    assert rendered == ["answer"]


def test_a_row_is_found_by_its_id_and_that_of_its_child() -> None:
    run = done(dn.Pipeline("p").from_dicts(ROWS).expand({"text": "text"}).keep("text"))
    row_id = run.rows("load").index[7]
    by_number, by_id, by_child = (run.why(row).story for row in (7, row_id, f"{row_id}.0"))
    assert by_number == by_id == by_child
    with pytest.raises(InputError, match=r"has no row 12 yet; rows so far: \{'load': 12\}"):
        run.why(12)
    with pytest.raises(InputError, match="has no row 'nonsense' yet"):
        run.why("nonsense")


def test_routes_joins_and_rows_of_global_steps() -> None:
    p = dn.Pipeline("p", llm="rehearsal").from_dicts(ROWS)
    p = p.route(
        {
            "small": lambda p: p.generate("small", "{{ text }}", into="said"),
            "large": lambda p: p.map(no_threes, makes=["double"]),
        },
        when={"small": "n < 3"},
        default="large",
    ).combine(name="met")
    run = done(p.dedup("text"))
    told = {n: chapters(run.why(n)) for n in (1, 3, 4)}
    assert {step: chapter.state for step, chapter in told[1].items()} == {
        "load": "done",
        "route": "done",
        "small": "done",
        "map": "elsewhere",
        "met": "done",
        "dedup": "done",
    }
    assert told[4]["small"].state == "elsewhere"
    [(row_id, row)] = told[4]["met"].made.items()
    assert row["double"] == run.rows("met").loc[row_id, "double"] == 8
    assert told[3]["map"].failures
    assert told[3]["dedup"].state == "lost"


class Picky(TextGeneration):
    """A task of the user: its prompt cannot be told without running its code."""

    def format_output(self, output: str | None, input: Row) -> dict[str, Any]:
        raise ParseError("never good enough", "Nothing helps.")


def test_the_code_of_a_user_is_not_run_to_tell() -> None:
    run = done(
        dn.Pipeline("p", llm="rehearsal")
        .from_dicts(ROWS[:2])
        .then(Picky(name="picky", template="{{ text }}"))
    )
    told = chapters(run.why(1))
    assert told["picky"].questions[0].messages == ()
    assert "word 1" in told["picky"].failures[0]["prompt"]
    assert "cannot be told" in repr(run.why(1))
    assert "never good enough" in repr(run.why(1))


def test_equal_requests_have_their_own_replies_and_a_retry_its_own() -> None:
    p = dn.Pipeline("p", llm=dn.llm("rehearsal", garbage_rate=0.0)).from_dicts([{"text": "same"}] * 6)
    run = done(p.generate("answer", "{{ text }}"))
    told = [chapters(run.why(n))["answer"].questions[0].replies[0].text for n in range(6)]
    assert told == [replies[0] for replies in run.rows("answer")["generations"]]
    assert len(set(told)) > 1


def test_a_row_that_has_not_come_yet_is_waiting() -> None:
    slow = dn.llm("rehearsal", latency_s=30.0, max_concurrency=1)
    run = dn.Pipeline("p", llm=slow).from_dicts(ROWS).generate("answer", "{{ text }}").start()
    try:
        story: Story | None = None
        while story is None:
            try:
                story = run.why(11).story
            except InputError:  # the runner has not written the source's rows yet
                assert not run.status().is_ended
        assert [chapter.state for chapter in story.chapters] == ["done", "waiting"]
    finally:
        run.abort()


def test_hostile_texts_are_shown_and_not_obeyed() -> None:
    hostile = "<script>alert(1)</script>\x1b[31m</style>\u202e"
    run = done(dn.Pipeline("p", llm="rehearsal").from_dicts([{"text": hostile}]).generate("a", "{{ text }}"))
    bundle = run.why(0)._repr_mimebundle_()
    assert "<script>alert" in check_html(bundle["text/html"])
    assert "\x1b" not in bundle["text/plain"]
    assert "\u202e" not in bundle["text/plain"]
