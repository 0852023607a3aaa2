"""The launcher and the in-memory search engine, proved with Argilla's own client."""

import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("argilla")


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[ArgillaServer]:
    with argilla_server(VENV, home=home) as running:
        yield running


@contextmanager
def connected(server: ArgillaServer) -> Iterator[Any]:
    """Connect, and disconnect at the end, which the client does not do by itself."""
    rg = pytest.importorskip("argilla")
    client = rg.Argilla(api_url=server.url, api_key=server.api_key)
    try:
        yield client
    finally:
        client.http_client.close()


@pytest.fixture(scope="module")
def client(server: ArgillaServer) -> Iterator[Any]:
    with connected(server) as connection:
        yield connection


@pytest.fixture(scope="module")
def dataset(client: Any) -> Any:
    rg = pytest.importorskip("argilla")
    settings = rg.Settings(
        fields=[rg.TextField(name="text", client=client)],
        questions=[rg.RatingQuestion(name="quality", values=[1, 2, 3, 4, 5], client=client)],
        metadata=[rg.IntegerMetadataProperty(name="length", client=client)],
        vectors=[rg.VectorField(name="place", dimensions=2, _client=client)],
    )
    made = rg.Dataset(name="demo", workspace="argilla", settings=settings, client=client).create()
    made.records.log(
        [
            rg.Record(
                id=str(number),
                fields={"text": f"record {'even' if number % 2 == 0 else 'odd'}"},
                metadata={"length": number},
                vectors={"place": [number, 1]},
                suggestions=[rg.Suggestion("quality", 1 + number % 5, agent="judge", score=0.5)],
            )
            for number in range(10)
        ],
        batch_size=10,
    )
    return made


def ids(dataset: Any, **query: Any) -> list[str]:
    rg = pytest.importorskip("argilla")
    return [record.id for record in dataset.records(rg.Query(**query))]


def test_records_are_found_by_text_metadata_and_suggestion(dataset: Any) -> None:
    assert ids(dataset, query="even") == ["0", "2", "4", "6", "8"]
    assert ids(dataset, filter=("metadata.length", ">=", 7)) == ["7", "8", "9"]
    assert ids(dataset, filter=("quality.suggestion", "==", 5)) == ["4", "9"]
    assert len(ids(dataset, filter=("inserted_at", ">=", "2020-01-01T00:00:00"))) == 10


def test_similar_records_come_nearest_first(dataset: Any) -> None:
    rg = pytest.importorskip("argilla")
    query = rg.Query(similar=rg.Similar("place", [9.0, 1.0]))
    found = [record.id for record, _ in dataset.records(query, limit=3)]
    assert found == ["9", "8", "7"]


def test_a_submitted_answer_completes_its_record(server: ArgillaServer, dataset: Any) -> None:
    rg = pytest.importorskip("argilla")
    (record,) = dataset.records(rg.Query(filter=("id", "==", "3")))
    answer = {"values": {"quality": {"value": 4}}, "status": "submitted"}
    post(server, f"/api/v1/records/{record._server_id}/responses", answer)
    assert ids(dataset, filter=("response.status", "==", "submitted")) == ["3"]
    assert ids(dataset, filter=("quality.response", "==", 4)) == ["3"]
    assert dataset.progress() == {"total": 10, "completed": 1, "pending": 9}


def test_records_are_sorted_as_the_web_page_asks(server: ArgillaServer, dataset: Any) -> None:
    sort = [{"scope": {"entity": "metadata", "metadata_property": "length"}, "order": "desc"}]
    found = post(server, f"/api/v1/me/datasets/{dataset.id}/records/search?limit=3", {"sort": sort})
    assert [item["record"]["external_id"] for item in found["items"]] == ["9", "8", "7"]


def post(server: ArgillaServer, path: str, body: Any) -> Any:
    """Post as the web page does: for what the client cannot say."""
    request = urllib.request.Request(
        server.url + path,
        data=json.dumps(body).encode(),
        headers={"X-Argilla-Api-Key": server.api_key, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


@pytest.mark.slow
def test_a_restarted_server_finds_its_records_again(tmp_path: Path) -> None:
    rg = pytest.importorskip("argilla")
    with argilla_server(VENV, home=tmp_path) as first, connected(first) as client:
        settings = rg.Settings(
            fields=[rg.TextField(name="text", client=client)],
            questions=[rg.TextQuestion(name="note", client=client)],
        )
        made = rg.Dataset(name="kept", workspace="argilla", settings=settings, client=client).create()
        made.records.log([{"text": "over the night"}], batch_size=1)
    with argilla_server(VENV, home=tmp_path) as second, connected(second) as client:
        kept = client.datasets("kept", workspace="argilla")
        texts = [record.fields["text"] for record in kept.records(rg.Query(query="night"))]
    assert texts == ["over the night"]
