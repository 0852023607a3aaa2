"""vLLM in a model host: its own engine, whose running batch requests join as they come."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distilnb.errors import RefusedRequestError
from distilnb.llms.engines.base import (
    DEFAULT_MAX_NEW_TOKENS,
    Ask,
    Completed,
    Completion,
    Engine,
    raw_text,
    refusal,
    stops_of,
    text_messages,
    too_long,
)
from distilnb.llms.engines.grammar import schema_text

_ENVIRONMENT: Mapping[str, str] = {
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",  # a forked child would keep the host's lock
}
_PASSED_ON = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty")
_OWN = ("repetition_penalty", "stop_token_ids")


class VllmEngine(Engine):
    """An AsyncLLM in an event loop of its own thread: the host's loop must go on while it is being set up."""

    engine: Any
    tokenizer: Any

    def __init__(self, settings: Mapping[str, Any], moved: Callable[[], None]) -> None:
        super().__init__(settings, moved)
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()

    def load(self) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()

    async def _start(self) -> None:
        from vllm import AsyncEngineArgs, AsyncLLMEngine

        settings = self.settings
        named = {
            name: settings[name] for name in ("revision", "quantization", "tokenizer", "tokenizer_revision")
        }
        arguments = AsyncEngineArgs(
            model=settings["model"],
            dtype=settings["dtype"],
            tokenizer_mode=settings["tokenizer_mode"],
            trust_remote_code=settings["trust_remote_code"],
            seed=settings["seed"],
            tensor_parallel_size=settings["tensor_parallel_size"],
            **{
                # Free white space lets small models ramble inside of JSON up to their limit.
                "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
                "enable_prefix_caching": True,
                "enable_log_requests": False,
                "disable_log_stats": True,  # nobody reads them, and they are counted at every token
                **{name: value for name, value in named.items() if value is not None},
                **(settings["extra_kwargs"] or {}),
            },
        )
        self.engine = AsyncLLMEngine.from_engine_args(arguments)
        self._watch_steps()
        found = self.engine.get_tokenizer()
        self.tokenizer = await found if asyncio.iscoroutine(found) else found
        config = self.engine.model_config
        self._n_context = int(config.max_model_len)
        self._defaults = config.get_diff_sampling_param()

    def _watch_steps(self) -> None:
        """Have each step of the engine tell that it moves: a request's own output comes at its end only."""
        processor: Any = getattr(self.engine, "output_processor", None)
        process: Any = getattr(processor, "process_outputs", None)
        if process is None:
            return  # another version: the ends of requests tell

        def process_and_tell(*arguments: Any, **named: Any) -> Any:
            self.moved()
            return process(*arguments, **named)

        processor.process_outputs = process_and_tell

    async def answer(self, ask: Ask) -> Completed:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._answer(ask), self._loop))

    async def _answer(self, ask: Ask) -> Completed:
        prompt = self._prompt(ask)
        last: Any = None
        name = f"request-{next(self._numbers)}"
        try:
            parameters = self._sampling(ask, len(prompt))
            async for output in self.engine.generate({"prompt_token_ids": prompt}, parameters, name):
                self.moved()
                last = output
        except (TypeError, ValueError) as error:  # its words for a request that it cannot take
            raise refusal("vLLM", error) from error
        completions = [self._completion(ask, one) for one in sorted(last.outputs, key=lambda one: one.index)]
        return Completed(completions, len(prompt))

    def unload(self) -> None:
        self.engine.shutdown()

    # --- requests ---

    def _prompt(self, ask: Ask) -> list[int]:
        messages = text_messages(ask.messages)
        continues = messages[-1]["role"] == "assistant"
        if (raw := raw_text(ask)) is not None:
            ids = list(self.tokenizer.encode(raw))
        elif not (self.settings["chat_template"] or self.tokenizer.chat_template):  # a base model
            ids = list(self.tokenizer.encode("\n".join(message["content"] for message in messages)))
        else:
            try:
                text = self.tokenizer.apply_chat_template(
                    messages,
                    chat_template=self.settings["chat_template"],
                    tokenize=False,
                    add_generation_prompt=not continues,
                    continue_final_message=continues,
                )
            except Exception as error:  # a template may refuse: no system prompt, roles that do not alternate
                raise RefusedRequestError(
                    f"The model's chat template refused the messages: {error}",
                    "Change their roles, or give another chat_template=.",
                ) from error
            ids = list(self.tokenizer.encode(text, add_special_tokens=False))
        if len(ids) >= self._n_context:
            raise too_long(len(ids), self._n_context)
        return ids

    def _sampling(self, ask: Ask, n_prompt: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        given = {**self._defaults, **ask.parameters}
        wanted = {name: given[name] for name in (*_PASSED_ON, *_OWN) if given.get(name) is not None}
        limit = int(given.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS)
        if given.get("logprobs"):
            wanted["logprobs"] = int(given.get("top_logprobs") or 0)
        if given.get("seed") is not None:
            wanted["seed"] = ask.seed_of(0, given["seed"])  # it adds the index of each reply itself
        return SamplingParams(
            n=ask.n,
            max_tokens=min(limit, self._n_context - n_prompt),
            stop=stops_of(given),
            output_kind=RequestOutputKind.FINAL_ONLY,
            **{**wanted, **_forcing(ask), **(given.get("extra") or {})},
        )

    # --- replies ---

    def _completion(self, ask: Ask, output: Any) -> Completion:
        logprobs = None
        if ask.parameters.get("logprobs") and output.logprobs:
            n_top = int(ask.parameters.get("top_logprobs") or 0)
            logprobs = {
                "content": [
                    self._token(token, told, n_top)
                    for token, told in zip(output.token_ids, output.logprobs, strict=False)
                ]
            }
        finish_reason = "length" if output.finish_reason == "length" else "stop"
        return Completion(output.text, finish_reason, len(output.token_ids), logprobs)

    def _token(self, token: int, told: Mapping[int, Any], n_top: int) -> dict[str, Any]:
        best: Sequence[tuple[int, Any]] = sorted(told.items(), key=lambda pair: pair[1].rank or 0)[:n_top]
        return {
            **self._entry(token, told[token]),
            "top_logprobs": [self._entry(number, log) for number, log in best],
        }

    def _entry(self, token: int, log: Any) -> dict[str, Any]:
        text = log.decoded_token if log.decoded_token is not None else self.tokenizer.decode([token])
        return {
            "token": text,
            "logprob": max(float(log.logprob), -9999.0),
            "bytes": list(text.encode("utf-8", "replace")),
        }


def _forcing(ask: Ask) -> dict[str, Any]:
    shape = ask.forced
    if shape is None:
        return {}
    from vllm.sampling_params import StructuredOutputsParams

    if shape.kind == "json":
        forced = StructuredOutputsParams(json=schema_text(shape))
    elif shape.kind == "regex":
        forced = StructuredOutputsParams(regex=shape.pattern)
    else:
        forced = StructuredOutputsParams(choice=list(shape.choices))
    return {"structured_outputs": forced}
