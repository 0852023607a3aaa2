"""An engine without a library: what a message says is what happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilnb.errors import RefusedRequestError
from distilnb.llms.engines.base import Ask, BatchingEngine, Completed, Completion


class FakeEngine(BatchingEngine):
    """Echoes the last message, with the pid of the host before it; obeys some words in it."""

    @property
    def max_batch(self) -> int:
        return int(self.settings["batch_size"])

    def load(self) -> None:
        sys.stderr.write(f"the fake begins to load {self.settings['model']}\n")
        deadline = time.monotonic() + self.settings["load_s"]
        while time.monotonic() < deadline:
            time.sleep(0.01)
        if self.settings["load_dies"]:
            left = Path(self.settings["load_dies"])
            n_left = int(left.read_text())
            left.write_text(str(n_left - 1))
            if n_left > 0:
                sys.stderr.write("the fake dies of loading\n")
                os.kill(os.getpid(), signal.SIGKILL)
        if self.settings["load_raises"]:
            raise ValueError(self.settings["load_raises"])

    def generate(self, asks: Sequence[Ask]) -> Sequence[Completed | Exception]:
        self.moved()
        return [self._obey(ask, len(asks)) for ask in asks]

    def _obey(self, ask: Ask, n_together: int) -> Completed | Exception:
        text = str(ask.messages[-1]["content"])
        if "hang" in text:
            time.sleep(1000)
        if "die" in text:
            mark = Path(os.environ["DISTILNB_HOST"]) / text.rpartition(" ")[2]
            if "once" not in text or not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if "stop" in text:
            os.kill(os.getpid(), signal.SIGSTOP)
        for _ in range(20 * text.count("slow")):
            time.sleep(0.02)
            self.moved()
        if "break" in text and not (mark := Path(os.environ["DISTILNB_HOST"]) / "broken").exists():
            mark.touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        if "child" in text:  # in a session of its own, as helpers of an engine may be
            # Without the environment, as it seems of one that gives itself a title.
            environment = {} if "bare" in text else None
            subprocess.Popen(["sleep", "1000"], start_new_session="far" in text, env=environment)
        if "token" in text:
            text += " " + os.environ.get("HF_TOKEN", "")[::-1]
        if "fail" in text:
            return ValueError("this one failed")
        if "refuse" in text:
            return RefusedRequestError("this one is refused")
        limit = ask.parameters.get("max_new_tokens", 1000)
        words = f"{os.getpid()} {n_together} {text}".split(" ")
        reason = "length" if len(words) > limit else "stop"
        made = [Completion(" ".join(words[:limit]), reason, min(limit, len(words))) for _ in range(ask.n)]
        if "seeds" in text:
            seeds = [ask.seed_of(index, ask.parameters.get("seed")) for index in range(ask.n)]
            made = [Completion(f"{os.getpid()} {seed}", "stop", 2) for seed in seeds]
        return Completed(made, len(text.split()))


def pid_in(text: Any) -> int:
    """Return the pid of the host that made a reply."""
    return int(str(text).split(" ")[0])
