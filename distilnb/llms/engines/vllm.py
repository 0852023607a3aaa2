"""vLLM in a model host: its own engine, whose running batch requests join as they come."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
# On a CPU its engine and its worker are two processes that spin while they wait for each other: with few processors
# they take them from the model, and from the rest of the run.
_FEW_PROCESSORS = 8
_WATCH_S = 1.0
_FAILED = ("error", "abort")  # finish reasons of replies that are none
_PASSED_ON = ("temperature", "top_p", "top_k", "min_p", "frequency_penalty", "presence_penalty")
_OWN = ("repetition_penalty", "stop_token_ids")


@dataclass(eq=False)
class _Asked:
    """One request on its way: where its answer goes, how many tokens its prompt has, and vLLM's own name for it."""

    ask: Ask
    future: asyncio.Future[Completed]
    n_prompt: int = 0
    inner_name: str | None = None  # None in older releases


def set_environment(n_parallel: int = 1) -> None:
    """Set vLLM's environment variables, where the user has not, for an engine of so many workers."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm.platforms import current_platform

    if current_platform.is_cpu() and n_parallel == 1 and _n_processors() < _FEW_PROCESSORS:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")


class VllmEngine(Engine):
    """vLLM's engine, stepped in the engine's thread for as long as there are requests.

    Not its AsyncLLM: that has an event loop's work to do at every token of every request.
    """

    engine: Any
    tokenizer: Any

    def __init__(self, settings: Mapping[str, Any], moved: Callable[[], None]) -> None:
        super().__init__(settings, moved)
        self._numbers = itertools.count()
        self._waiting: set[_Asked] = set()  # of the host's loop: all that somebody waits for
        # Filled by the host's loop, emptied by the engine's thread between two steps.
        self._coming: deque[_Asked] = deque()
        self._gone: deque[_Asked] = deque()
        self._at_work: dict[str, _Asked] = {}  # of the engine's thread, by the engine's names
        self._stepping: asyncio.Future[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._is_broken = False

    def load(self) -> None:
        settings = self.settings
        extra = dict(settings["extra_kwargs"] or {})
        extra.pop("enable_log_requests", None)  # of the asynchronous engine alone
        set_environment(settings["tensor_parallel_size"] * int(extra.get("pipeline_parallel_size") or 1))
        from vllm import EngineArgs, LLMEngine
        from vllm.usage.usage_lib import UsageContext

        named = {
            name: settings[name] for name in ("revision", "quantization", "tokenizer", "tokenizer_revision")
        }
        arguments = EngineArgs(
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
                "disable_log_stats": True,  # nobody reads them, and they are counted at every token
                **{name: value for name, value in named.items() if value is not None},
                **extra,
            },
        )
        # As of its offline class: the sizes of batches that it chooses go by this.
        self.engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        self.tokenizer = self.engine.get_tokenizer()
        config = self.engine.model_config
        self._n_context = int(config.max_model_len)
        self._defaults = config.get_diff_sampling_param()

    async def answer(self, ask: Ask) -> Completed:
        if self._is_broken:
            raise RuntimeError("vLLM's engine has died")
        asked = _Asked(ask, asyncio.get_running_loop().create_future())
        self._waiting.add(asked)
        self._coming.append(asked)
        self._go_on()
        try:
            return await asked.future
        except asyncio.CancelledError:
            ask.is_cancelled = True
            self._gone.append(asked)
            raise
        finally:
            self._waiting.discard(asked)

    def is_broken_by(self, error: BaseException) -> bool:
        return self._is_broken or super().is_broken_by(error)

    def unload(self) -> None:
        self.engine.engine_core.shutdown()

    # --- steps ---

    def _go_on(self) -> None:
        """Have the engine's thread step, unless it does; what came while it ended begins the next turn."""
        if self._coming and (self._stepping is None or self._stepping.done()):
            loop = asyncio.get_running_loop()
            self._stepping = loop.run_in_executor(self.thread, self._step_while_asked, loop)
            self._stepping.add_done_callback(lambda _: self._go_on())
        if self._watching is None or self._watching.done():
            self._watching = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        """End what waits once the process of vLLM's engine is dead: a step would wait for its word for ever."""
        while self._waiting:
            await asyncio.sleep(_WATCH_S)
            # vLLM's own mark; there is none where its engine is in this process.
            if getattr(getattr(self.engine.engine_core, "resources", None), "engine_dead", False):
                self._is_broken = True
                error = RuntimeError("vLLM's engine has died")
                _hand_out([(asked, error) for asked in self._waiting])
                return

    def _step_while_asked(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._coming or self._at_work:
            ended: list[tuple[_Asked, Completed | Exception]] = []
            try:
                self._take_in(ended)
                outputs = self.engine.step() if self._at_work else []
                self.moved()
            except BaseException as error:  # noqa: BLE001 - whatever vLLM raises here, it is of no use any more
                self._is_broken = True
                failure = error if isinstance(error, Exception) else RuntimeError(f"vLLM ended: {error!r}")
                ended += [(asked, failure) for asked in self._at_work.values()]
                self._at_work.clear()
                outputs = []
            for output in outputs:
                if output.finished and (asked := self._at_work.pop(output.request_id, None)) is not None:
                    ended.append((asked, self._result(asked, output)))
            if ended:
                loop.call_soon_threadsafe(_hand_out, ended)

    def _take_in(self, refused: list[tuple[_Asked, Completed | Exception]]) -> None:
        """Give the engine what has come, and take from it what nobody waits for; what it refuses joins `refused`."""
        while self._coming:
            asked = self._coming.popleft()
            if asked.ask.is_cancelled:
                continue
            name = f"request-{next(self._numbers)}"
            try:
                prompt = self._prompt(asked.ask)
                asked.n_prompt = len(prompt)
                parameters = self._sampling(asked.ask, len(prompt))
                inner_name = self.engine.add_request(name, {"prompt_token_ids": prompt}, parameters)
            except (TypeError, ValueError) as error:  # its words for a request that it cannot take
                refused.append((asked, refusal("vLLM", error)))
            except Exception as error:  # noqa: BLE001 - whatever else it raises is the failure of this request
                refused.append((asked, error))
            else:
                asked.inner_name = inner_name
                self._at_work[name] = asked
        while self._gone:
            gone = self._gone.popleft()
            for name in [name for name, asked in self._at_work.items() if asked is gone]:
                if gone.inner_name:  # the only name that ends all of several replies
                    self.engine.abort_request([gone.inner_name], internal=True)
                else:
                    self.engine.abort_request([name])
                del self._at_work[name]

    def _result(self, asked: _Asked, output: Any) -> Completed | Exception:
        try:
            replies = sorted(output.outputs, key=lambda one: one.index)
            if any(one.finish_reason in _FAILED for one in replies):
                return refusal(
                    "vLLM", ValueError("it ended the request with an error; the host's log may tell more")
                )
            return Completed([self._completion(asked.ask, one) for one in replies], asked.n_prompt)
        except Exception as error:  # noqa: BLE001 - a reply that cannot be read is the failure of its request
            return error

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


def _n_processors() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))  # the process may be held to some of them
    return os.cpu_count() or 1


def _hand_out(ended: Sequence[tuple[_Asked, Completed | Exception]]) -> None:
    for asked, result in ended:
        if asked.future.done():
            continue
        if isinstance(result, Exception):
            asked.future.set_exception(result)
        else:
            asked.future.set_result(result)


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
