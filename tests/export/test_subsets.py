"""Whatever is done with the subsets as a dict, each is the dataset of its own rows, never what is pending."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import DatasetDict

from distilnb.export.distiset import Distiset
from distilnb.export.subsets import Subsets


def made(**n_rows: int) -> Subsets:
    subsets = Subsets()
    for name, n in n_rows.items():
        subsets.add_rows(name, [{"a": i} for i in range(n)])
    return subsets


def sizes(subsets: Any) -> dict[str, int]:
    assert all(isinstance(value, DatasetDict) for value in subsets.values())
    return {name: len(value["train"]) for name, value in subsets.items()}


def test_it_is_a_dict() -> None:
    assert isinstance(made(a=1), dict)


@pytest.mark.parametrize(
    "update",
    [
        lambda one, other: one.update(other),
        lambda one, other: one.update(dict(other)),
        lambda one, other: one.update(list(other.items())),
        lambda one, other: one.update(**other),
        lambda one, other: one.__ior__(other),
    ],
)
def test_update_sets_the_subsets(update: Any) -> None:
    one = made(a=1, b=2)
    update(one, made(b=3, c=4))
    assert sizes(one) == {"a": 1, "b": 3, "c": 4}
    assert one.n_rows("b") == {"train": 3}


def test_an_update_in_place_keeps_the_object() -> None:
    one = same = made(a=1)
    one |= made(a=2)
    assert one is same
    assert sizes(same) == {"a": 2}


def test_update_takes_the_json_columns_along() -> None:
    mixed = [{"m": [1, "a"]}, {"m": {"b": 2}}]
    one = Distiset.from_rows({"x": [{"m": 1}]})
    one.update(Distiset.from_rows({"x": mixed}))
    assert list(one.rows()) == mixed


def test_a_union_is_a_plain_dict_of_datasets() -> None:
    for union, expected in (
        (made(a=1, b=1) | made(b=2), {"a": 1, "b": 2}),
        (made(a=1) | {}, {"a": 1}),
        ({} | made(a=1), {"a": 1}),
        (dict(made(a=1)) | made(a=2), {"a": 2}),
    ):
        assert type(union) is dict
        assert sizes(union) == expected
    with pytest.raises(TypeError, match="unsupported operand"):
        made(a=1) | [("a", 1)]


def test_popitem_takes_the_last_out() -> None:
    one = made(a=1, b=2)
    name, value = one.popitem()
    assert (name, sizes({name: value}), list(one)) == ("b", {"b": 2}, ["a"])
    one.popitem()
    with pytest.raises(KeyError):
        one.popitem()


def test_setdefault_returns_what_is_there_and_sets_what_is_not() -> None:
    one, other = made(a=1), made(a=2)["a"]
    assert len(one.setdefault("a", other)["train"]) == 1
    assert one.setdefault("b", other) is other
    assert sizes(one) == {"a": 1, "b": 2}


def test_clear_forgets_the_rows_too() -> None:
    one = made(a=1)
    one.clear()
    assert (len(one), one.get("a")) == (0, None)
    with pytest.raises(KeyError):
        one.n_rows("a")
    with pytest.raises(KeyError):
        _ = one["a"]


def test_unequal_is_the_opposite_of_equal() -> None:
    one = made(a=1)
    assert (one != one.copy()) is False
    assert one != made(b=1)
