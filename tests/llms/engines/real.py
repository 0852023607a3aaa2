"""The real engines that tests ask: how each is given the tiny model, in process or behind its own server."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import pytest

from distilnb.llms.base import LLM
from distilnb.spec.registry import load_kind

KEY = "sk-canary-0123456789abcdef"  # of the servers
N_CONTEXT = 1024
READY_S = 400.0  # vLLM's server takes a minute on two idle cores
LONG = 800  # tokens of a reply that takes seconds


@dataclass(frozen=True)
class Served:
    """The tiny model where it can be asked: a server's address, or the files that an engine in process loads."""

    fields: Mapping[str, Any]  # of the model
    url: str = ""
    folder: str = ""  # the model's, whose tokenizer and template all engines have

    def n_tokens(self, *messages: Mapping[str, Any]) -> int:
        """Return how many tokens messages have, as the model's own chat template puts them."""
        tokenizer = _tokenizer(self.folder)
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])


@lru_cache
def _tokenizer(folder: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@dataclass(frozen=True)
class RealEngine:
    """An engine under test: its name in the table, the class that asks it, the package that has it."""

    name: str
    kind: str
    package: str
    server: str = ""  # whose server is asked; "": the model's host loads it
    fields: Mapping[str, Any] = field(default_factory=dict, hash=False)
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def as_parameter(self) -> Any:
        """Return it as pytest takes it: with its name and its marks."""
        name = f"{self.server}-server-{self.kind}" if self.server else self.kind
        return pytest.param(self, id=name, marks=[pytest.mark.engines, pytest.mark.timeout(600)])

    @property
    def cls(self) -> type[LLM]:
        return load_kind(self.kind)  # type: ignore[return-value]

    @property
    def family(self) -> str:
        """The word for all of its like: "servers" or "in process"."""
        return "servers" if self.server else "in process"

    def model(self, served: Served, **fields: Any) -> LLM:
        """Return the tiny model; unless told otherwise it takes the likeliest tokens, and not many."""
        wanted = {"max_new_tokens": 16, "temperature": 0, **fields.pop("generation_kwargs", {})}
        if extra := {**self.extra, **wanted.get("extra", {})}:
            wanted["extra"] = extra
        return self.cls(**{**served.fields, **self.fields, **fields}, generation_kwargs=wanted)


_SIZES = {"enforce_eager": True, "max_model_len": N_CONTEXT, "max_num_seqs": 16}

SERVERS = (
    RealEngine("vLLM's server", "ClientvLLM", "vllm", server="vllm"),
    RealEngine("vLLM's server, by `OpenAILLM`", "OpenAILLM", "vllm", server="vllm"),
    RealEngine(
        "llama.cpp's server, by `OpenAILLM`",
        "OpenAILLM",
        "llama_cpp",
        server="llamacpp",
        extra={"repeat_penalty": 1.0},  # its own is 1.1, which is greedy no more
    ),
)
IN_PROCESS = (
    RealEngine("`vLLM`", "vLLM", "vllm", fields={"extra_kwargs": _SIZES}),
    RealEngine("`TransformersLLM`", "TransformersLLM", "transformers"),
    RealEngine("`LlamaCppLLM`", "LlamaCppLLM", "llama_cpp", fields={"n_ctx": N_CONTEXT}),
)
REAL_ENGINES = (*SERVERS, *IN_PROCESS)


def command_of(server: str, folder: Path, gguf: Path, port: int) -> list[str]:
    """Return the command that starts a real server of the tiny model."""
    where = ["--host", "127.0.0.1", "--port", str(port)]
    if server == "llamacpp":
        words = f"--n_ctx {N_CONTEXT} --n_threads 1 --model_alias tiny --api_key {KEY}"
        return [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), *where, *words.split()]
    words = f"--served-model-name tiny --enforce-eager --max-num-seqs 16 --max-model-len {N_CONTEXT} --api-key {KEY}"
    # Else a model that has nothing to say fills a document with line breaks up to its limit.
    shapes = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
    module = "vllm.entrypoints.openai.api_server"
    own = ["--model", str(folder), "--structured-outputs-config", shapes]
    return [sys.executable, "-m", module, *where, *words.split(), *own]


@contextlib.contextmanager
def real_server(server: str, folder: Path, gguf: Path, home: Path) -> Iterator[str]:
    """Start a real server of the tiny model, and end it and all that it has started; gives its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    command = command_of(server, folder, gguf, port)
    log = home / "server.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, env=environment, stdout=written, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}/v1"
        _wait_until_ready(process, url, log)
        yield url
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):  # vLLM's helpers hide their command line
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    models = HttpRequest(f"{url}/models", headers={"Authorization": f"Bearer {KEY}"})
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(models, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")
