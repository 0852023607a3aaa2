"""What LiteLLM may not be told by a pipeline from a file, and what its errors may not show."""

from __future__ import annotations

import pytest

from distilnb.errors import SpecError, UnsupportedParameterError
from distilnb.llms.failures import error_of
from distilnb.llms.litellm import LiteLLM

ELSEWHERE = "http://evil.example"


@pytest.mark.parametrize(
    "name",
    [
        "anthropic_identity_token_file",
        "api_base",
        "API_BASE",
        "api_key",
        "api_version",
        "aws_bedrock_runtime_endpoint",
        "azure",
        "azure_ad_token",
        "base_url",
        "client",
        "custom_llm_provider",
        "deployment_id",
        "extra_headers",
        "fallbacks",
        "headers",
        "langfuse_host",
        "litellm_credential_name",
        "model",
        "model_list",
        "newrelic_region",
        "openai_identity_token_file",
        "organization",
        "prompt_id",
        "provider_specific_header",
        "ssl_verify",
        "tenant_id",
        "vertex_credentials",
    ],
)
def test_extra_may_not_say_where_a_request_goes_or_as_whom(name: str) -> None:
    model = LiteLLM(model="groq/m", generation_kwargs={"extra": {"user": "u", name: ELSEWHERE}})
    for refusing in (model.check_parameters, model.make_client):
        with pytest.raises(UnsupportedParameterError, match=f"extra may not hold '{name}'") as caught:
            refusing()
        assert caught.value.fatal
        assert ELSEWHERE not in str(caught.value)


@pytest.mark.parametrize("model", ["huggingface/https://evil.example/v1", "http://evil.example"])
def test_a_models_name_is_no_address(model: str) -> None:
    with pytest.raises(SpecError, match="name holds an address"):
        LiteLLM(model=model).check_parameters()


def test_extra_takes_what_models_take() -> None:
    taken = (
        "anthropic_version",
        "extra_body",
        "frequency_penalty",
        "logit_bias",
        "max_completion_tokens",
        "metadata",
        "min_p",
        "modalities",
        "parallel_tool_calls",
        "prompt_cache_key",
        "reasoning_effort",
        "repetition_penalty",
        "response_format",
        "safety_identifier",
        "service_tier",
        "store",
        "thinking",
        "tool_choice",
        "user",
        "verbosity",
        "web_search_options",
    )
    LiteLLM(model="groq/m", generation_kwargs={"extra": dict.fromkeys(taken, 1)}).check_parameters()


def test_no_key_of_the_environment_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "canary0123456789")
    monkeypatch.setenv("REPLICATE_API_TOKEN", "canary0123456789abc\n")
    monkeypatch.setenv("SHORT_API_KEY", "is")
    target = LiteLLM(model="deepseek/m").target()
    said = b'{"error": {"message": "this is a wrong key: canary0123456789, canary0123456789abc"}}'
    assert str(error_of(401, {}, said, target)).splitlines()[0].endswith("this is a wrong key: ***, ***")
    assert "canary" not in repr(target)
