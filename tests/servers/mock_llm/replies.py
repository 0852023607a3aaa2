"""What a model says: from a call to the choices that answer it, whatever protocol they travel in."""

import base64
import dataclasses
import hashlib
import json
import math
import re
import statistics
import struct
import sys
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from .chance import Draw
from .config import Config
from .schema import instance_of

JsonObject = dict[str, Any]

# What a prompt numbers when it asks a judge about several texts: "Text 2", "<response 3>", "[Answer 1]".
_NUMBERED = re.compile(
    r"\b(?:text|response|output|answer|generation|completion|instruction|candidate)[ _#]{0,2}(\d{1,2})\b",
    re.IGNORECASE,
)
_NORMAL = statistics.NormalDist()
_EACH = re.compile(r"\{each\}(.*?)\{/each\}", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One request, as every protocol says it in its own words."""

    path: str  # the endpoint, as /stats counts it
    body: JsonObject
    model: str
    prompt: str  # the messages as one text: marks and numbered texts are looked for in it
    key: bytes  # identifies endpoint, model and prompt
    n: int = 1
    max_tokens: int = sys.maxsize
    stop: tuple[str, ...] = ()
    seed: int | None = None
    schema: object = None  # the JSON schema that the reply must follow
    tool: str | None = None  # the tool that the reply must call, with arguments of that schema
    texts: tuple[str, ...] = ()  # the reply must be one of these
    form: str = ""  # the way in which the request forces a form on the reply; empty when it does not
    logprobs: bool = False
    top_logprobs: int = 0
    sampling: str = ""  # all that a reply depends on with --vary
    streams: bool = False

    @property
    def turn(self) -> int:
        """How many replies of the model the conversation holds already."""
        turns = self.body.get("messages") or self.body.get("contents") or ()
        return sum(turn.get("role") in ("assistant", "model") for turn in turns)


class Token(NamedTuple):
    """A piece of a reply, how likely it was, and what else could have stood there."""

    text: str
    logprob: float
    others: list[tuple[str, float]]


class Choice(NamedTuple):
    """One reply; it ends by "stop", "length" or "filter"."""

    text: str | None
    finish: str
    tokens: list[Token] | None


class Written(NamedTuple):
    """All choices of one reply, and what they cost."""

    key: str
    choices: list[Choice]
    prompt_tokens: int
    completion_tokens: int


def call_key(path: str, model: str, prompt: str) -> bytes:
    """Return what identifies a prompt that is sent to one endpoint for one model."""
    return hashlib.blake2b(f"{path}\x1f{model}\x1f{prompt}".encode(), digest_size=12).digest()


def write_reply(call: Call, config: Config, attempt: int, fault: str) -> Written:
    """Write the choices that answer a call; some faults change their text."""
    key = _reply_key(call, config, attempt)
    choices = []
    for index in range(1 if config.one_choice else call.n):
        draw = Draw(config.seed, key, "choice", index)
        text, finish = _damage(*_stopped(*_write(call, config, key, draw), call.stop), fault)
        tokens = None
        if config.logprobs and call.logprobs:
            tokens = _tokens(text or "", draw, call.top_logprobs)
        choices.append(Choice(text, finish, tokens))
    completion_tokens = sum(len((choice.text or "").split()) for choice in choices)
    return Written(key, choices, max(1, len(call.prompt) // 4), completion_tokens)


def _reply_key(call: Call, config: Config, attempt: int) -> str:
    """Return what the text of a reply depends on; with `vary`, more than the prompt and a seed."""
    if config.vary:
        text = f"{call.key.hex()}\x1f{call.sampling}\x1f{attempt}"
    elif call.seed is not None:
        text = f"{call.key.hex()}\x1f{call.seed}"
    else:
        return call.key.hex()
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _write(call: Call, config: Config, key: str, draw: Draw) -> tuple[str, str]:
    """Return the text of one choice and why it ends."""
    if call.schema is not None:
        value = instance_of(call.schema, draw)
        if config.control_characters:  # as xgrammar lets them pass: not escaped
            return json.dumps(_with_control_characters(value)).replace("\\u0005", "\x05"), "stop"
        return json.dumps(value), "stop"
    if call.texts:
        return draw.choice(call.texts), "stop"
    if template := config.templates.get(call.model):
        return _fill(template, call, config, key, draw), "stop"
    wanted = _length(config, draw)
    words = draw.words(min(wanted, call.max_tokens) - 1)
    return f"{key[:8]} {words}".rstrip(), "length" if call.max_tokens < wanted else "stop"


def _length(config: Config, draw: Draw) -> int:
    """Return how many words a plain reply has."""
    if not config.tokens_sigma:
        return config.tokens
    unit = min(max(draw.unit(), 1e-9), 1 - 1e-9)
    return max(1, round(config.tokens * math.exp(config.tokens_sigma * _NORMAL.inv_cdf(unit))))


def _with_control_characters(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_control_characters(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_control_characters(item) for item in value]
    return f"{value}\x05" if isinstance(value, str) else value


def _fill(template: str, call: Call, config: Config, key: str, draw: Draw) -> str:
    """Fill in a template; its {each} part is repeated for every text that the prompt numbers."""

    def repeat(match: re.Match[str]) -> str:
        count = max((int(number) for number in _NUMBERED.findall(call.prompt)), default=1)
        return "".join(match[1].replace("{i}", str(i)) for i in range(1, max(1, count) + 1))

    text = _EACH.sub(repeat, template).replace("{digest}", key[:8])
    while "{score}" in text:
        text = text.replace("{score}", str(draw.integer(1, 5)), 1)
    while "{words}" in text:
        text = text.replace("{words}", draw.words(config.tokens), 1)
    return text


def _stopped(text: str, finish: str, stop: Sequence[str]) -> tuple[str, str]:
    """Cut a text where the first of the stop sequences begins."""
    places = [text.find(sequence) for sequence in stop if sequence and sequence in text]
    return (text[: min(places)], "stop") if places else (text, finish)


def _damage(text: str, finish: str, fault: str) -> tuple[str | None, str]:
    """Apply the faults that spoil a reply's content and leave its envelope well-formed."""
    if fault == "empty":
        return "", finish
    if fault == "null":
        return None, finish
    if fault == "half":
        return text[: len(text) // 2], finish
    if fault == "length":
        return text, "length"
    if fault == "wrong":
        return '{"wrong": true}' if text.startswith("{") else "something else", finish
    if fault == "fenced":
        return f"Here it is:\n```json\n{text}\n```\nI hope it helps.", finish
    if fault == "loose":  # as Python writes it, with a comma too many
        return f"{json.loads(text)!r}".removesuffix("}") + ",}", finish
    if fault == "filtered":
        return text[: len(text) // 2], "filter"
    # The random fault is what a model does that runs into its limit: cut, and it says so.
    return (text[: len(text) // 2], "length") if fault == "content" else (text, finish)


def _tokens(text: str, draw: Draw, top: int) -> list[Token]:
    tokens = []
    for position, word in enumerate(text.split(" ")):
        token = word if position == 0 else " " + word
        value = math.log(0.5 + draw.unit() / 2)
        others = [(" " + draw.words(1), value - 1 - rank) for rank in range(max(0, top - 1))]
        tokens.append(Token(token, value, [(token, value), *others] if top else []))
    return tokens


class Vectors(NamedTuple):
    """Embeddings of one call, as lists or as base64 text, and what they cost."""

    vectors: list[list[float] | str]
    tokens: int


def embed(call: Call, config: Config) -> Vectors:
    """Make a unit vector of each input of an embeddings call."""
    given = call.body["input"]
    several = isinstance(given, list) and bool(given) and isinstance(given[0], str | list)
    inputs = given if several else [given]
    size = int(call.body.get("dimensions") or config.embedding_dim)
    vectors = [_unit_vector(Draw(config.seed, call.model, item), size) for item in inputs]
    is_packed = call.body.get("encoding_format") == "base64"
    tokens = sum(max(1, len(str(item)) // 4) for item in inputs)
    return Vectors([_pack(vector) if is_packed else vector for vector in vectors], tokens)


def _unit_vector(draw: Draw, size: int) -> list[float]:
    vector = [draw.unit() * 2 - 1 for _ in range(size)]
    norm = math.hypot(*vector) or 1.0
    return [value / norm for value in vector]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


class Picture(NamedTuple):
    """An image of one call, as the bytes of a PNG."""

    data: bytes


def draw_picture(call: Call, attempt: int) -> Picture:
    """Make an image of 8 × 8 points of one colour, another for another prompt or attempt."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    colour = bytes([call.key[0], call.key[1], attempt % 256])
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    body = zlib.compress((b"\0" + colour * 8) * 8)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return Picture(b"\x89PNG\r\n\x1a\n" + chunks)
