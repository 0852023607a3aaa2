"""mlx-lm in a model host: one reply at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distilnb.errors import ModelError
from distilnb.llms.engines.base import (
    DEFAULT_MAX_NEW_TOKENS,
    Ask,
    BatchingEngine,
    Completed,
    Completion,
    cut_at_stop,
    raw_text,
    stops_of,
    text_messages,
)


class MlxEngine(BatchingEngine):
    """A model of mlx-lm."""

    model: Any
    tokenizer: Any

    def load(self) -> None:
        from mlx_lm import load

        settings = self.settings
        self.model, self.tokenizer = load(
            settings["model"],
            tokenizer_config=settings["tokenizer_config"] or {},
            model_config=settings["mlx_model_config"] or {},
            adapter_path=settings["adapter_path"],
        )
        if settings["chat_template"]:
            self.tokenizer.chat_template = settings["chat_template"]

    def generate(self, asks: Sequence[Ask]) -> Sequence[Completed | Exception]:
        results: list[Completed | Exception] = []
        for ask in asks:
            try:
                results.append(self._complete(ask))
            except ModelError as error:
                results.append(error)
        return results

    def _complete(self, ask: Ask) -> Completed:
        if (text := raw_text(ask)) is not None:
            prompt = self.tokenizer.encode(text)  # with what begins every text
        else:
            messages = text_messages(ask.messages)
            prompt = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
        made = [self._reply(ask, prompt, index) for index in range(ask.n)]
        return Completed(made, len(prompt))

    def _reply(self, ask: Ask, prompt: Any, index: int) -> Completion:
        import mlx.core
        from mlx_lm import stream_generate
        from mlx_lm.sample_utils import make_logits_processors, make_sampler

        given = {**ask.parameters, **(ask.parameters.get("extra") or {})}
        seed = ask.seed_of(index, given.get("seed"))
        if seed is not None:
            mlx.core.random.seed(seed)
        sampler = make_sampler(
            temp=float(given.get("temperature", 1.0)),
            top_p=float(given.get("top_p", 0.0)),
            min_p=float(given.get("min_p", 0.0)),
            top_k=int(given.get("top_k") or 0),
        )
        stops = stops_of(given)
        text, n_tokens, finish_reason = "", 0, "length"
        for piece in stream_generate(
            self.model,
            self.tokenizer,
            prompt,
            max_tokens=int(given.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS),
            sampler=sampler,
            logits_processors=make_logits_processors(repetition_penalty=given.get("repetition_penalty")),
        ):
            self.moved()
            text, n_tokens = text + piece.text, piece.generation_tokens
            finish_reason = piece.finish_reason or finish_reason
            cut, has_stop = cut_at_stop(text, stops)
            if has_stop:
                return Completion(cut, "stop", n_tokens)
            if ask.is_cancelled:
                break
        return Completion(text, finish_reason, n_tokens)
