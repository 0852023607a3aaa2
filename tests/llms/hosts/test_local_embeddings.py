"""Embedding models in the model host: loaded once for preview and run, a batch at a time, each text's own failure.

The libraries are stand-ins of a few lines; `make test-engines` has the real ones.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from distilnb.errors import MissingPackageError, RefusedRequestError
from distilnb.llms import LlamaCppEmbeddings, SentenceTransformerEmbeddings, vLLMEmbeddings
from distilnb.llms.calling import answer_now
from distilnb.llms.local_embeddings import LocalEmbeddings
from distilnb.llms.request import Reply, Request
from distilnb.pipeline import Pipeline
from distilnb.vectors import unpack_vector
from tests.runs import done

SENTENCE_TRANSFORMERS = """
import os
import numpy

class _Mask(list):
    pass

class SentenceTransformer:
    def __init__(self, name, device=None, revision=None, trust_remote_code=False, prompts=None, **options):
        with open(os.environ["LOADED"], "a") as file:
            file.write(f"{name} {device} {revision} {prompts} {options}\\n")

    def encode(self, texts, batch_size, precision, convert_to_numpy, show_progress_bar):
        with open(os.environ["ENCODED"], "a") as file:
            file.write(f"{len(texts)}\\n")
        return numpy.array([[3.0, 4.0, len(text)] for text in texts], dtype="float32")

    def tokenize(self, texts):
        return {"attention_mask": [numpy.ones(len(text)) for text in texts]}
"""

LLAMA_CPP = """
class Llama:
    def __init__(self, model_path, embedding, **options):
        assert embedding is True
        assert options["n_ubatch"] == options["n_batch"]

    def n_ctx(self):
        return 512

    def tokenize(self, text):
        return list(text)

    def embed(self, text):
        if text.startswith("by token"):
            return [[1.0, 2.0], [3.0, 6.0]]
        return [float(len(text)), 0.5]

    def close(self):
        pass
"""

VLLM = """
import sys
from types import ModuleType, SimpleNamespace

platforms = sys.modules["vllm.platforms"] = ModuleType("vllm.platforms")
platforms.current_platform = SimpleNamespace(is_cpu=lambda: True)

class _Out:
    def __init__(self, text):
        self.outputs = type("Outputs", (), {"embedding": [0.25, float(len(text))]})
        self.prompt_token_ids = list(range(len(text)))

class LLM:
    def __init__(self, model, runner, **options):
        assert runner == "pooling"
        assert options["enforce_eager"] is True

    def embed(self, texts, use_tqdm):
        if any(len(text) > 100 for text in texts):
            raise ValueError("the prompt is longer than the maximum model length")
        return [_Out(text) for text in texts]
"""


@pytest.fixture(autouse=True)
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put stand-ins of the libraries where this process and its hosts find them."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    stand_ins = {"sentence_transformers": SENTENCE_TRANSFORMERS, "llama_cpp": LLAMA_CPP, "vllm": VLLM}
    for name, text in stand_ins.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ['PYTHONPATH']}")
    monkeypatch.setenv("LOADED", str(tmp_path / "loaded"))
    monkeypatch.setenv("ENCODED", str(tmp_path / "encoded"))
    return folder


@pytest.fixture
def gguf(tmp_path: Path) -> str:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    return str(tmp_path / "model.gguf")


def reply_of(model: LocalEmbeddings, text: str) -> Reply:
    model.check()
    [reply] = answer_now(model, Request(({"role": "user", "content": text},))).replies
    return reply


def vector_of(model: LocalEmbeddings, text: str) -> list[float]:
    return unpack_vector(reply_of(model, text).text or "")


def test_a_preview_and_a_run_load_the_model_once_and_embed_in_batches(tmp_path: Path) -> None:
    model = SentenceTransformerEmbeddings(
        model="owner/name", batch_size=16, prompts={"q": "Q: "}, revision="r1"
    )
    rows = [{"text": "x" * number} for number in range(1, 201)]
    p = Pipeline("local").from_dicts(rows).embed("text", model=model)
    p.preview(5)
    made = list(done(p).distiset().rows())
    assert [row["embedding"] for row in made] == [[3.0, 4.0, float(number)] for number in range(1, 201)]
    assert {row["embedding_model"] for row in made} == {"owner/name"}
    assert (tmp_path / "loaded").read_text() == "owner/name None r1 {'q': 'Q: '} {}\n"
    batches = [int(line) for line in (tmp_path / "encoded").read_text().split()]
    assert sum(batches) == 200
    assert max(batches) == 16
    assert len(batches) < 60


def test_vectors_are_shortened_before_they_are_normalized() -> None:
    model = SentenceTransformerEmbeddings(model="owner/name", dimensions=2, normalize_embeddings=True)
    assert vector_of(model, "abc") == pytest.approx([0.6, 0.8])
    reply = reply_of(model, "abc")
    assert (reply.input_tokens, reply.output_tokens) == (3, 0)


def test_llama_cpp_refuses_what_it_would_cut(gguf: str) -> None:
    model = LlamaCppEmbeddings(model_path=gguf)
    assert vector_of(model, "four") == [4.0, 0.5]
    assert vector_of(model, "by token") == [2.0, 4.0]
    with pytest.raises(RefusedRequestError, match="has 600 tokens; the model reads 512 at once"):
        vector_of(model, "x" * 600)


def test_a_text_that_vllm_refuses_fails_alone() -> None:
    model = vLLMEmbeddings(model="owner/name", enforce_eager=True)
    rows = [{"text": "x" * (200 if number == 7 else number + 1)} for number in range(20)]
    run = done(Pipeline("vllm").from_dicts(rows).embed("text", model=model))
    assert run.status().step("embed").done == 19
    errors = run.errors()
    assert list(errors["row"]) == [7]
    assert "longer than the maximum" in errors["reason"][0]
    assert math.hypot(*vector_of(model, "xx")) == pytest.approx(math.hypot(0.25, 2.0))


def test_without_the_package_the_check_names_the_extra(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SentenceTransformerEmbeddings, "package", "sentence_transformers_that_is_not_there")
    with pytest.raises(MissingPackageError, match=r"distilnb\[sentence-transformers\]"):
        SentenceTransformerEmbeddings(model="owner/name").check()


def test_what_makes_another_vector_is_in_the_identity() -> None:
    plain = SentenceTransformerEmbeddings(model="owner/name")
    assert plain.identity() == SentenceTransformerEmbeddings(model="owner/name", batch_size=2).identity()
    for fields in ({"dimensions": 5}, {"normalize_embeddings": True}, {"default_prompt_name": "q"}):
        assert SentenceTransformerEmbeddings(model="owner/name", **fields).identity() != plain.identity()
