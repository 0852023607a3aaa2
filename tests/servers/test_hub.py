"""The loopback hub, proved with datasets and huggingface_hub.

Both read their settings when they are imported, so the programs run in processes of their own.
"""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import pytest

from tests.servers import FakeHub, fake_hub


def run(hub: FakeHub, program: str, env: Mapping[str, str] | None = None) -> Any:
    """Run a program that prints JSON; return what it printed."""
    # Without the interpreter's own end: threads that Arrow keeps for a stream may abort it.
    code = textwrap.dedent(program) + "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **hub.env, **(env or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_dataset_is_pushed_loaded_and_streamed() -> None:
    with fake_hub(require_token=True) as hub:
        result = run(
            hub,
            """
            import json
            from datasets import Dataset, load_dataset
            rows = Dataset.from_list([{"text": f"row {i}", "score": i / 2} for i in range(30)])
            rows.push_to_hub("tester/demo", num_shards=3)
            rows.select(range(4)).push_to_hub("tester/demo", "small", private=True)
            rows.push_to_hub("tester/demo", num_shards=2)
            loaded = load_dataset("tester/demo", split="train")
            small = load_dataset("tester/demo", "small", split="train")
            stream = load_dataset("tester/demo", split="train", streaming=True)
            print(json.dumps([loaded.to_list() == rows.to_list(), len(small), list(stream.take(2))]))
            """,
        )
        shards = sorted(path for path in hub.files("tester/demo") if path.startswith("data/"))
    assert result == [True, 4, [{"text": "row 0", "score": 0.0}, {"text": "row 1", "score": 0.5}]]
    assert [path.rpartition("/")[2] for path in shards] == [
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]


def test_files_and_cards_go_up_and_come_down() -> None:
    with fake_hub(require_token=True) as hub:
        result = run(
            hub,
            """
            import json, pathlib
            from huggingface_hub import DatasetCard, HfApi, hf_hub_download
            from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
            api, repo = HfApi(), dict(repo_id="tester/files", repo_type="dataset")
            api.create_repo(**repo, private=True)
            api.create_repo(**repo, exist_ok=True)
            first = api.upload_file(path_or_fileobj=b"one", path_in_repo="a/note.txt", **repo)
            api.upload_file(path_or_fileobj=bytes(range(256)) * 10, path_in_repo="a/weights.bin", **repo)
            api.upload_file(path_or_fileobj=b"two", path_in_repo="a/note.txt", **repo)
            DatasetCard("---\\nlicense: mit\\n---\\n# Files").push_to_hub("tester/files")
            api.delete_file("a/weights.bin", **repo)
            api.create_branch(branch="side", **repo)
            read = lambda path, **at: pathlib.Path(hf_hub_download(filename=path, **repo, **at)).read_text()
            errors = []
            for wrong in (dict(repo_id="tester/none"), dict(revision="none"), dict(filename="none")):
                try:
                    hf_hub_download(**{**repo, "filename": "a/note.txt", **wrong})
                except (HfHubHTTPError, EntryNotFoundError) as error:
                    errors.append(type(error).__name__)
            print(json.dumps({
                "name": api.whoami()["name"],
                "files": sorted(api.list_repo_files(**repo)),
                "now": read("a/note.txt"),
                "then": read("a/note.txt", revision=first.oid),
                "side": read("a/note.txt", revision="side"),
                "license": DatasetCard.load("tester/files").data.license,
                "private": api.dataset_info("tester/files").private,
                "branches": sorted(b.name for b in api.list_repo_refs(**repo).branches),
                "errors": errors,
            }))
            """,
        )
        files = hub.files("tester/files")
    assert result == {
        "name": "tester",
        "files": [".gitattributes", "README.md", "a/note.txt"],
        "now": "two",
        "then": "one",
        "side": "two",
        "license": "mit",
        "private": True,
        "branches": ["main", "side"],
        "errors": ["RepositoryNotFoundError", "RevisionNotFoundError", "RemoteEntryNotFoundError"],
    }
    assert files["a/note.txt"] == b"two"


@pytest.mark.parametrize("token,error", [("hf_wrong", "HfHubHTTPError"), ("", "LocalTokenNotFoundError")])
def test_a_wrong_or_missing_token_is_refused(token: str, error: str) -> None:
    with fake_hub(require_token=True) as hub:
        result = run(
            hub,
            """
            import json
            from huggingface_hub import HfApi
            from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError
            found = []
            try:
                HfApi().whoami()
            except (HfHubHTTPError, LocalTokenNotFoundError) as error:
                found += [type(error).__name__]
            try:
                HfApi().list_repo_files("tester/any", repo_type="dataset")
            except HfHubHTTPError as error:
                found += [type(error).__name__, error.response.status_code]
            print(json.dumps(found))
            """,
            {"HF_TOKEN": token},
        )
    assert result == [error, "RepositoryNotFoundError" if not token else "HfHubHTTPError", 401]


def test_a_stale_commit_is_refused() -> None:
    with fake_hub() as hub:
        status = run(
            hub,
            """
            from huggingface_hub import HfApi
            from huggingface_hub.errors import HfHubHTTPError
            api, repo = HfApi(), dict(repo_id="tester/race", path_in_repo="a.txt")
            api.create_repo("tester/race")
            first = api.upload_file(path_or_fileobj=b"1", **repo)
            api.upload_file(path_or_fileobj=b"2", **repo)
            try:
                api.upload_file(path_or_fileobj=b"3", parent_commit=first.oid, **repo)
            except HfHubHTTPError as error:
                print(error.response.status_code)
            """,
        )
        assert status == 412
        assert hub.files("tester/race", kind="model")["a.txt"] == b"2"
        assert "POST /api/repos/create" in hub.requests()
