"""llama.cpp in a model host: one reply at a time, through the library's own chat completion."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from ctypes import ArgumentError
from typing import Any

from distilnb.errors import ModelError, RefusedRequestError
from distilnb.llms.engines.base import (
    DEFAULT_MAX_NEW_TOKENS,
    Ask,
    BatchingEngine,
    Completed,
    Completion,
    raw_text,
    refusal,
    stops_of,
    text_messages,
    too_long,
)
from distilnb.llms.engines.grammar import gbnf_of, schema_text

# Our name → the library's, for parameters that are passed on as they are.
_NAMES: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "logprobs": "logprobs",
    "top_logprobs": "top_logprobs",
}


class LlamaCppEngine(BatchingEngine):
    """A GGUF file in llama-cpp-python."""

    model: Any

    def load(self) -> None:
        from llama_cpp import Llama

        settings = self.settings
        self.model = Llama(
            model_path=settings["model"],
            n_gpu_layers=0 if settings["gpus"] == 0 else settings["n_gpu_layers"],
            n_ctx=settings["n_ctx"],
            n_batch=settings["n_batch"],
            chat_format=settings["chat_format"],
            logits_all=settings["logits_all"],
            verbose=False,
            **(settings["extra_kwargs"] or {}),
        )
        if settings["chat_template"]:
            self.model.chat_handler = self._handler_of(settings["chat_template"])

    def unload(self) -> None:
        self.model.close()

    def generate(self, asks: Sequence[Ask]) -> Sequence[Completed | Exception]:
        results: list[Completed | Exception] = []
        for ask in asks:
            try:
                results.append(self._complete(ask))
            except ModelError as error:
                results.append(error)
            # The library's words for a prompt, a grammar, a parameter that it cannot take.
            except (ValueError, TypeError, ArgumentError) as error:
                results.append(self._refusal(error))
        return results

    def _complete(self, ask: Ask) -> Completed:
        completions: list[Completion] = []
        input_tokens = 0
        for index in range(ask.n):
            if ask.is_cancelled:
                break
            arguments = {"logits_processor": [self._watcher(ask)], **self._arguments(ask, index)}
            if (raw := raw_text(ask)) is not None:
                arguments = {name: value for name, value in arguments.items() if "logprobs" not in name}
                told = self.model.create_completion(prompt=raw, **arguments)
            else:
                told = self.model.create_chat_completion(messages=text_messages(ask.messages), **arguments)
            usage, choice = told["usage"], told["choices"][0]
            written = choice["text"] if raw is not None else choice["message"]["content"]
            input_tokens = int(usage["prompt_tokens"])
            completions.append(
                Completion(
                    written or "",
                    choice["finish_reason"] or "stop",
                    int(usage["completion_tokens"]),
                    None if raw is not None else _plain_logprobs(choice.get("logprobs")),
                )
            )
        return Completed(completions, input_tokens)

    def _watcher(self, ask: Ask) -> Any:
        """Return what is called before each token: it says that work goes on, and ends what nobody waits for."""
        end = self.model.token_eos()

        def watch(_: Any, scores: Any) -> Any:
            self.moved()
            if ask.is_cancelled:
                scores[:] = float("-inf")
                scores[end] = 0.0
            return scores

        return watch

    def _arguments(self, ask: Ask, index: int) -> dict[str, Any]:
        given = ask.parameters
        seed = ask.seed_of(index, given.get("seed"))
        arguments = {theirs: given[ours] for ours, theirs in _NAMES.items() if ours in given}
        arguments.setdefault("temperature", 1.0)
        limit = int(given.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS)
        return {
            **arguments,
            "max_tokens": min(limit, self.model.n_ctx() - 1),
            "stop": stops_of(given),
            # Without one the library draws the same again for every request.
            "seed": random.getrandbits(31) if seed is None else seed,
            **self._forcing(ask),
            **(given.get("extra") or {}),
        }

    def _forcing(self, ask: Ask) -> dict[str, Any]:
        shape = ask.forced
        if shape is None:
            return {}
        from llama_cpp import LlamaGrammar

        try:
            text = _json_grammar(schema_text(shape)) if shape.kind == "json" else gbnf_of(shape)
        except ModelError:
            raise
        except Exception as error:  # whatever the library raises says that it cannot
            raise RefusedRequestError(f"No grammar can be made of the shape: {error}") from error
        self._check_grammar(text)
        return {"grammar": LlamaGrammar.from_string(text, verbose=False)}

    def _check_grammar(self, text: str) -> None:
        """Raise for a grammar that the library cannot read: to sample by one ends the process."""
        import llama_cpp

        vocabulary = self.model._model.vocab
        sampler = llama_cpp.llama_sampler_init_grammar(vocabulary, text.encode(), b"root")
        if not sampler:
            raise RefusedRequestError("No grammar can be made of the shape: llama.cpp cannot read it.")
        llama_cpp.llama_sampler_free(sampler)

    def _refusal(self, error: Exception) -> ModelError:
        words = str(error)
        if "exceed context window" in words:
            return too_long(max(map(int, re.findall(r"\d+", words))), self.model.n_ctx())
        return refusal("llama.cpp", error)

    def _handler_of(self, template: str) -> Any:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        model = self.model

        def token(number: int) -> str:
            return str(model._model.token_get_text(number)) if number >= 0 else ""

        formatter = Jinja2ChatFormatter(
            template=template,
            eos_token=token(model.token_eos()),
            bos_token=token(model.token_bos()),
            stop_token_ids=[model.token_eos()],
        )
        return formatter.to_chat_handler()


def _json_grammar(schema: str) -> str:
    """Return the grammar of a JSON schema, as the library makes it, but for what it does not escape: backslashes."""
    from llama_cpp.llama_grammar import SchemaConverter

    class Converter(SchemaConverter):  # type: ignore[misc]  # the package has no types here
        def _format_literal(self, literal: str) -> str:
            return str(super()._format_literal(literal.replace("\\", "\\\\")))

    converter = Converter(prop_order={}, allow_fetch=False, dotall=False, raw_pattern=False)
    converter.visit(converter.resolve_refs(json.loads(schema), "stdin"), "")
    return str(converter.format_grammar())


def _plain_logprobs(told: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the library's log probabilities, which are numbers of numpy, without their bytes, as plain data."""
    if told is None:
        return None
    return {
        "content": [
            {**_plain_entry(one), "top_logprobs": [_plain_entry(other) for other in one["top_logprobs"]]}
            for one in told["content"]
        ]
    }


def _plain_entry(told: Mapping[str, Any]) -> dict[str, Any]:
    text = str(told["token"])
    return {"token": text, "logprob": float(told["logprob"]), "bytes": list(text.encode("utf-8", "replace"))}
