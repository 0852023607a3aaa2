"""The command line: each command says what its method says, an error is one message and exit status 1."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

import distilnb as dn
from distilnb.cli import app
from distilnb.demo import FOLDER, announcement, build, limits_for
from distilnb.engine.events import Adjusted
from distilnb.llms.catalog import Found, as_llm
from distilnb.pipeline import Pipeline
from distilnb.run import Run
from tests.conftest import wait_until_gone
from tests.servers import mock_llm

COMMAND = [sys.executable, "-m", "distilnb"]
ROWS = [{"text": f"word {number}"} for number in range(6)]


@pytest.fixture(autouse=True)
def in_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distilnb.llms.catalog._list_models", lambda url: ())


def pipeline(name: str = "words", **llm: object) -> Pipeline:
    return (
        Pipeline(name, llm=dn.llm("rehearsal", **llm)).from_dicts(ROWS).generate("answer", "Say {{ text }}")
    )


def finished_run() -> Run:
    run = pipeline().start()
    run.wait()
    return run


def said(*words: str, status: int = 0) -> str:
    """Run a command in this process and return its standard output."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == status, result.output + repr(result.exception)
    return result.stdout


def failed(*words: str) -> tuple[int, str]:
    """Run a command in a process and return its exit status and standard error."""
    done = subprocess.run([*COMMAND, *words], check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == ""
    return done.returncode, done.stderr


# --- runs ---


def test_runs_lists_what_dn_runs_lists() -> None:
    assert said("runs") == "no runs\n"
    finished_run()
    assert said("runs") == f"{dn.runs()!r}\n"


def test_status_attach_errors_and_stop_say_what_the_run_says() -> None:
    run = finished_run()
    assert said("status", run.id) == f"{run!r}\n"
    assert said("attach", run.id) == ""
    assert said("errors", run.id) == "0 rows\n"
    assert said("stop", run.id) == f"{run.line()}\n"


def test_errors_lists_the_rows_that_failed() -> None:
    run = Pipeline("bad").from_dicts(ROWS).map(fails_on_three).start()
    run.wait()
    lines = said("errors", run.id).splitlines()
    assert lines[-1] == "1 row"
    assert re.search(r"map .*no word 3", lines[0])


def fails_on_three(text: str) -> dict[str, str]:
    if text == "word 3":
        raise ValueError("no word 3")
    return {"said": text}


def test_stop_and_resume_go_on_where_it_was() -> None:
    run = pipeline(latency_s=0.5, max_concurrency=1).start()
    assert said("stop", run.id, "--now").startswith(f"{run.id} stopped")
    assert f"{run.id} · ✓ finished" in said("resume", run.id)
    assert len(run.rows("answer")) == len(ROWS)


def test_pause_adjust_and_resume_say_how_the_run_stands() -> None:
    run = pipeline(latency_s=0.5, max_concurrency=1).start()
    wait_for_event(run, "started")
    assert "paused" in said("pause", run.id)
    wait_for_event(run, "paused")
    assert "paused" in said("adjust", run.id, "--max-concurrency", "6", "--max-tokens", "inf", "--rpm", "600")
    wait_for_event(run, "adjusted")
    (told,) = [event for event in run.events() if isinstance(event, Adjusted)]
    assert told.changes == {"max_concurrency": 6, "max_tokens": None, "rpm": 600}
    assert f"{run.id} · ✓ finished" in said("resume", run.id)
    assert len(run.rows("answer")) == len(ROWS)


def test_a_wrong_limit_is_one_message() -> None:
    run = pipeline(latency_s=20).start()
    for words, told in (
        (["--step", "anser", "--rpm", "5"], "UnknownStepError: There is no step 'anser'"),
        (["--max-tokens", "2.5"], "InputError: max_tokens is 2.5."),
        ([], "InputError: No limit was given."),
    ):
        status, text = failed("adjust", run.id, *words)
        assert status == 1
        assert text.startswith(told)
    run.abort()
    run.wait()


def test_logs_show_what_steps_print_and_nothing_that_a_terminal_obeys() -> None:
    run = Pipeline("loud").from_dicts(ROWS).map(prints).start()
    run.wait()
    text = run.logs()
    assert text.index("== runner ==") < text.index("== rows-0 ==")
    assert all(row["text"] in text for row in ROWS)
    assert "to stderr" in text
    last = run.logs(n=2).partition("== rows-0 ==")[2].strip().splitlines()
    assert len(last) == 2
    shown = said("logs", run.id, "-n", "100")
    assert "word 5" in shown
    assert "\x1b" not in shown


def prints(text: str) -> dict[str, str]:
    sys.stdout.write(f"\x1b[31m{text}\n")
    if text == "word 0":
        sys.stderr.write("to stderr\n")
    return {"said": text}


def test_an_unknown_run_is_one_message_and_status_1() -> None:
    run = finished_run()
    status, text = failed("status", run.id[:-1])
    assert status == 1
    assert text.startswith(f"RunNotFoundError: There is no run {run.id[:-1]!r} in ")
    assert text.endswith(f"Did you mean {run.id!r}?\n")
    assert "Traceback" not in text


def test_an_interrupt_of_attach_leaves_the_run_running(home: Path) -> None:
    run = pipeline(latency_s=20).start()
    with following("attach", run.id) as process:
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == f"\ndetached; {run.id} goes on. End it with: distilnb stop {run.id}\n"
    assert not run.status().is_ended
    run.abort()
    assert wait_until_gone(home) == []


@contextmanager
def following(*words: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command that follows a run, and go on once it does."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *words], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first line on the run
        yield process
        process.kill()


# --- pipelines from files ---


@pytest.fixture
def config(tmp_path: Path) -> str:
    pipeline().save(tmp_path / "words.yaml")
    return "words.yaml"


def test_info_shows_the_graph_and_what_a_run_would_touch(config: str) -> None:
    text = said("pipeline", "info", "--config", config)
    assert text.startswith(f"{dn.open(config)!r}\n")
    assert "asks rehearsal\n" in text


def test_info_shows_code_and_does_not_run_it(tmp_path: Path) -> None:
    Pipeline("bad").from_dicts(ROWS).map(fails_on_three).save(tmp_path / "bad.yaml")
    text = said("pipeline", "info", "--config", "bad.yaml")
    assert text.startswith("code, run with --trust-code only:\n    def fails_on_three(text: str)")


OWN_CLASSES = """
distilnb: {version: 0.1.0, format: 1}
pipeline:
  name: own
  llm: {kind: MyLLM, model: m, place: here}
  steps:
    - {kind: LoadDataFromFileSystem, name: load, data_files: "/etc/x\\e[2Jy.jsonl"}
    - {kind: TextGeneration, name: gen, llm: {kind: OtherLLM}}
    - {kind: Mine, name: mine, llm: {kind: OpenAILLM, model: gpt, base_url: "http://h/v1"}}
    - {kind: Mine, name: last}
  connections: [[load, gen], [gen, mine], [mine, last]]
classes:
  Mine: {needs: "open('ran', 'w')  #", source: "class Mine(Step): x = open('ran', 'w')", digest: a}
  MyLLM: {source: "class MyLLM(LLM): x = open('ran', 'w')"}
  KeepColumns: {source: "class KeepColumns: x = open('ran', 'w')"}
"""


def test_info_draws_classes_of_the_file_and_never_runs_them(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(OWN_CLASSES)
    text = said("pipeline", "info", "--config", "own.yaml")
    assert not Path("ran").exists()
    code, drawn = text.split("\nown\n")
    assert [line for line in code.splitlines() if not line.startswith("    ")] == [
        "code, run with --trust-code only:"
    ] * 3
    assert "    open('ran', 'w')  #\n    class Mine(Step): x = open('ran', 'w')" in code
    assert drawn.startswith("load → gen → mine → last\n")
    assert drawn.splitlines()[-4:] == [
        "reads /etc/x\\x1b[2Jy.jsonl",
        "asks OtherLLM",
        "asks openai:gpt at http://h/v1",
        "asks MyLLM:m",
    ]


def test_info_shows_the_code_also_when_the_rest_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        OWN_CLASSES.replace("kind: Mine, name: last", "kind: 'o s', name: last")
    )
    done = subprocess.run(
        [*COMMAND, "pipeline", "info", "--config", "own.yaml"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "class Mine(Step)" in done.stdout
    assert done.stderr.startswith("UnknownKindError: There is no step, task or model class 'o s'.")


def test_info_shows_what_a_terminal_would_hide(tmp_path: Path) -> None:
    source = "def f(text):\\n    evil()  #\\e[1K\\r    return {}\\n    # \\e[8m hidden \\u202e\\n"
    (tmp_path / "esc.yaml").write_text(
        'distilnb: {format: 1}\npipeline:\n  name: "n\\e[8m"\n  steps:\n'
        "    - {kind: LoadDataFromDicts, name: load, data: {rows: [{text: a}]}}\n"
        f'    - {{kind: MapRows, name: "m\\e[0m", function: {{code: f, digest: d, source: "{source}"}}}}\n'
        '  connections: [[load, "m\\e[0m"]]\n'
    )
    text = said("pipeline", "info", "--config", "esc.yaml")
    assert "    def f(text):\n        evil()  #\\x1b[1K\\x0d    return {}\n        # \\x1b[8m hidden" in text
    assert "\nn\\x1b[8m\n" in text
    assert not re.search("[\x1b\r\u202e]", text)


def test_the_reply_that_an_error_quotes_cannot_steer_the_terminal() -> None:
    run = Pipeline("bad").from_dicts(ROWS[:1]).map(fails_with_an_escape).start()
    run.wait()
    assert "hidden \\x1b[8m" in said("errors", run.id)


def fails_with_an_escape(text: str) -> dict[str, str]:
    raise ValueError("hidden \x1b[8m")


def test_run_takes_parameters_and_saves(config: str) -> None:
    text = said(
        "pipeline",
        "run",
        "--config",
        config,
        "--param",
        "answer.num_generations=2",
        "--rows",
        "4",
        "--out",
        "result",
    )
    run = dn.runs()[0]
    assert f"distilnb attach {run.id}\n" in text
    assert "saved in 'result'\n" in text
    again = dn.Distiset.load_from_disk("result")
    assert [len(row["generations"]) for row in again.rows()] == [2, 2, 2, 2]


def test_estimate_says_what_the_estimate_says(config: str) -> None:
    text = said("estimate", "--config", config, "--rows", "4", "--no-ask")
    assert text.startswith("words · 4 rows · 4 requests · ")
    assert "no reply of answer is known" in text
    text = said("estimate", "--config", config, "--param", "answer.num_generations=2")
    assert "6 rows · 1 request, 5 more cached" in text
    assert "asked 5 requests, free" in text


def test_models_lists_what_dn_models_lists() -> None:
    assert said("models") == f"{dn.models()!r}\n"
    assert "rehearsal" in said("models")


def test_a_run_of_the_command_may_be_limited_in_tokens(config: str) -> None:
    with following("pipeline", "run", "--config", config, "--max-tokens", "9") as process:
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is stopped (budget: max_tokens 9)" in told


@pytest.mark.parametrize(
    "words, message",
    [
        (
            ["--config", "words.yaml", "--param", "anser.llm.seed=1"],
            "UnknownStepError: There is no step 'anser'; ",
        ),
        (
            ["--config", "nowhere.yaml"],
            "SourceNotFoundError: The pipeline file 'nowhere.yaml' cannot be read: ",
        ),
    ],
)
def test_a_wrong_file_or_parameter_is_one_message(config: str, words: list[str], message: str) -> None:
    status, text = failed("pipeline", "run", *words)
    assert status == 1
    assert text.startswith(message)
    assert "Traceback" not in text


def test_a_parameter_without_a_value_is_a_usage_error(config: str) -> None:
    status, text = failed("pipeline", "run", "--config", config, "--param", "answer")
    assert status == 2
    assert "is not STEP.FIELD=VALUE" in text


def test_the_first_interrupt_stops_gracefully_the_second_at_once(home: Path, tmp_path: Path) -> None:
    pipeline(latency_s=60).save(tmp_path / "slow.yaml")
    with following("pipeline", "run", "--config", "slow.yaml") as process:
        run = dn.runs()[0]
        process.send_signal(signal.SIGINT)
        wait_for_event(run, "command")
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Ctrl-C again stops at once" in told
    assert f"RunNotFinishedError: Run {run.id!r} is stopped (user)." in told
    assert wait_until_gone(home) == []


def wait_for_event(run: Run, kind: str) -> None:
    """Wait until the runner has noted an event of that kind."""
    while kind not in {event.kind for event in run.events()}:
        continue


# --- the demo ---


def test_demo_makes_a_dataset_without_a_key_and_says_that_it_is_rehearsed() -> None:
    text = said("demo", "--rows", "40")
    run = dn.runs()[0]
    distiset = dn.Distiset.load_from_disk(FOLDER)
    n_rows = len(distiset["default"]["train"])
    assert text.startswith("Rehearsed: every reply below is made up, no model is asked, nothing is paid.\n")
    assert "No key and no local server was found. With one:  make demo LLM=openai:gpt-4o-mini" in text
    assert f"{n_rows} preference pairs · 120 requests asked, 0 reused · " in text
    assert "free · rehearsed" in text
    assert f"… {n_rows - 3} more rows" in text
    assert text.rstrip().endswith(f"The run: {run.id}")
    assert {row["chosen_model"] for row in distiset.rows()} == {"rehearsal:alpha", "rehearsal:beta"}
    assert all(row["chosen_rating"] > row["rejected_rating"] for row in distiset.rows())


def test_demo_replaces_its_own_result_and_no_other_folder() -> None:
    dn.demo(rows=10, show=False)
    dn.demo(rows=12, show=False)
    os.mkdir("mine")
    Path("mine", "notes.txt").write_text("keep")
    with pytest.raises(dn.errors.ExportError, match="'mine' is there already and is no result of this demo"):
        dn.demo(rows=2, out="mine", show=False)
    assert Path("mine", "notes.txt").read_text() == "keep"


def test_demo_says_which_keys_and_servers_it_found() -> None:
    found = [Found("openai", "OPENAI_API_KEY", (), "LLM=openai:gpt-4o-mini")]
    lines = announcement([as_llm("rehearsal")], found, {})
    assert lines[1] == (
        "  openai: OPENAI_API_KEY is set. To ask it:  make demo LLM=openai:gpt-4o-mini"
        '   or  dn.demo("openai:gpt-4o-mini")'
    )


@pytest.mark.parametrize(
    "name, rows, limits, line",
    [
        ("openai:gpt-4o-mini", None, {"rows": 20, "max_cost": 0.5}, "at most 20 rows, at most $0.50."),
        ("openai:gpt-4o-mini", 5, {"rows": 5, "max_cost": 0.5}, "at most 5 rows, at most $0.50."),
        ("openai:gpt-4o-mini", 500, {"rows": 20, "max_cost": 0.5}, "at most 20 rows, at most $0.50."),
        (
            "openai:a-model-of-nobody",
            None,
            {"rows": 20, "max_cost": None},
            "at most 20 rows, the price is unknown, so there is no budget.",
        ),
    ],
)
def test_demo_bounds_what_a_real_model_costs(
    name: str, rows: int | None, limits: dict[str, object], line: str
) -> None:
    model = as_llm(name)
    assert limits_for([model], rows) == limits
    assert announcement([model], [], limits) == [f"Asking {name}: {line}"]


def test_demo_asks_one_model_twice_and_two_once() -> None:
    one, two = build([as_llm("rehearsal:a")]), build([as_llm("rehearsal:a"), as_llm("rehearsal:b")])
    assert one.graph.steps["answer"].num_generations == 2  # type: ignore[attr-defined]
    assert two.graph.predecessors("answer") == ["answer_1", "answer_2"]


JUDGING = "{words}\n\n{each}#### Output for Text {i}\nRating: {score}\nRationale: {words}\n\n{/each}"


def test_demo_counts_what_the_server_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with mock_llm(models=("mock",), templates={"mock": JUDGING}, vary=True) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
        text = said("demo", "--llm", "openai:mock")
        counted = server.stats()
    n_rows = len(dn.Distiset.load_from_disk(FOLDER)["default"]["train"])
    tokens = f"{counted['prompt_tokens']:,} tokens in, {counted['completion_tokens']:,} out"
    assert f"{n_rows} preference pairs · {counted['requests']} requests asked, 0 reused · {tokens} · " in text
    assert counted["requests"] == 40
    assert "rehearsed" not in text.lower()


def test_demo_that_makes_nothing_says_why_and_keeps_the_earlier_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dn.demo(rows=10, show=False)
    with mock_llm(models=("mock",)) as server:  # its replies hold no rating
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
        with pytest.raises(
            dn.errors.RunFailedError, match=r"made no preference pair\. The first of 2 errors: "
        ):
            dn.demo("openai:mock", rows=2, show=False)
    assert dn.Distiset.load_from_disk(FOLDER).info.is_rehearsed


# --- upkeep ---


def test_runs_prune_deletes_old_runs_only() -> None:
    run = finished_run()
    assert said("runs", "prune", "-y") == "no run to delete\n"
    lines = said("runs", "prune", "--older-than", "-1", "-y").splitlines()
    assert lines[0] == run.id
    assert re.fullmatch(r"deleted 1 run, [\d.]+ kB", lines[1])
    assert said("runs") == "no runs\n"


def test_cache_info_and_clear() -> None:
    run = pipeline().start()
    run.wait(60)
    lines = said("cache", "info").splitlines()
    assert lines[0].endswith("replies.sqlite")
    assert re.fullmatch(rf"{len(ROWS)} replies · [\d.]+ kB \(limit 10 GB\)", lines[1])
    assert re.fullmatch(rf"  rehearsal\S*: {len(ROWS)} replies, \S+ output tokens", lines[2])
    assert lines[3].endswith("rows.sqlite")
    assert lines[4] == "0 step results · 0 B (limit 10 GB)"
    assert said("cache", "clear", "--model", "another", "-y") == "deleted 0 replies, 0 step results\n"
    assert said("cache", "clear", "--results", "-y") == "deleted 0 replies, 0 step results\n"
    assert said("cache", "clear", "-y") == f"deleted {len(ROWS)} replies, 0 step results\n"


def test_cache_info_and_clear_tell_of_results_of_steps() -> None:
    from_rows = Pipeline("kept").from_dicts([{"x": 1}, {"x": 2}])
    assert from_rows.map(lambda x: {"y": x}, cache=True).start().wait(60).state == "finished"
    lines = said("cache", "info").splitlines()
    assert re.fullmatch(r"2 step results · [\d.]+ kB \(limit 10 GB\)", lines[-1])
    assert said("cache", "clear", "--results", "-y") == "deleted 0 replies, 2 step results\n"
