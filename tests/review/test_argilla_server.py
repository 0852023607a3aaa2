"""A review on a real Argilla server: sent, answered by people, read back; and each mistake in one sentence."""

from __future__ import annotations

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distilnb.errors import ReviewError
from distilnb.review.argilla import push_review
from distilnb.review.plan import ReviewPlan, plan_review
from distilnb.review.pull import Reviewed, pull_review
from tests.servers import ArgillaServer, argilla_server

# `make parts` makes the venv; another one may be named here.
VENV = Path(os.environ.get("DISTILNB_ARGILLA_VENV", Path(__file__).parents[2] / ".venv-argilla"))

pytestmark = [
    pytest.mark.argilla,
    pytest.mark.skipif(
        not (VENV / "bin" / "python").exists(), reason="no venv of argilla-server: make parts"
    ),
    pytest.mark.timeout(300),
]

ROW: dict[str, Any] = {
    "generations": ["Because.", "No idea."],
    "ratings": [4.6, None],
    "rationales": ["It answers.", None],
    "judge_model": "rehearsal (v1)",
}


@pytest.fixture(scope="module")
def server() -> Iterator[ArgillaServer]:
    pytest.importorskip("argilla", reason="the SDK of Argilla is not installed: make parts")
    with argilla_server(VENV) as running:
        yield running


@pytest.fixture(autouse=True)
def settings(server: ArgillaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARGILLA_API_URL", server.url)
    monkeypatch.setenv("ARGILLA_API_KEY", server.api_key)


def preferences(n: int, **change: Any) -> ReviewPlan:
    rows = [{"instruction": f"Why {i}?", **ROW, **change} for i in range(n)]
    return plan_review(rows, [f"load:{i}:0" for i in range(n)], run_id="prefs-1")


def pulled(name: str) -> dict[str, Reviewed]:
    return {record.row_id: record for record in pull_review(name, workspace="argilla")}


def ask(server: ArgillaServer, method: str, path: str, body: Any = None) -> Any:
    """Ask as the web page does: for what the client cannot say."""
    request = urllib.request.Request(
        server.url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-Argilla-Api-Key": server.api_key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def answer(server: ArgillaServer, name: str, row_id: str, status: str, **values: Any) -> None:
    datasets = ask(server, "GET", "/api/v1/me/datasets")["items"]
    dataset = next(item["id"] for item in datasets if item["name"] == name)
    records = ask(server, "GET", f"/api/v1/datasets/{dataset}/records")["items"]
    record = next(item["id"] for item in records if item["external_id"].startswith(f"{row_id}@"))
    body = {"status": status, "values": {key: {"value": value} for key, value in values.items()}}
    ask(server, "POST", f"/api/v1/records/{record}/responses", body)


def test_a_preference_is_sent_answered_and_read_back(
    server: ArgillaServer, capfd: pytest.CaptureFixture[str]
) -> None:
    steps: list[tuple[int, int]] = []
    pushed = push_review(
        preferences(5), dataset="prefs", batch_size=2, on_progress=lambda *step: steps.append(step)
    )
    assert (pushed.n_sent, pushed.workspace, pushed.created) == (5, "argilla", True)
    assert steps == [(2, 5), (4, 5), (5, 5)]
    assert capfd.readouterr() == ("", "")
    with urllib.request.urlopen(pushed.url, timeout=30) as page:
        assert page.status == 200

    answer(server, "prefs", "load:1:0", "submitted", rating_0=5, rating_1=2, rationale_0="It is short.")
    answer(server, "prefs", "load:2:0", "discarded")
    records = pulled("prefs")
    assert {row_id: record.status for row_id, record in records.items()} == {
        "load:0:0": "pending",
        "load:1:0": "completed",
        "load:2:0": "discarded",
        "load:3:0": "pending",
        "load:4:0": "pending",
    }
    (response,) = records["load:1:0"].responses
    assert (response.user, response.status) == ("argilla", "submitted")
    assert response.answers == {"rating_0": 5, "rating_1": 2, "rationale_0": "It is short."}


def test_suggestions_and_exact_ratings_arrive(server: ArgillaServer) -> None:
    push_review(preferences(1), dataset="suggested")
    dataset = next(
        d["id"] for d in ask(server, "GET", "/api/v1/me/datasets")["items"] if d["name"] == "suggested"
    )
    (record,) = ask(server, "GET", f"/api/v1/datasets/{dataset}/records?include=suggestions")["items"]
    assert record["metadata"]["judge_rating_0"] == 4.6
    assert record["metadata"]["run"] == "prefs-1"
    found = {suggestion["value"]: suggestion["agent"] for suggestion in record["suggestions"]}
    assert found == {5: "rehearsal _v1_", "It answers.": "rehearsal _v1_"}


def test_sending_again_updates_and_keeps_answers(server: ArgillaServer) -> None:
    push_review(preferences(2), dataset="again")
    answer(server, "again", "load:0:0", "submitted", rating_0=1, rating_1=1)
    push_review(preferences(3, ratings=[1, 1]), dataset="again", on_exists="append")
    records = pulled("again")
    assert len(records) == 3
    assert records["load:0:0"].status == "completed"
    push_review(preferences(1, generations=["New.", "Text."]), dataset="again", on_exists="append")
    assert len(pull_review("again", workspace="argilla")) == 4  # another text is another record


def test_replace_deletes_what_was_there(server: ArgillaServer) -> None:
    push_review(preferences(3), dataset="replaced")
    pushed = push_review(
        plan_review([{"instruction": "q", "generation": "a"}]), dataset="replaced", on_exists="replace"
    )
    assert pushed.created
    assert len(pull_review("replaced", workspace="argilla")) == 1


def test_text_generation_is_sent(server: ArgillaServer) -> None:
    plan = plan_review(
        [{"instruction": "q", "generation": "a", "rating": 3.5, "rationale": "r"}], ["load:0:0"]
    )
    push_review(plan, dataset="texts")
    answer(server, "texts", "load:0:0", "submitted", keep="drop", corrected="b")
    (response,) = pulled("texts")["load:0:0"].responses
    assert response.answers == {"keep": "drop", "corrected": "b"}


def test_unfit_rows_are_left_out_and_counted() -> None:
    rows = [{"instruction": "q", "generation": "a"}, {"instruction": None, "generation": "a"}]
    assert (pushed := push_review(plan_review(rows), dataset="unfit")).n_sent == 1
    assert pushed.n_unfit == 1


def test_an_existing_dataset_is_not_touched_unasked() -> None:
    push_review(preferences(1), dataset="mine")
    with pytest.raises(ReviewError, match="'mine' exists in workspace 'argilla'"):
        push_review(preferences(1), dataset="mine")
    with pytest.raises(ReviewError, match=r"needs \['generation'\]"):
        push_review(
            plan_review([{"instruction": "q", "generation": "a"}]), dataset="mine", on_exists="append"
        )


def test_a_workspace_is_made_only_when_asked(server: ArgillaServer) -> None:
    with pytest.raises(ReviewError, match=r"no workspace 'team'; you have \['argilla'"):
        push_review(preferences(1), dataset="x", workspace="team")
    with pytest.raises(ReviewError, match="url safe"):
        push_review(preferences(1), dataset="x", workspace="a b/c", create_workspace=True)


def test_wrong_names_keys_and_addresses_are_told(server: ArgillaServer) -> None:
    with pytest.raises(ReviewError, match="no dataset 'nothing'"):
        pull_review("nothing", workspace="argilla")
    with pytest.raises(ReviewError, match="refused the API key"):
        pull_review("x", api_key="wrong")
    with pytest.raises(ReviewError, match="no Argilla 2 server"):
        pull_review("x", api_url=f"{server.url}/dataset/x")


def test_what_the_server_refuses_names_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan's own check lets no such row through, so one is made by hand."""
    plan = preferences(3)
    plan.records[1].fields["instruction"] = None  # type: ignore[assignment]
    with pytest.raises(ReviewError, match=r"0 of 3 records were sent") as raised:
        push_review(plan, dataset="refused")
    assert "on_exists='append'" in raised.value.fix


def test_a_server_that_dies_during_a_push_is_told_and_the_push_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = preferences(6)
    with argilla_server(VENV, home=tmp_path) as first:

        def die(sent: int, _: int) -> None:
            if sent == 4:
                os.kill(first.pid, signal.SIGKILL)

        with pytest.raises(ReviewError, match="4 of 6 records were sent"):
            push_review(
                plan, dataset="prefs", batch_size=2, on_progress=die, api_url=first.url, api_key=first.api_key
            )
    with argilla_server(VENV, home=tmp_path) as second:
        server = {"api_url": second.url, "api_key": second.api_key}
        push_review(plan, dataset="prefs", on_exists="append", **server)  # type: ignore[arg-type]
        assert len(pull_review("prefs", **server)) == 6
