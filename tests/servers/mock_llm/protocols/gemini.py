"""Google's generateContent, as Gemini's API and Vertex AI speak it: the model in the path, candidates, parts."""

import json
import re
import sys
from typing import Any, ClassVar

from ..config import Config
from ..faults import Failure
from ..replies import Call, JsonObject, Token, Vectors, Written, call_key
from .frontend import (
    FrontEnd,
    Headers,
    Invalid,
    Response,
    as_prompt,
    check_image,
    fields,
    refuse_unknown,
    refuse_wrong,
    texts,
)

_PATH = re.compile(
    r"/v1(?:beta1?)?/(?:projects/[^/]+/locations/[^/]+/)?(?:publishers/google/)?models/([^/:]+):generateContent"
)
_FIELDS = fields(
    "contents systemInstruction generationConfig safetySettings tools toolConfig cachedContent labels"
)
_GENERATION_FIELDS = fields(
    "maxOutputTokens temperature topP topK stopSequences seed presencePenalty frequencyPenalty "
    "candidateCount responseLogprobs logprobs responseMimeType responseSchema responseJsonSchema "
    "thinkingConfig responseModalities mediaResolution speechConfig"
)
_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "filter": "SAFETY"}
_FREE = {"type": "object", "properties": {"text": {"type": "string"}}}
_MAX_CANDIDATES = 8


class Gemini(FrontEnd):
    """The front end at /gemini: POST …/models/NAME:generateContent, with a key or a token of Google's."""

    name = "gemini"
    _KINDS: ClassVar[dict[str, tuple[int, str, str]]] = {
        "429": (429, "RESOURCE_EXHAUSTED", "Resource exhausted. Please try again later."),
        "500": (500, "INTERNAL", "An internal error has occurred. Please retry."),
        "busy": (503, "UNAVAILABLE", "The model is overloaded. Please try again later."),
        "context": (
            400,
            "INVALID_ARGUMENT",
            "The input token count (900) exceeds the maximum number of tokens allowed (512).",
        ),
    }

    def endpoint(self, method: str, path: str) -> str:
        return "chat" if method == "POST" and _PATH.fullmatch(path) else ""

    def key_in(self, headers: Headers) -> str:
        return headers.get("x-goog-api-key") or super().key_in(headers)

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        refuse_unknown(body, _FIELDS)
        options: JsonObject = body.get("generationConfig") or {}
        refuse_unknown(options, _GENERATION_FIELDS, "generationConfig.")
        refuse_wrong(options.get("stopSequences"), list, "stopSequences")
        refuse_wrong(options.get("responseLogprobs"), bool, "responseLogprobs")
        if not 1 <= (options.get("candidateCount") or 1) <= _MAX_CANDIDATES:
            raise Invalid(f"candidateCount must be in the range [1, {_MAX_CANDIDATES}]")
        for content in body["contents"]:
            if content.get("role", "user") not in ("user", "model"):
                raise Invalid("Please use a valid role: user, model.")
            for part in content["parts"]:
                if "inlineData" in part:
                    blob = part["inlineData"]
                    # As the JSON of protocol buffers has it: either name of a field, either alphabet of base64.
                    data = blob["data"].translate(str.maketrans("-_", "+/"))
                    check_image(blob.get("mimeType") or blob["mime_type"], data, "inlineData")
                elif "text" not in part:
                    raise Invalid(f"Unknown name {sorted(part)} at 'contents[0].parts[0]'")
        model = (_PATH.fullmatch(path) or [path, ""])[1]
        prompt = as_prompt(
            [*([body["systemInstruction"]] if "systemInstruction" in body else []), *body["contents"]]
        )
        schema: Any = options.get("responseJsonSchema") or options.get("responseSchema")
        if schema is None and options.get("responseMimeType") == "application/json":
            schema = _FREE
        return Call(
            "generateContent",
            body,
            model,
            prompt,
            call_key("generateContent", model, prompt),
            n=options.get("candidateCount") or 1,
            max_tokens=options.get("maxOutputTokens") or sys.maxsize,
            stop=texts(options.get("stopSequences")),
            seed=options.get("seed"),
            schema=schema,
            form="json_object" if schema is _FREE else "json_schema" if schema else "",
            logprobs=bool(options.get("responseLogprobs")),
            top_logprobs=int(options.get("logprobs") or 0),
            sampling=json.dumps(options, sort_keys=True),
        )

    def word(self, call: Call, written: Written | Vectors, config: Config) -> JsonObject:
        assert isinstance(written, Written)
        candidates = []
        for index, (text, finish, tokens) in enumerate(written.choices):
            parts = [{"text": text}] if text is not None else []
            candidate: JsonObject = {"content": {"role": "model", "parts": parts}}
            candidate |= {"finishReason": _FINISH[finish], "index": index}
            if tokens is not None:
                candidate["logprobsResult"] = _chances(tokens)
            candidates.append(candidate)
        body: JsonObject = {"candidates": candidates, "modelVersion": call.model, "responseId": written.key}
        if config.usage:
            body["usageMetadata"] = {
                "promptTokenCount": written.prompt_tokens,
                "candidatesTokenCount": written.completion_tokens,
                "totalTokenCount": written.prompt_tokens + written.completion_tokens,
            }
        return body

    def fail(self, failure: Failure) -> Response:
        kind, message, model, _, wait_s = failure
        if kind == "filter":  # the one failure with a good status
            return 200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "modelVersion": model}, {}
        if kind == "401":
            reason = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}]
            return _error(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.", reason)
        if kind in ("404", "route"):
            return _error(404, "NOT_FOUND", f"models/{model} is not found for API version v1beta.")
        if kind == "400":
            return _error(400, "INVALID_ARGUMENT", f"Invalid JSON payload received. {message}")
        if kind == "quota":
            quota = {"@type": "type.googleapis.com/google.rpc.QuotaFailure"}
            violation = {"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "50"}
            message = "You exceeded your current quota, please check your plan and billing details."
            return _error(429, "RESOURCE_EXHAUSTED", message, [{**quota, "violations": [violation]}])
        details = []
        if kind == "429":
            retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{wait_s:g}s"}
            details = [retry]
        return _error(*self._KINDS[kind], details)


def _error(status: int, name: str, message: str, details: list[JsonObject] | None = None) -> Response:
    body: JsonObject = {"code": status, "message": message, "status": name}
    return status, {"error": {**body, "details": details} if details else body}, {}


def _chances(tokens: list[Token]) -> JsonObject:
    chosen = [
        {"token": t.text, "tokenId": place, "logProbability": t.logprob} for place, t in enumerate(tokens)
    ]
    top = [
        {
            "candidates": [
                {"token": text, "tokenId": 0, "logProbability": value} for text, value in token.others
            ]
        }
        for token in tokens
    ]
    return {"chosenCandidates": chosen, "topCandidates": top}
