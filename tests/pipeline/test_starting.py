"""Limits of a run: what makes no sense is told before anything starts."""

from __future__ import annotations

import math

import pytest

from distilnb.errors import InputError
from distilnb.pipeline.starting import check_limits

WHOLE = "Give a whole number above 0, or leave it out."
NUMBER = "Give a number above 0, or leave it out."


@pytest.mark.parametrize("value", [0, -1, True, False, 2.5, 2.0, math.nan, math.inf, "9", [9]], ids=repr)
@pytest.mark.parametrize("limit", ["rows", "max_tokens"])
def test_a_count_is_a_whole_number_above_0(limit: str, value: object) -> None:
    with pytest.raises(InputError) as told:
        check_limits({limit: value})
    assert str(told.value) == f"{limit} is {value!r}.\n{WHOLE}"


@pytest.mark.parametrize("value", [0, -0.5, True, math.nan, math.inf, -math.inf, "9", [9]], ids=repr)
def test_a_cost_is_a_finite_number_above_0(value: object) -> None:
    with pytest.raises(InputError) as told:
        check_limits({"max_cost": value})
    assert str(told.value) == f"max_cost is {value!r}.\n{NUMBER}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rows": None, "max_cost": None, "max_tokens": None, "cache": True},
        {"rows": 1, "max_cost": 1, "max_tokens": 1},
        {"max_cost": 0.01, "max_tokens": 10**12},
    ],
)
def test_limits_that_make_sense_pass(options: dict[str, object]) -> None:
    check_limits(options)
