"""Ollama's own chat: options in a dict of their own, counts under names of its own, one error field."""

import base64
import json
import sys

from ..config import Config
from ..faults import Failure
from ..replies import Call, JsonObject, Vectors, Written, call_key
from .frontend import IMAGE_TYPES, FrontEnd, Invalid, Response, as_prompt, refuse_wrong, retry_after, texts

_FREE = {"type": "object", "properties": {"text": {"type": "string"}}}
_STATUS = {
    "400": (400, "invalid request"),
    "401": (401, "unauthorized"),
    "429": (429, "too many requests"),
    "quota": (402, "you have reached your usage limit"),
    "500": (500, "an error was encountered while running the model"),
    "busy": (503, "server busy, please try again. maximum pending requests exceeded"),
    "filter": (400, "the prompt was blocked by the content filter"),
    "context": (400, "input length exceeds the maximum context length"),
}


class Ollama(FrontEnd):
    """The front end at /ollama: POST /api/chat and /api/generate, and GET /api/tags."""

    name = "ollama"

    def endpoint(self, method: str, path: str) -> str:
        if (method, path) == ("GET", "/api/tags"):
            return "models"
        known = {"/api/chat": "chat", "/api/generate": "generate"}
        return known.get(path, "") if method == "POST" else ""

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        # Unknown fields and options are ignored, as by the real server; but it streams unless told not to.
        if body.get("stream") is not False:
            raise Invalid("the mock server does not stream")
        options: JsonObject = body.get("options") or {}
        refuse_wrong(options.get("stop"), list, "option stop")
        messages = body["messages"] if endpoint == "chat" else [{"role": "user", "content": body["prompt"]}]
        for message in messages:
            refuse_wrong(message.get("content"), str, "content")
            for image in message.get("images") or ():
                begin = base64.b64decode(image, validate=True)[:4]
                if not any(begin.startswith(sign[:4]) for sign in IMAGE_TYPES.values()):
                    raise Invalid("invalid image input")
        form = body.get("format")
        prompt = as_prompt(messages) if endpoint == "chat" else body["prompt"]
        return Call(
            path,
            body,
            body["model"],
            prompt,
            call_key(path, body["model"], prompt),
            max_tokens=options.get("num_predict") or sys.maxsize,
            stop=texts(options.get("stop")),
            seed=options.get("seed"),
            form="json" if form == "json" else "json_schema" if form else "",
            schema=_FREE if form == "json" else form or None,
            logprobs=bool(body.get("logprobs")),
            top_logprobs=int(body.get("top_logprobs") or 0),
            sampling=json.dumps(options, sort_keys=True),
        )

    def word(self, call: Call, written: Written | Vectors, config: Config) -> JsonObject:
        assert isinstance(written, Written)
        ((text, finish, tokens),) = written.choices
        body: JsonObject = {
            "model": call.model,
            "created_at": "2023-11-14T22:13:20.000000Z",
            **(
                {"message": {"role": "assistant", "content": text or ""}}
                if call.path.endswith("/chat")
                else {"response": text or ""}
            ),
            "done": True,
            "done_reason": "length" if finish == "length" else "stop",
            "total_duration": 5_000_000,
            "load_duration": 1_000_000,
        }
        if config.usage:
            body |= {"prompt_eval_count": written.prompt_tokens, "eval_count": written.completion_tokens}
        if tokens is not None:
            body["logprobs"] = [
                {
                    "token": t.text,
                    "logprob": t.logprob,
                    "top_logprobs": [_chance(*other) for other in t.others],
                }
                for t in tokens
            ]
        return body

    def fail(self, failure: Failure) -> Response:
        if failure.kind == "route":
            return 404, "404 page not found", {}
        if failure.kind == "404":
            return 404, {"error": f"model '{failure.model}' not found"}, {}
        status, message = _STATUS[failure.kind]
        headers = retry_after(failure.wait_s) if failure.kind == "429" else {}
        return status, {"error": failure.message or message}, headers

    def models(self, path: str, config: Config) -> Response:
        return 200, {"models": [{"name": name, "model": name} for name in config.models]}, {}


def _chance(text: str, logprob: float) -> JsonObject:
    return {"token": text, "logprob": logprob}
