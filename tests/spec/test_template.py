"""Templates and expressions: what `tests/tasks/test_prompt.py` and `tests/steps/test_filter.py` do not ask."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from distilnb.errors import MissingValueError, RowError, StepRowError, TemplateError
from distilnb.spec.template import (
    _environment,
    compile_expression,
    compile_template,
    evaluate_expression,
    missing_value,
    render_template,
)


@pytest.mark.parametrize("name", ["dict", "lipsum", "cycler", "joiner", "namespace"])
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


LEAK = "'{0.__init__.__globals__[os].environ[CANARY_KEY]}'"
LEAK_X = LEAK.replace("{0", "{x")


@pytest.mark.parametrize(
    "text",
    [
        "{{ str.format(" + LEAK + ", namespace) }}",
        "{{ str.format_map(" + LEAK_X + ", {'x': namespace}) }}",
        "{{ str.format(" + LEAK + ", range) }}",
        "{{ (str|attr('format'))(" + LEAK + ", namespace) }}",
        "{{ " + LEAK + ".format(namespace) }}",
        "{{ " + LEAK + ".format(str) }}",
        "{{ " + LEAK_X + ".format_map({'x': str}) }}",
        "{{ (" + LEAK + "|attr('format'))(str) }}",
        "{{ " + LEAK + "['format'](str) }}",
        "{{ ([" + LEAK + "]|map(attribute='format')|first)(str) }}",
        "{{ str.__globals__ }}",
        "{{ range.__globals__ }}",
    ],
)
def test_no_function_or_method_of_text_tells_the_environment(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_KEY", "canary-0123456789")
    with pytest.raises((StepRowError, MissingValueError)) as told:
        render_template(text, {"a": 1})
    assert "canary-" not in str(told.value)
    with pytest.raises((StepRowError, MissingValueError)):
        evaluate_expression(
            text.split("}}", maxsplit=1)[0].removeprefix("{{") + " == 'canary-0123456789'", {"a": 1}
        )


def test_nothing_that_a_template_may_call_has_a_public_attribute() -> None:
    from distilnb.spec import template

    offered = template._environment().globals
    assert {"str", "int", "float", "len", "range"} <= offered.keys()
    for name, value in offered.items():
        assert [attribute for attribute in dir(value) if not attribute.startswith("_")] == [], name


def test_types_convert_as_functions() -> None:
    assert evaluate_expression(
        "str(n) == '7' and int('ff', base=16) == 255 and float('1.5') == 1.5", {"n": 7}
    )


@pytest.mark.parametrize("row", [{}, {"c": None}, {"c": float("nan")}])
@pytest.mark.parametrize("text", ["{{ c|default('no') }}", "{{ c | d('no') }}"])
def test_a_default_stands_for_a_column_that_is_empty(text: str, row: dict[str, object]) -> None:
    assert render_template(text, row) == "no"
    assert render_template(text, {"c": "yes"}) == "yes"
    assert evaluate_expression("c|default(0) == 0", row)


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
        ("a % 2 == 0", True),
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
        st.tuples(
            inner,
            st.sampled_from(["==", "!=", "<", ">=", "in", "not in", "+", "-", "*", "%", "/", "//"]),
            inner,
        )
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
        with pytest.raises((TypeError, ValueError, ArithmeticError, UndefinedError)):
            bool(compiled.expression(row))
    else:
        assert bool(compiled.expression(row)) == told


@pytest.mark.parametrize(
    "row", [{"a": "x{{ b }}", "b": "<y>"}, {"a": 3, "b": [True, {}]}, {"a": "x\r\n", "b": 0.5}]
)
@pytest.mark.parametrize(
    "text",
    [
        "Say {{ a }}\r\nto {{b}}!\n",
        "{{\na\t}}{{ a }}{ } % #\n\n",
        "only text\r",
        "",
        "{a} {{ a }} {{b }}",
        "é {{ a }}ü",
    ],
)
def test_text_and_columns_are_put_together_as_jinja_does(text: str, row: dict[str, object]) -> None:
    assert compile_template(text).template is None
    assert render_template(text, row) == _environment().from_string(text).render(row)


@pytest.mark.parametrize(
    "value",
    [
        ["x{{ b }}", 2.5, {}],
        ("x", True, "é"),
        "text",
        {0: "a", 2: "b"},
        [1],
        [None, 1, 2],
        [float("nan"), 1, 2],
        [],
        {"0": "a"},
        7,
    ],
    ids=str,
)
def test_items_of_lists_are_put_in_as_jinja_does(value: object) -> None:
    text = "{{ a[0] }} and\r\n{{a[2]}} of {{ a }}"
    compiled = compile_template(text)
    assert compiled.template is None
    assert compiled.variables == ("a",)
    try:
        told = _environment().from_string(text).render({"a": value})
    except (UndefinedError, MissingValueError):
        with pytest.raises(MissingValueError):
            render_template(text, {"a": value})
    else:
        assert render_template(text, {"a": value}) == told


@pytest.mark.parametrize(
    "text",
    [
        "{{ a[-1] }}",
        "{{ a[0][1] }}",
        "{{ a['b'] }}",
        "{{ a[b] }}",
        "{{ a[:1] }}",
        "{{ a[0].b }}",
        "{{ range[0] }}",
        "{{ a|upper }}",
        "{{ a.b }}",
        "{{ a ~ b }}",
        "{{- a }}",
        "{{ a }}{# note #}",
        "{% raw %}{{ a }}{% endraw %}",
        "{% if a %}{{ a }}{% endif %}",
        "{{ self }}",
        "{{ range }}",
        "{{ none }}",
        "{{ len }}",
        "{{ _a }}",
        "{{ é }}",
    ],
)
def test_whatever_else_a_template_has_is_left_to_jinja(text: str) -> None:
    assert compile_template(text).template is not None


@pytest.mark.parametrize("text", ["{{ a }", "{{ a b }}", "{{ }}", "{{ a }} {{", "{{ a }} %}{% b %}"])
def test_a_broken_template_is_no_plain_one(text: str) -> None:
    with pytest.raises(TemplateError):
        compile_template(text)
