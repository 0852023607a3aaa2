"""Keys of a run: their sources are written down, their values are nowhere but in the pipes and in memory.

The workers are processes of their own, which do not have the stand-ins for keyring and Colab: what they send came
through the pipe.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.errors import AuthenticationError, MissingKeyError, RunError, RunFailedError
from distilnb.llms.keys import forget_keys
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from distilnb.run.refusing import check_resume, check_retry
from tests.conftest import processes_of
from tests.llms.test_keys import VARIABLE, fake_colab, fake_keyring
from tests.runs import wait_for
from tests.servers import MockLLM, mock_llm

CANARY = "canary-0123456789abcdef"
N_ROWS = 60


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MockLLM]:
    with mock_llm(latency_ms=50, require_key=CANARY) as running:
        # The environment's server may have the environment's key, and so that of Colab or the keyring.
        monkeypatch.setenv("OPENAI_BASE_URL", running.base_url)
        monkeypatch.setitem(sys.modules, "keyring", fake_keyring({}))
        forget_keys()
        yield running
    forget_keys()


def plant(monkeypatch: pytest.MonkeyPatch, place: str, value: str = CANARY) -> str | None:
    """Put the key where it is to be found; a literal one is returned."""
    monkeypatch.setitem(sys.modules, "keyring", fake_keyring({}))
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    if place == "env":
        monkeypatch.setenv(VARIABLE, value)
    elif place == "colab":
        monkeypatch.setitem(sys.modules, "google.colab", fake_colab({VARIABLE: value}))
    elif place == "keyring":
        monkeypatch.setitem(sys.modules, "keyring", fake_keyring({("distilnb", VARIABLE): value}))
    forget_keys()
    return value if place == "literal" else None


def pipeline(key: str | None = None, n_rows: int = N_ROWS, **options: Any) -> Pipeline:
    given: dict[str, Any] = {} if key is None else {"api_key": key}
    llm = OpenAILLM(model="mock-model", max_concurrency=4, price=(1.0, 1.0), **given, **options)
    rows = [{"i": i} for i in range(n_rows)]
    return Pipeline("keys", llm=llm).from_dicts(rows).generate("answer", "Say {{ i }}.")


def some_are_done(run: Run) -> bool:
    return run.status().step("answer").done >= 4


def files_with(folder: Path, text: str) -> list[str]:
    return [str(path) for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def told_to_processes(folder: Path, *, environment: bool) -> str:
    """Return the command lines of a run's processes, and what their environments hold."""
    told = ""
    for process in processes_of(folder):
        told += " ".join(process.cmdline())
        if environment:
            told += repr(process.environ())
    return told


@pytest.mark.parametrize("place", ["env", "colab", "keyring", "literal"])
def test_a_run_and_its_resume_leave_no_key_behind(
    place: str, server: MockLLM, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = plant(monkeypatch, place)
    p = pipeline(key)
    p.preview(2)
    p.estimate(n=2)
    run = p.start()
    wait_for(run, some_are_done)
    assert CANARY not in told_to_processes(home, environment=place != "env")
    run.stop()
    run.wait(30)
    again = attach(run.id)
    again.resume(secrets={"answer.llm.api_key": key} if key else None)
    assert again.wait(60).state == "finished"
    assert server.stats()["rejected_401"] == 0
    assert server.stats()["duplicate_prompts_after_ok"] == 0
    plan = (Path(run.path) / "plan.json").read_text("utf-8")
    assert (f'"answer.llm.api_key": "{place}:{VARIABLE}"' in plan) == (place != "literal")
    shown = repr(again) + repr(again._repr_mimebundle_()) + again.logs() + repr(again.events()) + repr(p)
    shown += repr(again.distiset()) + repr(again.status().to_dict()) + p.to_yaml()
    assert CANARY not in shown
    assert CANARY.encode() not in pickle.dumps(again)
    assert files_with(home, "Say {{ i }}.")  # the search finds what is there
    assert files_with(home, CANARY) == []


@pytest.mark.parametrize("place", ["env", "colab", "keyring"])
def test_a_resume_finds_the_key_anew_and_names_the_variable_where_it_is_gone(
    place: str, server: MockLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, place)
    run = pipeline().start()
    wait_for(run, some_are_done)
    run.stop()
    run.wait(30)
    plant(monkeypatch, "nowhere")
    again = attach(run.id)
    for check in (check_resume, check_retry):
        with pytest.raises(MissingKeyError, match=VARIABLE):
            check(again)
    with pytest.raises(MissingKeyError) as caught:
        again.resume()
    words = {"env": "the environment", "colab": "Colab's secrets", "keyring": "the keyring"}[place]
    assert f"with a key from {words}, {VARIABLE}, which is not there now" in str(caught.value)
    assert "run.resume(secrets={'answer.llm.api_key': '...'})" in str(caught.value)
    plant(monkeypatch, "keyring" if place == "env" else "env")  # it may have moved
    again.resume()
    assert again.wait(60).state == "finished"
    assert server.stats()["rejected_401"] == 0


@pytest.mark.parametrize("place", ["colab", "keyring"])
def test_an_edited_step_finds_its_key_anew_too(
    place: str, server: MockLLM, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asking(prompt: str) -> Pipeline:
        llm = OpenAILLM(model="mock-model", max_concurrency=2, max_retries=0)
        rows = [{"i": i, "text": f"Say {i}." + " [[500@mock-model]]" * (i % 2)} for i in range(60)]
        return Pipeline("keys", llm=llm).from_dicts(rows).generate("answer", prompt)

    plant(monkeypatch, place)
    run = asking("{{ text }}").start()
    wait_for(run, lambda run: run.status().step("answer").failed > 0)
    with pytest.raises(RunError, match="a run that is going takes none"):
        run.retry(using=asking("Edited {{ i }}"))
    assert run.wait(60).state == "finished"
    run.retry(using=asking("Edited {{ i }}"))
    wait_for(run, lambda run: run.status().step("answer").done >= 34)
    run.stop()
    assert run.wait(30).state == "stopped"

    plant(monkeypatch, "nowhere")
    again = attach(run.id)
    with pytest.raises(MissingKeyError, match=VARIABLE):
        again.resume()
    plant(monkeypatch, place)
    again.resume()
    assert again.wait(60).state == "finished"
    assert again.versions()["rows"].tolist() == [30]
    assert server.stats()["rejected_401"] == 0
    assert files_with(home, f"{place}:{VARIABLE}")
    assert files_with(home, CANARY) == []


def test_a_literal_key_must_be_given_again(server: MockLLM) -> None:
    run = pipeline(CANARY).start()
    wait_for(run, some_are_done)
    run.stop()
    run.wait(30)
    again = attach(run.id)
    for check in (check_resume, check_retry):
        with pytest.raises(RunError, match="was started with keys that are not stored"):
            check(again)
    check_retry(again, is_edited=True)
    with pytest.raises(RunError, match="was started with keys that are not stored") as caught:
        again.resume()
    assert "Give them again: run.resume(secrets={'answer.llm.api_key': '...'})" in str(caught.value)
    again.resume(secrets={"answer.llm.api_key": CANARY})
    assert again.wait(60).state == "finished"


def test_a_missing_key_is_told_before_anything_is_written(home: Path) -> None:
    rows = [{"i": 1}]
    p = Pipeline("none", llm=OpenAILLM(model="gpt-4o-mini")).from_dicts(rows).generate("answer", "{{ i }}")
    for use in (p.check, p.preview, p.estimate, p.start):
        with pytest.raises(MissingKeyError, match=f"Set the environment variable {VARIABLE}"):
            use()
    assert not (home / "runs").exists()


# --- a wrong key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_concurrency", [1, 8, 64])
def test_a_wrong_key_costs_at_most_the_concurrency_in_requests(server: MockLLM, max_concurrency: int) -> None:
    llm = OpenAILLM(model="mock-model", api_key="wrong-key-wrong-key", max_concurrency=max_concurrency)  # type: ignore[arg-type]
    rows = [{"i": i} for i in range(1000)]
    p = Pipeline("wrong", llm=llm).from_dicts(rows).generate("answer", "Say {{ i }}.")
    run = p.generate("more", "And {{ i }}?", into="more").start()
    status = run.wait(60)
    assert status.state == "failed"
    assert "AuthenticationError" in status.error
    assert 1 <= server.stats()["requests"] == server.stats()["rejected_401"] <= max_concurrency
    with pytest.raises(RunFailedError, match="refused the API key"):
        run.distiset()
    server.reset()
    with pytest.raises(AuthenticationError):
        p.preview(5)
    assert server.stats()["requests"] <= min(5, max_concurrency)
