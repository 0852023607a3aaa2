"""How long `p.diff` takes, and what it shows, on long rows: English and Chinese ones of a megabyte, and short ones.

    python -m benchmarks diff [--runs 3]        or: python -m benchmarks.diff_time

The answers are those of an echo in this process, in the reply cache already: what is measured is ours.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from random import Random
from typing import Any, ClassVar

from benchmarks.bars import DIFF_S
from distilnb import LLM, Pipeline
from distilnb.llms.request import Answer, Reply, Request

MEGABYTE = 1_000_000
_CHINESE = "的是不了在有我他这们和也说就数据模型生成文本问题回答一个人中大为上来到时地可以分子对要能会"
_MARKS = {"a": "", "b": " again"}


class _EchoClient:
    """Answers with the row, some words of it changed where the prompt says "again"."""

    async def send(self, request: Request) -> Answer:
        text = str(request.messages[-1]["content"])
        if text.endswith(_MARKS["b"]):
            chance = Random(len(text))
            for _ in range(200):
                place = chance.randrange(len(text))
                text = f"{text[:place]}{chance.choice(('new', '新', ''))}{text[place + 3 :]}"
        return Answer((Reply(text, input_tokens=len(text) // 4, output_tokens=len(text) // 4),))

    async def close(self) -> None:
        pass


class EchoLLM(LLM):
    """A model that costs nothing and says what it is told."""

    provider: ClassVar[str] = "echo"
    is_local: ClassVar[bool] = True
    model: str = "echo"

    def make_client(self) -> _EchoClient:
        """Return what answers."""
        return _EchoClient()


def english(n_bytes: int, seed: int) -> str:
    """Return sentences of made-up words, about so many bytes of them."""
    chance = Random(seed)
    vocabulary = [
        "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(5_000)
    ]
    words = [chance.choice(vocabulary) + ". " * (chance.random() < 0.08) for _ in range(n_bytes // 6)]
    return " ".join(words)[:n_bytes]


def chinese(n_bytes: int, seed: int) -> str:
    """Return characters with a full stop now and then, about so many bytes of them."""
    chance = Random(seed)
    return "".join(chance.choices(_CHINESE + "。", k=n_bytes // 3))


def texts_by_name() -> dict[str, list[str]]:
    """Return what is compared."""
    return {
        "5 rows of 1 MB, English": [english(MEGABYTE, seed) for seed in range(5)],
        "5 rows of 1 MB, Chinese": [chinese(MEGABYTE, seed) for seed in range(5)],
        "5 rows of 300 kB on one line": ["x1y2" * 75_000 + str(seed) for seed in range(5)],
        "200 Chinese rows of 2 kB": [chinese(2_000, seed) for seed in range(200)],
        "5 rows of 500 bytes": [english(500, seed) for seed in range(5)],
    }


def seconds(texts: list[str], n_runs: int) -> tuple[float, float]:
    """Return the median seconds of a difference of two previewed versions: all of it, and of its repr alone."""
    name = f"diff {len(texts)} {len(texts[0])} {texts[0][:20]}"
    p = Pipeline(name, llm=EchoLLM()).from_dicts([{"text": text} for text in texts])
    n = len(texts)
    p.generate("answer", "{{ text }}").preview(n)
    edited = p.generate("answer", "{{ text }} again")
    edited.preview(n)
    whole, shown = [], []
    for _ in range(n_runs):
        began = time.perf_counter()
        found = edited.diff("answer@1", "answer@2", n=n)
        made = time.perf_counter()
        bundle = found._repr_mimebundle_()
        ended = time.perf_counter()
        assert found.asked == 0
        assert len(bundle["text/html"].encode()) <= 20_000
        whole.append(ended - began)
        shown.append(ended - made)
    return statistics.median(whole), statistics.median(shown)


def record(n_runs: int) -> dict[str, Any]:
    """Return a measurement as the other workloads make them."""
    with tempfile.TemporaryDirectory(prefix="distilnb-bench-") as folder:
        os.environ["DISTILNB_HOME"] = folder
        found = {name: seconds(texts, n_runs) for name, texts in texts_by_name().items()}
    return {
        "workload": "diff",
        "peer": "distilnb",
        "n": n_runs,
        "run": 0,
        "load": round(os.getloadavg()[0], 1),
        "seconds": {name: round(whole, 3) for name, (whole, _) in found.items()},
        "shown_s": {name: round(shown, 3) for name, (_, shown) in found.items()},
    }


def main() -> int:
    """Print the table; the exit code says whether the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    found = record(parser.parse_args().runs)
    print("| diff of two previewed versions | s | of it its repr, s |\n|---|---|---|")
    for name, whole in found["seconds"].items():
        print(f"| {name} | {whole:.2f} | {found['shown_s'][name]:.2f} |")
    met = max(found["seconds"].values()) <= DIFF_S
    print(f"\nbar: each ≤ {DIFF_S:g} s: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main())
