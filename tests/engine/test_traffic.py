"""What is on its way to the models: told by the workers, journaled, read with the status."""

from __future__ import annotations

from pathlib import Path

from distilnb.engine.journal import Journal
from distilnb.engine.traffic import Refusal, in_flight, note, refusals
from distilnb.pipeline import Pipeline
from tests.runs import wait_for
from tests.servers import mock_llm


def test_refusals_add_up_and_what_flies_is_the_last_word(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite")
    reader = journal.reader()
    with journal.turn():
        for n_refused, concurrency in ((3, 8), (2, 6)):
            said = {"say": "limited", "model": "m", "n_refused": n_refused, "concurrency": concurrency}
            note(journal, reader, "ask-0", said)
        for n, worker in ((5, "ask-0"), (7, "ask-1"), (2, "ask-0")):
            note(journal, reader, worker, {"say": "flying", "steps": {"answer": n}})
    facts = reader.facts()
    assert refusals(facts) == (Refusal("m", 5, 6),)
    assert in_flight(facts, "answer") == 9
    assert in_flight(facts, "judge") == 0
    assert [event.kind for event in reader.events()] == ["limited", "limited"]
    journal.close()


def test_a_run_tells_of_its_requests_in_flight_and_of_refusals() -> None:
    with mock_llm(latency_ms=3000, max_concurrency=4, retry_after=0.05) as server:
        from distilnb import llm

        model = llm("openai:m", base_url=server.base_url, api_key="none", max_concurrency=6, price=(1, 1))
        rows = [{"instruction": f"Count to {n}."} for n in range(12)]
        run = Pipeline("flights", llm=model).from_dicts(rows).generate("answer").start()
        wait_for(run, lambda run: run.status().step("answer").in_flight >= 4)
        assert run.status().step("answer").in_flight <= 6
        wait_for(run, lambda run: bool(run.status().refusals))
        refusal = run.status().refusals[0]
        assert refusal.model == model.label
        assert refusal.n_refused >= 1
        assert refusal.concurrency <= 6
        status = run.wait(60)
        assert status.state == "finished"
        assert status.step("answer").in_flight == 0
        assert status.refusals[0].n_refused == sum(e.n_refused for e in run.events() if e.kind == "limited")
