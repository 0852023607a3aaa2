"""Providers that speak OpenAI's protocol in their own dialect: what they add, lack, and how they fail."""

from typing import ClassVar

from ..config import Config
from ..faults import Failure
from ..replies import Call, JsonObject, Picture, Token
from .frontend import Headers, Invalid, Response, fields, refuse_unknown, refuse_wrong, retry_after, texts
from .openai import CHAT_FIELDS, OpenAI, error

_LOGPROBS = {"logprobs", "top_logprobs"}
_NEWER = {"max_completion_tokens", "store", "metadata", "reasoning_effort", "service_tier"}


class Anyscale(OpenAI):
    """Anyscale Endpoints: OpenAI's fields of 2024, and nothing else."""

    name = "anyscale"
    has_jobs = False
    fields = CHAT_FIELDS - _NEWER | {"schema"}

    def endpoint(self, method: str, path: str) -> str:
        return super().endpoint(method, path.removeprefix("/v1")) if path.startswith("/v1/") else ""

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        if any(isinstance(message["content"], list) for message in body["messages"]):
            raise Invalid("content: str type expected")
        return super().read(endpoint, path, body, config)


class Azure(OpenAI):
    """Azure OpenAI: a path for each deployment, the version in the query, the key in a header of its own."""

    name = "azure"
    has_jobs = False
    fields = CHAT_FIELDS | {"data_sources"}
    _PREFIX: ClassVar[str] = "/openai/deployments/"

    def endpoint(self, method: str, path: str) -> str:
        path, _, query = path.partition("?")
        deployment, slash, rest = path.removeprefix(self._PREFIX).partition("/")
        is_whole = path.startswith(self._PREFIX) and deployment and "api-version=" in query
        return super().endpoint(method, slash + rest) if is_whole else ""

    def key_in(self, headers: Headers) -> str:
        return headers.get("api-key", "")

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        deployment = path.removeprefix(self._PREFIX).partition("/")[0]
        return super().read(endpoint, path, {**body, "model": deployment}, config)

    def fail(self, failure: Failure) -> Response:
        if failure.kind == "401":
            message = (
                "Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a "
                "valid key for an active subscription and use a correct regional API endpoint."
            )
            return 401, {"error": {"code": "401", "message": message}}, {}
        if failure.kind == "404":
            message = "The API deployment for this resource does not exist."
            return 404, {"error": {"code": "DeploymentNotFound", "message": message}}, {}
        if failure.kind == "route":
            return 404, {"error": {"code": "404", "message": "Resource not found"}}, {}
        if failure.kind == "429":
            message = "Requests to this deployment have exceeded the call rate limit of your pricing tier."
            return 429, {"error": {"code": "429", "message": message}}, retry_after(failure.wait_s)
        if failure.kind == "filter":
            detail = {
                "message": "The response was filtered due to the prompt triggering the content policy.",
                "type": None,
                "param": "prompt",
                "code": "content_filter",
                "status": 400,
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
            return 400, {"error": detail}, {}
        return super().fail(failure)

    def answer_headers(self, key: str) -> dict[str, str]:
        return {"apim-request-id": f"apim-{key[:8]}"}


class Groq(OpenAI):
    """Groq: one choice only, no log-probabilities, no penalties."""

    name = "groq"
    prefix = "/openai/v1"
    fields = CHAT_FIELDS
    _NOT_YET: ClassVar[frozenset[str]] = frozenset(
        {*_LOGPROBS, "logit_bias", "frequency_penalty", "presence_penalty"}
    )

    def endpoint(self, method: str, path: str) -> str:
        own = path.removeprefix("/openai/v1")
        return super().endpoint(method, own) if own != path else ""

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        for name in sorted(self._NOT_YET & body.keys()):
            raise Invalid(f"property '{name}' is not supported by this model")
        if (body.get("n") or 1) != 1:
            raise Invalid("'n' : number must be at most 1")
        return super().read(endpoint, path, body, config)

    def fail(self, failure: Failure) -> Response:
        if failure.kind == "401":
            return error(401, "invalid_request_error", "Invalid API Key", code="invalid_api_key")
        if failure.kind == "429":
            message = "Rate limit reached for model on requests per minute (RPM): Limit 30, Used 30."
            headers = retry_after(failure.wait_s)
            return error(429, "requests", message, code="rate_limit_exceeded", headers=headers)
        if failure.kind == "quota":
            message = "Your organization has been blocked due to reaching its spend limit."
            return error(400, "invalid_request_error", message, code="blocked_api_access")
        if failure.kind == "context":
            message = "Please reduce the length of the messages or completion."
            return error(400, "invalid_request_error", message, code="context_length_exceeded")
        return super().fail(failure)

    def answer_headers(self, key: str) -> dict[str, str]:
        return {"x-request-id": f"req_{key[:8]}"}


class Together(OpenAI):
    """Together: more ways to sample, and log-probabilities by their number."""

    name = "together"
    has_jobs = False
    fields = CHAT_FIELDS - _NEWER - {"top_logprobs"} | {
        *("top_k", "min_p", "repetition_penalty", "safety_model", "context_length_exceeded_behavior", "echo")
    }

    def endpoint(self, method: str, path: str) -> str:
        return super().endpoint(method, path.removeprefix("/v1")) if path.startswith("/v1/") else ""

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        refuse_wrong(body.get("logprobs"), int, "logprobs")
        refuse_wrong(body.get("stop"), list, "stop")
        return super().read(endpoint, path, body, config)

    def word_logprobs(self, tokens: list[Token]) -> JsonObject:
        return {
            "token_ids": list(range(len(tokens))),
            "tokens": [token.text for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
        }

    def fail(self, failure: Failure) -> Response:
        if failure.kind == "quota":
            message = "Credit limit exceeded, please navigate to your billing page."
            return error(402, "credit_limit", message, code="credit_limit")
        if failure.kind == "404":
            message = f"Unable to access model {failure.model}. Please visit the list of models."
            return error(404, "invalid_request_error", message, code="model_not_available")
        if failure.kind == "context":
            message = "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 512."
            return error(422, "invalid_request_error", message)
        return super().fail(failure)


class VLLM(OpenAI):
    """vLLM's server: its own sampling parameters, and errors whose code is the status."""

    name = "vllm"
    has_jobs = False
    fields = CHAT_FIELDS | {
        *("top_k", "min_p", "repetition_penalty", "stop_token_ids", "min_tokens", "echo", "guided_json"),
        *("guided_regex", "guided_choice", "structured_outputs", "chat_template_kwargs", "ignore_eos"),
    }

    def endpoint(self, method: str, path: str) -> str:
        return super().endpoint(method, path.removeprefix("/v1")) if path.startswith("/v1/") else ""

    def fail(self, failure: Failure) -> Response:
        if failure.kind == "401":
            return 401, {"error": "Unauthorized"}, {}
        if failure.kind == "404":
            return self._plain(404, "NotFoundError", f"The model `{failure.model}` does not exist.")
        if failure.kind == "context":
            message = "This model's maximum context length is 512 tokens. However, you requested 900 tokens."
            return self._plain(400, "BadRequestError", message)
        return super().fail(failure)

    def _plain(self, status: int, kind: str, message: str) -> Response:
        return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}, {}


class HuggingFace(OpenAI):
    """Hugging Face: its router, and endpoints that run text-generation-inference."""

    name = "huggingface"
    has_jobs = False
    fields = fields(
        "model messages max_tokens temperature top_p seed stop frequency_penalty presence_penalty logprobs "
        "top_logprobs logit_bias response_format tools tool_choice tool_prompt stream stream_options n"
    )

    def endpoint(self, method: str, path: str) -> str:
        if method == "POST" and path.startswith("/models/"):
            return "images/generations"
        return super().endpoint(method, path.removeprefix("/v1")) if path.startswith("/v1/") else ""

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        if endpoint == "images/generations":
            refuse_unknown(body, {"inputs", "parameters"})
            model = path.removeprefix("/models/")
            return self._call("/images/generations", model, str(body["inputs"]), body)
        refuse_wrong(body.get("stop"), list, "stop")
        if (body.get("n") or 1) != 1:
            raise Invalid("n: only one choice is supported")
        return super().read(endpoint, path, body, config)

    def word_picture(self, call: Call, picture: Picture, config: Config) -> JsonObject | bytes:
        return picture.data

    def fail(self, failure: Failure) -> Response:
        if failure.kind == "401":
            return 401, {"error": "Invalid username or password."}, {}
        if failure.kind == "404":
            message = f"The requested model '{failure.model}' does not exist"
            return error(400, "invalid_request_error", message, code="model_not_found")
        if failure.kind == "quota":
            message = "You have exceeded your monthly included credits for Inference Providers."
            return 402, {"error": message}, {}
        if failure.kind == "context":
            message = "Input validation error: `inputs` must have less than 512 tokens. Given: 900"
            return 422, {"error": message, "error_type": "validation"}, {}
        if failure.kind == "busy":
            return 503, {"error": "Model is overloaded", "error_type": "overloaded"}, {}
        return super().fail(failure)


class Mistral(OpenAI):
    """Mistral: another name for the seed, no log-probabilities, errors of two shapes."""

    name = "mistral"
    has_jobs = False
    fields = CHAT_FIELDS - _NEWER - _LOGPROBS - {"seed", "logit_bias", "user", "stream_options"} | {
        *("random_seed", "safe_prompt", "prompt_mode", "metadata", "prediction")
    }
    seed_field = "random_seed"

    def endpoint(self, method: str, path: str) -> str:
        return super().endpoint(method, path.removeprefix("/v1")) if path.startswith("/v1/") else ""

    def read(self, endpoint: str, path: str, body: JsonObject, config: Config) -> Call:
        texts(body.get("stop"))
        return super().read(endpoint, path, body, config)

    def fail(self, failure: Failure) -> Response:
        kind, message, model, _, wait_s = failure
        if kind == "401":
            return 401, {"detail": "Unauthorized"}, {}
        if kind == "404":
            return self._worded(400, "invalid_model", f"Invalid model: {model}", "1500")
        if kind == "429":
            return self._worded(429, "rate_limited", "Rate limit exceeded", "1300", retry_after(wait_s))
        if kind == "quota":
            return 402, {"detail": "You have reached your spending limit."}, {}
        if kind == "context":
            message = "Prompt contains 900 tokens, too large for model with 512 maximum context length"
            return self._worded(400, "invalid_request_prompt", message, "3051")
        if kind == "400":
            detail = [{"type": "extra_forbidden", "loc": ["body"], "msg": message, "input": None}]
            return 422, {"detail": detail}, {}
        return super().fail(failure)

    def _worded(
        self, status: int, kind: str, message: str, code: str, headers: dict[str, str] | None = None
    ) -> Response:
        body = {"object": "error", "message": message, "type": kind, "param": None, "code": code}
        return status, body, headers or {}

    def answer_headers(self, key: str) -> dict[str, str]:
        return {"mistral-correlation-id": f"corr-{key[:8]}"}
