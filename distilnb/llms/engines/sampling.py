"""Choosing tokens for a batch whose rows have parameters, seeds and shapes of their own, in torch.

Transformers draws for a whole batch with one set of parameters and one stream of chance. Here the scores are changed
so that the best of them is the drawn one: with noise of each row's own (the exponential form of Gumbel's trick), and
Transformers takes the best. So a batch may mix rows, and a seeded row draws the same whatever stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from distilnb.llms.engines.base import Ask

if TYPE_CHECKING:
    import torch

_NEVER = float("-inf")


def has_xgrammar() -> bool:
    """Whether the package is there that turns shapes into grammars."""
    return find_spec("xgrammar") is not None


@dataclass(eq=False)
class Row:
    """One reply that is being made."""

    ask: Ask
    max_new_tokens: int
    temperature: float = 1.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stops: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    n_logprobs: int = 0  # 0: none are wanted
    matcher: Any = None
    n_until_stop: int = 0  # tokens up to the one that completed a stop string; 0 as long as there is none
    is_done: bool = False

    @property
    def is_sampled(self) -> bool:
        """Whether chance has a part in it."""
        return self.temperature > 0


class Sampler:
    """Changes the scores of the next tokens so that the best one is each row's choice. A LogitsProcessor."""

    def __init__(self, rows: Sequence[Row], n_prompt: int, is_prompt: torch.Tensor, device: Any) -> None:
        import torch

        self._rows = rows
        self._n_prompt = n_prompt
        self._is_prompt = is_prompt.bool()
        self._chance = {
            place: torch.Generator(device=device).manual_seed(row.seed)
            for place, row in enumerate(rows)
            if row.is_sampled and row.seed is not None
        }
        self._drawn = [place for place, row in enumerate(rows) if row.is_sampled]
        self._free = [place for place in self._drawn if place not in self._chance]
        self._n_logprobs = max(row.n_logprobs for row in rows)
        self._has_penalties = any(row.frequency_penalty or row.presence_penalty for row in rows)
        self._has_repetition = any(row.repetition_penalty != 1.0 for row in rows)
        self._matched = [place for place, row in enumerate(rows) if row.matcher is not None]
        self._bitmask: Any = None
        self._told: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores to take the best of."""
        scores = raw = scores.float()
        if self._has_repetition:
            scores = self._punish_repetition(input_ids, scores)
        if self._has_penalties:
            scores = self._punish_frequency(input_ids[:, self._n_prompt :], scores)
        if self._matched:
            scores = self._keep_to_shapes(scores)
        if self._drawn:
            scores = self._draw(scores)
        if self._matched or self._n_logprobs:
            self._note_choice(scores.argmax(-1), raw)
        return scores

    # --- penalties ---

    def _punish_frequency(self, made: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = scores.new_zeros(scores.shape).scatter_add_(1, made, scores.new_ones(made.shape))
        frequency = self._column("frequency_penalty", scores)
        presence = self._column("presence_penalty", scores)
        return scores - frequency * counts - presence * (counts > 0)

    def _punish_repetition(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        # Padding is no part of the text, though its token may be one.
        is_text = scores.new_ones(input_ids.shape)
        is_text[:, : self._n_prompt] = self._is_prompt.to(scores.dtype)
        seen = scores.new_zeros(scores.shape).scatter_add_(1, input_ids, is_text) > 0
        penalty = self._column("repetition_penalty", scores)
        return (scores / penalty).where(scores > 0, scores * penalty).where(seen, scores)

    def _column(self, name: str, scores: torch.Tensor) -> torch.Tensor:
        return scores.new_tensor([[getattr(row, name)] for row in self._rows])

    # --- shapes ---

    def _keep_to_shapes(self, scores: torch.Tensor) -> torch.Tensor:
        import xgrammar

        if self._bitmask is None:
            self._bitmask = xgrammar.allocate_token_bitmask(len(self._rows), scores.shape[-1])
        active = [
            place
            for place in self._matched
            if not self._rows[place].is_done and not self._rows[place].matcher.is_terminated()
        ]
        for place in active:
            self._rows[place].matcher.fill_next_token_bitmask(self._bitmask, place)
        if active:
            scores = scores.clone()
            xgrammar.apply_token_bitmask_inplace(scores, self._bitmask.to(scores.device), indices=active)
        return scores

    # --- chance ---

    def _draw(self, scores: torch.Tensor) -> torch.Tensor:
        drawn = scores[self._drawn] / self._of_drawn("temperature", scores)
        top_k, top_p, min_p = (self._of_drawn(name, scores) for name in ("top_k", "top_p", "min_p"))
        if (top_k > 0).any() or (top_p < 1).any():
            drawn = _cut_tail(drawn, top_k, top_p)
        if (min_p > 0).any():
            probabilities = drawn.softmax(-1)
            drawn = drawn.masked_fill(probabilities < min_p * probabilities.amax(-1, keepdim=True), _NEVER)
        noise = drawn.new_empty(drawn.shape)
        if self._free:
            noise.exponential_()
        for place, chance in self._chance.items():
            noise[self._drawn.index(place)].exponential_(generator=chance)
        result = scores.clone()
        result[self._drawn] = drawn - noise.log()
        return result

    def _of_drawn(self, name: str, scores: torch.Tensor) -> torch.Tensor:
        return scores.new_tensor([[float(getattr(self._rows[place], name))] for place in self._drawn])

    # --- what was chosen ---

    def _note_choice(self, chosen: torch.Tensor, raw: torch.Tensor) -> None:
        if self._matched:
            tokens = chosen.tolist()
            for place in self._matched:
                row = self._rows[place]
                if not row.is_done and not row.matcher.is_terminated():
                    row.matcher.accept_token(tokens[place])
        if self._n_logprobs:
            # Of the model itself, before any parameter, as OpenAI's protocol tells them.
            logs = raw.log_softmax(-1)
            best, best_ids = logs.topk(min(self._n_logprobs, logs.shape[-1]), -1)
            self._told.append((chosen, logs.gather(1, chosen[:, None])[:, 0], best, best_ids))

    def logprobs(self, place: int, n_tokens: int, tokenizer: Any, *, has_top: bool) -> Mapping[str, Any]:
        """Return the log probabilities of a row's tokens as OpenAI's protocol has them in a choice."""
        n_best = self._rows[place].n_logprobs if has_top else 0
        content = []
        for chosen, log, best, best_ids in self._told[:n_tokens]:
            pairs = zip(best_ids[place, :n_best].tolist(), best[place, :n_best].tolist(), strict=True)
            content.append(
                {
                    **_entry(tokenizer, int(chosen[place]), float(log[place])),
                    "top_logprobs": [_entry(tokenizer, token, value) for token, value in pairs],
                }
            )
        return {"content": content}


def _cut_tail(scores: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """Leave the best `top_k` tokens, and of these the least number whose probabilities reach `top_p`."""
    ordered, order = scores.sort(-1, descending=True)
    places = scores.new_ones(scores.shape[-1]).cumsum(0) - 1
    ordered = ordered.masked_fill((top_k > 0) & (places >= top_k), _NEVER)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    ordered = ordered.masked_fill((top_p < 1) & (before >= top_p) & (places > 0), _NEVER)
    return ordered.new_empty(ordered.shape).scatter_(-1, order, ordered)


def _entry(tokenizer: Any, token: int, log: float) -> dict[str, Any]:
    text = tokenizer.decode([token])
    return {"token": text, "logprob": max(log, -9999.0), "bytes": list(text.encode("utf-8", "replace"))}


class Ending:
    """Says which rows have all that they need. A StoppingCriteria."""

    def __init__(
        self,
        rows: Sequence[Row],
        n_prompt: int,
        tokenizer: Any,
        stop_ids: Sequence[int],
        moved: Callable[[], None],
    ) -> None:
        self._rows = rows
        self._n_prompt = n_prompt
        self._tokenizer = tokenizer
        self._ends = [{*stop_ids, *row.stop_token_ids} for row in rows]
        self._moved = moved
        # As many of the last tokens as a stop string can reach over: each is a byte at least.
        self._reach = [max((len(stop.encode()) for stop in row.stops), default=0) + 1 for row in rows]

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Return which rows end here."""
        self._moved()
        n_made = input_ids.shape[1] - self._n_prompt
        last = input_ids[:, -1].tolist()
        for place, row in enumerate(self._rows):
            if not row.is_done:
                row.is_done = (
                    n_made >= row.max_new_tokens
                    or row.ask.is_cancelled
                    or last[place] in self._ends[place]
                    or (bool(row.stops) and self._has_stop(row, input_ids[place], self._reach[place], n_made))
                )
        return input_ids.new_tensor([row.is_done for row in self._rows]).bool()

    def _has_stop(self, row: Row, ids: torch.Tensor, n_reach: int, n_made: int) -> bool:
        tail = ids[self._n_prompt :][-min(n_reach, n_made) :]
        text = self._tokenizer.decode(tail, skip_special_tokens=True)
        if any(stop in text for stop in row.stops):
            row.n_until_stop = n_made
            return True
        return False
