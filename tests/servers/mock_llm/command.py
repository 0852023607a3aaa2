"""The command: flags to Config, one line when ready, an end on a signal or with the parent."""

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from .config import Config
from .server import serve


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until SIGINT or SIGTERM, or with --with-stdin until standard input ends."""
    args = _parser().parse_args(argv)
    if args.uvloop:
        importlib.import_module("uvloop").install()
    asyncio.run(_serve(args))


async def _serve(args: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if args.with_stdin:
        threading.Thread(target=_stop_at_end, args=(loop, stop), daemon=True).start()
    runner, port = await serve(config_from(args), args.host, args.port)
    sys.stdout.write(f"mock-llm listening on http://{args.host}:{port}/v1\n")
    sys.stdout.flush()
    await stop.wait()
    await runner.cleanup()


def _stop_at_end(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Wait for the end of standard input: the pipe's other end closes however the parent ends."""
    # os.read, not sys.stdin: a thread that waits in sys.stdin holds its lock, which breaks the exit.
    while os.read(0, 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop may be closed by now
        loop.call_soon_threadsafe(stop.set)


def config_from(args: argparse.Namespace) -> Config:
    """Return the settings that the flags ask for."""
    names = {field.name for field in dataclasses.fields(Config)}
    values: dict[str, Any] = {k: v for k, v in vars(args).items() if k in names}
    templates = (item.partition("=") for item in args.template)
    return Config(
        **values,
        usage=not args.no_usage,
        logprobs=not args.no_logprobs,
        refuses=tuple(args.refuse),
        models=tuple(args.model) or ("mock-model",),
        templates={name: text.replace("\\n", "\n") for name, _, text in templates},
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mock-llm", description="Mock OpenAI API.", allow_abbrev=False)
    add = parser.add_argument
    add("--host", default="127.0.0.1")
    add("--port", type=int, default=8399, help="0 picks a free port; it is printed on start")
    add("--latency-ms", type=float, default=0.0, help="fixed latency, or the lognormal median")
    add("--latency-dist", choices=("fixed", "lognormal"), default="fixed")
    add("--latency-sigma", type=float, default=0.5, help="sigma of the lognormal")
    add("--ms-per-token", type=float, default=0.0, help="added latency per reply token")
    add("--tokens", type=int, default=32, help="words per plain reply")
    add("--tokens-sigma", type=float, default=0.0, help="sigma of a lognormal with that median; 0: all equal")
    add("--max-concurrency", type=int, default=0, help="429 above this many in flight; 0: no limit")
    add("--rpm", type=int, default=0, help="429 above this many a minute (sliding); 0: no limit")
    add("--retry-after", type=float, default=1.0, help="seconds told with a concurrency 429")
    add("--error-500-rate", type=float, default=0.0)
    add("--error-reset-rate", type=float, default=0.0, help="connection dropped, no response")
    add("--error-timeout-rate", type=float, default=0.0, help="hangs for --timeout-s, then drops")
    add("--error-malformed-rate", type=float, default=0.0, help="200 whose body is cut JSON")
    add("--error-content-rate", type=float, default=0.0, help="valid body, message content cut")
    add("--timeout-s", type=float, default=60.0, help="how long a hanging request hangs")
    add("--keep-alive-s", type=float, default=300.0, help="an idle connection is closed after that long")
    add("--seed", type=int, default=0)
    add("--embedding-dim", type=int, default=64)
    add("--no-usage", action="store_true", help="leave the usage block out")
    add("--no-logprobs", action="store_true", help="ignore requests for logprobs")
    add("--vary", action="store_true", help="reply depends on sampling and on repetition too")
    add("--refuse", action="append", default=[], metavar="FORM", help="form that is refused; repeatable")
    add("--refuse-status", type=int, default=400, help="status that a refused form gets")
    add("--control-characters", action="store_true", help="one in each text of a forced JSON reply")
    add("--one-choice", action="store_true", help="one choice whatever n is")
    add("--record", type=int, default=0, help="keep the last so many requests for /seen")
    add("--hold-jobs", action="store_true", help="offline jobs end only when POST /jobs says so")
    add("--job-max-requests", type=int, default=50_000, help="the most requests that one job takes")
    add("--require-key", default="", metavar="KEY", help="401 for any other bearer key")
    add("--known-models-only", action="store_true", help="404 for a model that --model did not list")
    add("--model", action="append", default=[], help="model listed by /v1/models; repeatable")
    add(
        "--template",
        action="append",
        default=[],
        metavar="MODEL=TEXT",
        help=r"reply of one model; {digest} {score} {words} {each}…{i}…{/each}; \n is a newline",
    )
    add("--with-stdin", action="store_true", help="stop when standard input ends")
    add("--uvloop", action="store_true", help="use uvloop (must be installed)")
    return parser
