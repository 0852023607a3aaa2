"""What runner and workers say to each other: small JSON lines over a socket; rows go by file.

runner → worker   {"do": "secrets", …}
                  {"do": "batch", stage, batch, path, input, todo, again, one_by_one?, poison?, era, retried?, went_on?}
                  {"do": "pull", stage, offset, limit, seen}
                  {"do": "part", stage, part, skip}  {"do": "rename", stage, part, path, first, again, failed?}
                  {"do": "global", stage, inputs, without, era}
                  {"do": "end", stage, era, heard?}  {"do": "forget", stage, batch, entry, era}
                  {"do": "drain"}  {"do": "exit"}
                  {"do": "pause"}  {"do": "resume"}  {"do": "adjust", limits}
worker → runner   {"say": "ready"}  {"say": "out", stage, files, took, counts, errors, era}
                  {"say": "part", stage, part, first, digests, is_last?, is_named?, failed?, and the fields of "out"}
                  {"say": "source_end", stage}  {"say": "not_ended", stage}  {"say": "failed", step, kind, what, trace}
                  {"say": "budget", reason, reached}  {"say": "drained"}
                  {"say": "limited", model, n_refused, concurrency}  {"say": "waiting", model, words}
                  {"say": "flying", steps}
                  {"say": "backed_up", model, backup, why}
`era` counts how often a global step upstream has replaced the stage's rows; `retried` says that rows of the stage were
retried, so that the worker looks up which; `went_on` names rows that a join has let go on without a partner; `heard`
says of how many messages of the join's work the runner knew: a retry takes back what was made of lost rows, and the
join is "not_ended" before all is heard (docs/architecture/retry.md).
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from distilnb.engine.failures import pack_failures
from distilnb.engine.ranges import to_ranges
from distilnb.engine.vitals import Vitals
from distilnb.errors import InputError
from distilnb.rows import Batch, write_batch

if TYPE_CHECKING:
    from distilnb.engine.apply import Outcome
    from distilnb.engine.rundir import RunDir

Message: TypeAlias = dict[str, Any]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT_BYTES = 1 << 24

_serial = itertools.count()


def encode(message: Message) -> bytes:
    """Return a message as a line."""
    return (
        json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        + b"\n"
    )


def decode(line: bytes) -> Message:
    """Read a line that `encode` made."""
    message: Message = json.loads(line.decode("utf-8", "surrogatepass"))
    return message


class LineSplitter:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # pieces of a line: joined once, however long it is

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that are whole now."""
        first, *others = data.split(b"\n")
        self._rest.append(first)
        if not others:
            return []
        *lines, rest = [b"".join(self._rest), *others]
        self._rest = [rest]
        return [decode(line) for line in lines if line]


def write_outcome(
    run: RunDir, stage: str, outcome: Outcome, took: Mapping[int, Sequence[int]], *, batch_rows: int = 0
) -> Message:
    """Write the rows of an outcome, `batch_rows` to a file (0: all), and return the message that announces them.

    A file is named by pid and time, so that a restarted worker never overwrites one. Long prompts and replies
    of failed rows go to a file beside it.
    """
    try:
        files = _write_files(run, stage, outcome.batch, batch_rows)
    except InputError:  # some value has no stored form; the other rows must not suffer
        outcome.quarantine_unstorable(stage)
        files = _write_files(run, stage, outcome.batch, batch_rows)
    errors: list[Message] = []
    if outcome.failures:
        errors = pack_failures(outcome.failures, run.path, _new_path(run, stage, ".errors.jsonl"))
    counts = {step: dict(figures) for step, figures in outcome.counts.items()}
    for step, reasons in outcome.drop_reasons.items():
        counts.setdefault(step, {}).update(
            {f"dropped:{reason}": n_rows for reason, n_rows in reasons.items()}
        )
    return {
        "say": "out",
        "stage": stage,
        "files": files,
        "took": [[batch_id, to_ranges(indices)] for batch_id, indices in took.items()],
        "counts": counts,
        "errors": errors,
    }


def _write_files(run: RunDir, stage: str, batch: Batch, batch_rows: int) -> list[Message]:
    n_entries = len(batch) + len(batch.gone)
    size = batch_rows or n_entries
    files: list[Message] = []
    for start in range(0, n_entries, size or 1):
        is_all = n_entries <= size
        piece = batch if is_all else batch.select(range(start, min(start + size, n_entries)))
        path = _new_path(run, stage, ".json")
        write_batch(path, piece)
        files.append(
            {"path": str(path.relative_to(run.path)), "n_rows": len(piece), "n_gone": len(piece.gone)}
        )
    return files


def _new_path(run: RunDir, stage: str, end: str) -> Path:
    return _folder(run, stage) / f"{time.time_ns():x}-{os.getpid()}-{next(_serial)}{end}"


@lru_cache(maxsize=256)  # it is made once
def _folder(run: RunDir, stage: str) -> Path:
    return run.batches(stage)


def failed_message(step: str, error: BaseException, trace: str = "") -> Message:
    """Return the message that a step failed as a whole."""
    return {"say": "failed", "step": step, "kind": type(error).__name__, "what": str(error), "trace": trace}


# --- the life of a worker ---------------------------------------------------------


class Station(NamedTuple):
    """What a worker starts from: the run directory, its name, the socket to its runner, its vitals."""

    path: Path
    name: str
    connection: socket.socket
    vitals: Vitals


def join_runner() -> Station:
    """Begin a worker's life: bind it to its runner, quiet its signals, let its pulse beat.

    The kernel kills the worker when its runner dies (Linux); the end of the socket tells it everywhere else. Either
    alone fails: a worker stuck in C code never reads its socket.
    """
    path, connection, runner, name, memory = sys.argv[1:6]
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
        if os.getppid() != int(runner):  # it died before the line above
            os._exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's to handle
    vitals = Vitals(int(memory))
    os.close(int(memory))
    vitals.keep_beating()
    os.set_inheritable(int(connection), False)  # what the user's code starts must not keep the line open
    return Station(Path(path), name, socket.socket(fileno=int(connection)), vitals)


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for the next batch, in place of giving it back and asking for it anew.

    Batches are alike, so nothing is gained by giving back; asking cost one page fault for every other row. Other
    systems than Linux with glibc are left alone.
    """
    with contextlib.suppress(OSError, AttributeError):
        for what in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            ctypes.CDLL(None).mallopt(what, _KEPT_BYTES)


def leave() -> NoReturn:
    """End this worker, whose runner is gone, and what the user's code has started in it."""
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)
