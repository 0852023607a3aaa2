"""Cohere's chat, version 2: short names for sampling, content in parts, usage told twice."""

import json
import sys
from typing import ClassVar

from ..config import Config
from ..faults import Failure
from ..replies import Call, JsonObject, Token, Vectors, Written, call_key
from .frontend import (
    FrontEnd,
    Response,
    as_prompt,
    check_openai_parts,
    fields,
    refuse_unknown,
    refuse_wrong,
    retry_after,
    texts,
)

_FIELDS = fields(
    "model messages stream max_tokens stop_sequences temperature seed frequency_penalty presence_penalty "
    "k p logprobs response_format tools strict_tools tool_choice documents citation_options safety_mode "
    "raw_prompting thinking priority"
)
_FINISH = {"stop": "COMPLETE", "length": "MAX_TOKENS", "filter": "ERROR"}


class Cohere(FrontEnd):
    """The front end at /cohere: POST /v2/chat."""

    name = "cohere"
    _KINDS: ClassVar[dict[str, tuple[int, str]]] = {
        "401": (401, "invalid api token"),
        "429": (429, "You are past the per minute request limit, please wait and try again later."),
        "quota": (402, "Please add or update your payment method to continue."),
        "500": (500, "internal server error"),
        "busy": (503, "service unavailable"),
        "filter": (498, "Your request was blocked by a content filter."),
        "context": (400, "too many tokens: size limit exceeded by 388 tokens."),
    }

    def endpoint(self, method: str, path: str) -> str:
        return "chat" if (method, path) == ("POST", "/v2/chat") else ""

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        refuse_unknown(body, _FIELDS)
        refuse_wrong(body.get("logprobs"), bool, "logprobs")
        refuse_wrong(body.get("stop_sequences"), list, "stop_sequences")
        check_openai_parts(body["messages"])
        prompt = as_prompt(body["messages"])
        form = body.get("response_format") or {}
        schema = None
        if form.get("type") == "json_object":
            free = {"type": "object", "properties": {"text": {"type": "string"}}}
            schema = form.get("json_schema") or form.get("schema") or free
        return Call(
            path,
            body,
            body["model"],
            prompt,
            call_key(path, body["model"], prompt),
            max_tokens=body.get("max_tokens") or sys.maxsize,
            stop=texts(body.get("stop_sequences")),
            seed=body.get("seed"),
            schema=schema,
            form="json_schema" if form.get("json_schema") else str(form.get("type") or ""),
            logprobs=bool(body.get("logprobs")),
            sampling=json.dumps({name: body[name] for name in body if name != "messages"}, sort_keys=True),
        )

    def word(self, call: Call, written: Written | Vectors, config: Config) -> JsonObject:
        assert isinstance(written, Written)
        ((text, finish, tokens),) = written.choices
        is_stopped = finish == "stop" and bool(call.stop)
        content = [{"type": "text", "text": text}] if text is not None else []
        body: JsonObject = {
            "id": f"mock-{written.key}",
            "finish_reason": "STOP_SEQUENCE" if is_stopped else _FINISH[finish],
            "message": {"role": "assistant", "content": content},
        }
        if config.usage:
            counts = {"input_tokens": written.prompt_tokens, "output_tokens": written.completion_tokens}
            # Cohere counts its own frame around the messages too, and bills only for what was sent.
            spent = {**counts, "input_tokens": written.prompt_tokens + 500}
            body["usage"] = {"billed_units": counts, "tokens": spent}
        if tokens is not None:
            body["logprobs"] = [_chance(token, place) for place, token in enumerate(tokens)]
        return body

    def fail(self, failure: Failure) -> Response:
        if failure.kind in ("404", "route"):
            return (
                404,
                {"message": f"model '{failure.model}' not found, make sure the correct ID was used."},
                {},
            )
        if failure.kind == "400":
            return 422, {"message": failure.message}, {}
        status, message = self._KINDS[failure.kind]
        headers = retry_after(failure.wait_s) if failure.kind == "429" else {}
        return status, {"message": message}, headers


def _chance(token: Token, place: int) -> JsonObject:
    return {"text": token.text, "token_ids": [place], "logprobs": [token.logprob]}
