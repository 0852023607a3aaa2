"""Transformers in a model host: what waits is one batch, in which every row keeps its own parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distilnb.errors import ModelError, RefusedRequestError
from distilnb.llms.engines.base import (
    DEFAULT_MAX_NEW_TOKENS,
    Ask,
    BatchingEngine,
    Completed,
    Completion,
    cut_at_stop,
    raw_text,
    refusal,
    stops_of,
    text_messages,
    too_long,
)
from distilnb.llms.engines.sampling import Ending, Row, Sampler, has_xgrammar

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


class TransformersEngine(BatchingEngine):
    """A causal language model of Transformers."""

    tokenizer: Any
    model: Any

    @property
    def max_batch(self) -> int:
        """How many replies are made at the same time."""
        return int(self.settings["batch_size"])

    def load(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        settings = self.settings
        shared = {"trust_remote_code": settings["trust_remote_code"]}
        named = settings["tokenizer"] or settings["model"]
        revision = None if settings["tokenizer"] else settings["revision"]
        self.tokenizer = AutoTokenizer.from_pretrained(
            named, revision=revision, padding_side="left", **shared
        )
        if settings["chat_template"]:
            self.tokenizer.chat_template = settings["chat_template"]
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        device, device_map = settings["device"], settings["device_map"]
        if device is None and device_map is None:
            if torch.cuda.device_count() > 1 and settings["may_spread"]:
                device_map = "auto"  # the host has made as many visible as the weights need
            else:
                device = "cpu" if settings["gpus"] == 0 else _best_device(torch)
        self.model = AutoModelForCausalLM.from_pretrained(
            settings["model"],
            revision=settings["revision"],
            dtype=settings["torch_dtype"],
            **({"device_map": device_map} if device_map is not None else {}),
            **shared,
            **(settings["model_kwargs"] or {}),
        )
        if device_map is None:
            self.model.to(device)
        self.model.eval()
        self._defaults = self._own_sampling()
        self._compiler = self._make_compiler() if has_xgrammar() else None

    def unload(self) -> None:
        del self.model

    def generate(self, asks: Sequence[Ask]) -> Sequence[Completed | Exception]:
        import torch

        try:
            return self._generate(asks)
        except torch.OutOfMemoryError:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            if len(asks) == 1:
                return [
                    RefusedRequestError(
                        "The device's memory does not suffice for this request.",
                        "Lower max_new_tokens or num_generations, shorten the prompt, or use more GPUs.",
                    )
                ]
        half = len(asks) // 2
        return [*self.generate(asks[:half]), *self.generate(asks[half:])]

    def _generate(self, asks: Sequence[Ask]) -> Sequence[Completed | Exception]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        results: dict[int, Completed | Exception] = {}
        prompts: dict[int, list[int]] = {}
        rows: list[Row] = []
        owners: list[int] = []
        for number, ask in enumerate(asks):
            try:
                prompts[number] = self._prompt(ask)
                rows += [self._row(ask, prompts[number], index) for index in range(ask.n)]
                owners += [number] * ask.n
            except ModelError as error:
                results[number] = error
            except (TypeError, ValueError) as error:  # a parameter that is none: the others are answered
                results[number] = refusal("Transformers", error)
        if rows:
            padded = self.tokenizer.pad(
                {"input_ids": [prompts[owner] for owner in owners]}, padding_side="left", return_tensors="pt"
            ).to(self.model.device)
            n_prompt = padded["input_ids"].shape[1]
            sampler = Sampler(rows, n_prompt, padded["attention_mask"], self.model.device)
            ending = Ending(rows, n_prompt, self.tokenizer, self._stop_ids(), self.moved)
            config = GenerationConfig(
                max_new_tokens=max(row.max_new_tokens for row in rows),
                do_sample=False,  # the sampler draws, with each row's own parameters; the rest is to take the best
                pad_token_id=self.tokenizer.pad_token_id,
                eos_token_id=self._stop_ids(),
            )
            with torch.inference_mode():
                made = self.model.generate(
                    **padded,
                    generation_config=config,
                    logits_processor=LogitsProcessorList([sampler]),
                    stopping_criteria=StoppingCriteriaList([ending]),
                )
            tokens = made[:, n_prompt:].tolist()
            made_by_owner: dict[int, list[Completion]] = {}
            for place, owner in enumerate(owners):
                completion = self._completion(rows[place], tokens[place], sampler, place)
                made_by_owner.setdefault(owner, []).append(completion)
            for number, completions in made_by_owner.items():
                results[number] = Completed(completions, len(prompts[number]))
        return [results[number] for number in range(len(asks))]

    # --- prompts ---

    def _prompt(self, ask: Ask) -> list[int]:
        messages = text_messages(ask.messages)
        if (raw := raw_text(ask)) is not None:
            ids = self.tokenizer(raw)["input_ids"]
        elif self.tokenizer.chat_template:
            continues = messages[-1]["role"] == "assistant"
            try:
                text = self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=not continues,
                    continue_final_message=continues,
                )
            except Exception as error:  # a template may refuse: no system prompt, roles that do not alternate
                raise RefusedRequestError(
                    f"The model's chat template refused the messages: {error}",
                    "Change their roles, or give another chat_template=.",
                ) from error
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:  # a base model
            ids = self.tokenizer("\n".join(message["content"] for message in messages))["input_ids"]
        n_context = self._n_context()
        if n_context and len(ids) >= n_context:
            raise too_long(len(ids), n_context)
        return list(ids)

    def _n_context(self) -> int:
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", 0) or 0)

    def _row(self, ask: Ask, prompt: Sequence[int], index: int) -> Row:
        wanted = {**self._defaults, **ask.parameters, **(ask.parameters.get("extra") or {})}
        room = self._n_context() - len(prompt)
        limit = int(wanted.get("max_new_tokens") or DEFAULT_MAX_NEW_TOKENS)
        return Row(
            ask=ask,
            max_new_tokens=min(limit, room) if room > 0 else limit,
            temperature=float(wanted.get("temperature", 1.0)),
            top_k=int(wanted.get("top_k") or 0),
            top_p=float(wanted.get("top_p", 1.0)),
            min_p=float(wanted.get("min_p", 0.0)),
            frequency_penalty=float(wanted.get("frequency_penalty", 0.0)),
            presence_penalty=float(wanted.get("presence_penalty", 0.0)),
            repetition_penalty=float(wanted.get("repetition_penalty", 1.0)),
            seed=ask.seed_of(index, wanted.get("seed")),
            stops=stops_of(wanted),
            stop_token_ids=list(wanted.get("stop_token_ids") or []),
            n_logprobs=max(1, int(wanted.get("top_logprobs") or 0)) if wanted.get("logprobs") else 0,
            matcher=self._matcher(ask),
        )

    def _own_sampling(self) -> Mapping[str, Any]:
        """Return how the model's makers say that it is sampled; what a request says goes before it."""
        told = self.model.generation_config.to_diff_dict()
        return {name: told[name] for name in _SAMPLING if told.get(name) is not None}

    def _stop_ids(self) -> list[int]:
        told = self.model.generation_config.eos_token_id
        ids = told if isinstance(told, list) else [told]
        return sorted({one for one in (*ids, self.tokenizer.eos_token_id) if one is not None})

    # --- replies ---

    def _completion(self, row: Row, tokens: list[int], sampler: Sampler, place: int) -> Completion:
        ends = {*self._stop_ids(), *row.stop_token_ids}
        n_made = next((i + 1 for i, token in enumerate(tokens) if token in ends), 0)
        finish_reason = "stop" if n_made else "length"
        n_made = min(n_made or row.max_new_tokens, row.n_until_stop or row.max_new_tokens)
        text = self.tokenizer.decode(tokens[:n_made], skip_special_tokens=True)
        text, was_cut = cut_at_stop(text, row.stops)
        if was_cut:
            finish_reason = "stop"
        logprobs = None
        if row.n_logprobs:
            has_top = bool(row.ask.parameters.get("top_logprobs"))
            logprobs = sampler.logprobs(place, n_made, self.tokenizer, has_top=has_top)
        return Completion(text, finish_reason, n_made, logprobs)

    # --- shapes ---

    def _make_compiler(self) -> Any:
        import xgrammar

        n_tokens = self.model.config.get_text_config().vocab_size
        info = xgrammar.TokenizerInfo.from_huggingface(
            self.tokenizer, vocab_size=n_tokens, stop_token_ids=self._stop_ids()
        )
        return xgrammar.GrammarCompiler(info)

    def _matcher(self, ask: Ask) -> Any:
        """Return what keeps a reply to its shape; raises RefusedRequestError for one that no grammar can say."""
        if ask.forced is None:
            return None
        if self._compiler is None:
            raise RefusedRequestError("This host has no package 'xgrammar' to force a shape.")
        import xgrammar

        from distilnb.llms.engines.grammar import schema_text

        shape = ask.forced
        try:
            if shape.kind == "json":
                compiled = self._compiler.compile_json_schema(schema_text(shape), any_whitespace=False)
            else:
                compiled = self._compiler.compile_regex(shape.as_pattern())
        except Exception as error:  # whatever the compiler raises says that it cannot
            raise RefusedRequestError(f"No grammar can be made of the shape: {error}") from error
        return xgrammar.GrammarMatcher(compiled)


def _best_device(torch: Any) -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
