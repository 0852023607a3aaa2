"""Failed rows are done again, alone; what followed from their failure is made good, and nothing is asked twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distilnb.engine.failures import MAX_INLINE
from distilnb.errors import ParseError, RunError, UnknownStepError
from distilnb.export.card import make_card
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from distilnb.spec.step import GlobalStep
from distilnb.steps import ExpandColumns, FilterRows, MapRows
from distilnb.tasks import Task, TextGeneration
from tests.conftest import wait_until_gone
from tests.runs import done, raise_while, states, wait_for, worker_pids
from tests.servers import MockLLM, mock_llm

N_ROWS = 20
CONCURRENCY = 4


@pytest.fixture(scope="module")
def running() -> Iterator[MockLLM]:
    with mock_llm(latency_ms=5) as server:
        yield server


@pytest.fixture
def server(running: MockLLM) -> MockLLM:
    running.reset()
    return running


def texts(marks: dict[int, str], n_rows: int = N_ROWS) -> list[dict[str, Any]]:
    return [{"i": i, "text": f"Say {i}. {marks.get(i, '')}".strip()} for i in range(n_rows)]


def writer(server: MockLLM, **options: Any) -> OpenAILLM:
    values: dict[str, Any] = {"max_concurrency": CONCURRENCY, "max_retries": 0, **options}
    return OpenAILLM(model="writer", base_url=server.base_url, **values)


def asking(
    server: MockLLM, marks: dict[int, str], prompt: str = "{{ text }}", n_rows: int = N_ROWS, **options: Any
) -> Pipeline:
    return (
        Pipeline("retry", llm=writer(server, **options))
        .from_dicts(texts(marks, n_rows))
        .generate("answer", prompt)
    )


def again(run: Run, *args: Any, **options: Any) -> Run:
    run.retry(*args, **options).wait(60)
    return run


def undisturbed(pipeline: Pipeline, step: str) -> pd.DataFrame:
    """Return the rows of a run that meets no fault: the marks of the prompts are used up by now."""
    run = done(pipeline, cache="off")
    assert run.status().state == "finished"
    assert len(run.errors()) == 0
    return run.rows(step)


def counts(run: Run, step: str) -> tuple[int, int, int]:
    status = run.status().step(step)
    return status.done, status.failed, status.asked


# --- at one step ----------------------------------------------------------------


def test_failed_rows_are_asked_again_and_no_other(server: MockLLM, home: Path) -> None:
    p = asking(server, {3: "[[500x1]]", 11: "[[500x1]]"})
    run = done(p)
    assert run.status().state == "finished"
    assert states(run) == [(3, "answer", "open"), (11, "answer", "open")]
    assert counts(run, "answer") == (N_ROWS - 2, 2, N_ROWS)
    again(run)
    assert run.status().state == "finished"
    assert counts(run, "answer") == (N_ROWS, 0, N_ROWS + 2)
    assert server.stats()["requests"] == N_ROWS + 2
    assert states(run) == [(3, "answer", "mended"), (11, "answer", "mended")]
    pd.testing.assert_frame_equal(run.rows("answer"), undisturbed(p, "answer"))
    assert run.to_pandas()["i"].tolist() == list(range(N_ROWS))
    assert run.distiset().info.failures == {}
    assert wait_until_gone(home) == []


def test_a_retry_of_nothing_says_so(server: MockLLM) -> None:
    run = done(asking(server, {}))
    with pytest.raises(RunError, match="has nothing to retry: no failed row"):
        run.retry()
    assert run.status().state == "finished"
    assert server.stats()["requests"] == N_ROWS


def test_a_row_may_be_retried_until_it_is_mended(server: MockLLM) -> None:
    run = done(asking(server, {3: "[[500x2]]"}))
    again(run)
    assert states(run) == [(3, "answer", "retried"), (3, "answer", "open")]
    assert counts(run, "answer") == (N_ROWS - 1, 1, N_ROWS + 1)
    again(run)
    assert states(run) == [(3, "answer", "mended"), (3, "answer", "mended")]
    assert counts(run, "answer") == (N_ROWS, 0, N_ROWS + 2)
    with pytest.raises(RunError, match="nothing to retry"):
        run.retry()


def test_rows_are_chosen_by_step_by_ordinal_and_by_id(server: MockLLM) -> None:
    run = done(asking(server, {3: "[[500x1]]", 7: "[[500x1]]", 11: "[[500x1]]"}))
    with pytest.raises(UnknownStepError, match="Did you mean 'answer'"):
        run.retry("anwser")
    with pytest.raises(RunError, match=r"no failed row of step 'load'.\nFailed rows, by step: {'answer': 3}"):
        run.retry("load")
    with pytest.raises(RunError, match=r"no failed row among \[4\]"):
        run.retry(rows=[4])
    row_id = run.errors()["row_id"].tolist()[2]
    again(run, rows=3)
    assert states(run) == [(3, "answer", "mended"), (7, "answer", "open"), (11, "answer", "open")]
    again(run, "answer", rows=[row_id])
    assert states(run)[2] == (11, "answer", "mended")
    assert server.stats()["requests"] == N_ROWS + 2


def test_an_unparsable_reply_stays_cached_and_a_retry_asks_past_it(server: MockLLM) -> None:
    p = asking(server, {3: "[[nullx1]]"})
    run = done(p)
    assert run.errors()["kind"].tolist() == ["ParseError"]
    again(run)
    assert states(run) == [(3, "answer", "mended")]
    assert server.stats()["requests"] == N_ROWS + 1
    later = done(p)
    assert states(later) == [(3, "answer", "open")]
    again(later)
    assert states(later) == [(3, "answer", "mended")]
    assert counts(later, "answer") == (N_ROWS, 0, 0)
    assert server.stats()["requests"] == N_ROWS + 1
    pd.testing.assert_frame_equal(later.rows("answer"), run.rows("answer"))


def test_what_was_never_answered_is_found_by_a_later_run(server: MockLLM) -> None:
    p = asking(server, {3: "[[500x1]]"})
    again(done(p))
    assert server.stats()["requests"] == N_ROWS + 1
    assert counts(done(p), "answer") == (N_ROWS, 0, 0)
    assert server.stats()["requests"] == N_ROWS + 1


class HighScores(Task):
    """Takes only scores above 1."""

    @property
    def inputs(self) -> list[str]:
        return ["text"]

    @property
    def outputs(self) -> list[str]:
        return ["score"]

    def format_input(self, input: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"role": "user", "content": input["text"]}]

    def format_output(self, output: str | None, input: dict[str, Any]) -> dict[str, Any]:
        if output == "1":
            raise ParseError("It is too low.")
        return {"score": output}


def test_of_several_generations_only_the_missing_ones_are_asked() -> None:
    with mock_llm(vary=True, templates={"writer": "{score}"}) as server:
        task = HighScores(name="score", llm=writer(server), num_generations=4, group_generations=True)
        run = done(Pipeline("several").from_dicts(texts({}, 12)).then(task))
        failed = {e["row_id"]: e["reply"].split() for e in run.errors().to_dict("records")}
        assert 3 < len(failed) < 12
        n_bad = 0
        n_replies = server.stats()["completion_tokens"]
        assert n_replies == 12 * 4
        while failed:
            n_bad += sum(replies.count("1") for replies in failed.values())
            again(run)
            assert server.stats()["completion_tokens"] == n_replies + n_bad
            scores = run.rows("score")["score"]
            opened = run.errors().query("state == 'open'").to_dict("records")
            replies = {e["row_id"]: e["reply"].split() for e in opened}
            for row_id, before in failed.items():
                after = replies.get(row_id) or scores[row_id]
                assert len(after) == 4
                assert all(new == old for new, old in zip(after, before, strict=True) if old != "1")
            failed = replies
        assert run.status().step("score").done == 12


# --- steps that run together ----------------------------------------------------


def needs(place: Path, wanted: int) -> Callable[[int], dict[str, int]]:
    """Return a function that fails at one number as long as a file is there."""
    path = str(place)

    def check(n: int) -> dict[str, int]:
        if n == wanted and os.path.exists(path):
            raise ValueError(f"{n} is not liked")
        return {"checked": n}

    return check


def test_sisters_of_a_failed_row_stay_as_they_are(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.touch()
    p = (
        Pipeline("sisters")
        .from_dicts([{"n": [10 * i, 10 * i + 1, 10 * i + 2]} for i in range(4)])
        .then(ExpandColumns(columns=["n"]), name="each")
        .map(needs(fault, 21), makes=["checked"], name="check")
        .map(lambda checked: {"double": 2 * checked}, makes=["double"], name="double")
    )
    run = done(p)
    assert counts(run, "check") == (11, 1, 0)
    again(run)
    assert states(run) == [(2, "check", "retried"), (2, "check", "open")]
    assert counts(run, "check") == (11, 1, 0)
    fault.unlink()
    again(run)
    assert [(counts(run, s), run.status().step(s).made) for s in ("each", "check", "double")] == [
        ((4, 0, 0), 12),
        ((12, 0, 0), 12),
        ((12, 0, 0), 12),
    ]
    pd.testing.assert_frame_equal(run.rows("double"), undisturbed(p, "double"))


# --- where branches meet --------------------------------------------------------


def branches(fault: Path, n_rows: int = 6, wanted: int = 2) -> Pipeline:
    loaded = Pipeline("branches").from_dicts([{"n": i} for i in range(n_rows)])
    p = loaded >> [
        MapRows(name="left", function=needs(fault, wanted)),
        MapRows(name="right", function=lambda n: {"right": n}),
    ]
    return p.combine(name="both").map(lambda checked, right: {"sum": checked + right}, name="sum")


def test_partners_meet_again_at_a_join(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.touch()
    p = branches(fault)
    run = done(p)
    assert sorted(states(run)) == [(2, "both", "open"), (2, "left", "open")]
    again(run)
    assert sorted(states(run)) == [
        (2, "both", "open"),
        (2, "both", "retried"),
        (2, "left", "open"),
        (2, "left", "retried"),
    ]
    assert (counts(run, "left"), counts(run, "both")) == ((5, 1, 0), (5, 1, 0))
    fault.unlink()
    again(run, "both")  # names the consequence: its cause is what is done again
    assert {state for _, _, state in states(run)} == {"mended"}
    assert [counts(run, s) for s in ("left", "right", "both", "sum")] == [(6, 0, 0)] * 4
    pd.testing.assert_frame_equal(run.rows("sum"), undisturbed(p, "sum"))


def test_a_row_that_failed_in_both_branches_comes_back_one_by_one(tmp_path: Path) -> None:
    faults = [tmp_path / "one", tmp_path / "two"]
    for fault in faults:
        fault.touch()
    p = (
        Pipeline("both").from_dicts([{"n": i} for i in range(5)])
        >> [
            MapRows(name="left", function=needs(faults[0], 2), made_columns=["checked"]),
            MapRows(
                name="right",
                function=needs(faults[1], 2),
                made_columns=["checked"],
                output_mappings={"checked": "seen"},
            ),
        ]
    ).combine(name="both")
    run = done(p)
    assert sorted(states(run)) == [(2, "left", "open"), (2, "right", "open")]
    faults[0].unlink()
    again(run, "left")
    assert sorted(states(run)) == [(2, "both", "open"), (2, "left", "mended"), (2, "right", "open")]
    assert counts(run, "both") == (4, 1, 0)
    faults[1].unlink()
    again(run)
    assert {state for _, _, state in states(run)} == {"mended"}
    assert counts(run, "both") == (5, 0, 0)
    pd.testing.assert_frame_equal(run.rows("both"), undisturbed(p, "both"))


def test_a_row_lost_before_the_branches_comes_back_in_all_of_them(tmp_path: Path) -> None:
    fault = tmp_path / "fault"
    fault.touch()
    loaded = Pipeline("before").from_dicts([{"n": i} for i in range(5)]).map(needs(fault, 2), name="check")
    p = loaded >> [
        MapRows(name="left", function=lambda n: {"left": n}),
        MapRows(name="right", function=lambda n: {"right": n}),
    ]
    p = p.combine(name="both")
    run = done(p)
    assert states(run) == [(2, "check", "open")]
    fault.unlink()
    again(run)
    assert states(run) == [(2, "check", "mended")]
    pd.testing.assert_frame_equal(run.rows("both"), undisturbed(p, "both"))


def test_a_partner_that_was_left_out_cannot_be_retried() -> None:
    p = Pipeline("left out").from_dicts([{"n": i} for i in range(5)]) >> [
        MapRows(name="left", function=lambda n: {"left": n}),
        FilterRows(name="right", condition="n != 3"),
    ]
    run = done(p.combine(name="both"))
    assert states(run) == [(3, "both", "open")]
    with pytest.raises(RunError, match="the partners of these rows did not fail, they were left out"):
        run.retry()


# --- above a global step --------------------------------------------------------


class Ranked(GlobalStep):
    """Numbers the rows that there are, and gives every row how many."""

    @property
    def outputs(self) -> list[str]:
        return ["even"]

    def process(self, rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        for row in rows:
            row["even"] = len(rows) % 2 == 0 and row["i"] < 5
        yield rows


def ranked(server: MockLLM, marks: dict[int, str], n_rows: int = 10) -> Pipeline:
    return (
        Pipeline("ranked", llm=writer(server))
        .from_dicts(texts(marks, n_rows))
        .generate("answer", "{{ text }}", into="answers")
        .then(Ranked(), name="rank")
        .generate("second", "Again {{ i }} {{ even }}", into="seconds")
    )


def test_a_global_step_runs_again_and_only_changed_rows_are_asked_below_it(server: MockLLM) -> None:
    p = ranked(server, {3: "[[500x1]]"})
    run = done(p)
    # 9 rows reach the global step: an odd number, so no row is even.
    assert (counts(run, "answer"), counts(run, "second")) == ((9, 1, 10), (9, 0, 9))
    assert len(run.rows("second")) == 9
    again(run)
    assert states(run) == [(3, "answer", "mended")]
    # 10 rows now: of the nine that were there, 0, 1, 2 and 4 have changed; row 3 is new.
    assert counts(run, "answer") == (10, 0, 11)
    assert counts(run, "rank") == (10, 0, 0)
    assert counts(run, "second") == (10, 0, 9 + 5)
    assert server.stats()["requests"] == 11 + 9 + 5
    pd.testing.assert_frame_equal(run.rows("second"), undisturbed(p, "second"))


def test_a_global_step_whose_rows_did_not_change_is_left_alone(server: MockLLM) -> None:
    run = done(ranked(server, {3: "[[500]]"}))
    before = server.stats()["requests"]
    first = run.rows("second")
    again(run)
    assert run.status().state == "finished"
    assert states(run) == [(3, "answer", "retried"), (3, "answer", "open")]
    assert server.stats()["requests"] == before + 1
    assert counts(run, "second") == (9, 0, 9)
    pd.testing.assert_frame_equal(run.rows("second"), first)


def test_what_was_mended_below_a_global_step_is_not_asked_again(server: MockLLM) -> None:
    """Row 7 was mended below the global step by a second reply; when the step runs again, that reply is found."""
    p = (
        Pipeline("mended below", llm=writer(server))
        .from_dicts(texts({3: "[[500x2]]"}, 10))
        .generate("answer", "{{ text }}", into="answers")
        .dedup("i", name="unique")
        .generate("second", "{{ i }} {{ '[[nullx1]]' if i == 7 else '' }}", into="seconds")
    )
    run = done(p)
    again(run, "second")
    assert (counts(run, "second"), server.stats()["requests"]) == ((9, 0, 10), 10 + 10)
    again(run, "answer")
    assert states(run) == [(3, "answer", "retried"), (7, "second", "mended"), (3, "answer", "open")]
    again(run, "answer")
    assert (counts(run, "second"), server.stats()["requests"]) == ((10, 0, 11), 12 + 11)
    pd.testing.assert_frame_equal(run.rows("second"), undisturbed(p, "second"))


def test_rows_above_a_global_step_of_a_live_run_are_all_in_its_last_rows(server: MockLLM) -> None:
    """The global step has run, and what stands below it is being asked, when a row above it is revived."""
    n_rows = 60
    p = (
        Pipeline("live global", llm=writer(server, max_concurrency=2))
        .from_dicts(texts({3: "[[500x1]]"}, n_rows))
        .generate("answer", "{{ text }}", into="answers")
        .then(Ranked(), name="rank")
        .generate("second", "Again {{ i }} {{ even }}", into="seconds")
    )
    run = p.start(new=True)
    wait_for(run, lambda run: run.status().step("second").done >= 10)
    run.retry()
    assert run.wait(60).state == "finished"
    assert states(run) == [(3, "answer", "mended")]
    assert counts(run, "second") == (n_rows, 0, n_rows - 1 + 5)
    assert server.stats()["requests"] == n_rows + 1 + n_rows - 1 + 5
    pd.testing.assert_frame_equal(run.rows("second"), undisturbed(p, "second"))


# --- while it goes on, and after it stopped -------------------------------------


def test_rows_are_retried_while_the_run_goes_on(server: MockLLM) -> None:
    p = asking(server, {1: "[[500x1]]"}, n_rows=300, max_concurrency=2)
    run = p.start(new=True)
    wait_for(run, lambda run: run.status().step("answer").failed == 1)
    run.retry()
    assert run.status().state == "running"
    assert run.wait(60).state == "finished"
    assert states(run) == [(1, "answer", "mended")]
    assert counts(run, "answer") == (300, 0, 301)
    assert server.stats()["requests"] == 301
    assert run.rows("answer")["i"].tolist() == list(range(300))


def test_branches_of_a_live_run_meet_whatever_came_first(tmp_path: Path, server: MockLLM) -> None:
    loaded = Pipeline("live", llm=writer(server, max_concurrency=2)).from_dicts(texts({}, 150))
    fault = tmp_path / "fault"
    fault.touch()
    p = (
        loaded
        >> [
            MapRows(name="left", function=checked(fault, 2)),
            MapRows(name="right", function=lambda i: {"right": i}),
        ]
    ).combine(name="both")
    p = p.generate("answer", "{{ text }}")
    run = p.start(new=True)
    wait_for(run, lambda run: run.status().step("left").failed == 1)
    fault.unlink()
    run.retry()
    assert run.wait(60).state == "finished"
    assert {state for _, _, state in states(run)} == {"mended"}
    assert run.rows("answer")["i"].tolist() == list(range(150))
    assert counts(run, "both") == (150, 0, 0)
    assert server.stats()["requests"] == 150


def test_a_lost_row_that_waits_at_a_join_is_taken_back(tmp_path: Path, server: MockLLM) -> None:
    """The join has heard that row 140 is lost on the left, and waits for the right: then the left is mended."""
    fault = tmp_path / "fault"
    fault.touch()
    p = Pipeline("waits", llm=writer(server, max_concurrency=2)).from_dicts(texts({}, 150))
    right = TextGeneration(name="right", template="{{ text }}", llm=writer(server, max_concurrency=2))
    p = (p >> [MapRows(name="left", function=checked(fault, 140)), right]).combine(name="both")
    run = p.start(new=True)
    wait_for(run, lambda run: run.status().step("left").failed == 1)
    fault.unlink()
    run.retry()
    assert run.status().step("right").done < 140
    assert run.wait(60).state == "finished"
    assert states(run) == [(140, "left", "mended")]
    assert run.rows("both")["i"].tolist() == list(range(150))
    assert counts(run, "both") == (150, 0, 0)


def checked(fault: Path, disliked: int) -> Callable[[int], dict[str, int]]:
    check = raise_while(fault, [disliked])

    def check_row(i: int) -> dict[str, int]:
        check(i)
        return {"checked": i}

    return check_row


def test_a_stopped_run_goes_on_with_its_failed_rows_too(server: MockLLM) -> None:
    run = asking(server, {1: "[[500x1]]"}, n_rows=200, max_concurrency=2).start(new=True)
    wait_for(run, lambda run: run.status().step("answer").failed == 1)
    run.stop()
    assert run.wait(30).state == "stopped"
    again(attach(run.id))
    assert run.status().state == "finished"
    assert counts(run, "answer") == (200, 0, 201)
    assert server.stats()["requests"] == 201


@pytest.mark.parametrize("whom", ["runner", "ask_worker"])
def test_a_kill_in_the_middle_of_a_retry_loses_and_repeats_nothing(home: Path, whom: str) -> None:
    n_rows = 120
    marks = dict.fromkeys(range(0, n_rows, 2), "[[500x1]]")
    with mock_llm(latency_ms=60) as server:
        p = asking(server, marks, n_rows=n_rows, max_concurrency=4)
        run = done(p)
        assert counts(run, "answer") == (60, 60, n_rows)
        run.retry()
        wait_for(run, lambda run: run.status().step("answer").done >= 70)
        os.kill(worker_pids(run)[whom], signal.SIGKILL)
        if whom == "runner":
            assert wait_until_gone(home) == []
            assert run.wait(30).state == "lost"
            run.resume()
        assert run.wait(60).state == "finished"
        stats = server.stats()
        assert n_rows + 60 <= stats["requests"] <= n_rows + 60 + 4
        assert stats["duplicate_prompts_after_ok"] <= 4
        assert {state for _, _, state in states(run)} == {"mended"}
        assert counts(run, "answer")[:2] == (n_rows, 0)
        pd.testing.assert_frame_equal(run.rows("answer"), undisturbed(p, "answer"))
    assert wait_until_gone(home) == []


KILLED_BEFORE_ITS_RUNNER = """
import os, sys
from distilnb.engine import commands
from distilnb.run import attach
commands.start_runner = lambda *_: os._exit(0)
attach(sys.argv[1]).retry()
"""


def test_an_order_that_no_runner_took_up_is_carried_out_by_the_next(server: MockLLM, home: Path) -> None:
    run = done(asking(server, {3: "[[500x1]]"}))
    subprocess.run([sys.executable, "-c", KILLED_BEFORE_ITS_RUNNER, run.id], check=True, timeout=60)
    assert run.status().state == "finished"
    assert states(run) == [(3, "answer", "open")]
    run.resume()
    assert run.wait(60).state == "finished"
    assert states(run) == [(3, "answer", "mended")]


# --- with an edited step --------------------------------------------------------


def test_failed_rows_are_asked_with_an_edited_prompt(server: MockLLM, home: Path) -> None:
    p = asking(server, {3: "[[500@writer]]", 5: "[[500@writer]]"})
    run = done(p)
    edited = asking(server, {3: "[[500@writer]]", 5: "[[500@writer]]"}, "Edited {{ i }}")
    again(run, using=edited, rows=[3])
    assert server.stats()["requests"] == N_ROWS + 1
    assert [(e["row"], e["state"]) for e in run.errors().to_dict("records")] == [(3, "mended"), (5, "open")]
    assert run.errors()["mended_by"].tolist()[0] == 2
    again(run)  # as the run was started: it fails again
    assert states(run)[-1] == (5, "answer", "open")
    again(attach(run.id), using=edited)
    [version] = run.versions().to_dict("records")
    assert (version["step"], version["version"], version["rows"]) == ("answer", 2, 2)
    assert version["digest"] == edited.graph.steps["answer"].digest
    assert sorted(version["row_ids"]) == sorted(run.errors()["row_id"].unique())
    info = run.distiset().info
    assert (info.edited, info.failures) == ({"answer": {"2": 2}}, {})
    assert "answer: 2 rows made by version 2 of the step" in make_card(info, "", [])
    fresh = done(edited).rows("answer").iloc[[3, 5]]
    pd.testing.assert_frame_equal(run.rows("answer").iloc[[3, 5]], fresh)
    assert server.stats()["requests"] == N_ROWS + 3 + N_ROWS - 2
    assert wait_until_gone(home) == []


def test_an_edited_step_stands_a_kill(server: MockLLM, home: Path) -> None:
    marks = dict.fromkeys(range(0, 40, 2), "[[500@writer]]")
    run = done(asking(server, marks, n_rows=40))
    with mock_llm(latency_ms=60) as slow:
        run.retry(
            using=asking(slow, marks, "Edited {{ i }}", n_rows=40, api_key="sk-canary-0123456789abcdef")
        )
        wait_for(run, lambda run: run.status().step("answer").done >= 24)
        os.kill(worker_pids(run)["runner"], signal.SIGKILL)
        assert wait_until_gone(home) == []
        other = attach(run.id)
        with pytest.raises(RunError, match=r"keys that are not stored: \['versions/2/answer.llm.api_key'\]"):
            other.resume()
        run.resume()
        assert run.wait(60).state == "finished"
        assert run.versions()["rows"].tolist() == [20]
        assert 20 <= slow.stats()["requests"] <= 20 + CONCURRENCY
    assert run.rows("answer")["i"].tolist() == list(range(40))
    found = [
        path for path in Path(run.path).rglob("*") if path.is_file() and b"sk-canary" in path.read_bytes()
    ]
    assert found == []


def test_an_edited_function_mends_its_rows_inside_fused_steps(tmp_path: Path) -> None:
    def pipeline(function: Callable[..., dict[str, int]]) -> Pipeline:
        return (
            Pipeline("edited")
            .from_dicts([{"n": i} for i in range(5)])
            .map(lambda n: {"m": n}, makes=["m"], name="first")
            .map(function, makes=["part"], name="share")
            .map(lambda part: {"more": part + 1}, makes=["more"], name="last")
        )

    run = done(pipeline(lambda m: {"part": 10 // (m - 2)}))
    assert states(run) == [(2, "share", "open")]
    again(run, using=pipeline(lambda m: {"part": 10 // (m - 2) if m != 2 else -100}))
    assert run.rows("last")["part"].tolist() == [-5, -10, -100, 10, 5]
    assert run.versions()["rows"].tolist() == [1]


def test_another_upstream_is_refused_by_name(server: MockLLM) -> None:
    run = done(asking(server, {3: "[[500x1]]"}))
    other = asking(server, {3: "[[500x1]]", 4: "new"}, "Edited {{ i }}")
    with pytest.raises(RunError, match="step 'load' is another there"):
        run.retry(using=other)
    between = (
        Pipeline("retry", llm=writer(server))
        .from_dicts(texts({3: "[[500x1]]"}))
        .map(lambda i: {"j": i}, makes=["j"], name="between")
        .generate("answer", "Edited {{ i }}")
    )
    with pytest.raises(RunError, match="step 'between' is in the pipeline given only"):
        run.retry(using=between)
    with pytest.raises(UnknownStepError, match="has no such step"):
        run.retry(using=Pipeline("retry", llm=writer(server)).from_dicts(texts({})).generate("other", "Hi"))
    assert states(run) == [(3, "answer", "open")]
    assert not (Path(run.path) / "versions").exists()


def test_a_living_run_takes_an_edited_step_but_no_new_key(server: MockLLM) -> None:
    marks = {1: "[[500@writer]]"}
    run = asking(server, marks, n_rows=300, max_concurrency=2).start(new=True)
    wait_for(run, lambda run: run.status().step("answer").failed == 1)
    with pytest.raises(RunError, match="a run that is going takes none"):
        run.retry(using=asking(server, marks, "Edited {{ i }}", n_rows=300, api_key="sk-0123456789abcdef"))
    run.retry(using=asking(server, marks, "Edited {{ i }}", n_rows=300))
    assert run.wait(60).state == "finished"
    assert counts(run, "answer") == (300, 0, 301)
    assert run.versions()["rows"].tolist() == [1]


# --- what is told ---------------------------------------------------------------


def test_a_prompt_of_5_mb_goes_by_file(server: MockLLM) -> None:
    texts = ["x" * 5_000_000, f"{'y' * 900_000}[[nullx1]]", "short [[500x1]]", f"{'z' * MAX_INLINE}[[500]]"]
    rows = [{"text": text} for text in texts]  # the first is more than the server takes
    run = done(Pipeline("big", llm=writer(server)).from_dicts(rows).generate("answer", "{{ text }}"))
    found = run.errors().set_index("row").sort_index()
    assert found["prompt"].tolist() == [f"user:\n{row['text']}" for row in rows]
    assert found["reply"].tolist() == ["", "(no text)", "", ""]
    journal = Path(run.path) / "journal.sqlite"
    assert journal.stat().st_size < 1_000_000
    assert len(list(Path(run.path).rglob("*.errors.jsonl"))) >= 1
    again(run, rows=[1, 2])
    assert [state for _, _, state in sorted(states(run))] == ["open", "mended", "mended", "open"]


def test_errors_tell_everything_of_a_failure(server: MockLLM) -> None:
    run = done(asking(server, {3: "[[null]]"}).map(lambda i: {"x": 1 // (i - 5)}, makes=["x"], name="share"))
    parse, share = run.errors().to_dict("records")
    assert (parse["row"], parse["step"], parse["kind"]) == (3, "answer", "ParseError")
    assert (parse["prompt"], parse["reply"]) == ("user:\nSay 3. [[null]]", "(no text)")
    assert (parse["attempts"], parse["is_partial"], parse["state"], parse["version"]) == (1, False, "open", 1)
    assert (share["row"], share["step"], share["kind"]) == (5, "share", "ZeroDivisionError")
    assert "ZeroDivisionError: integer division or modulo by zero" in share["traceback"]


def test_the_ordinal_is_the_sources_below_a_global_step_too(server: MockLLM) -> None:
    p = ranked(server, {0: "[[500]]"}, 4).map(lambda i: {"x": 1 // (i - 3)}, makes=["x"], name="share")
    run = done(p)
    assert states(run) == [(0, "answer", "open"), (3, "share", "open")]


def test_the_command_retries_and_waits(server: MockLLM) -> None:
    run = done(asking(server, {3: "[[500x1]]"}))
    for options, status, told in (
        (["--step", "load"], 1, "nothing to retry"),
        (["--step", "answer"], 0, "1 row of answer is done again"),
        ([], 1, "No row is in quarantine"),
    ):
        command = [sys.executable, "-m", "distilnb", "retry", run.id, *options]
        ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert ended.returncode == status
        assert told in ended.stdout + ended.stderr
    assert states(run) == [(3, "answer", "mended")]
