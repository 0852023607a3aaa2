"""The long tail of providers, through LiteLLM."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from distilnb.errors import MalformedReplyError, SpecError, UnreachableError, UnsupportedParameterError
from distilnb.llms.chat import JSON_MODES, TEXT_MODES, forcing
from distilnb.llms.compatible import OPENAI_PARAMETERS
from distilnb.llms.failures import FILTERED, NO_CREDIT, TOO_LONG, UNKNOWN_MODEL, Meaning, Sign, Target, on
from distilnb.llms.images import for_openai
from distilnb.llms.parameters import Wire, names, on_the_wire
from distilnb.llms.protocol import read_answer
from distilnb.llms.request import Answer, Client, Request
from distilnb.llms.sdk import NO_KEY, Response, SdkClient, SdkLLM, seeded
from distilnb.llms.shape import PROMPT, ReplyShape, told

_LACKS = Meaning(
    UnsupportedParameterError,
    "does not pass on a generation parameter",
    "Leave out what the message names; what only this server knows goes into extra={...}.",
)
# It calls both of these a failure of the server.
_NO_ANSWER = Meaning(UnreachableError, "could not reach the server", "Check that it runs, and the network.")
_GARBLED = Meaning(
    MalformedReplyError, "could not read the answer", "A proxy may stand between, or base_url= is wrong."
)

# What LiteLLM takes beside a request's own fields: where it goes, as whom, by which client. A pipeline from a file
# could send the environment's keys anywhere by them.
_WHERE_AND_AS_WHOM = re.compile(
    r"(?:api|aws|azure|bedrock|bucket|gcs|google|langfuse|langsmith|litellm|mock|oci|proxy|s3|sagemaker|vertex|watsonx)_.*"
    r"|(?:.*_)?(?:api|base|base_url|url|uri|endpoint|host|headers?|auth|credentials?|secret|password|apikey|callbacks?"
    r"|client|fallbacks|fallback_dict|http_handler|proxy|proxies)"
    r"|(?:access_|auth_|ad_|bearer_|id_|refresh_)?token|token_provider|.*_api_(?:base|key|version)|.*_llm_provider"
    r"|base_model|cert|client_.*|deployment_id|hf_model_name|max_retries|messages|model|model_list|num_retries"
    r"|organization|organization_id|project|project_id|provider_specific_header|region|region_name|shared_session"
    r"|space_id|ssl_.*|.*timeout|use_.*proxy|verify"
    r"|_.*|(?:arize|dd|fireworks|milvus|model|newrelic|prompt(?!_cache)|retry|signoz|silent|valkey|weave)_.*"
    r"|(?:anthropic|openai)_(?!beta$|version$).*|.*(?:identity|oauth|clientside_auth|router_config|secret|token_file).*"
    r"|azure|data_residency|fallback_depth|guardrails|logger_fn|search_tool_name|tenant_id",
    re.IGNORECASE,
)

# Of its handlers' methods, and of the function that stands for one: not of what a user forgets to await.
_DROPPED = r"coroutine '(\w+\.a(sync_)?completion\w*|async_completion)' was never awaited"

_NAMES_SECRET = re.compile(r"_(?:API_KEY|APIKEY|ACCESS_KEY|ACCESS_KEY_ID|KEY|TOKEN)$", re.IGNORECASE)
_MIN_SECRET_CHARACTERS = 8  # a shorter value would blank words


class LiteLLM(SdkLLM):
    """A model of any provider that LiteLLM knows, by LiteLLM's name for it ("bedrock/…", "deepseek/deepseek-chat").

    Keys are those that LiteLLM finds in the environment under its providers' names, or `api_key`. With a
    `base_url` the environment's keys are not used. What a provider lacks is told by LiteLLM, at the first
    request. `verbose` prints what LiteLLM sends.

    >>> LiteLLM(model="deepseek/deepseek-chat").label
    'litellm:deepseek/deepseek-chat'
    """

    provider: ClassVar[str] = "litellm"
    title: ClassVar[str] = "LiteLLM"
    package: ClassVar[str] = "litellm"
    extra_name: ClassVar[str] = "litellm"
    takes_images: ClassVar[frozenset[str]] = frozenset({"url", "file"})
    max_n: ClassVar[int | None] = 1
    parameters: ClassVar[Mapping[str, Wire]] = {**OPENAI_PARAMETERS, **names(top_k="top_k")}
    failures: ClassVar[tuple[Sign, ...]] = (
        Sign(_LACKS, code="UnsupportedParamsError"),
        Sign(TOO_LONG, code="ContextWindowExceededError"),
        Sign(FILTERED, code="ContentPolicyViolationError"),
        Sign(FILTERED, on(400), words="flagged as violating|content.?(filter|management|policy)"),
        Sign(NO_CREDIT, code="PaymentRequiredError|BudgetExceededError"),
        Sign(NO_CREDIT, on(429), words="exceeded your current quota|insufficient_quota"),
        Sign(_NO_ANSWER, on(500), words="Connection error|Server disconnected|Cannot connect"),
        Sign(_GARBLED, on(500), words=r"Expecting value: line|Unterminated string|Extra data: line"),
        Sign(UNKNOWN_MODEL, on(400), words="LLM Provider NOT provided|does not exist"),
    )
    not_in_digest: ClassVar[frozenset[str]] = SdkLLM.not_in_digest | {"verbose"}

    verbose: bool = False

    @property
    def is_own(self) -> bool:
        """Whether LiteLLM chooses the server."""
        return not self.base_url

    @property
    def needs_key(self) -> bool:
        """Never for sure: some of its providers run on this machine."""
        return False

    def check_parameters(self) -> None:
        """Raise UnsupportedParameterError for what it lacks, and for `extra` that says where a request goes.

        Raises SpecError for a model's name that is an address: the environment's keys would go there.
        """
        super().check_parameters()
        if "://" in self.model:
            raise SpecError(
                "The model's name holds an address.",
                "Give the address as base_url=, and the name without it.",
            )
        for name in sorted(self.generation_kwargs.get("extra") or {}, key=str):
            if _WHERE_AND_AS_WHOM.fullmatch(str(name)):
                raise UnsupportedParameterError(
                    f"extra may not hold {name!r}: it is no parameter of the model, but says to LiteLLM where a "
                    "request goes, or how.",
                    "Use the fields base_url=, api_key=, timeout= and max_retries=, or the environment variables that "
                    "LiteLLM reads.",
                    provider=self.provider,
                )

    def target(self) -> Target:
        """Return who is asked; which of the environment's keys LiteLLM sends, only it knows: all are secrets."""
        target = super().target()
        known = (value.strip() for name, value in os.environ.items() if _NAMES_SECRET.search(name))
        secrets = {*target.secrets, *(value for value in known if len(value) >= _MIN_SECRET_CHARACTERS)}
        return replace(target, secrets=tuple(sorted(secrets)))

    def shape_modes(self, shape: ReplyShape) -> tuple[str, ...]:
        """Return how the model may be made to keep to a shape."""
        if shape.kind == "json" and shape.schema is None:
            return ("json_object",)
        return JSON_MODES if shape.is_object else TEXT_MODES

    def make_client(self) -> Client:
        """Return a client over LiteLLM; it raises what `check_parameters` does, for callers that did not check."""
        self.check_parameters()
        return _Client(self)


class _Client(SdkClient):
    def __init__(self, llm: LiteLLM) -> None:
        super().__init__(llm)
        self._llm = llm
        self._module: Any = None
        self._known: set[str] = set()  # connections that LiteLLM kept before
        self._made: set[str] = set()

    async def ask(self, request: Request) -> Answer:
        litellm = self.open()
        messages = request.messages
        body = on_the_wire(seeded(self._llm.generation_kwargs, request), self._llm.parameters)
        if request.shape is not None and request.mode != PROMPT:
            body |= forcing(request.shape, request.mode)
            messages = told(messages, request.shape)
        where = {"api_base": self.endpoint, "api_key": self.key} if self.endpoint else {}
        if self.key != NO_KEY:
            where["api_key"] = self.key
        try:
            reply = await litellm.acompletion(
                model=self._llm.model,
                messages=for_openai(messages),
                timeout=self.timeout_s,
                num_retries=0,
                max_retries=0,
                **where,
                **body,
            )
        finally:
            self._made |= litellm.in_memory_llm_clients_cache.cache_dict.keys() - self._known
        return read_answer(reply.model_dump_json().encode(), self.target)

    def response_of(self, error: Exception) -> Response | None:
        import litellm

        if isinstance(error, (litellm.Timeout, litellm.APIConnectionError)):
            return None
        status = getattr(error, "status_code", None)
        if not isinstance(status, int):
            return None
        body = getattr(error, "message", str(error))
        response = getattr(error, "response", None)
        headers = getattr(error, "litellm_response_headers", None) or getattr(response, "headers", None) or {}
        told_error = {"error": {"message": body, "code": type(error).__name__}}
        lower = {str(name).lower(): str(value) for name, value in dict(headers).items()}
        return Response(status, lower, json.dumps(told_error).encode())

    async def close(self) -> None:
        if self._module is None:
            return
        kept = self._module.in_memory_llm_clients_cache.cache_dict
        for name in self._made:  # LiteLLM itself would close those of other threads too
            client = kept.pop(name, None)
            for closing in ("aclose", "close"):
                if client is not None and hasattr(client, closing):
                    await getattr(client, closing)()
                    break
        self._made.clear()
        self._module = None

    def open(self) -> Any:
        if self._module is not None:
            return self._module
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network
        import litellm

        # It makes the coroutine of a request in a thread, and drops it where the request is given up meanwhile.
        warnings.filterwarnings("ignore", _DROPPED, RuntimeWarning)
        litellm.suppress_debug_info = not self._llm.verbose
        litellm.telemetry = False
        self._known = set(litellm.in_memory_llm_clients_cache.cache_dict)
        self._module = litellm
        return litellm
