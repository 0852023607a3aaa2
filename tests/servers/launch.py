"""Start test servers as processes of their own, wait until they answer, stop them.

A server ends when its standard input does. This process holds the other end of that pipe, so the server ends
with it, whatever kills it.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE_S = 10.0  # for requests that are in flight; some servers hold theirs for longer


class MockLLM(NamedTuple):
    """A mock model server that runs as a process of its own."""

    base_url: str
    pid: int

    def stats(self) -> dict[str, Any]:
        """Return its counters since the start or the last reset (mock_llm/README.md)."""
        return _ask("GET", self.base_url.removesuffix("/v1") + "/stats")

    def bodies(self) -> list[dict[str, Any]]:
        """Return the last 100 requests that it accepted, the oldest first."""
        found: Any = _ask("GET", self.base_url.removesuffix("/v1") + "/bodies")
        return list(found)

    def seen(self) -> list[dict[str, Any]]:
        """Return path, headers (names in lower case) and body of its last requests; ``record=N`` keeps N."""
        requests: list[dict[str, Any]] = _ask("GET", self.base_url.removesuffix("/v1") + "/seen")["requests"]
        return requests

    def jobs(self) -> list[dict[str, Any]]:
        """Return the offline jobs that it was given, the oldest first."""
        return list(_ask("GET", self.base_url.removesuffix("/v1") + "/jobs")["jobs"])

    def order(self, **what: object) -> int:
        """Order what becomes of offline jobs (mock_llm/README.md); return of how many."""
        return int(_ask("POST", self.base_url.removesuffix("/v1") + "/jobs", what)["n"])

    def reset(self) -> None:
        """Set its counters to zero and make it forget the prompts it saw.

        What a test before left in flight is answered first: it would be counted afterwards.
        """
        deadline = time.monotonic() + PATIENCE_S
        while self.stats()["in_flight"] and time.monotonic() < deadline:
            time.sleep(0.01)
        _ask("POST", self.base_url.removesuffix("/v1") + "/reset")


class ArgillaServer(NamedTuple):
    """A real Argilla server that runs as a process of its own; the keys are its owner's."""

    url: str
    api_key: str
    username: str
    password: str
    pid: int


@contextlib.contextmanager
def mock_llm(**flags: object) -> Iterator[MockLLM]:
    """Run the mock model server for the length of a with block.

    `flags` are the fields of `mock_llm.Config`: ``latency_ms=50``, ``vary=True``, ``models=("a", "b")``,
    ``templates={"judge": "Rating: {score}"}``, ``usage=False``; also ``uvloop=True``.
    """
    command = [sys.executable, str(HERE / "mock_llm"), "--port", "0", "--with-stdin", *_as_flags(flags)]
    with _running(command, timeout_s=30) as (pid, line):
        yield MockLLM(line.split()[-1], pid)


@contextlib.contextmanager
def argilla_server(
    venv: str | os.PathLike[str], *, home: str | os.PathLike[str] | None = None
) -> Iterator[ArgillaServer]:
    """Run Argilla from the venv that holds argilla-server (requirements/argilla-server.txt).

    Its database is in `home`, which a later server may open again; without one, in a folder that goes when
    the server does.
    """
    with contextlib.ExitStack() as stack:
        if home is None:
            home = stack.enter_context(tempfile.TemporaryDirectory(prefix="argilla-"))
        pathlib.Path(home).mkdir(parents=True, exist_ok=True)
        log = stack.enter_context((pathlib.Path(home) / "server.log").open("a+", encoding="utf-8"))
        python = pathlib.Path(venv) / "bin" / "python"
        command = [str(python), str(HERE / "argilla" / "serve.py"), "--home", str(home), "--with-stdin"]
        # Variables of this process's own client are not for the server.
        environment = {name: text for name, text in os.environ.items() if not name.startswith("ARGILLA_")}
        pid, line = stack.enter_context(_running(command, timeout_s=180, environment=environment, log=log))
        yield ArgillaServer(line.split()[-1], "argilla.apikey", "argilla", "12345678", pid)


@contextlib.contextmanager
def _running(
    command: Sequence[str],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    log: IO[str] | None = None,
) -> Iterator[tuple[int, str]]:
    """Run a server; yield its pid and the line that it prints when it is ready."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
        text=True,
        start_new_session=True,  # Ctrl-C is for the tests; they stop the server when they have ended
    )
    with process:
        try:
            yield process.pid, _first_line(process, timeout_s, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _first_line(process: "subprocess.Popen[str]", timeout_s: float, log: IO[str] | None) -> str:
    assert process.stdout is not None
    timer = threading.Timer(timeout_s, process.kill)  # a server that hangs ends, and so does its output
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    if not line:
        process.wait()
        text = ""
        if log is not None:
            log.seek(0)
            text = "\n" + "".join(log.readlines()[-20:])
        raise RuntimeError(f"{process.args!r} ended with {process.returncode} before it was ready.{text}")
    return line.strip()


def _as_flags(settings: Mapping[str, object]) -> list[str]:
    """Turn settings into command-line flags."""
    return [flag for name, value in settings.items() for flag in _flags_of(name.replace("_", "-"), value)]


def _flags_of(name: str, value: object) -> list[str]:
    if isinstance(value, bool):
        on_by_default = name in ("usage", "logprobs")
        return [] if value is on_by_default else [f"--no-{name}" if on_by_default else f"--{name}"]
    if isinstance(value, Mapping):
        return [f"--{name.removesuffix('s')}={key}={text}" for key, text in value.items()]
    if isinstance(value, tuple | list):
        return [f"--{name.removesuffix('s')}={item}" for item in value]
    return [f"--{name}={value}"]


def _ask(method: str, url: str, body: object = None) -> dict[str, Any]:
    # Without the proxies of the environment: the server is on loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    data = None if body is None else json.dumps(body).encode()
    with opener.open(urllib.request.Request(url, data, method=method), timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
    return answer
