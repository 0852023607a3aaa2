"""The quote before a run: it holds the truth, asks for nothing that it need not, and says what it does not know.

The mock server counts every request and every token, so the truth is its word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb import Pipeline
from distilnb.errors import InputError, MissingKeyError, UnknownStepError
from distilnb.llms import OpenAILLM
from distilnb.pipeline.estimate import Estimate
from distilnb.tasks import Magpie
from tests.servers import MockLLM, mock_llm

JUDGE = "{each}## Text {i}\nRating: {score}\nRationale: {words}\n\n{/each}"
PRICE = (1.0, 10.0)


@pytest.fixture(scope="module")
def running() -> Iterator[MockLLM]:
    with mock_llm(tokens=40, tokens_sigma=1.0, templates={"judge": JUDGE}) as server:
        yield server


@pytest.fixture
def server(running: MockLLM) -> MockLLM:
    running.reset()
    return running


def model(server: MockLLM, name: str = "writer", **options: Any) -> OpenAILLM:
    return OpenAILLM(model=name, base_url=server.base_url, **{"price": PRICE, "max_retries": 0, **options})


def rows(n: int, salt: object = "") -> list[dict[str, Any]]:
    return [{"i": i, "instruction": f"Say {i} {salt}. {'and more ' * (i % 23)}"} for i in range(n)]


def prefs(server: MockLLM, n: int = 60, salt: object = "") -> Pipeline:
    """Return load → answer (two replies in a request) → judge: its prompt is as long as the answers are."""
    p = Pipeline(f"prefs{salt}", llm=model(server)).from_dicts(rows(n, salt))
    return p.generate("answer", "{{ instruction }}", k=2).judge(llm=model(server, "judge"))


def holds(interval: Any, truth: float) -> bool:
    return bool(interval.low <= truth <= interval.high)


def truth_of(pipeline: Pipeline) -> dict[str, dict[str, float]]:
    """Run the pipeline and return the counts of each step that asked."""
    run = pipeline.start()
    assert run.wait(100).state == "finished"
    return {
        step.name: {
            "requests": step.asked,
            "input_tokens": step.input_tokens,
            "output_tokens": step.output_tokens,
            "cost_usd": step.cost_usd or 0.0,
        }
        for step in run.status().steps
        if step.asked or step.cached
    }


# --- the truth is in the interval -------------------------------------------------------------------------------


def test_the_interval_holds_the_true_tokens_in_eighteen_of_twenty_seeded_runs(server: MockLLM) -> None:
    n_rows, n_total, n_steps = 200, 0, 0
    for seed in range(20):
        pipeline = prefs(server, n_rows, f"seed {seed}")
        quote = pipeline.estimate(n=(5, 8, 12, 20)[seed % 4])
        server.reset()
        made = pipeline.preview(
            n_rows
        )  # what a run would ask, in this process: twenty runs would take a minute
        told = server.stats()
        assert told["requests"] == made.asked == 2 * n_rows - quote.cached
        assert quote.tokens is not None
        n_total += holds(quote.tokens, told["prompt_tokens"] + told["completion_tokens"])
        n_steps += holds(quote.input_tokens, told["prompt_tokens"])
        n_steps += holds(quote.output_tokens, told["completion_tokens"])
    assert n_total >= 18, n_total
    assert n_steps >= 36, n_steps  # input and output apart


def test_every_figure_of_every_step_holds_what_a_run_then_costs(server: MockLLM) -> None:
    pipeline = prefs(server, 120, "real")
    quote = pipeline.estimate(n=20)
    truth = truth_of(pipeline)
    assert truth.keys() == {"answer", "judge"}
    for step, figures in truth.items():
        for figure, value in figures.items():
            assert holds(getattr(quote[step], figure), value), (step, figure, value, quote)
    assert quote["answer"].requests == (100, 100, 100)
    assert (quote["answer"].cached, quote["judge"].cached, quote.cached) == (20, 20, 40)


def test_rows_that_are_filtered_expanded_and_routed_are_counted_as_the_sample_shows(server: MockLLM) -> None:
    def branches(start: Pipeline) -> Pipeline:
        return start.generate("short", "Shorten: {{ generations }}", into="a")

    p = Pipeline("flow", llm=model(server)).from_dicts(rows(150, "flow"))
    p = p.generate("answer", "{{ instruction }}", k=3).expand("generations")
    p = p.filter("generations|length % 3 > 0").generate("more", "Go on: {{ generations }}", into="more")
    p = p.route({"a": branches, "b": lambda q: q}, when={"a": "more[0]|length % 2 == 0"}, default="b")
    p = p.combine()
    quote = p.estimate(n=20)
    truth = truth_of(p)
    assert truth["more"]["requests"] > 150
    for step in ("answer", "more", "short"):
        assert holds(quote[step].requests, truth[step]["requests"]), (step, truth[step], quote)
        assert holds(quote[step].tokens, truth[step]["input_tokens"] + truth[step]["output_tokens"])
    assert not quote["more"].requests.is_exact  # type: ignore[union-attr]


def test_a_filter_before_the_first_task_is_known_exactly(server: MockLLM) -> None:
    p = Pipeline("before", llm=model(server)).from_dicts(rows(90, "before")).filter("i % 3 == 0").take(20)
    quote = p.generate("answer", "{{ instruction }}").estimate(n=9)["answer"]
    assert quote.requests is not None
    assert quote.requests.is_exact
    assert quote.cached + quote.requests.expected == 20


# --- less what is cached ----------------------------------------------------------------------------------------


def test_what_is_cached_is_neither_asked_nor_paid(server: MockLLM) -> None:
    p = prefs(server, 40, "cached")
    p.preview(40)
    server.reset()
    quote = p.estimate()
    assert quote.requests == quote.tokens == quote.cost_usd == (0, 0, 0)
    assert quote.cached == 80
    assert server.stats()["requests"] == 0
    more = prefs(server, 50, "cached").estimate()
    assert (more["answer"].requests, more["answer"].cached) == ((10, 10, 10), 40)
    assert server.stats()["requests"] == 0  # the Sample of the shorter source is the Sample of the longer
    edited = p.judge(llm=model(server, "judge"), aspect="honesty").estimate()
    assert edited["answer"].requests == (0, 0, 0)
    assert (edited["judge"].requests, edited["judge"].cached) == ((35, 35, 35), 5)


def test_rows_limit_the_sources_as_in_a_start(server: MockLLM) -> None:
    p = prefs(server, 60, "limit")
    quote = p.estimate(10)
    assert quote.rows == 10
    known = {row["i"] for row in p.preview(5).rows}
    n_cached = len([i for i in known if i < 10])
    assert quote["answer"].cached == n_cached
    assert quote["answer"].requests == (10 - n_cached,) * 3


def test_equal_requests_of_a_deterministic_model_are_asked_once(server: MockLLM) -> None:
    llm = model(server, generation_kwargs={"temperature": 0})
    p = Pipeline("equal", llm=llm).from_dicts([{"i": i, "instruction": f"kind {i % 4}"} for i in range(40)])
    quote = p.generate("answer", "{{ instruction }}").estimate(n=1)
    assert quote["answer"].requests == (3, 3, 3)
    assert quote["answer"].cached == 37


# --- what it asks, and says so ----------------------------------------------------------------------------------


def test_the_sample_is_previewed_first_and_its_price_is_told(server: MockLLM) -> None:
    p = prefs(server, 30, "asks")
    quote = p.estimate()
    assert server.stats()["requests"] == 10
    assert "the Sample was previewed for this: asked 10 requests, $" in repr(quote)
    again = p.estimate()
    assert server.stats()["requests"] == 10
    assert "previewed for this" not in repr(again)
    assert again.cost_usd == quote.cost_usd


def test_without_permission_nothing_is_asked_and_what_is_unknown_is_called_so(server: MockLLM) -> None:
    p = prefs(server, 30, "silent")
    quote = p.estimate(ask=False)
    assert server.stats()["requests"] == 0
    assert quote["answer"].requests == (30, 30, 30)
    assert quote["answer"].input_tokens is not None
    assert quote["answer"].output_tokens is None
    assert quote["judge"].requests is None
    assert quote.tokens is quote.cost_usd is quote.seconds is None
    assert "no reply of answer, judge is known: preview the pipeline first" in repr(quote)
    p.preview(8)
    server.reset()
    known = p.estimate(ask=False)
    assert server.stats()["requests"] == 0
    assert known["judge"].requests is not None
    assert (known["answer"].cached, known["judge"].cached) == (8, 8)


def test_prompts_alone_bound_their_tokens(server: MockLLM) -> None:
    p = prefs(server, 30, "prompts").drop_step("judge")
    guessed = p.estimate(ask=False)["answer"].input_tokens
    assert holds(guessed, truth_of(p)["answer"]["input_tokens"])


def test_a_limit_of_tokens_bounds_the_replies(server: MockLLM) -> None:
    llm = model(server, generation_kwargs={"max_new_tokens": 50})
    p = Pipeline("bound", llm=llm).from_dicts(rows(65, "bound")).generate("answer", "{{ instruction }}", k=2)
    quote = p.estimate()["answer"].output_tokens
    assert quote is not None
    assert quote.high <= 60 * 2 * 50


# --- money and time ---------------------------------------------------------------------------------------------


def test_money_follows_the_price_of_each_model(server: MockLLM) -> None:
    quote = prefs(server, 30, "money").estimate()["answer"]
    assert quote.cost_usd is not None
    assert quote.input_tokens is not None
    assert quote.output_tokens is not None
    assert quote.cost_usd.high == pytest.approx(
        quote.input_tokens.high * 1e-6 + quote.output_tokens.high * 1e-5
    )
    free = (
        Pipeline("free", llm=model(server, price=None))
        .from_dicts(rows(9))
        .generate("answer", "{{ instruction }}")
    )
    assert free.estimate().cost_usd == (0, 0, 0)
    assert "free" in repr(free.estimate())


def test_an_unknown_price_is_told_and_makes_no_sum(monkeypatch: pytest.MonkeyPatch, server: MockLLM) -> None:
    p = prefs(server, 20, "unpriced")
    p.preview(20)
    p = prefs(server, 30, "unpriced")
    monkeypatch.setattr("distilnb.engine.quote.run_price_of", lambda llm: None)
    quote = p.estimate()
    assert quote.cost_usd is None
    assert quote.tokens is not None
    assert "cost unknown" in repr(quote)
    assert "the price of openai:writer, openai:judge is unknown: give price=" in repr(quote)


def test_minutes_follow_the_limits_of_the_model(server: MockLLM) -> None:
    def seconds(**limits: Any) -> Any:
        p = Pipeline("time", llm=model(server, **limits)).from_dicts(rows(605, "time"))
        p = p.generate("answer", "{{ instruction }}")
        p.preview(5)
        found = p.estimate().seconds
        assert found is not None, limits
        return found

    assert seconds(rpm=300).expected == pytest.approx(120)
    assert seconds(tpm=60).expected > 600
    with mock_llm(latency_ms=200) as slow:
        p = Pipeline("slow", llm=model(slow, max_concurrency=10)).from_dicts(rows(105))
        one = p.generate("answer", "{{ instruction }}")
        assert holds(one.estimate().seconds, 100 * 0.2 / 10)
        found = one.estimate().seconds
        assert found is not None
        assert 2.0 <= found.expected < 6.0


def test_what_was_never_timed_has_no_time(server: MockLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    p = prefs(server, 30, "untimed")
    p.preview(5)
    monkeypatch.setattr("distilnb.pipeline.estimate.reply_seconds", lambda llm: [])
    quote = p.estimate()
    assert quote.seconds is None
    assert "no request of answer, judge was sent since this process began: its time is unknown" in repr(quote)


def test_a_step_that_is_slow_runs_on_the_sample_alone(
    server: MockLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def slow(i: int) -> dict[str, Any]:
        calls.append(i)
        return {"half": i // 2}

    p = Pipeline("slow", llm=model(server)).from_dicts(rows(60, "slow")).map(slow, makes=["half"])
    p = p.generate("answer", "{{ instruction }} {{ half }}")
    monkeypatch.setattr("distilnb.pipeline.estimate.PATIENCE_S", 0.0)
    quote = p.estimate()
    assert len(calls) == 5
    assert "map would be slow on all rows and ran on the Sample alone" in repr(quote)
    truth = truth_of(p)["answer"]
    assert quote["answer"].cached == 5
    for figure, value in truth.items():
        assert holds(getattr(quote["answer"], figure), value), (figure, value, quote)


def test_a_global_step_behind_a_task_is_judged_by_the_sample(server: MockLLM) -> None:
    p = (
        Pipeline("global", llm=model(server))
        .from_dicts(rows(60, "global"))
        .generate("answer", "{{ instruction }}")
    )
    p = p.dedup("instruction").generate("more", "Go on: {{ generations }}", into="more")
    quote = p.estimate(n=10)
    truth = truth_of(p)
    assert holds(quote["more"].requests, truth["more"]["requests"])
    assert holds(quote["more"].tokens, truth["more"]["input_tokens"] + truth["more"]["output_tokens"])


def test_a_long_source_is_judged_by_rows_drawn_by_chance(
    server: MockLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distilnb.engine.sample.SCANNED_ROWS", 50)
    quote = prefs(server, 500, "long").estimate()
    assert quote.rows == 500
    assert "of load, 50 rows drawn by chance stand for 500" in repr(quote)
    assert quote["answer"].requests is not None
    assert quote["answer"].requests.expected + quote["answer"].cached == pytest.approx(500)


def test_rows_that_fail_are_missing_in_the_steps_that_follow() -> None:
    llm = dn.llm("rehearsal", garbage_rate=0.3)
    p = (
        Pipeline("garbage")
        .from_dicts(rows(200))
        .generate("answer", "{{ instruction }}", k=2, llm="rehearsal")
    )
    p = p.judge(llm=llm).generate("more", "Because {{ rationales }}", into="more", llm="rehearsal")
    quote = p.estimate(n=20)
    truth = truth_of(p)
    assert truth["more"]["requests"] < 180
    assert holds(quote["more"].requests, truth["more"]["requests"])


def test_replies_that_are_asked_for_again_are_counted_as_the_sample_shows() -> None:
    llm = dn.llm("rehearsal", garbage_rate=0.4)
    p = Pipeline("shape", llm=llm).from_dicts(rows(200))
    p = p.generate(
        "answer", "{{ instruction }}", schema={"type": "object", "properties": {"a": {"type": "integer"}}}
    )
    quote = p.estimate(n=20)
    truth = truth_of(p)["answer"]
    assert truth["requests"] > 220
    assert quote["answer"].cached == 20
    assert holds(quote["answer"].requests, truth["requests"])
    assert holds(quote["answer"].tokens, truth["input_tokens"] + truth["output_tokens"])
    again = p.estimate()
    assert again.requests is not None
    assert again.requests.high < 20  # what no re-ask could mend is not asked again


def test_branches_that_meet_again_are_counted_once(server: MockLLM) -> None:
    p = Pipeline("both", llm=model(server)).from_dicts(rows(60, "both"))
    p = p.generate("answer", "{{ instruction }}", llm=[model(server), model(server, "judge")])
    p = p.generate("more", "Of {{ generations }}", into="more")
    quote = p.estimate(n=10)
    truth = truth_of(p)
    assert len(truth) == 3
    for step, figures in truth.items():
        assert holds(quote[step].requests, figures["requests"]), (step, quote)
        assert holds(quote[step].tokens, figures["input_tokens"] + figures["output_tokens"]), (step, quote)


# --- what is wrong ----------------------------------------------------------------------------------------------


def test_a_missing_key_is_told_before_anything_is_asked() -> None:
    p = Pipeline("key", llm="openai:gpt-4o-mini").from_dicts(rows(3)).generate("answer", "{{ instruction }}")
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        p.estimate()


@pytest.mark.parametrize("wrong", [{"rows": 0}, {"rows": 2.5}, {"n": 0}])
def test_numbers_that_make_no_sense(wrong: dict[str, Any], server: MockLLM) -> None:
    with pytest.raises(InputError):
        prefs(server, 3).estimate(**wrong)


def test_an_unknown_step_has_its_near_match(server: MockLLM) -> None:
    with pytest.raises(UnknownStepError, match="Did you mean 'judge'"):
        prefs(server, 6).estimate()["juge"]


# --- how it looks -----------------------------------------------------------------------------------------------


def rehearsed() -> Estimate:
    p = Pipeline("<b>x</b>\x1b[31m", llm="rehearsal").from_dicts(rows(30))
    return p.generate("<i>answer</i>", "{{ instruction }}").estimate()


def test_a_rehearsal_is_quoted_for_nothing_and_says_so() -> None:
    quote = rehearsed()
    assert quote.cost_usd == (0, 0, 0)
    assert "free" in repr(quote)
    assert "rehearsed" in repr(quote)
    assert "rehearsed" in quote._repr_html_()


def test_names_are_escaped_in_html_and_in_text() -> None:
    quote = rehearsed()
    html = quote._repr_html_()
    assert "<b>x</b>" not in html
    assert "<i>" not in html
    assert "&lt;i&gt;answer&lt;/i&gt;" in html
    assert "\x1b" not in repr(quote) + html


def test_the_table_has_a_row_for_each_step(server: MockLLM) -> None:
    frame = prefs(server, 20, "table").estimate().to_pandas()
    assert list(frame.index) == ["answer", "judge"]
    assert frame.loc["answer", "model"] == "openai:writer"
    assert frame.loc["answer", "requests_expected"] == 15
    for figure in ("requests", "input_tokens", "output_tokens", "cost_usd", "seconds"):
        low, expected, high = (frame[f"{figure}_{end}"] for end in ("low", "expected", "high"))
        assert ((low <= expected) & (expected <= high)).all()
    blank = prefs(server, 21, "table2").estimate(ask=False).to_pandas()
    assert math.isnan(float(blank.loc["judge", "requests_low"]))  # type: ignore[arg-type]


def test_steps_are_offered_by_tab() -> None:
    assert rehearsed()._ipython_key_completions_() == ["<i>answer</i>"]
    assert dn.Pipeline("none").from_dicts(rows(3)).estimate().steps == ()


def test_the_page_on_it_runs_from_top_to_bottom(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).parents[2] / "docs" / "estimate.md"
    names: dict[str, Any] = {}
    monkeypatch.setattr("distilnb.llms.catalog._list_models", lambda url: ())
    for program in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        exec(program, names)
    assert names["run"].status().state == "finished"
    assert names["quote"].cost_usd == (0, 0, 0)


def test_magpie_is_priced_by_the_requests_of_its_conversations() -> None:
    llm = dn.llm("rehearsal", price={"per_request": 1.0})
    p = Pipeline("talks").from_dicts(rows(20))
    p = p.ask(Magpie(name="talk", llm=llm, n_turns=2))
    p.preview(5)
    found = p.estimate(ask=False)
    assert found.cost_usd is not None
    truth = p.start(new=True).wait(60).cost_usd
    assert truth == 60
    assert found.cost_usd == (60, 60, 60)
