"""From a request to the payload of its reply, without any network."""

import base64
import dataclasses
import hashlib
import json
import math
import re
import statistics
import struct
import sys
from typing import Any, NamedTuple

from .chance import Draw
from .config import Config
from .schema import instance_of

JsonObject = dict[str, Any]

CHAT, COMPLETIONS, EMBEDDINGS = "/chat/completions", "/completions", "/embeddings"

# What a prompt numbers when it asks a judge about several texts: "Text 2", "<response 3>", "[Answer 1]".
_NUMBERED = re.compile(
    r"\b(?:text|response|output|answer|generation|completion|instruction|candidate)[ _#]{0,2}(\d{1,2})\b",
    re.IGNORECASE,
)
_NORMAL = statistics.NormalDist()
_EACH = re.compile(r"\{each\}(.*?)\{/each\}", re.DOTALL)

_SAMPLING = (
    *("temperature", "top_p", "seed", "stop", "max_tokens", "max_completion_tokens"),
    *("presence_penalty", "frequency_penalty"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One request: where it was sent, its body, and what identifies its prompt."""

    path: str
    body: JsonObject
    model: str
    prompt: str
    key: bytes

    @property
    def turn(self) -> int:
        """How many replies of the model the conversation holds already."""
        return sum(message.get("role") == "assistant" for message in self.body.get("messages") or ())

    @property
    def form(self) -> str:
        """The way in which the request forces a form on the reply; the empty text when it does not."""
        wanted = self.body.get("response_format") or {}
        if wanted.get("type") == "json_object" and "schema" in wanted:
            return "json_object_schema"
        for name in ("structured_outputs", "guided_json", "guided_regex", "guided_choice"):
            if name in self.body:
                return name.partition("_")[0] if name.startswith("guided") else name
        if self.body.get("tools") and self.body.get("tool_choice") not in (None, "none", "auto"):
            return "tool"
        return str(wanted.get("type") or "")


class Payload(NamedTuple):
    """A reply's body and its usage; the usage is counted even where the body leaves it out."""

    body: JsonObject
    usage: dict[str, int]


def read_call(path: str, raw: bytes, default_model: str) -> Call:
    """Parse a request's body; raise ValueError, KeyError, TypeError or AttributeError when it is wrong."""
    body: JsonObject = json.loads(raw)
    model = str(body.get("model") or default_model)
    if path == CHAT:
        if not isinstance(body["messages"], list) or not body["messages"]:
            raise TypeError("messages must be a non-empty list")
        prompt = json.dumps(body["messages"], sort_keys=True)
    else:
        prompt = json.dumps(body["prompt" if path == COMPLETIONS else "input"])
    key = hashlib.blake2b(f"{path}\x1f{model}\x1f{prompt}".encode(), digest_size=12).digest()
    return Call(path, body, model, prompt, key)


def make_reply(call: Call, config: Config, attempt: int, fault: str) -> Payload:
    """Return the payload that answers `call`; some faults change its text."""
    if call.path == EMBEDDINGS:
        return _embed(call, config)
    return _complete(call, config, _reply_key(call, config, attempt), fault)


def _reply_key(call: Call, config: Config, attempt: int) -> str:
    """Return what the text of a reply depends on; with `vary`, more than the prompt."""
    if not config.vary:
        return call.key.hex()
    sampling = json.dumps([call.body.get(name) for name in _SAMPLING])
    text = f"{call.key.hex()}\x1f{sampling}\x1f{attempt}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _complete(call: Call, config: Config, key: str, fault: str) -> Payload:
    choices = []
    completion_tokens = 0
    for index in range(1 if config.one_choice else max(1, int(call.body.get("n") or 1))):
        draw = Draw(config.seed, key, "choice", index)
        content, finish = _write(call, config, key, draw)
        text, finish = _damage(content, finish, fault)
        completion_tokens += len((text or "").split())
        choice: JsonObject = {"index": index, "finish_reason": finish, "logprobs": None}
        if call.path == COMPLETIONS:
            choice["text"] = text or ""
        else:
            choice["message"] = _message(call, key, text)
            if config.logprobs and call.body.get("logprobs"):
                top = int(call.body.get("top_logprobs") or 0)
                choice["logprobs"] = _logprobs(text or "", draw, top)
        choices.append(choice)
    prompt_tokens = max(1, len(call.prompt) // 4)
    usage = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    body: JsonObject = {
        "id": f"mock-{key}",
        "object": "chat.completion" if call.path == CHAT else "text_completion",
        "created": 1_700_000_000,
        "model": call.model,
        "choices": choices,
    }
    return Payload({**body, "usage": usage} if config.usage else body, usage)


def _write(call: Call, config: Config, key: str, draw: Draw) -> tuple[str, str]:
    """Return the text of one choice and why it ends."""
    schema, _ = _wanted(call) if call.path == CHAT else (None, None)
    if schema is not None:
        value = instance_of(schema, draw)
        if config.control_characters:  # as xgrammar lets them pass: not escaped
            return json.dumps(_with_control_characters(value)).replace("\\u0005", "\x05"), "stop"
        return json.dumps(value), "stop"
    if (text := _guided_text(call.body, draw)) is not None:
        return text, "stop"
    if template := config.templates.get(call.model):
        return _fill(template, call, config, key, draw), "stop"
    limit = call.body.get("max_completion_tokens") or call.body.get("max_tokens") or sys.maxsize
    wanted = _length(config, draw)
    words = draw.words(min(wanted, limit) - 1)
    return f"{key[:8]} {words}".rstrip(), "length" if limit < wanted else "stop"


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


def _guided_text(body: JsonObject, draw: Draw) -> str | None:
    """Return the text that guided decoding (vLLM's) makes; patterns of literals and alternatives only."""
    guided = body.get("structured_outputs") or {}
    choices = guided.get("choice") or body.get("guided_choice")
    pattern = guided.get("regex") or body.get("guided_regex")
    if pattern:
        choices = [word.strip("^$()?:") for word in pattern.split("|")]
    return str(draw.choice(choices)) if choices else None


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
    # The random fault is what a model does that runs into its limit: cut, and it says so.
    return (text[: len(text) // 2], "length") if fault == "content" else (text, finish)


def _message(call: Call, key: str, text: str | None) -> JsonObject:
    _, tool = _wanted(call)
    if tool is None or text is None:
        return {"role": "assistant", "content": text, "refusal": None}
    function = {"name": tool, "arguments": text}
    tool_call = {"id": f"call_{key[:8]}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [tool_call]}


def _wanted(call: Call) -> tuple[Any, str | None]:
    """Return the schema that the reply must follow and the tool it calls; None where there is none."""
    body = call.body
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return wanted.get("json_schema", {}).get("schema", {"type": "object"}), None
    if wanted.get("type") == "json_object":
        return wanted.get("schema") or {"type": "object", "properties": {"text": {"type": "string"}}}, None
    guided = (body.get("structured_outputs") or {}).get("json") or body.get("guided_json")
    if isinstance(guided, dict | str):
        return (json.loads(guided) if isinstance(guided, str) else guided), None
    tools, choice = body.get("tools") or [], body.get("tool_choice")
    if tools and choice not in (None, "none", "auto"):
        name = choice["function"]["name"] if isinstance(choice, dict) else None
        for function in (tool["function"] for tool in tools):
            if name in (None, function["name"]):
                return function.get("parameters", {"type": "object"}), str(function["name"])
    return None, None


def _logprobs(text: str, draw: Draw, top: int) -> JsonObject:
    content = []
    for position, word in enumerate(text.split(" ")):
        token = word if position == 0 else " " + word
        value = math.log(0.5 + draw.unit() / 2)
        others = [
            {"token": " " + draw.words(1), "logprob": value - 1 - rank, "bytes": None}
            for rank in range(max(0, top - 1))
        ]
        entry: JsonObject = {"token": token, "logprob": value, "bytes": list(token.encode())}
        content.append({**entry, "top_logprobs": [dict(entry), *others] if top else []})
    return {"content": content, "refusal": None}


def _embed(call: Call, config: Config) -> Payload:
    given = call.body["input"]
    several = isinstance(given, list) and bool(given) and isinstance(given[0], str | list)
    inputs = given if several else [given]
    size = int(call.body.get("dimensions") or config.embedding_dim)
    packed = call.body.get("encoding_format") == "base64"
    data = []
    for index, item in enumerate(inputs):
        vector = _unit_vector(Draw(config.seed, call.model, item), size)
        embedding = _pack(vector) if packed else vector
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    tokens = sum(max(1, len(str(item)) // 4) for item in inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    body: JsonObject = {"object": "list", "data": data, "model": call.model}
    return Payload({**body, "usage": usage} if config.usage else body, usage)


def _unit_vector(draw: Draw, size: int) -> list[float]:
    vector = [draw.unit() * 2 - 1 for _ in range(size)]
    norm = math.hypot(*vector) or 1.0
    return [value / norm for value in vector]


def _pack(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
