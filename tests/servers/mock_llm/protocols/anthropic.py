"""Anthropic's messages: the system text apart, blocks of content, no choices."""

import json
from typing import Any, ClassVar

from ..config import Config
from ..faults import Failure
from ..replies import Call, JsonObject, Vectors, Written, call_key
from .frontend import (
    FrontEnd,
    Headers,
    Invalid,
    Response,
    as_prompt,
    check_address,
    check_image,
    fields,
    refuse_unknown,
    refuse_wrong,
    retry_after,
    texts,
)

_FIELDS = fields(
    "model messages max_tokens system temperature top_p top_k stop_sequences stream tools tool_choice "
    "metadata thinking service_tier container context_management mcp_servers output_config"
)
_FINISH = {"stop": "end_turn", "length": "max_tokens", "filter": "refusal"}


class Anthropic(FrontEnd):
    """The front end at /anthropic: POST /v1/messages."""

    name = "anthropic"
    _KINDS: ClassVar[dict[str, tuple[int, str, str]]] = {
        "401": (401, "authentication_error", "invalid x-api-key"),
        "500": (500, "api_error", "Internal server error"),
        "busy": (529, "overloaded_error", "Overloaded"),
        "429": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
        "quota": (
            400,
            "invalid_request_error",
            "Your credit balance is too low to access the API. Go to Plans & Billing to purchase credits.",
        ),
        "filter": (400, "invalid_request_error", "Output blocked by content filtering policy"),
        "context": (400, "invalid_request_error", "prompt is too long: 900 tokens > 512 maximum"),
    }

    def endpoint(self, method: str, path: str) -> str:
        return "chat" if (method, path) == ("POST", "/v1/messages") else ""

    def key_in(self, headers: Headers) -> str:
        return headers.get("x-api-key", "") or super().key_in(headers)  # newer SDKs send it as a bearer's

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        refuse_unknown(body, _FIELDS)
        for name in ("model", "messages", "max_tokens"):
            if name not in body:
                raise Invalid(f"{name}: Field required")
        refuse_wrong(body.get("stop_sequences"), list, "stop_sequences")
        if not 0 <= (body.get("temperature") or 0) <= 1:
            raise Invalid("temperature: range: 0..1")
        for number, message in enumerate(body["messages"]):
            if message["role"] not in ("user", "assistant"):
                raise Invalid(f"messages.{number}: Unexpected role {message['role']!r}")
            for block in message["content"] if isinstance(message["content"], list) else ():
                _check_block(block, f"messages.{number}.content")
        schema, tool = _wanted(body)
        prompt = as_prompt([*([{"system": body["system"]}] if body.get("system") else []), *body["messages"]])
        return Call(
            path,
            body,
            body["model"],
            prompt,
            call_key(path, body["model"], prompt),
            max_tokens=body["max_tokens"],
            stop=texts(body.get("stop_sequences")),
            schema=schema,
            tool=tool,
            form="tool" if tool else "json_schema" if schema else "",
            sampling=json.dumps({name: body[name] for name in body if name != "messages"}, sort_keys=True),
        )

    def word(self, call: Call, written: Written | Vectors, config: Config) -> JsonObject:
        assert isinstance(written, Written)
        ((text, finish, _),) = written.choices
        content: list[JsonObject] = [{"type": "text", "text": text}] if text else []
        reason = _FINISH[finish]
        if call.tool is not None and text:
            use = {"type": "tool_use", "id": f"toolu_{written.key[:8]}", "name": call.tool}
            content, reason = [{**use, "input": json.loads(text)}], "tool_use"
        is_stopped = finish == "stop" and any(sequence for sequence in call.stop)
        usage = {"input_tokens": written.prompt_tokens, "output_tokens": written.completion_tokens}
        return {
            "id": f"msg_{written.key}",
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": content,
            "stop_reason": "stop_sequence" if is_stopped else reason,
            "stop_sequence": call.stop[0] if is_stopped else None,
            "usage": usage,
        }

    def fail(self, failure: Failure) -> Response:
        if failure.kind in ("404", "route"):
            status, kind, message = 404, "not_found_error", f"model: {failure.model}"
        elif failure.kind == "400":
            status, kind, message = 400, "invalid_request_error", failure.message
        else:
            status, kind, message = self._KINDS[failure.kind]
        headers = retry_after(failure.wait_s) if failure.kind == "429" else {}
        body = {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_mock"}
        return status, body, {**headers, "request-id": "req_mock"}

    def answer_headers(self, key: str) -> dict[str, str]:
        return {"request-id": f"req_{key[:8]}"}


def _check_block(block: JsonObject, name: str) -> None:
    if block["type"] == "image":
        source = block["source"]
        if source["type"] == "url":
            check_address(source["url"], name)
        elif source["type"] == "base64":
            check_image(source["media_type"], source["data"], name)
        else:
            raise Invalid(f"{name}: source type {source['type']!r}")
    elif block["type"] != "text":
        raise Invalid(f"{name}: type {block['type']!r}")


def _wanted(body: JsonObject) -> tuple[Any, str | None]:
    form = (body.get("output_config") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        return form["schema"], None
    choice = body.get("tool_choice") or {}
    if choice.get("type") in ("tool", "any"):
        for tool in body["tools"]:
            if choice.get("name") in (None, tool["name"]):
                return tool["input_schema"], tool["name"]
    return None, None
