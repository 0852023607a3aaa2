"""What a spec says of wrong values: the field, the reason, the value; never a secret."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from pydantic import Field, SecretStr

from distilnb.errors import SpecError, UnknownParameterError
from distilnb.llms.openai import OpenAILLM
from distilnb.spec.registry import build
from distilnb.spec.step import Step

CANARY = "sk-canary-abcdefghijklmnop1234"
PLAIN = "a-canary-of-no-known-form"


class Login(Step):
    user: str
    password: str = Field(default="", max_length=3)
    access_token: int = 0
    api_keys: list[int] = []
    max_tokens: int = Field(default=1, ge=1)
    options: dict[str, int] = {}
    things: list[int] = []
    secret: SecretStr | None = None


def told(make: Any, **values: Any) -> str:
    """Return all that a user would see of the error, with the errors that caused it."""
    with pytest.raises(SpecError) as caught:
        make(**values)
    return "".join(traceback.format_exception(caught.type, caught.value, caught.tb, chain=True))


@pytest.mark.parametrize(
    "make, values",
    [
        (OpenAILLM, {"api_key": CANARY}),
        (OpenAILLM, {"api_key": PLAIN}),
        (OpenAILLM, {"api_key": PLAIN, "model": "m", "max_concurrency": 0}),
        (OpenAILLM, {"api_key": PLAIN, "model": "m", "apikey": PLAIN}),
        (OpenAILLM, {"api_key": [PLAIN], "model": "m"}),
        (OpenAILLM, {"model": [CANARY]}),
        (OpenAILLM, {"model": "m", "generation_kwargs": [{"api_key": PLAIN}]}),
        (OpenAILLM, {"model": "m", "rpm": {"api_key": PLAIN}}),
        (Login, {"password": PLAIN}),
        (Login, {"user": "u", "password": PLAIN}),
        (Login, {"user": "u", "access_token": PLAIN}),
        (Login, {"user": "u", "api_keys": [PLAIN]}),
        (Login, {"user": "u", "options": {"password": PLAIN}}),
        (Login, {"user": "u", "options": {"a": 1, "password": PLAIN}, "secret": PLAIN}),
        (Login, {"user": "u", "things": [{"password": PLAIN}]}),
        (Login, {"user": "u", "max_tokens": CANARY + "x" * 200}),
        (Login, {"user": "u", "max_tokens": "x" * 60 + " " + CANARY}),
        (Login, {"user": "u", "secret": 7, "password": SecretStr(PLAIN)}),
    ],
)
def test_no_error_shows_a_secret(make: Any, values: dict[str, Any]) -> None:
    text = told(make, **values)
    assert "canary" not in text
    assert (
        f"{make.__name__} cannot be made" in text
        or "has no field 'apikey'" in text
        or "api_key is of" in text
    )


def test_no_error_of_a_file_shows_a_secret() -> None:
    assert "canary" not in told(build, data={"kind": "OpenAILLM", "api_key": PLAIN})


@pytest.mark.parametrize(
    "values, message",
    [
        ({}, "user: Field required"),
        ({"user": 7}, r"user: .* \(got 7\)"),
        ({"user": "u", "max_tokens": 0}, r"max_tokens: .* \(got 0\)"),
        ({"user": "u", "max_tokens": "many"}, r"max_tokens: .* \(got 'many'\)"),
        ({"user": "u", "access_token": 1.5}, r"access_token: .* \(got 1.5\)"),
        ({"user": "u", "things": ["a"]}, r"things.0: .* \(got 'a'\)"),
        ({"user": ["a", "b"]}, r"user: .* \(got \['a', 'b'\]\)"),
        ({"user": None}, r"user: .* \(got None\)"),
    ],
)
def test_an_error_names_the_field_and_shows_a_harmless_value(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Login(**values)


def test_a_missing_field_shows_nothing_of_the_others() -> None:
    with pytest.raises(SpecError) as caught:
        Login(max_tokens=9)
    assert str(caught.value) == "Login cannot be made: user: Field required."


def test_a_long_value_is_cut() -> None:
    with pytest.raises(SpecError) as caught:
        Login(user="u", max_tokens="x" * 500)
    assert len(str(caught.value)) < 250


def test_an_unknown_field_is_told_with_the_near_match_and_without_its_value() -> None:
    with pytest.raises(UnknownParameterError, match="no field 'pasword'") as caught:
        Login(user="u", pasword=PLAIN)
    assert "Did you mean 'password'?" in str(caught.value)
    assert PLAIN not in str(caught.value)
