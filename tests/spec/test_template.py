"""Templates and expressions: what `tests/tasks/test_prompt.py` and `tests/steps/test_filter.py` do not ask."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from distilnb.errors import MissingValueError, RowError, StepRowError
from distilnb.spec.template import (
    compile_expression,
    compile_template,
    evaluate_expression,
    missing_value,
    render_template,
)


@pytest.mark.parametrize("name", ["dict", "lipsum", "cycler", "joiner"])
def test_names_that_jinja_offers_for_web_pages_are_columns(name: str) -> None:
    assert compile_template("{{ " + name + " }}").variables == (name,)


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ a.append(1) }}",
        "{{ a.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(a) }}",
    ],
)
def test_the_sandbox_lets_a_template_neither_out_nor_change_a_row(text: str) -> None:
    row = {"a": [1]}
    with pytest.raises((StepRowError, MissingValueError)):
        render_template(text, row)
    assert row == {"a": [1]}


def test_an_error_in_a_template_is_one_of_the_row() -> None:
    with pytest.raises(StepRowError, match="ZeroDivisionError"):
        render_template("{{ 1 / a }}", {"a": 0})


def test_a_column_named_row_wins_over_the_whole_row() -> None:
    assert evaluate_expression("row > 3", {"row": 4})
    assert evaluate_expression("row['a b'] == 1", {"a b": 1})


def test_plain_functions_can_be_called() -> None:
    assert evaluate_expression("max(ratings) - min(ratings) >= 2 and any(ratings)", {"ratings": [1, 3]})


def test_the_missing_column_is_named_with_the_near_match() -> None:
    assert missing_value("txt", {"text": 1}).fix == "Did you mean 'text'?"


def test_jinja_is_imported_only_when_something_is_compiled() -> None:
    import subprocess

    modules = "distilnb.spec.template, distilnb.tasks.prompt, distilnb.steps.filter"
    code = f"import sys, {modules}; print('jinja2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    "text, is_quick",
    [
        ("a > 1 and not (b == 'x' or c in [1, 2])", True),
        ("len(a) > 1", False),
        ("a.b", False),
        ("row['a']", False),
        ("a|int", False),
    ],
)
def test_only_columns_constants_and_comparisons_are_evaluated_without_the_sandbox(
    text: str, is_quick: bool
) -> None:
    assert (compile_expression(text).quick is not None) == is_quick


VALUES = st.none() | st.integers(-2, 2) | st.sampled_from(["", "x", 1.5, True]) | st.just([1, 2])
LEAVES = st.sampled_from(["a", "b", "c", "1", "'x'", "none", "[1, 'x']"])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["==", "!=", "<", ">=", "in", "not in"]), inner)
        .map(" ".join)
        .map("({})".format),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join).map("({})".format),
        inner.map("(not {})".format),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS, st.dictionaries(st.sampled_from("abc"), VALUES))
def test_the_quick_form_means_what_jinja_means(text: str, row: dict[str, object]) -> None:
    compiled = compile_expression(text)
    assert compiled.quick is not None
    try:
        told = evaluate_expression(text, row)
    except RowError:
        with pytest.raises((TypeError, UndefinedError)):
            bool(compiled.expression(row))
    else:
        assert bool(compiled.expression(row)) == told
