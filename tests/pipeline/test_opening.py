"""A pipeline comes back equal from a file, and from the Hub where its dataset was pushed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import distilnb as dn
from distilnb.demo import build
from distilnb.errors import SourceNotFoundError, SpecError, UnsafeFileError
from distilnb.llms import LlamaCppLLM, TransformersLLM, vLLM
from distilnb.llms.base import LLM
from distilnb.pipeline import Pipeline
from distilnb.pipeline.opening import open_pipeline
from distilnb.spec.step import Step
from distilnb.steps import LoadDataFromDisk, LoadDataFromFileSystem, LoadDataFromHub
from distilnb.steps.columns import KeepColumns
from tests.servers import fake_hub


def preferences() -> Pipeline:
    rows = [{"instruction": f"Name {i} rivers."} for i in range(6)]
    p = Pipeline("prefs", llm="rehearsal", description="rivers").from_dicts(rows)
    return p.generate(llm=["rehearsal:a", "rehearsal:b"]).judge().to_dpo()


@pytest.mark.parametrize("name", ["prefs.yaml", "prefs.json"])
def test_a_saved_pipeline_opens_equal(tmp_path: Path, name: str) -> None:
    preferences().save(tmp_path / name)
    again = dn.open(tmp_path / name)
    assert again == preferences()
    assert (again.description, again.llm) == ("rivers", preferences().llm)


PROGRAM = """
import distilnb as dn
from tests.pipeline.test_opening import preferences
preferences().run(show=False).push_to_hub("me/prefs")
assert dn.open("hf://datasets/me/prefs") == preferences()
try:
    dn.open("hf://datasets/me/nothing")
except dn.errors.SourceNotFoundError as error:
    print(str(error).splitlines()[1])
print(dn.Pipeline("again").from_hub("me/prefs").keep("prompt").run(show=False)["default"]["train"].num_rows)
"""


def test_what_was_pushed_with_a_dataset_opens_equal_and_loads_again() -> None:
    with fake_hub() as hub:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, **hub.env},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    first, n_rows = done.stdout.splitlines()
    assert first == "Check its name, your access to it (HF_TOKEN) and the network."
    assert int(n_rows) == len(preferences().run(show=False)["default"]["train"])


def test_other_addresses_are_refused() -> None:
    with pytest.raises(SpecError, match=r"'https://x\.test/p\.yaml' is an address that cannot be opened"):
        open_pipeline("https://x.test/p.yaml")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError):
        open_pipeline(tmp_path / "absent.yaml")


# --- what it may touch ---


def opened(pipeline: Pipeline, folder: Path, allow: Any = ()) -> Pipeline:
    pipeline.save(folder / "p.yaml")
    return dn.open(folder / "p.yaml", allow=allow)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a folder and a file beside it that a pipeline should not read."""
    (tmp_path / "here" / "data").mkdir(parents=True)
    (tmp_path / "here" / "data" / "rows.txt").write_text("shown")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "rows.txt").write_text("hidden")
    (tmp_path / "here" / "link").symlink_to(tmp_path / "secret")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    return tmp_path / "here"


def test_all_places_outside_are_told_at_once_with_the_allow_that_lets_them_pass(here: Path) -> None:
    secret = str(here.parent / "secret")
    elsewhere = dn.llm("openai:m", base_url="http://evil.example/v1")
    p = Pipeline("p", llm=elsewhere).from_files(f"{secret}/rows.txt")
    p = p.generate("answer", "{{ text }}", llm=dn.llm("openai:m", base_url="https://worse.example:8443/v1"))
    with pytest.raises(UnsafeFileError) as caught:
        opened(p, here)
    wanted = ["evil.example", f"{secret}/rows.txt", "worse.example"]
    assert caught.value.what == (
        f"The pipeline would leave the working directory {str(here)!r}, talk to other hosts than its "
        "providers', run code, or start more processes than there are processors: "
        "the default model sends to the host 'evil.example'; "
        f"step 'load' reads '{secret}/rows.txt'; step 'answer' sends to the host 'worse.example'."
    )
    assert caught.value.fix == f"If you trust it with them, open it with allow={wanted}."
    assert opened(p, here, allow=wanted) == p
    assert opened(p, here, allow=[here.parent / "secret", "Evil.example", "worse.example"]) == p
    with pytest.raises(UnsafeFileError, match=re.escape(f"allow={[secret, *wanted[::2]]}.")):
        opened(p, here, allow=secret)  # one alone is one entry, not its letters


def test_a_file_may_not_start_more_processes_than_there_are_processors(here: Path) -> None:
    listed = Pipeline("p").from_dicts([{"text": "x"}])
    few = listed.then(KeepColumns(name="keep", columns=["text"], resources={"replicas": 1}))
    many = listed.then(KeepColumns(name="keep", columns=["text"], resources={"replicas": 200}))
    assert opened(few, here) == few
    with pytest.raises(UnsafeFileError, match="step 'keep' starts 200 processes"):
        opened(many, here)
    assert opened(many, here, allow=["replicas=200"]) == many


@pytest.mark.parametrize(
    "files",
    [
        "../secret/rows.txt",
        "~/secret/rows.txt",
        "link/rows.txt",
        "link",
        "../secret/*.txt",
        "data/*/../../../secret/rows.txt",
        "**/../../secret/*.txt",
        ["data/rows.txt", "/etc/hosts"],
        {"train": "data/rows.txt", "test": "../secret/rows.txt"},
    ],
    ids=str,
)
def test_no_spelling_of_a_path_leads_out(files: Any, here: Path) -> None:
    p = Pipeline("p").then(LoadDataFromFileSystem(name="load", data_files=files))
    with pytest.raises(UnsafeFileError, match="step 'load' reads ") as caught:
        opened(p, here)
    allow = ast.literal_eval(caught.value.fix.partition("allow=")[2].rstrip("."))
    assert opened(p, here, allow=allow) == p


@pytest.mark.parametrize(
    "source",
    [
        LoadDataFromDisk(name="load", dataset_path="../secret"),
        LoadDataFromDisk(name="load", dataset_path=Path("~/secret")),
        LoadDataFromHub(name="load", repo_id="../secret"),
        LoadDataFromHub(
            name="load", repo_id="a/b", storage_options={"hf": {"endpoint": "http://evil.example"}}
        ),
    ],
    ids=str,
)
def test_other_sources_do_not_lead_out_either(source: Step, here: Path) -> None:
    with pytest.raises(UnsafeFileError, match=r"secret|evil\.example"):
        opened(Pipeline("p").then(source), here)


@pytest.mark.parametrize(
    "llm",
    [
        dn.llm("openai:gpt-4o"),
        dn.llm("openai:gpt-4o", base_url="https://eu.api.openai.com/v1"),
        dn.llm("ollama:llama3.2"),
        dn.llm("openai:m", base_url="http://localhost:8000/v1"),
        dn.llm("rehearsal"),
    ],
    ids=lambda llm: f"{llm.label} {llm.endpoint}",
)
@pytest.mark.parametrize("files", ["data/*.txt", "data/../data/x.txt", "data/[a].txt"])
def test_what_is_here_or_the_providers_own_needs_no_allow(llm: LLM, files: str, here: Path) -> None:
    p = Pipeline("p", llm=llm).then(LoadDataFromFileSystem(name="load", data_files=[files, f"{here}/x.txt"]))
    assert opened(p, here) == p
    hub = Pipeline("p").from_hub("owner/name")
    assert opened(hub, here) == hub


def test_the_server_that_the_environment_names_is_the_users_own(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = Pipeline("p", llm=dn.llm("openai:m", base_url="https://models.lan/v1")).from_files("data/*.txt")
    with pytest.raises(UnsafeFileError):
        opened(p, here)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://models.lan/v1")
    assert opened(p, here) == p


def test_a_host_that_only_looks_like_the_providers_is_told(here: Path) -> None:
    for address in ("https://api.openai.com.evil.example/v1", "http://api.openai.com/v1"):
        p = Pipeline("p", llm=dn.llm("openai:m", base_url=address)).from_files("data/*.txt")
        with pytest.raises(UnsafeFileError):
            opened(p, here)


@pytest.mark.parametrize(
    "llm, named",
    [
        (TransformersLLM(model="owner/name", trust_remote_code=True), "trust_remote_code"),
        (TransformersLLM(model="owner/name", model_kwargs={"attn_implementation": "x"}), "model_kwargs"),
        (vLLM(model="owner/name", extra_kwargs={"worker_cls": "evil:Class"}), "extra_kwargs"),
        (TransformersLLM(model="../secret"), "secret"),
        (TransformersLLM(model="owner/name", tokenizer="../secret"), "secret"),
        (LlamaCppLLM(model_path="~/secret/x.gguf"), "secret"),
    ],
    ids=str,
)
def test_a_local_model_of_a_file_neither_runs_code_nor_leads_out(llm: LLM, named: str, here: Path) -> None:
    p = Pipeline("p", llm=llm).from_files("data/*.txt")
    with pytest.raises(UnsafeFileError, match=named) as caught:
        opened(p, here)
    allow = ast.literal_eval(caught.value.fix.partition("allow=")[2].rstrip("."))
    assert opened(p, here, allow=allow) == p
    assert opened(Pipeline("p", llm=TransformersLLM(model="owner/name")).from_files("data/*.txt"), here)


def test_the_pipeline_of_the_demo_opens_anywhere(here: Path) -> None:
    p = build([dn.llm("rehearsal")])
    assert opened(p, here) == p
