"""OpenAI's chat, completions and embeddings, as any server speaks them: what it does not know, it ignores."""

import base64
import json
import math
import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from ..config import Config
from ..faults import Failure
from ..replies import Call, JsonObject, Picture, Token, Vectors, Written, call_key
from .frontend import (
    FrontEnd,
    Headers,
    Invalid,
    Response,
    as_prompt,
    blank_out,
    check_openai_parts,
    fields,
    refuse_unknown,
    retry_after,
    texts,
)

ENDPOINTS = {
    "/chat/completions": "chat",
    "/completions": "completions",
    "/embeddings": "embeddings",
    "/images/generations": "images/generations",
}
IMAGE_FIELDS = fields(
    "model prompt n size quality style background output_format output_compression moderation response_format "
    "user stream partial_images"
)

_SAMPLING = (
    *("temperature", "top_p", "seed", "stop", "max_tokens", "max_completion_tokens"),
    *("presence_penalty", "frequency_penalty"),
)
_FINISH = {"filter": "content_filter"}

# What the reference lists for a chat; the other providers' front ends take away and add.
CHAT_FIELDS = fields(
    "model messages n max_tokens max_completion_tokens temperature top_p seed stop frequency_penalty "
    "presence_penalty logprobs top_logprobs logit_bias response_format tools tool_choice "
    "parallel_tool_calls stream stream_options user metadata store reasoning_effort service_tier"
)


class OpenAI(FrontEnd):
    """The front end at /v1; `fields` are those that are known, None where any are let through."""

    name = "v1"
    fields: ClassVar[frozenset[str] | None] = None
    seed_field: ClassVar[str] = "seed"
    max_n: ClassVar[int] = 128
    has_jobs: ClassVar[bool] = True  # offline batches, below `prefix`
    prefix: ClassVar[str] = ""

    def endpoint(self, method: str, path: str) -> str:
        if method == "POST":
            return ENDPOINTS.get(path, "")
        return "models" if method == "GET" and path.partition("/")[2].startswith("models") else ""

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        path = f"/{endpoint}" if endpoint != "chat" else "/chat/completions"
        model = str(body.get("model") or config.models[0])
        if endpoint == "images/generations":
            refuse_unknown(body, IMAGE_FIELDS)
            if "gpt-image" in model and "response_format" in body:
                raise Invalid("Unknown parameter: 'response_format'.")
            return self._call(path, model, str(body["prompt"]), body)
        if endpoint != "chat":
            prompt = json.dumps(body["prompt" if endpoint == "completions" else "input"])
            return self._call(path, model, prompt, body)
        if self.fields is not None:
            refuse_unknown(body, self.fields)
        check_openai_parts(body["messages"])
        schema, tool = wanted(body)
        prompt = as_prompt(body["messages"])
        return self._call(
            path, model, prompt, body, schema=schema, tool=tool, texts=guided_texts(body), form=form_of(body)
        )

    def _call(self, path: str, model: str, prompt: str, body: JsonObject, **more: Any) -> Call:
        return Call(
            path,
            body,
            model,
            prompt,
            call_key(path, model, prompt),
            n=max(1, int(body.get("n") or 1)),
            max_tokens=body.get("max_completion_tokens") or body.get("max_tokens") or sys.maxsize,
            stop=texts(body.get("stop")),
            seed=body.get(self.seed_field),
            logprobs=bool(body.get("logprobs")) and path == "/chat/completions",
            top_logprobs=int(body.get("top_logprobs") or 0),
            sampling=json.dumps([body.get(name) for name in _SAMPLING]),
            streams=bool(body.get("stream")) and path == "/chat/completions",
            **more,
        )

    def word(self, call: Call, written: Written | Vectors, config: Config) -> JsonObject:
        if isinstance(written, Vectors):
            return _word_vectors(call, written, config)
        choices = []
        for index, (text, finish, tokens) in enumerate(written.choices):
            choice: JsonObject = {"index": index, "finish_reason": _FINISH.get(finish, finish)}
            choice["logprobs"] = self.word_logprobs(tokens) if tokens is not None else None
            if call.path == "/completions":
                choice["text"] = text or ""
            else:
                choice["message"] = _message(call, written.key, text)
            choices.append(choice)
        body: JsonObject = {
            "id": f"mock-{written.key}",
            "object": "chat.completion" if call.path == "/chat/completions" else "text_completion",
            "created": 1_700_000_000,
            "model": call.model,
            "choices": choices,
        }
        if config.usage:
            body["usage"] = {
                "prompt_tokens": written.prompt_tokens,
                "completion_tokens": written.completion_tokens,
                "total_tokens": written.prompt_tokens + written.completion_tokens,
            }
        return body

    def word_picture(self, call: Call, picture: Picture, config: Config) -> JsonObject | bytes:
        if "gpt-image" not in call.model and call.body.get("response_format") != "b64_json":
            return {"created": 1_700_000_000, "data": [{"url": "https://pictures.example/1.png"}]}
        drawn = {"b64_json": base64.b64encode(picture.data).decode()}
        told: JsonObject = {"created": 1_700_000_000, "data": [drawn]}
        if config.usage:
            told["usage"] = {"input_tokens": 5, "output_tokens": 100, "total_tokens": 105}
        return told

    def word_logprobs(self, tokens: list[Token]) -> JsonObject:
        """Return the log-probabilities of one choice."""
        content = [
            {
                **_chance(token.text, token.logprob),
                "top_logprobs": [_chance(*other) for other in token.others],
            }
            for token in tokens
        ]
        return {"content": content, "refusal": None}

    def fail(self, failure: Failure) -> Response:
        kind, message, model, key, wait_s = failure
        if kind == "401":
            message = f"Incorrect API key provided: {blank_out(key)}."
            return error(401, "invalid_request_error", message, code="invalid_api_key")
        if kind == "404":
            message = f"The model `{model}` does not exist or you do not have access to it."
            return error(404, "invalid_request_error", message, code="model_not_found")
        if kind == "429":
            headers = {**retry_after(wait_s), "retry-after-ms": str(math.ceil(wait_s * 1000))}
            return error(429, "rate_limit_exceeded", message or "injected limit", headers=headers)
        if kind == "quota":
            message = "You exceeded your current quota, please check your plan and billing details."
            return error(429, "insufficient_quota", message, code="insufficient_quota")
        if kind == "filter":
            message = "The prompt was flagged as violating the usage policy."
            return error(400, "invalid_request_error", message, code="content_filter")
        if kind == "context":
            message = "This model's maximum context length is 512 tokens; your messages resulted in 900."
            return error(400, "invalid_request_error", message, code="context_length_exceeded")
        if kind == "route":
            return error(404, "not_found", message)
        if kind == "busy":
            return error(503, "server_error", "The engine is currently overloaded, please try again later.")
        if kind == "500":
            return error(500, "server_error", "injected failure")
        return error(400, "invalid_request_error", message or "injected refusal")

    def models(self, path: str, config: Config) -> Response:
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "mock"} for name in config.models]
        if path == "/models":
            return 200, {"object": "list", "data": data}, {}
        name = path.removeprefix("/models/")
        found = [model for model in data if model["id"] == name]
        return (200, found[0], {}) if found else self.fail(Failure("404", model=name))

    def key_in(self, headers: Headers) -> str:
        return headers.get("Authorization", "").removeprefix("Bearer ")


def error(
    status: int, kind: str, message: str, *, code: str = "", headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error in the shape of OpenAI's API."""
    detail = {"message": message, "type": kind, "param": None, "code": code or kind}
    return status, {"error": detail}, dict(headers or {})


def wanted(body: JsonObject) -> tuple[Any, str | None]:
    """Return the schema that the reply must follow and the tool it calls; None where there is none."""
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        return form.get("json_schema", {}).get("schema", {"type": "object"}), None
    if form.get("type") == "json_object":
        return form.get("schema") or {"type": "object", "properties": {"text": {"type": "string"}}}, None
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


def guided_texts(body: JsonObject) -> tuple[str, ...]:
    """Return the texts that guided decoding (vLLM's) allows; patterns of literals and alternatives only."""
    guided = body.get("structured_outputs") or {}
    pattern = guided.get("regex") or body.get("guided_regex")
    if pattern:
        return tuple(word.strip("^$()?:") for word in pattern.split("|"))
    return tuple(guided.get("choice") or body.get("guided_choice") or ())


def form_of(body: JsonObject) -> str:
    """Return the way in which a request forces a form on the reply; the empty text when it does not."""
    form = body.get("response_format") or {}
    if form.get("type") == "json_object" and "schema" in form:
        return "json_object_schema"
    for name in ("structured_outputs", "guided_json", "guided_regex", "guided_choice"):
        if name in body:
            return name.partition("_")[0] if name.startswith("guided") else name
    if body.get("tools") and body.get("tool_choice") not in (None, "none", "auto"):
        return "tool"
    return str(form.get("type") or "")


def _message(call: Call, key: str, text: str | None) -> JsonObject:
    if call.tool is None or text is None:
        return {"role": "assistant", "content": text, "refusal": None}
    function = {"name": call.tool, "arguments": text}
    tool_call = {"id": f"call_{key[:8]}", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [tool_call]}


def _chance(token: str, logprob: float) -> JsonObject:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _word_vectors(call: Call, found: Vectors, config: Config) -> JsonObject:
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(found.vectors)
    ]
    body: JsonObject = {"object": "list", "data": data, "model": call.model}
    if config.usage:
        body["usage"] = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return body
