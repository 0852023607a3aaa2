"""A stand-in for a model: it answers at once, for nothing, and the same whenever it is asked the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from random import Random
from typing import Any, ClassVar

from pydantic import Field

from distilnb.errors import ServerError
from distilnb.llms.base import GENERATION_PARAMETERS, LLM
from distilnb.llms.parameters import unify_parameters
from distilnb.llms.request import Answer, Client, Reply, Request
from distilnb.llms.shape import ReplyShape, ShapeKind

MARK = "(rehearsed)"
GARBAGE = f"{MARK} ~ ~ this reply is unreadable on purpose ~ ~"

# What models are asked for elsewhere and a stand-in need not heed.
_IGNORED = frozenset({"echo", "min_p", "repetition_penalty", "response_format", "stop_token_ids", "top_k"})

# Sentences around words of the prompt, by script. The last one serves all other scripts: it has no words.
_FRAMES: Mapping[str, tuple[str, ...]] = {
    "latin": (
        "Take {0}, and {1} follows from it.",
        "The short answer is about {0}; the long one adds {1}.",
        "First consider {0}. Then {1}, and last {2}.",
        "Most people begin with {0}, although {1} would be the better start.",
        "In short: {0}.",
    ),
    "han": ("关于“{0}”,可以先看“{1}”。", "简单地说,“{0}”和“{1}”有关。", "首先是“{0}”,其次是“{1}”。"),
    "kana": (
        "「{0}」については、まず「{1}」を見ます。",
        "つまり「{0}」と「{1}」です。",
        "「{0}」から始めます。",
    ),
    "hangul": ("‘{0}’에 대해서는 먼저 ‘{1}’을 봅니다.", "요약하면 ‘{0}’입니다.", "‘{0}’ 다음은 ‘{1}’입니다."),
    "other": ("«{0}» — «{1}».", "«{0}»: «{1}», «{2}».", "«{0}»."),
}
_SCRIPTS = (  # in this order: a Japanese text holds Chinese characters too
    ("kana", re.compile(r"[\u3040-\u30ff]")),
    ("hangul", re.compile(r"[\uac00-\ud7af\u1100-\u11ff]")),
    ("han", re.compile(r"[\u4e00-\u9fff\u3400-\u4dbf]")),
    ("other", re.compile(r"[^\W\d_\u0000-\u024f\u1e00-\u1eff]")),
)
_CLOSED_UP = frozenset({"han", "kana"})  # written without spaces


class RehearsalLLM(LLM):
    """A model that costs nothing, to rehearse a pipeline at full size.

    Replies are drawn by `seed`, the model's name, the messages, the request's salt and the index of the reply;
    what is written follows the shape asked for or the task, `garbage_rate` and `max_new_tokens`. Nothing else counts.
    Where a shape is wanted (JSON, a pattern, a choice) or a task has a form of its own (a rating) they have it,
    and else they are a few sentences about the prompt that begin with "(rehearsed)". `failure_rate` is the
    share of requests that fail as a busy server does (each attempt draws anew), `garbage_rate` the share of
    replies that no task can parse.

    >>> llm = RehearsalLLM()
    >>> llm.label, llm.identity() == RehearsalLLM(latency_s=1).identity()
    ('rehearsal', True)
    """

    provider: ClassVar[str] = "rehearsal"
    is_local: ClassVar[bool] = True
    takes_images: ClassVar[frozenset[str]] = frozenset({"url", "file"})
    forces: ClassVar[Mapping[ShapeKind, tuple[str, ...]]] = {
        "json": ("rehearsed",),
        "regex": ("rehearsed",),
        "choice": ("rehearsed",),
    }
    not_in_digest: ClassVar[frozenset[str]] = LLM.not_in_digest | {"latency_s", "failure_rate"}

    model: str = "rehearsal"
    seed: int = 0
    latency_s: float = Field(default=0.0, ge=0)
    failure_rate: float = Field(default=0.0, ge=0, le=1)
    garbage_rate: float = Field(default=0.0, ge=0, le=1)

    def __init__(self, **values: Any) -> None:
        if isinstance(values.get("generation_kwargs"), Mapping):
            known = GENERATION_PARAMETERS | _IGNORED
            given = unify_parameters(type(self).__name__, values["generation_kwargs"], known)
            values["generation_kwargs"] = given
        super().__init__(**values)

    @property
    def label(self) -> str:
        """The short name in tables; every row carries it as the name of its model."""
        return self.provider if self.model == self.provider else f"{self.provider}:{self.model}"

    def identity(self) -> dict[str, Any]:
        """Return what the replies depend on."""
        return {**super().identity(), "seed": self.seed, "garbage_rate": self.garbage_rate}

    def make_client(self) -> Client:
        """Return a client that answers in this process."""
        return _RehearsalClient(self)


class _RehearsalClient:
    """Answers requests; remembers only how often those that have just failed were tried."""

    def __init__(self, llm: RehearsalLLM) -> None:
        self._llm = llm
        self._n_failed: dict[str, int] = {}

    async def send(self, request: Request) -> Answer:
        import asyncio

        await asyncio.sleep(self._llm.latency_s)  # at 0 too, so that others have their turn
        key = _key_of(self._llm, request)
        self._fail_by_chance(key)
        input_tokens = max(1, sum(len(_text_of(message)) for message in request.messages) // 4)
        replies = tuple(
            self._reply(request, Random(f"{key}:{index}"), input_tokens if index == 0 else 0)
            for index in range(request.n)
        )
        return Answer(replies, request_id=f"rehearsal-{key[:8]}")

    async def close(self) -> None:
        self._n_failed.clear()

    def _fail_by_chance(self, key: str) -> None:
        if not self._llm.failure_rate:
            return
        attempt = self._n_failed.get(key, 0)
        if Random(f"{key}:failure:{attempt}").random() < self._llm.failure_rate:
            self._n_failed[key] = attempt + 1
            raise ServerError(
                f"{self._llm.label} failed to answer, as failure_rate={self._llm.failure_rate:g} asks for.",
                "It is asked again; with failure_rate=0 it never fails.",
                provider=self._llm.provider,
                status=503,
            )
        self._n_failed.pop(key, None)

    def _reply(self, request: Request, random: Random, input_tokens: int) -> Reply:
        finish_reason = "stop"
        if random.random() < self._llm.garbage_rate:
            text = GARBAGE
        elif request.sample is not None:
            text = request.sample(random)
        elif request.shape is not None:
            text = _shaped(request.shape, random)
        else:
            text, finish_reason = _cut(
                _write(request, random), self._llm.generation_kwargs.get("max_new_tokens")
            )
        return Reply(text, finish_reason, self._llm.label, input_tokens, max(1, len(text.split())))


def _shaped(shape: ReplyShape, random: Random) -> str:
    """Return a reply of a shape."""
    from distilnb.llms.instances import instance_of
    from distilnb.llms.patterns import text_matching

    if shape.kind == "choice":
        return random.choice(shape.choices)
    if shape.kind == "regex":
        return text_matching(shape.pattern, random, is_whole=True)
    return json.dumps(instance_of(shape.schema or {"type": "object"}, random), ensure_ascii=False)


def _key_of(llm: RehearsalLLM, request: Request) -> str:
    text = json.dumps([llm.seed, llm.model, request.messages, request.salt], sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return str(content)


def _write(request: Request, random: Random) -> str:
    """Return one to five sentences that quote the last message, in its script."""
    prompt = _text_of(request.messages[-1]) if request.messages else ""
    script = next((name for name, pattern in _SCRIPTS if pattern.search(prompt)), "latin")
    words = _words_of(prompt, script)
    sentences = []
    for _ in range(random.randint(1, 5)):
        quoted = (random.sample(words, min(3, len(words))) * 3)[:3]
        sentences.append(random.choice(_FRAMES[script]).format(*quoted))
    return f"{MARK} {('' if script in _CLOSED_UP else ' ').join(sentences)}"


def _words_of(prompt: str, script: str) -> list[str]:
    found: list[str]
    if script in _CLOSED_UP:
        found = re.findall(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]{2,4}", prompt)
    else:
        found = [word for word in re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", prompt) if len(word) > 3]
    return list(dict.fromkeys(found)) or prompt.split()[:3] or ["…"]


def _cut(text: str, max_words: object) -> tuple[str, str]:
    words = text.split(" ")
    if isinstance(max_words, int) and len(words) > max_words:
        return " ".join(words[:max_words]), "length"
    return text, "stop"
