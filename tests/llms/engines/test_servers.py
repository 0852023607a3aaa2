"""The real servers of vLLM and llama.cpp, asked over HTTP, as a user asks a server of his own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.request import urlopen

import pydantic
import pytest

import distilnb as dn
from distilnb.errors import ContextLengthError, UnknownModelError
from distilnb.llms.base import LLM
from distilnb.llms.calling import answer_now
from distilnb.llms.request import Answer, Request
from tests.conftest import end_processes_of

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]

N_CONTEXT = 1024
READY_S = 400.0  # vLLM's takes a minute on two idle cores
PROMPT = "Name three uses of argon."

Make = Callable[..., LLM]


class Book(pydantic.BaseModel):
    """What every schema below asks for: all of it is bounded, since the tiny model would never end a string."""

    model_config = pydantic.ConfigDict(extra="forbid")

    ok: bool
    grade: Literal["a", "b"]


class Server(NamedTuple):
    """A server that runs: the provider's name for it, and its address."""

    provider: str
    url: str


def llama_cpp(gguf: Path, port: int) -> list[str]:
    words = f"--host 127.0.0.1 --port {port} --n_ctx {N_CONTEXT} --n_threads 1 --model_alias tiny --chat_format chatml"
    return [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf), *words.split()]


def vllm(folder: Path, port: int) -> list[str]:
    words = f"--host 127.0.0.1 --port {port} --served-model-name tiny --enforce-eager --max-num-seqs 16"
    # Else a model that has nothing to say fills a document with line breaks up to its limit.
    shapes = json.dumps({"backend": "xgrammar", "disable_any_whitespace": True})
    sizes = ["--max-model-len", str(N_CONTEXT), "--structured-outputs-config", shapes]
    module = "vllm.entrypoints.openai.api_server"
    return [sys.executable, "-m", module, "--model", str(folder), *words.split(), *sizes]


@pytest.fixture(scope="module", params=["llamacpp", "vllm"])
def server(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    package = {"llamacpp": "llama_cpp", "vllm": "vllm"}[request.param]
    if find_spec(package) is None:
        pytest.skip(f"the package {package!r} is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if request.param == "llamacpp":
        command = llama_cpp(request.getfixturevalue("tiny_gguf"), port)
    else:
        command = vllm(tiny_model, port)
    home = tmp_path_factory.mktemp(request.param)
    environment = {
        **os.environ,
        "DISTILNB_HOME": str(home),  # a mark, by which all that it starts is found and ended
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        url = f"http://127.0.0.1:{port}/v1"
        wait_until_ready(process, url, home / "server.log")
        yield Server(request.param, url)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        end_processes_of(home)


def wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{url}/models", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.fixture
def make(server: Server) -> Make:
    def made(model: str = "tiny", **generation: Any) -> LLM:
        wanted = {"max_new_tokens": 24, **generation}
        return dn.llm(f"{server.provider}:{model}", base_url=server.url, **wanted)

    return made


def ask(llm: LLM, content: str = PROMPT, **request: Any) -> Answer:
    return answer_now(llm, Request(({"role": "user", "content": content},), **request))


def texts(answer: Answer) -> list[str | None]:
    return [reply.text for reply in answer.replies]


def test_it_answers_and_counts_its_tokens(make: Make) -> None:
    reply = ask(make(max_new_tokens=5, temperature=0)).replies[0]
    assert reply.text
    assert (reply.finish_reason, reply.output_tokens) == ("length", 5)
    assert reply.input_tokens


def test_the_system_message_counts(make: Make) -> None:
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}]
    llm = make(temperature=0)
    with_system = answer_now(llm, Request(tuple(told))).replies[0]
    without = ask(llm).replies[0]
    assert (with_system.input_tokens or 0) > (without.input_tokens or 0)


def test_three_replies_are_three_also_where_the_server_gives_one_at_a_time(make: Make) -> None:
    replies = make(temperature=1.0).ask(PROMPT, n=3)
    assert len(set(replies)) == 3


def test_a_seed_repeats_the_reply(make: Make) -> None:
    first, again, other = (texts(ask(make(seed=seed, temperature=1.0))) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_a_stop_string_ends_the_reply_and_is_not_in_it(make: Make) -> None:
    (whole,) = texts(ask(make(temperature=0)))
    assert whole
    stop = whole[6:8]
    reply = ask(make(temperature=0, stop=[stop])).replies[0]
    assert (reply.text, reply.finish_reason) == (whole[: whole.index(stop)], "stop")


def test_logprobs_come_in_the_one_form_of_all_providers(make: Make) -> None:
    answer = ask(make(temperature=0, logprobs=True, top_logprobs=2, max_new_tokens=3))
    content = answer.extra["logprobs"][0]["content"]
    assert len(content) == 3
    assert all(len(one["top_logprobs"]) >= 2 for one in content)
    assert all(isinstance(one["logprob"], float) for one in content)


def test_parameters_that_openai_lacks_reach_the_server(make: Make) -> None:
    greedy = texts(ask(make(temperature=0)))
    assert texts(ask(make(temperature=1.0, top_k=1))) == greedy


def test_a_pydantic_model_comes_back_as_its_instance(make: Make) -> None:
    assert isinstance(make(max_new_tokens=64).ask(PROMPT, schema=Book), Book)


def test_a_json_schema_comes_back_as_what_it_allows(make: Make) -> None:
    for n in range(4):
        found = make(max_new_tokens=64).ask(f"{PROMPT} {n}", schema=Book.model_json_schema())
        assert Book.model_validate(found)


def test_a_choice_comes_back_to_the_letter(make: Make) -> None:
    choices = ["yes", "no, never"]
    assert {make().ask(f"{n}?", schema=choices) for n in range(6)} <= set(choices)


def test_a_pattern_is_matched_where_the_server_can_hold_to_one(make: Make, server: Server) -> None:
    if server.provider == "llamacpp":
        with pytest.raises(dn.errors.DistilnbError, match=r"pattern|match"):
            make(max_new_tokens=8).ask(PROMPT, schema=r"[A-C]{2}-(red|blue)\d{1,3}", max_reasks=0)
        return
    found = make(max_new_tokens=64).ask(PROMPT, schema=r"[A-C]{2}-(red|blue)\d{1,3}")
    assert re.fullmatch(r"[A-C]{2}-(red|blue)\d{1,3}", found)


def test_free_text_inside_a_schema_is_read_whatever_characters_are_in_it(make: Make) -> None:
    """Guided decoding of vLLM lets control characters into strings, which strict JSON forbids."""
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string", "maxLength": 12}},
        "required": ["text"],
        "additionalProperties": False,
    }
    for n in range(6):
        found = make(max_new_tokens=80, temperature=1.0).ask(f"{PROMPT} {n}", schema=schema, max_reasks=0)
        assert isinstance(found["text"], str)
        assert json.loads(json.dumps(found)) == found


def test_any_script_comes_through(make: Make) -> None:
    assert ask(make(max_new_tokens=3), "Größe 漢字 🦜 \u200b").replies[0].input_tokens


def test_a_prompt_beyond_the_context_is_refused(make: Make) -> None:
    with pytest.raises(ContextLengthError, match=str(N_CONTEXT)):
        ask(make(), "argon " * 6000)


def test_a_model_that_the_server_does_not_have_is_told(make: Make, server: Server) -> None:
    if server.provider == "llamacpp":  # it has one model, whatever name it is asked for
        assert make("nope").ask(PROMPT)
        return
    with pytest.raises(UnknownModelError, match="nope"):
        make("nope").ask(PROMPT)


def test_a_run_with_sixteen_in_flight_is_whole(make: Make, server: Server) -> None:
    llm = dn.llm(f"{server.provider}:tiny", base_url=server.url, max_concurrency=16, max_new_tokens=4)
    rows = [{"instruction": f"{PROMPT} {n}"} for n in range(48)]
    distiset = dn.Pipeline("servers", llm=llm).from_dicts(rows).generate().run()
    answers = [row["generations"][0] for row in distiset.rows()]
    assert len(answers) == 48
    assert all(isinstance(answer, str) for answer in answers)
