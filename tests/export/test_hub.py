"""Pushing to a Hub on loopback, and each failure in one sentence.

huggingface_hub reads its settings when it is imported, so pushes run in processes of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import yaml

from distilnb.export.hub import explain
from tests.servers import FakeHub, fake_hub

PROGRAM = """
import sys
from distilnb.errors import DistilnbError
from distilnb.export.distiset import Distiset
from distilnb.export.info import RunInfo
text = "distilnb: {version: 0.1.0, format: 1}\\npipeline: {name: p, steps: [{kind: KeepColumns, name: keep}]}\\n"
info = RunInfo(pipeline="prefs", is_rehearsed=True)
rows = [{"q": "Why?", "m": [1, "a"]}, {"q": "Who?", "m": None}]
ds = Distiset.from_rows({"prefs": rows, "sft data": [{"t": 1}] * 3}, pipeline_text=text, info=info)
try:
    print(ds.push_to_hub(sys.argv[1], private=True))
except DistilnbError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with fake_hub(require_token=True) as running:
        yield running


def run(hub: FakeHub, program: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **hub.env, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert hub.env["HF_TOKEN"] not in done.stdout + done.stderr
    return done.stdout.strip()


def test_subsets_card_and_pipeline_are_pushed_and_read_back(hub: FakeHub) -> None:
    assert run(hub, PROGRAM, "tester/prefs").endswith("/datasets/tester/prefs")
    assert run(hub, PROGRAM, "tester/prefs").endswith("/datasets/tester/prefs")  # again, over what is there
    files = hub.files("tester/prefs")
    assert {"README.md", "pipeline.yaml", "distilnb.json"} <= files.keys()
    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert [config["config_name"] for config in front["configs"]] == ["prefs", "sft data"]
    assert {"synthetic", "distilnb", "rehearsed"} <= set(front["tags"])
    assert "**Rehearsed.**" in card
    assert "--config hf://datasets/tester/prefs" in card
    loaded = run(
        hub,
        """
from datasets import load_dataset
print(load_dataset("tester/prefs", "sft data")["train"]["t"][:], load_dataset("tester/prefs", "prefs")["train"][0])
""",
    )
    assert loaded == """[1, 1, 1] {'q': 'Why?', 'm': '[1,"a"]'}"""


@pytest.mark.parametrize(
    "repo,environment,told",
    [
        ("tester/x", {"HF_TOKEN": "hf_wrongwrongwrongwrong"}, "The Hub refused the token."),
        ("tester/x", {"HF_TOKEN": ""}, "No Hugging Face token is set"),
        ("te st/x", {}, "'te st/x' cannot be the name of a repository."),
        ("tester/x", {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        (
            "tester/x",
            {"HF_ENDPOINT": "http://127.0.0.1:9"},
            "The Hub at http://127.0.0.1:9 cannot be reached.",
        ),
    ],
)
def test_a_failed_push_is_one_sentence_and_a_way_out(
    hub: FakeHub, repo: str, environment: dict[str, str], told: str
) -> None:
    lines = run(hub, PROGRAM, repo, **environment).splitlines()
    assert lines[0].startswith(f"ExportError {told}")
    assert len(lines) == 2
    assert "wrongwrong" not in "".join(lines)


class FakeHTTPError(Exception):
    def __init__(self, status: int, message: str = "") -> None:
        super().__init__(message)
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize(
    "status,told",
    [
        (401, "refused the token"),
        (403, "may not write to 'me/prefs'"),
        (404, "knows no 'me/prefs'"),
        (412, "changed by somebody else"),
        (429, "fewer requests"),
        (503, "failed with status 503"),
        (418, "status 418: short and stout"),
    ],
)
def test_each_status_has_its_words(status: int, told: str) -> None:
    error = explain(FakeHTTPError(status, "short and stout\nmore"), "me/prefs", has_token=True)
    assert told in error.what
    assert error.fix
    assert "\n" not in error.what


def test_no_token_is_told_apart_from_a_wrong_one() -> None:
    assert "No Hugging Face token" in explain(FakeHTTPError(401), "me/prefs", has_token=False).what


def test_a_token_in_a_message_of_the_client_is_taken_out() -> None:
    error = explain(ValueError("bad header: Bearer hf_abcdefghijklmnop"), "me/prefs", has_token=True)
    assert "hf_" not in str(error)
