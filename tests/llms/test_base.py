from __future__ import annotations

import copy
import json
import pickle

import pytest

from distilnb.errors import MissingKeyError, SpecError, UnknownParameterError
from distilnb.llms.base import LLM
from distilnb.llms.openai import OpenAILLM

CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture
def model() -> OpenAILLM:
    return OpenAILLM(model="m", api_key=CANARY, max_retries=2)


def test_a_literal_key_shows_nowhere(model: OpenAILLM) -> None:
    shown = [repr(model), str(model), json.dumps(model.dump()), model.digest, json.dumps(model.identity())]
    assert [text for text in shown if CANARY in text] == []
    assert CANARY.encode() not in pickle.dumps(model)


def test_a_pickled_model_is_the_same_model_without_its_literal_key(model: OpenAILLM) -> None:
    back = pickle.loads(pickle.dumps(model))
    assert back == model
    assert back.api_key is None
    assert model.key() == CANARY


def test_a_copy_in_the_same_process_keeps_the_key(model: OpenAILLM) -> None:
    assert copy.copy(model).key() == copy.deepcopy(model).key() == model.updated(rpm=5).key() == CANARY


def test_an_error_of_construction_names_field_and_near_match() -> None:
    with pytest.raises(UnknownParameterError) as caught:
        LLM(model="m", max_concurency=3)
    assert caught.value.fix == "Did you mean 'max_concurrency'?"
    with pytest.raises(SpecError, match="rpm: Input should be greater than or equal to 1"):
        LLM(model="m", rpm=0)


def test_a_key_of_the_wrong_type_is_refused_and_not_quoted() -> None:
    with pytest.raises(SpecError) as caught:
        OpenAILLM(model="m", api_key=[CANARY])
    assert str(caught.value) == "api_key is of type 'list'.\nGive the key as text."


def test_a_missing_key_names_the_variable() -> None:
    with pytest.raises(MissingKeyError) as caught:
        OpenAILLM(model="gpt-4o-mini").check()
    assert str(caught.value) == (
        "No API key for openai is set.\nSet the environment variable OPENAI_API_KEY, or pass api_key=."
    )


def test_settings_of_transport_and_limits_are_no_part_of_the_digest(model: OpenAILLM) -> None:
    other = model.updated(rpm=3, tpm=9, timeout=1.0, max_concurrency=2, price=(1.0, 2.0), transport="sdk")
    assert other.digest == model.digest
    assert model.updated(generation_kwargs={"temperature": 0.1}).digest != model.digest


@pytest.mark.parametrize(
    "parameters, deterministic",
    [({}, False), ({"temperature": 0}, True), ({"temperature": 0.7}, False), ({"seed": 0}, True)],
)
def test_temperature_zero_and_a_seed_make_a_model_deterministic(
    parameters: dict[str, float], deterministic: bool
) -> None:
    assert OpenAILLM(model="m", generation_kwargs=parameters).is_deterministic is deterministic
