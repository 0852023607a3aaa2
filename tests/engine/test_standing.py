"""How a pipeline stands before a run: told from the reply cache and from what was noted, without asking anything."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb import Pipeline
from distilnb.engine import standing as module
from distilnb.engine.standing import Standing, standing
from distilnb.spec.step import GeneratorStep
from tests.servers import mock_llm

JUDGE = "{each}#### Output for Text {i}\nRating: {score}\nRationale: {words}\n\n{/each}"


def rows(n: int) -> list[dict[str, Any]]:
    return [{"instruction": f"Count to {i}."} for i in range(n)]


def prefs(n: int = 12, prompt: str = "Say it. {{ instruction }}", **options: Any) -> Pipeline:
    p = Pipeline("stands", llm="rehearsal").from_dicts(rows(n)).generate("answer", prompt, k=2)
    return p.judge("ultrafeedback", **options).to_dpo()


def looks(p: Pipeline) -> dict[str, Standing]:
    return standing(p.name, p.graph)


def test_before_anything_all_is_to_run_and_no_file_is_made(home: Path) -> None:
    found = looks(prefs())
    assert found["load"].n_rows == 12
    assert not any(one.cached or one.is_edited or one.is_stale for one in found.values())
    assert "○ to run" in repr(prefs())
    assert not home.exists()


def test_what_a_preview_asked_is_cached_and_what_an_edit_touches_is_told() -> None:
    p = prefs()
    p.preview(3)
    found = looks(p)
    assert (found["answer"].cached, found["answer"].looked_at, found["answer"].total) == (3, 12, 12)
    assert (found["judge"].cached, found["judge"].looked_at, found["judge"].total) == (3, 3, 12)
    assert "◐ cached 3/12, rest to run" in repr(p)
    assert "✓ cached 3/12, rest to run" in repr(p)
    edited = prefs(aspect="honesty")
    found = looks(edited)
    assert found["answer"].cached == 3
    assert [name for name, one in found.items() if one.is_edited] == ["judge"]
    assert [name for name, one in found.items() if one.is_stale] == ["judge", "to_dpo"]
    assert "✎ edited, to run" in repr(edited)
    assert "↻ stale, to run" in repr(edited)
    assert looks(prefs()) == looks(p)  # back at the old text nothing is left to tell


def test_a_run_that_is_finished_leaves_all_cached() -> None:
    p = prefs()
    assert p.start().wait(60).state == "finished"
    found = looks(p)
    assert {(found[name].cached, found[name].total) for name in ("answer", "judge")} == {(12, 12)}
    assert "✓ cached 12/12" in repr(p)
    more = prefs(14)
    assert looks(more)["answer"].cached == 12
    assert looks(more)["answer"].total == 14


def test_a_large_source_is_not_read_and_the_sample_stands_for_it(tmp_path: Path) -> None:
    class Endless(GeneratorStep):
        outputs = ["instruction"]

        def process(self, offset: int = 0) -> Any:
            with (tmp_path / "reads").open("a") as file:
                file.write("x")
            yield rows(4), True

    p = (Pipeline("stands", llm="rehearsal") >> Endless(name="load")).generate("answer")
    assert looks(p)["answer"] == Standing(asks=True)
    assert not (tmp_path / "reads").exists()
    p.preview(3)
    n_reads = (tmp_path / "reads").stat().st_size
    stands = looks(p)["answer"]
    assert (stands.cached, stands.looked_at, stands.is_of_sample, stands.total) == (3, 3, True, None)
    assert "✓ cached 3/3 of the sample, rest to run" in repr(p)
    assert (tmp_path / "reads").stat().st_size == n_reads


def test_no_code_of_the_user_runs_and_behind_it_the_last_preview_tells() -> None:
    calls: list[int] = []

    def touch(instruction: str) -> dict[str, Any]:
        calls.append(threading.get_ident())
        return {"text": instruction.upper()}

    p = Pipeline("stands", llm="rehearsal").from_dicts(rows(6)).map(touch, makes=["text"])
    p = p.generate("answer", "Say {{ text }}")
    p.preview(2)
    n_calls = len(calls)
    assert n_calls == 2
    stands = looks(p)["answer"]
    assert (stands.cached, stands.looked_at, stands.is_of_sample) == (2, 2, True)
    assert looks(p.generate("answer", "Shout {{ text }}"))["answer"].looked_at is None
    assert len(calls) == n_calls


def test_nothing_is_asked_and_failed_replies_are_told() -> None:
    with mock_llm(models=("writer", "judge"), templates={"judge": "no rating at all"}) as server:
        options = {"base_url": server.base_url, "api_key": "none", "price": (100, 100), "max_retries": 0}
        p = Pipeline("stands", llm=dn.llm("openai:writer", **options)).from_dicts(rows(3))
        p = p.generate("answer", k=2).judge("ultrafeedback", llm=dn.llm("openai:judge", **options))
        p.preview(3)
        n_asked = server.stats()["requests"]
        found = looks(p)
        assert (found["judge"].failed, found["judge"].cached) == (3, 3)
        assert found["answer"].spent_usd == pytest.approx(p.preview(3)["answer"].data().steps[0].saved_usd)
        assert "✕ failed 3/3" in repr(p)
        assert "in previews" in repr(p)
        assert server.stats()["requests"] == n_asked


@pytest.mark.parametrize("broken", ["no key", "damaged", "wrong"])
def test_a_look_never_raises(home: Path, broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = prefs()
    p.preview(2)
    if broken == "damaged":
        for path in home.rglob("*"):
            if path.is_file():
                path.write_bytes(b"\xff{")
    elif broken == "wrong":
        monkeypatch.setattr(module, "_digests", lambda graph: 1 / 0)
        assert looks(p) == {}
    else:
        p = p.generate("answer", "{{ instruction }}", llm="openai:gpt-4o-mini")
        assert looks(p)["answer"].is_edited
    assert "answer" in repr(p)
    assert "<svg" in p._repr_mimebundle_()["text/html"]


def test_a_look_at_many_rows_does_not_wait_for_their_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilnb.spec.inline.Inline._digest_ahead", lambda self: None)
    p = prefs(20_000)
    assert looks(p)["load"].n_rows == 20_000
    assert p.graph.steps["load"].data.is_pending  # type: ignore[attr-defined]
