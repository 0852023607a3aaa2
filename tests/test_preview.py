"""The preview: a few rows now, and the promise that what it asked is never asked again.

The mock server counts every request, so "reused" is its word, not ours.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import distilnb as dn
from distilnb import Pipeline
from distilnb.engine.preview import preview_graph
from distilnb.engine.sample import pinned_sample
from distilnb.errors import AuthenticationError, InputError, SpecError, UnknownStepError
from distilnb.llms import OpenAILLM
from distilnb.spec.step import GeneratorStep
from tests.servers import MockLLM, mock_llm

JUDGE = "{each}## Text {i}\nRating: {score}\nRationale: {words}\n\n{/each}"


@pytest.fixture(scope="module")
def running() -> Iterator[MockLLM]:
    # With `vary` a reply that was asked for again can be told from one that was kept.
    with mock_llm(vary=True, models=("writer", "judge"), templates={"judge": JUDGE}) as server:
        yield server


@pytest.fixture
def server(running: MockLLM) -> MockLLM:
    running.reset()
    return running


def model(server: MockLLM, name: str = "writer", **options: Any) -> OpenAILLM:
    return OpenAILLM(model=name, base_url=server.base_url, max_retries=0, **options)


def asked(server: MockLLM) -> dict[str, int]:
    """Return the requests by model since the last look."""
    seen = dict(server.stats()["by_model"])
    server.reset()
    return seen


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"instruction": f"Say {i}."} for i in range(start, start + n)]


def prefs(server: MockLLM, n: int = 20, *, name: str = "prefs") -> Pipeline:
    """Return load → answer (two replies in one request) → judge."""
    p = Pipeline(name, llm=model(server)).from_dicts(rows(n))
    return p.generate("answer", "{{ instruction }}", k=2).judge(llm=model(server, "judge"))


def texts(preview: dn.Preview, column: str = "generations") -> list[Any]:
    return [row[column] for row in preview.rows]


# --- what is asked --------------------------------------------------------------------------------------------


def test_a_second_preview_asks_nothing(server: MockLLM) -> None:
    p = prefs(server)
    first = p.preview(5)
    assert (first.asked, first.reused) == (10, 0)
    assert asked(server) == {"writer": 5, "judge": 5}
    second = p.preview(5)
    assert (second.asked, second.reused) == (0, 10)
    assert asked(server) == {}
    assert second.rows == first.rows


def test_a_larger_preview_keeps_its_rows_and_asks_for_the_new_ones(server: MockLLM) -> None:
    p = prefs(server)
    small = p.preview(3)
    asked(server)
    large = p.preview(5)
    assert asked(server) == {"writer": 2, "judge": 2}
    assert large.rows[:0] == []
    assert all(row in large.rows for row in small.rows)


def test_the_run_and_a_later_pipeline_use_what_the_preview_asked(server: MockLLM) -> None:
    p = prefs(server)
    seen = p.preview(5)
    asked(server)
    made = p.run(show=False)
    assert asked(server) == {"writer": 15, "judge": 15}
    everything = list(made.rows())
    assert all(row in everything for row in seen.rows)
    other = prefs(server, name="another").keep("instruction", "generations", "ratings")
    again = list(other.run(show=False).rows())
    assert asked(server) == {}
    assert again == [{name: row[name] for name in again[0]} for row in everything]
    assert other.preview(20).reused == 40
    assert asked(server) == {}


def test_an_edited_last_prompt_asks_only_its_step(server: MockLLM) -> None:
    p = prefs(server)
    p.run(show=False)
    asked(server)
    edited = p.judge(llm=model(server, "judge"), aspect="honesty")
    assert edited.preview(5).reused == 5
    assert asked(server) == {"judge": 5}
    run = edited.start()
    run.wait(60)
    assert asked(server) == {"judge": 15}
    counts = {step.name: (step.asked, step.cached) for step in run.status().steps}
    assert counts == {"load": (0, 0), "answer": (0, 20), "judge": (15, 5)}


def test_an_edited_first_prompt_asks_what_depends_on_it(server: MockLLM) -> None:
    p = prefs(server)
    p.preview(4)
    asked(server)
    p.generate("answer", "Please: {{ instruction }}", k=2).preview(4)
    assert asked(server) == {"writer": 4, "judge": 4}
    p.preview(4)  # and back: the old text is known
    assert asked(server) == {}


def test_appended_rows_ask_only_for_themselves(server: MockLLM) -> None:
    p = prefs(server, 20)
    before = p.preview(5)
    p.run(show=False)
    asked(server)
    grown = p.with_rows(rows(30))
    after = grown.preview(5)
    assert asked(server) == {}
    assert texts(after, "instruction") == texts(before, "instruction")
    grown.run(show=False)
    assert asked(server) == {"writer": 10, "judge": 10}


def test_reordered_rows_keep_the_sample_and_their_replies(server: MockLLM) -> None:
    p = prefs(server)
    before = p.preview(5)
    asked(server)
    after = p.with_rows(list(reversed(rows(20)))).preview(5)
    assert asked(server) == {}
    assert sorted(texts(after, "instruction")) == sorted(texts(before, "instruction"))


def test_more_replies_ask_only_for_the_rest(server: MockLLM) -> None:
    p = Pipeline("more", llm=model(server)).from_dicts(rows(3))
    two = p.generate("answer", k=2).preview(3)
    asked(server)
    three = p.generate("answer", k=3).preview(3)
    assert asked(server) == {"writer": 3}
    assert [replies[:2] for replies in texts(three)] == texts(two)


def test_equal_rows_get_replies_of_their_own(server: MockLLM) -> None:
    p = Pipeline("equal", llm=model(server)).from_dicts([{"instruction": "Tell a joke."}] * 3)
    jokes = texts(p.generate().preview(3))
    assert asked(server) == {"writer": 3}
    assert len({joke for [joke] in jokes}) == 3
    assert texts(p.generate().preview(3)) == jokes
    assert asked(server) == {}


def test_what_does_not_change_a_reply_is_no_reason_to_ask_again(server: MockLLM) -> None:
    p = Pipeline("limits").from_dicts(rows(3))
    p.generate(llm=model(server)).preview(3)
    asked(server)
    p.generate(llm=model(server, max_concurrency=2, rpm=600, timeout=7, price=(1, 2))).preview(3)
    assert asked(server) == {}
    p.generate(llm=model(server, generation_kwargs={"temperature": 0.5})).preview(3)
    assert asked(server) == {"writer": 3}


def test_parameters_of_a_preview_are_those_of_a_run(server: MockLLM) -> None:
    p = prefs(server, 3)
    parameters = {"answer.llm.temperature": 0.1}
    preview = p.preview(3, parameters=parameters)
    asked(server)
    made = p.run(show=False, parameters=parameters)
    assert asked(server) == {}
    assert list(made.rows()) == preview.rows


# --- where it runs --------------------------------------------------------------------------------------------


def test_it_works_in_a_running_loop(server: MockLLM) -> None:
    """As in a notebook, whose kernel runs one."""
    p = prefs(server, 5)

    async def cell() -> tuple[int, int]:
        preview = p.preview(3)
        assert repr(p["judge"].prompt()).startswith("system:\n")
        return preview.asked, p["answer"].preview(3).reused

    assert asyncio.run(cell()) == (6, 3)
    run = asyncio.run(started_in_a_loop(p))
    assert run.status().state == "finished"


async def started_in_a_loop(p: Pipeline) -> dn.Run:
    run = p.start()
    made = await run
    assert len(made.to_pandas()) == 5
    return run


def test_it_works_in_several_threads_at_once(server: MockLLM) -> None:
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(len(prefs(server, 3, name=f"p{i}").preview(3).rows)))
        for i in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [3, 3, 3]


def test_it_starts_no_process(server: MockLLM) -> None:
    prefs(server, 3).preview(3)
    assert list(dn.runs()) == []


def test_a_script_that_previews_ends_without_a_word(server: MockLLM) -> None:
    program = f"""
from distilnb import Pipeline
from distilnb.llms import OpenAILLM
llm = OpenAILLM(model="writer", base_url={server.base_url!r})
assert len(Pipeline("quiet", llm=llm).from_dicts([{{"instruction": "hi"}}]).generate().preview(1).rows) == 1
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_load_is_called_on_a_copy(server: MockLLM) -> None:
    class Loaded(dn.Step):
        inputs = ["instruction"]
        outputs = ["n"]
        _n: int = 0

        def load(self) -> None:
            self._n = 7

        def process(self, rows: Any) -> Any:  # type: ignore[override]  # as users write it
            yield [{**row, "n": self._n} for row in rows]

    step = Loaded(name="loaded")
    preview = Pipeline("loading").from_dicts(rows(2)).then(step).preview(2)
    assert texts(preview, "n") == [7, 7]
    assert step._n == 0


# --- as it comes ----------------------------------------------------------------------------------------------


def test_rows_are_told_as_they_come(server: MockLLM) -> None:
    """Each reply is one call, with what is finished so far; steps come in their order."""
    p = prefs(server, 4, name="stream")
    samples = {
        name: pinned_sample("stream", step, 4)
        for name, step in p.graph.steps.items()
        if isinstance(step, GeneratorStep)
    }
    told: list[tuple[str, int, int]] = []
    results = list(
        preview_graph(
            p.graph,
            samples,
            on_row=lambda result: told.append((result.name, len(result.outgoing), len(result.incoming))),
        )
    )
    assert told == [(step, n, 4) for step in ("answer", "judge") for n in (1, 2, 3, 4)]
    assert [result.name for result in results] == ["load", "answer", "judge"]
    assert asked(server) == {"writer": 4, "judge": 4}


def test_a_shown_preview_is_the_one_that_is_returned(
    server: MockLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    p = prefs(server, 3)
    shown = p.preview(3, show=True)
    assert shown.rows == p.preview(3).rows
    assert asked(server) == {"writer": 3, "judge": 3}
    capsys.readouterr()


# --- one step -------------------------------------------------------------------------------------------------


def test_a_step_is_previewed_without_those_after_it(server: MockLLM) -> None:
    p = prefs(server, 6)
    preview = p["answer"].preview(4)
    assert asked(server) == {"writer": 4}
    assert preview.steps == ["answer"]
    assert list(preview.to_pandas().columns) == ["instruction", "generations", "generation_models"]
    assert len(preview.rows) == 4


def test_a_prompt_is_rendered_without_asking_its_step(server: MockLLM) -> None:
    p = prefs(server, 20)
    assert repr(p["answer"].prompt(17)) == "user:\nSay 17."
    assert asked(server) == {}
    judged = p["judge"].prompt(17)
    assert asked(server) == {"writer": 1}  # what comes before it, for that row alone
    assert [message["role"] for message in judged] == ["system", "user"]
    assert "Say 17." in judged[1]["content"]
    p["judge"].prompt(17)
    assert asked(server) == {}
    by_id = p["answer"].prompt(p.preview(1).to_pandas().index[0])
    assert by_id == p["answer"].prompt()
    assert p["answer"].prompt({"instruction": "Given."}) == ({"role": "user", "content": "Given."},)


def test_a_prompt_of_no_row_and_of_no_task_is_told(server: MockLLM) -> None:
    p = prefs(server, 3)
    with pytest.raises(InputError, match="Source 'load' has no row 99"):
        p["answer"].prompt(99)
    with pytest.raises(SpecError, match="Step 'load' \\(LoadDataFromDicts\\) asks no model"):
        p["load"].prompt()


def test_a_step_of_a_preview_is_taken_by_name(server: MockLLM) -> None:
    preview = prefs(server, 3).preview(3)
    assert preview.steps == ["load", "answer", "judge"]
    assert "ratings" not in preview["answer"].rows[0]
    assert (preview["answer"].asked, preview["judge"].asked, preview["load"].asked) == (3, 3, 0)
    with pytest.raises(UnknownStepError, match="Did you mean 'judge'"):
        preview["juge"]


# --- failures -------------------------------------------------------------------------------------------------


def test_a_failing_row_shows_its_prompt_and_reply(server: MockLLM) -> None:
    p = Pipeline("failing", llm=model(server)).from_dicts(
        [
            {"instruction": "Good.", "generations": ["a", "b"]},
            {"instruction": "Bad.", "generations": ["c", "d [[empty@judge]]"]},
            {"instruction": "Worse.", "generations": ["e", "f [[500@judge]]"]},
        ]
    )
    p = p.judge(llm=model(server, "judge"))
    preview = p.preview(3)
    assert texts(preview, "instruction") == ["Good."]
    errors = preview.errors().set_index("kind")
    assert set(errors.index) == {"ParseError", "ServerError"}
    parse, failed = errors.loc["ParseError"], errors.loc["ServerError"]
    assert (parse["step"], parse["reply"]) == ("judge", "")
    assert parse["prompt"] == repr(p["judge"].prompt(1))
    assert failed["prompt"] == repr(p["judge"].prompt(2))
    assert parse["reason"].startswith("The reply rates none of the 2 texts")
    assert "failed: The reply rates none of the 2 texts" in repr(preview)
    html = preview._repr_mimebundle_()["text/html"]
    assert "f [[500@judge]]" in html
    assert "injected failure" in html


def test_a_row_that_fails_is_not_asked_again_but_one_without_an_answer_is(server: MockLLM) -> None:
    p = Pipeline("again", llm=model(server)).from_dicts(
        [{"instruction": "One. [[empty]]"}, {"instruction": "Two. [[500x1]]"}]
    )
    p = p.generate()
    assert len(p.preview(2).errors()) == 2
    assert server.stats()["requests"] == 2
    again = p.preview(2)
    assert again.errors()["kind"].tolist() == [
        "ParseError"
    ]  # its reply is kept: a mended parser costs nothing
    assert server.stats()["requests"] == 3


def test_a_refused_key_ends_the_preview_and_not_the_next_one(server: MockLLM) -> None:
    """What made every request fail may be mended meanwhile: credit added, a model pulled."""
    p = Pipeline("refused", llm=model(server, "refusing"))
    with pytest.raises(AuthenticationError, match="refused the API key"):
        p.from_dicts([{"instruction": "Hi [[401]]"}]).generate().preview(1)
    assert len(p.from_dicts(rows(2)).generate().preview(2).rows) == 2


def test_a_function_that_raises_costs_its_row(server: MockLLM) -> None:
    def share(n: int) -> dict[str, float]:
        return {"share": 1 / n}

    preview = Pipeline("function").from_dicts([{"n": n} for n in range(3)]).map(share).preview(3)
    assert texts(preview, "share") == [1, 0.5]
    [error] = preview.errors().to_dict("records")
    assert (error["kind"], error["reason"]) == ("ZeroDivisionError", "division by zero")
    assert "in share" in error["traceback"]


# --- on disk --------------------------------------------------------------------------------------------------


def test_samples_of_pipelines_of_other_names_do_not_meet(server: MockLLM) -> None:
    one = Pipeline("one").from_dicts(rows(9)).preview(2)
    two = Pipeline("two").from_dicts(rows(9, start=9)).preview(2)
    assert not set(texts(one, "instruction")) & set(texts(two, "instruction"))


def test_a_home_of_its_own_has_a_cache_of_its_own(
    server: MockLLM, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    p = prefs(server, 2)
    p.preview(2)
    asked(server)
    monkeypatch.setenv("DISTILNB_HOME", str(tmp_path_factory.mktemp("other")))
    p.preview(2)
    assert asked(server) == {"writer": 2, "judge": 2}


def test_a_preview_says_what_was_saved_as_exactly_as_what_was_paid(server: MockLLM) -> None:
    """What a second preview says that it saved is what the first one paid, in all and row by row."""
    llm = model(server, price=(100, 400))
    p = Pipeline("saved", llm=llm).from_dicts(rows(3)).generate("answer", k=2)
    (first,) = p.preview(3)["answer"].data().steps
    (again,) = p.preview(3)["answer"].data().steps
    assert first.cost_usd
    assert (first.saved_usd, again.cost_usd) == (0, 0)
    assert again.saved_usd == pytest.approx(first.cost_usd)
    assert {use.n_asked for use in first.uses.values()} == {2}
    assert [use.saved_usd for use in again.uses.values()] == [use.cost_usd for use in first.uses.values()]
    assert f"asked 0, reused 3, saved ${first.cost_usd:.2f}" in repr(p.preview(3)["answer"])
