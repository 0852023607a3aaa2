"""What a function's parameters and source tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from distilnb.errors import MissingValueError, SpecError
from distilnb.spec.signature import is_only_docstring, literal_columns, returns_several, signature_of
from distilnb.spec.step import RuntimeParameter, StepInput


def everything(text: str, language: str = "en", *, limit: int = 3, **rest: object) -> list[object]:
    return [text, language, limit, sorted(rest)]


def batch(inputs: StepInput, size: RuntimeParameter[int] = 3) -> None: ...


def test_each_parameter_has_its_meaning() -> None:
    found = signature_of(everything)
    assert (found.columns, found.optional_columns, found.settings) == (("text",), ("language",), ("limit",))
    assert (found.takes_rest, found.takes_row, found.batch) == (True, False, "")
    assert signature_of(batch).batch == "inputs"
    assert signature_of(batch).settings == ("size",)
    assert signature_of(lambda *batches: None).takes_several
    assert signature_of(lambda row: None).takes_row


def test_calling_passes_columns_settings_and_the_rest() -> None:
    found = signature_of(everything)
    row = {"text": "a", "language": "de", "x-y": 1}
    assert found.call(everything, row, {"limit": 9}) == ["a", "de", 9, ["x-y"]]
    with pytest.raises(MissingValueError, match="'text' is absent"):
        found.call(everything, {"txt": 1}, {})


def test_positional_only_parameters_are_passed_by_position() -> None:
    def double(n: int, /, *, by: int = 2) -> int:
        return n * by

    assert signature_of(double).call(double, {"n": 4}, {"by": 3}) == 12
    assert signature_of(str.upper).call(str.upper, {"self": "a"}, {}) == "A"


def test_a_function_without_a_signature_is_refused() -> None:
    with pytest.raises(SpecError, match="are unknown"):
        signature_of(dict)


@pytest.mark.parametrize(
    "source, columns",
    [
        ("def f(a):\n return {'b': 1, 'c': 2}", ["b", "c"]),
        ("def f(a):\n if a:\n  return {'b': 1}\n return None", ["b"]),
        ("def f(a):\n if a:\n  return {'b': 1}\n return {'c': 1}", ["b", "c"]),
        ("def f(a):\n return [{'b': x} for x in a]", ["b"]),
        ("def f(a):\n for x in a:\n  yield {'b': x}", ["b"]),
        ("def f(a):\n def g():\n  return {'x': 1}\n return {'b': g()}", ["b"]),
        ("def f(a):\n return {**a}", None),
        ("def f(a):\n return {a: 1}", None),
        ("def f(a):\n return g(a)", None),
        ("def f(a): pass", None),
        ("x = lambda a: {'b': 1}", None),
        ("def f(:", None),
    ],
)
def test_the_columns_are_read_off_the_source_only_where_it_is_sure(
    source: str, columns: list[str] | None
) -> None:
    assert literal_columns(source) == columns


def yields(a: object) -> Any:
    yield a


def annotated(a: object) -> Iterator[dict[str, int]]:
    return iter(())


def opaque(a: object) -> Any:
    return a


@pytest.mark.parametrize(
    "function, source, several",
    [
        (yields, "", True),
        (annotated, "", True),
        (opaque, "", False),
        (opaque, "def f(a):\n return [a]", True),
    ],
)
def test_whether_several_rows_come_out(function: Callable[..., Any], source: str, several: bool) -> None:
    assert returns_several(function, source) is several


def test_a_body_may_be_only_a_docstring() -> None:
    assert is_only_docstring('def f(a):\n "Say {{ a }}."')
    assert is_only_docstring('def f(a):\n "Say {{ a }}."\n ...')
    assert not is_only_docstring('def f(a):\n "Say {{ a }}."\n return {}')
    assert not is_only_docstring("lambda a: 1")
