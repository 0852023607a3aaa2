"""Local models through the model host beside the bare library called by hand, on the same prompts.

    python -m benchmarks.engines model FOLDER               # writes the tests' tiny model, for all three
    python -m benchmarks.engines transformers FOLDER
    python -m benchmarks.engines gguf FOLDER/tiny.gguf
    python -m benchmarks.engines vllm FOLDER
    python -m benchmarks.engines vllm-as-it-comes FOLDER

With few processors and no GPU the host keeps vLLM in one process; `vllm` does so by hand too, which is the harder
comparison, and `vllm-as-it-comes` leaves it its three.
Both are measured in pairs, in turn first, in processes that hold the model already; a ratio is that of one pair, and
what is told is the median of the ratios, with their range. On a busy machine the processor's seconds tell more than
the clock's: they are of the bare process and what it started, and of host, what that started, and client together.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import NamedTuple

import psutil

from distilnb.llms import LlamaCppLLM, TransformersLLM, vLLM
from distilnb.llms.calling import Caller
from distilnb.llms.hosts.starting import unload_hosts
from distilnb.llms.local import LocalLLM
from distilnb.llms.request import Request

BATCH = 32
BAR = 0.95
VLLM = {"enforce_eager": True, "max_model_len": 512, "max_num_seqs": BATCH, "enable_prefix_caching": True}
Prompts = list[str]


class Took(NamedTuple):
    """What one pass took: tokens made, seconds of the clock, seconds of processors."""

    tokens: int
    wall_s: float
    cpu_s: float


# --- by hand ----------------------------------------------------------------------


def bare_transformers(path: str, limit: int) -> Callable[[Prompts], int]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval()

    def generate(prompts: Prompts) -> int:
        n_tokens = 0
        for first in range(0, len(prompts), BATCH):
            chats = [[{"role": "user", "content": prompt}] for prompt in prompts[first : first + BATCH]]
            batch = tokenizer.apply_chat_template(
                chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            with torch.inference_mode():
                made = model.generate(**batch, max_new_tokens=limit, do_sample=False)
            made = made[:, batch["input_ids"].shape[1] :]
            tokenizer.batch_decode(made, skip_special_tokens=True)
            n_tokens += int((made != tokenizer.pad_token_id).sum())
        return n_tokens

    return generate


def bare_gguf(path: str, limit: int) -> Callable[[Prompts], int]:
    from llama_cpp import Llama

    model = Llama(model_path=path, n_ctx=1024, n_threads=1, verbose=False)

    def generate(prompts: Prompts) -> int:
        n_tokens = 0
        for prompt in prompts:
            messages = [{"role": "user", "content": prompt}]
            told = model.create_chat_completion(messages=messages, max_tokens=limit, temperature=0)
            n_tokens += told["usage"]["completion_tokens"]
        return n_tokens

    return generate


def bare_vllm(path: str, limit: int) -> Callable[[Prompts], int]:
    from distilnb.llms.engines.vllm import set_environment

    set_environment()
    return bare_vllm_as_it_comes(path, limit)


def bare_vllm_as_it_comes(path: str, limit: int) -> Callable[[Prompts], int]:
    import vllm

    model = vllm.LLM(model=path, **VLLM)
    sampling = vllm.SamplingParams(max_tokens=limit, temperature=0)

    def generate(prompts: Prompts) -> int:
        chats = [[{"role": "user", "content": prompt}] for prompt in prompts]
        made = model.chat(chats, sampling, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in made)

    return generate


BARE = {
    "transformers": bare_transformers,
    "gguf": bare_gguf,
    "vllm": bare_vllm,
    "vllm-as-it-comes": bare_vllm_as_it_comes,
}


def cpu_s(pid: int | None = None) -> float:
    """Return the processors' seconds of a process and of all below it."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return float(sum(one.user + one.system for one in times))


def serve_bare(kind: str, path: str, limit: int, line: Connection) -> None:
    generate = BARE[kind](path, limit)
    generate(["warm up"] * BATCH)
    while (prompts := line.recv()) is not None:
        began, began_cpu = time.perf_counter(), cpu_s()
        n_tokens = generate(prompts)
        line.send(Took(n_tokens, time.perf_counter() - began, cpu_s() - began_cpu))
    below = psutil.Process().children(recursive=True)
    for process in below:  # vLLM's, which its own end may wait for in vain
        process.kill()
    psutil.wait_procs(below, timeout=10)
    os._exit(0)


# --- through the host ---------------------------------------------------------------


def model_of(kind: str, path: str, limit: int) -> LocalLLM:
    wanted = {"max_new_tokens": limit, "temperature": 0}
    if kind == "transformers":
        return TransformersLLM(model=path, batch_size=BATCH, generation_kwargs=wanted)
    if kind.startswith("vllm"):
        return vLLM(model=path, extra_kwargs=VLLM, generation_kwargs=wanted)
    return LlamaCppLLM(model_path=path, n_ctx=1024, extra_kwargs={"n_threads": 1}, generation_kwargs=wanted)


def hosted(llm: LocalLLM, prompts: Prompts) -> Took:
    info = llm.host().place().info()
    host = info.pid if info else os.getpid()

    def both_s() -> float:
        return cpu_s(host) + time.process_time()  # not of the bare process, which waits below this one

    async def ask() -> int:
        caller = Caller.of(llm)

        async def one(prompt: str) -> int:
            async with caller.asking(Request(({"role": "user", "content": prompt},))) as answer:
                return answer.replies[0].output_tokens or 0

        try:
            return sum(await asyncio.gather(*map(one, prompts)))
        finally:
            await caller.close()

    began, began_cpu = time.perf_counter(), both_s()
    n_tokens = asyncio.run(ask())
    return Took(n_tokens, time.perf_counter() - began, both_s() - began_cpu)


def measure(kind: str, path: str, *, n_prompts: int, limit: int, n_pairs: int) -> None:
    """Measure pairs, and print them and their ratios."""
    prompts = [f"Name {n} uses of argon, and say why." for n in range(n_prompts)]
    mine, theirs = get_context("spawn").Pipe()
    bare = get_context("spawn").Process(target=serve_bare, args=(kind, path, limit, theirs))
    bare.start()  # not a daemon: vLLM starts processes
    llm = model_of(kind, path, limit)
    llm.ask("warm up")

    def by_hand() -> Took:
        mine.send(prompts)
        took: Took = mine.recv()
        return took

    hosted(llm, prompts)  # a whole pass of both that does not count
    by_hand()
    pairs: list[tuple[Took, Took]] = []
    for number in range(n_pairs):
        if number % 2:
            through, bare_took = hosted(llm, prompts), by_hand()
        else:
            bare_took, through = by_hand(), hosted(llm, prompts)
        pairs.append((bare_took, through))
        print(f"{number + 1}: by hand {_told(bare_took)}; through the host {_told(through)}", flush=True)
    mine.send(None)
    bare.join()
    unload_hosts(llm.host().place())
    wall = [(t.tokens / t.wall_s) / (b.tokens / b.wall_s) for b, t in pairs]
    cpu = [(t.tokens / t.cpu_s) / (b.tokens / b.cpu_s) for b, t in pairs]
    own = [b.tokens / b.wall_s for b, _ in pairs]
    print(f"{kind}: tokens a second, through the host / by hand, {n_pairs} pairs of {n_prompts} prompts")
    print(f"  by the clock            {_spread(wall)}  bar {BAR}: {_verdict(wall)}")
    print(f"  by the processors' time {_spread(cpu)}  bar {BAR}: {_verdict(cpu)}")
    print(f"  by hand alone differed by {max(own) / min(own) - 1:.0%} between its passes")


def _told(took: Took) -> str:
    return f"{took.tokens} tokens, {took.wall_s:.2f} s, {took.cpu_s:.2f} s of processors"


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _verdict(ratios: Sequence[float]) -> str:
    return "met" if statistics.median(ratios) >= BAR else "missed"


def write_model(path: str) -> None:
    """Write the tests' tiny model into a folder, and its GGUF file beside the weights."""
    from pathlib import Path

    from tests.llms.engines.tiny_model import make_tiny_model, write_gguf

    write_gguf(make_tiny_model(Path(path)), Path(path) / "tiny.gguf")


def main() -> None:
    """Measure one library, or write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=[*sorted(BARE), "model"])
    parser.add_argument("path")
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=7)
    options = parser.parse_args()
    if options.kind == "model":
        write_model(options.path)
    else:
        sizes = {"n_prompts": options.prompts, "limit": options.tokens, "n_pairs": options.pairs}
        measure(options.kind, options.path, **sizes)


if __name__ == "__main__":
    main()
