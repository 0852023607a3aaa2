"""What the server has seen since it started, or since the last reset."""

import time
from collections import Counter, deque
from typing import Any


class Stats:
    """Counters of one server; `/stats` shows them, README.md explains each."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything, the prompts seen too."""
        self.started = time.monotonic()
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.requests = 0
        self.ok = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.duplicates = 0
        self.duplicates_after_ok = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.rejected: Counter[str] = Counter()
        self.injected: Counter[str] = Counter()
        self.by_path: Counter[str] = Counter()
        self.by_model: Counter[str] = Counter()
        self.by_form: Counter[str] = Counter()
        self.bodies: deque[Any] = deque(maxlen=100)
        self.asked: Counter[bytes] = Counter()
        self.answered: set[bytes] = set()
        self.last_minute: deque[float] = deque()

    def arrive(self, path: str, now: float) -> None:
        """Count a request, whatever becomes of it."""
        self.requests += 1
        self.by_path[path] += 1
        if self.first_at is None:
            self.first_at = now
        self.last_at = now

    def ask(self, key: bytes, model: str) -> int:
        """Count an accepted request; return how often its prompt had been asked before."""
        attempt = self.asked[key]
        self.asked[key] = attempt + 1
        self.by_model[model] += 1
        if attempt:
            self.duplicates += 1
            self.duplicates_after_ok += key in self.answered
        return attempt

    def enter(self) -> None:
        """Count a request into those in flight."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def leave(self) -> None:
        """Count a request out of those in flight."""
        # A reset may have come in between.
        self.in_flight = max(0, self.in_flight - 1)
        self.last_at = time.monotonic()

    def answer(self, key: bytes, prompt_tokens: int, completion_tokens: int) -> None:
        """Count a good answer."""
        self.ok += 1
        self.answered.add(key)
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens

    def as_dict(self) -> dict[str, Any]:
        """Return the counters as `/stats` sends them."""
        first, last, rejected = self.first_at, self.last_at, self.rejected
        return {
            "requests": self.requests,
            "ok": self.ok,
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
            "rejected_401": rejected["401"],
            "rejected_404": rejected["404"],
            "rejected_form": rejected["form"],
            "rejected_429": rejected["concurrency"] + rejected["rpm"],
            "rejected_429_concurrency": rejected["concurrency"],
            "rejected_429_rpm": rejected["rpm"],
            "injected_errors": dict(self.injected),
            "distinct_prompts": len(self.asked),
            "answered_prompts": len(self.answered),
            "duplicate_prompts": self.duplicates,
            "duplicate_prompts_after_ok": self.duplicates_after_ok,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "by_path": dict(self.by_path),
            "by_model": dict(self.by_model),
            "by_form": dict(self.by_form),
            "span_s": 0.0 if first is None or last is None else round(last - first, 4),
            "uptime_s": round(time.monotonic() - self.started, 3),
        }
