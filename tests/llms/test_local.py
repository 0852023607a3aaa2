"""What local models say of themselves before any process is started."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel

import distilnb as dn
from distilnb.errors import (
    MissingPackageError,
    ModelLoadError,
    RefusedRequestError,
    SpecError,
    UnknownModelError,
    UnknownParameterError,
    UnsupportedParameterError,
)
from distilnb.llms import LlamaCppLLM, MlxLLM, TransformersLLM, local, vLLM, weights
from distilnb.llms.engines.base import Ask, cut_at_stop, stops_of, text_messages
from distilnb.llms.engines.grammar import gbnf_of
from distilnb.llms.engines.llamacpp import LlamaCppEngine
from distilnb.llms.hosts import devices
from distilnb.llms.hosts.devices import Gpu, choose_devices
from distilnb.llms.hosts.place import Info, Place, place_of
from distilnb.llms.local import LocalLLM
from distilnb.llms.shape import ReplyShape
from distilnb.spec.registry import build

ALL = (TransformersLLM, LlamaCppLLM, vLLM, MlxLLM)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(os.urandom(weights.WHOLE_BYTES + 1000))
    return folder


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every inference library seem to be installed."""
    monkeypatch.setattr(local, "find_spec", lambda name: object())


# --- names ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, kind",
    [
        ("transformers:Qwen/Qwen3-0.6B", TransformersLLM),
        ("gguf:/models/qwen.gguf", LlamaCppLLM),
        ("vllm_engine:Qwen/Qwen3-0.6B", vLLM),
        ("mlx:mlx-community/Qwen3-0.6B-4bit", MlxLLM),
    ],
)
def test_the_catalog_knows_each(name: str, kind: type[LocalLLM]) -> None:
    llm = dn.llm(name, temperature=0.5, keep_alive=60)
    assert type(llm) is kind
    assert isinstance(llm, LocalLLM)
    assert llm.keep_alive == 60
    assert build(llm.dump()) == llm


def test_names_of_1x_are_taken(model_folder: Path) -> None:
    path = str(model_folder / "x.gguf")
    assert LlamaCppLLM(model_path=path) == LlamaCppLLM(model=path)
    assert LlamaCppLLM(model_path=path).model_path == path
    assert MlxLLM(path_or_hf_repo="a/b") == MlxLLM(model="a/b")
    llm = TransformersLLM(model="a/b", token="hf_secret", generation_kwargs={"max_tokens": 5})
    assert llm.key() == "hf_secret"
    assert llm.generation_kwargs == {"max_new_tokens": 5}
    assert "hf_secret" not in repr(llm)
    assert "hf_secret" not in str(llm.dump())


def test_a_token_of_the_environment_goes_to_the_host_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_canary")
    host = TransformersLLM(model="a/b").host()
    assert host.secrets == {"HF_TOKEN": "hf_canary"}
    assert "hf_canary" not in str(host.settings)
    assert "hf_canary" not in repr(host)


# --- checks -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_a_missing_package_names_the_extra(kind: type[LocalLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=rf"pip install 'distilnb\[{kind.extra_name}\]'"):
        kind(model="a/b").check()


@pytest.mark.usefixtures("installed")
def test_a_path_that_leads_nowhere_has_a_near_match(model_folder: Path) -> None:
    with pytest.raises(UnknownModelError, match="Did you mean 'tiny'") as caught:
        TransformersLLM(model=str(model_folder.parent / "tinny")).check()
    assert caught.value.fatal
    shutil.rmtree(model_folder)
    with pytest.raises(UnknownModelError, match="holds nothing"):
        LlamaCppLLM(model_path=str(model_folder / "x.gguf")).check()


@pytest.mark.usefixtures("installed")
def test_a_parameter_that_the_engine_lacks_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedParameterError, match="MlxLLM has no parameter 'frequency_penalty'"):
        MlxLLM(model="a/b", generation_kwargs={"frequency_penalty": 1.0}).check()
    for kind in (TransformersLLM, vLLM):
        kind(model="a/b", generation_kwargs={"frequency_penalty": 1.0, "repetition_penalty": 1.1}).check()
    with pytest.raises(UnknownParameterError, match="temperatur"):
        TransformersLLM(model="a/b", generation_kwargs={"temperatur": 1.0})


@pytest.mark.usefixtures("installed")
def test_remote_code_has_one_place() -> None:
    with pytest.raises(SpecError, match="Give it as trust_remote_code="):
        vLLM(model="a/b", extra_kwargs={"trust_remote_code": True})


def test_check_finds_a_missing_model_before_a_run_starts(installed: None, model_folder: Path) -> None:
    llm = TransformersLLM(model=str(model_folder.parent / "tinny"))
    pipeline = dn.Pipeline("p").from_dicts([{"instruction": "x"}]).generate("answer", llm=llm)
    with pytest.raises(UnknownModelError):
        pipeline.start()
    assert dn.runs() == []


# --- identity ---------------------------------------------------------------------


def test_a_model_is_its_content_wherever_it_lies(model_folder: Path) -> None:
    first = TransformersLLM(model=str(model_folder)).identity()
    moved = model_folder.rename(model_folder.with_name("moved"))
    assert TransformersLLM(model=str(moved)).identity() == first
    with (moved / "model.safetensors").open("r+b") as file:
        file.seek(weights.WHOLE_BYTES // 2)
        file.write(os.urandom(weights.WHOLE_BYTES // weights.N_SAMPLES))
    assert TransformersLLM(model=str(moved)).identity() != first


@pytest.mark.parametrize(
    "kind, name", [(MlxLLM, "adapter_path"), (TransformersLLM, "tokenizer"), (vLLM, "tokenizer")]
)
def test_an_adapter_and_a_tokenizer_are_their_content_too(
    kind: type[LocalLLM], name: str, model_folder: Path
) -> None:
    def llm(folder: Path) -> LocalLLM:
        return kind(model="a/b", **{name: str(folder)})

    first, first_host = llm(model_folder).identity(), llm(model_folder).host().place()
    assert llm(model_folder).host().place() == first_host
    moved = model_folder.rename(model_folder.with_name("moved"))
    assert llm(moved).identity() == first
    (moved / "config.json").write_text('{"trained": "again"}')
    assert llm(moved).identity() != first
    moved.rename(model_folder)
    assert llm(model_folder).host().place() != first_host
    assert llm(model_folder).host().settings[name] == str(model_folder.resolve())
    assert kind(model="a/b", **{name: "a/c"}).identity()[name] == "a/c"


@pytest.mark.parametrize(
    "fields, is_another_reply, is_another_host",
    [
        ({"keep_alive": 1}, False, False),
        ({"max_concurrency": 2}, False, False),
        ({"generation_kwargs": {"temperature": 0.1}}, True, False),
        ({"structured_output": {"format": "regex", "schema": "a+"}}, True, False),
        ({"gpus": [1]}, False, True),
        ({"batch_size": 3}, False, True),
        ({"device": "cpu"}, False, True),
        ({"torch_dtype": "bfloat16"}, True, True),
        ({"chat_template": "{{ messages }}"}, True, True),
        ({"revision": "abc"}, True, True),
    ],
)
def test_what_makes_another_reply_and_what_another_host(
    fields: dict[str, Any], is_another_reply: bool, is_another_host: bool
) -> None:
    plain, changed = TransformersLLM(model="a/b"), TransformersLLM(model="a/b", **fields)
    assert (plain.identity() != changed.identity()) == is_another_reply
    assert (plain.host().place() != changed.host().place()) == is_another_host


@pytest.fixture(autouse=True)
def no_devices_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put back what `choose_devices` sets: a variable that was never there is forgotten by `delenv` alone."""
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_other_visible_devices_are_another_host(monkeypatch: pytest.MonkeyPatch) -> None:
    before = place_of({"model": "x"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert place_of({"model": "x"}) != before


def test_structured_output_is_the_shape_of_every_reply() -> None:
    class Book(BaseModel):
        title: str

    llm = TransformersLLM(model="a/b", structured_output={"format": "json", "schema": Book})
    assert llm.reply_shape == ReplyShape("json", Book.model_json_schema())
    pattern = vLLM(model="a/b", structured_output={"format": "regex", "schema": "[ab]"})
    assert pattern.reply_shape == ReplyShape("regex", pattern="[ab]")
    assert TransformersLLM(model="a/b").reply_shape is None


def test_shapes_are_forced_where_the_engine_can(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = ReplyShape("regex", pattern="a")
    assert LlamaCppLLM(model_path="x.gguf").shape_modes(shape) == ("grammar",)
    assert MlxLLM(model="a/b").shape_modes(shape) == ()
    monkeypatch.setattr("distilnb.llms.transformers.find_spec", lambda name: None)
    assert TransformersLLM(model="a/b").shape_modes(shape) == ()


# --- devices ----------------------------------------------------------------------

GPUS = [Gpu(0, "GPU-a", 10 << 30), Gpu(1, "GPU-b", 80 << 30), Gpu(2, "GPU-c", 40 << 30)]


@pytest.mark.parametrize(
    "settings, visible, chosen",
    [
        ({"gpus": None}, None, "1"),
        ({"gpus": None, "n_devices": 2}, None, "1,2"),
        ({"gpus": None, "may_spread": True, "size_bytes": 90 << 30}, None, "1,2"),
        ({"gpus": None, "may_spread": True, "size_bytes": 900 << 30}, None, "1,2,0"),
        ({"gpus": 2}, None, "1,2"),
        ({"gpus": [0, 2]}, None, "0,2"),
        ({"gpus": 0}, None, ""),
        ({"gpus": None}, "0,2", "2"),
        ({"gpus": None}, "GPU-c", "2"),
        ({"gpus": None}, "", ""),
    ],
)
def test_gpus_are_those_named_or_the_freest(
    settings: dict[str, Any], visible: str | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: GPUS)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    choose_devices(place_of({}), settings)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == chosen


def test_a_gpu_that_another_host_has_is_taken_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: GPUS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    other = place_of({"model": "other"})
    lock = other.take_lock()
    assert lock is not None
    try:
        other.tell(Info(os.getpid(), "", "other", "ready", "1"))
        choose_devices(place_of({}), {"gpus": None})
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "2"
    finally:
        os.close(lock)


@pytest.mark.parametrize("gpus", [4, [7]])
def test_more_gpus_than_there_are_is_an_error(gpus: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: GPUS)
    with pytest.raises(ModelLoadError, match=r"this machine has \[0, 1, 2\]"):
        choose_devices(place_of({}), {"gpus": gpus})


def test_without_a_gpu_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "list_gpus", list)
    choose_devices(place_of({}), {"gpus": None})
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_one_host_holds_the_lock(tmp_path: Path) -> None:
    place = Place(tmp_path)
    assert not place.is_alive()
    lock = place.take_lock()
    assert lock is not None
    assert place.is_alive()
    assert place.take_lock() is None
    os.close(lock)
    assert not place.is_alive()


# --- grammars and messages ----------------------------------------------------------


@pytest.mark.parametrize(
    "pattern, grammar",
    [
        ("abc", '"abc"'),
        ("ab|cd", '("ab" | "cd")'),
        (r"^\d+\.\d{2}$", '[0-9]+ "." [0-9]{2}'),
        (r"(ab)*c?", '("ab")* "c"?'),
        (r"[^a-z\]]", r"[^a-z\x5D]"),
        (r".\n", '[^\\n] "\\x0A"'),
        (r"\w{2,}", "[a-zA-Z0-9_]{2,}"),
        (r"\S", r"[^ \t\n\r]"),
        ('say "hi\\\\"', '"say \\"hi\\\\\\""'),
        ("日本+", '"日" "本"+'),
        ("(?:ab){1,3}", '("ab"){1,3}'),
    ],
)
def test_patterns_become_grammars(pattern: str, grammar: str) -> None:
    assert gbnf_of(ReplyShape("regex", pattern=pattern)) == f"root ::= {grammar}"


@pytest.mark.parametrize("pattern", [r"(?=a)b", r"(a)\1", r"\ba", "(?i)a", "a{5000}", "(", r"[\D\s]"])
def test_what_no_grammar_says_is_refused(pattern: str) -> None:
    with pytest.raises(RefusedRequestError):
        gbnf_of(ReplyShape("regex", pattern=pattern))


def test_parts_of_text_are_joined_and_images_refused() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert text_messages([{"role": "user", "content": parts}]) == [{"role": "user", "content": "ab"}]
    with pytest.raises(RefusedRequestError, match="image_url"):
        text_messages([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}])


def test_llama_cpp_counts_the_seed_on_from_the_first_reply_of_the_row() -> None:
    engine = LlamaCppEngine({}, lambda: None)
    engine.model = SimpleNamespace(n_ctx=lambda: 512)
    ask = Ask([], n=2, parameters={"seed": 7}, first=2)
    assert [engine._arguments(ask, index)["seed"] for index in range(2)] == [9, 10]
    free = Ask([], first=2)
    assert engine._arguments(free, 0)["seed"] != engine._arguments(free, 0)["seed"]


def test_stops_are_cut_at_the_first() -> None:
    assert stops_of({"stop": "x"}) == ["x"]
    assert stops_of({"stop": ["", "y"]}) == ["y"]
    assert stops_of({}) == []
    assert cut_at_stop("abc", []) == ("abc", False)
