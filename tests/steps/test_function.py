"""Steps made of functions, in both forms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from distilnb.errors import (
    MissingValueError,
    SpecError,
    StepConnectionError,
    StepRowError,
    UnknownParameterError,
)
from distilnb.rows import Row
from distilnb.spec.columns import Columns
from distilnb.spec.draft import Draft, drafting
from distilnb.spec.graph import Graph
from distilnb.spec.parameters import with_parameters
from distilnb.spec.step import DropRow, GlobalStep, RuntimeParameter, Step
from distilnb.steps import MapRows, as_step, step
from distilnb.steps.typing import GeneratorStepOutput, StepInput, StepOutput


def run(one: Step, *rows: Row) -> list[Row]:
    return [row for batch in one.process(list(rows)) for row in batch]


# --- the form whose parameters are columns ---


@step
def shout(text: str, *, mark: str = "!") -> dict[str, str]:
    """Make it loud."""
    return {"loud": text.upper() + mark}


@step
def words(text: str) -> list[dict[str, str]]:
    return [{"word": word} for word in text.split()]


@step
def sometimes(n: int) -> Any:
    made = [{"m": i} for i in range(n)]
    return made if n != 1 else {"m": 7}


@step
def positive(n: int) -> Any:
    return {"is_positive": True} if n > 0 else None


@step
def longest(rows: list[Row]) -> list[Row]:
    return [row for row in rows if len(row["text"]) > 2]


def test_parameters_are_columns_and_the_dict_is_added() -> None:
    assert run(shout(), {"text": "straße", "id": 1}) == [{"text": "straße", "id": 1, "loud": "STRASSE!"}]
    assert (shout().needed(), shout().made()) == (["text"], ["loud"])
    assert shout.__doc__ == "Make it loud."


def test_what_stands_after_a_star_is_a_setting() -> None:
    assert run(shout(mark="?"), {"text": "a", "mark": "no"}) == [{"text": "a", "mark": "no", "loud": "A?"}]
    with pytest.raises(UnknownParameterError, match="no setting 'marc'") as caught:
        shout(marc="?")
    assert "Did you mean 'mark'?" in caught.value.fix


def test_settings_can_be_given_at_run_time() -> None:
    graph = Graph({"shout": shout(name="shout")})
    changed = with_parameters(graph, {"shout": {"mark": "?"}})
    assert run(changed.steps["shout"], {"text": "a"})[0]["loud"] == "A?"


def test_called_with_values_it_is_the_function() -> None:
    assert shout("hi") == {"loud": "HI!"}


def test_a_list_makes_several_rows() -> None:
    assert run(words(), {"text": "a b"}) == [{"text": "a b", "word": "a"}, {"text": "a b", "word": "b"}]
    assert words().by_row
    assert words().expands()
    assert not shout().by_row


def test_a_function_whose_source_does_not_tell_makes_several_rows_only_when_asked_row_by_row() -> None:
    assert not sometimes().by_row
    assert run(sometimes(), {"n": 2}) == [{"n": 2, "m": 0}, {"n": 2, "m": 1}]
    with pytest.raises(StepRowError, match="made 2 rows of one"):
        run(sometimes(), {"n": 1}, {"n": 2})


def test_none_leaves_the_row_out_for_a_reason() -> None:
    with pytest.raises(DropRow, match="positive returned None"):
        run(positive(), {"n": -1})
    assert run(positive(), {"n": 1}) == [{"n": 1, "is_positive": True}]


@pytest.mark.parametrize("result", ["text", 3, True, [1], [None]])
def test_what_is_no_row_is_an_error(result: object) -> None:
    with pytest.raises(StepRowError, match="Return a dict"):
        run(as_step(lambda row: result), {"a": 1})


def test_a_row_without_the_column_is_named() -> None:
    with pytest.raises(MissingValueError, match="'text' is absent"):
        run(shout(), {"txt": 1})


def test_the_whole_row_is_a_copy() -> None:
    def spoil(row: Row) -> Row:
        row["b"] = 2
        return {}

    given = {"a": 1}
    assert run(as_step(spoil), given) == [{"a": 1}]
    assert given == {"a": 1}


def test_the_whole_batch_keeps_the_identity_of_unchanged_rows() -> None:
    rows: list[Row] = [{"text": "a"}, {"text": "abc"}]
    [kept] = longest().process(rows)
    assert kept[0] is rows[1]


def test_columns_are_open_where_the_source_does_not_tell_them() -> None:
    assert sometimes().columns_after([Columns(("n",))]).is_open
    assert not shout().columns_after([Columns(("text",))]).is_open


def test_a_function_itself_is_a_step_where_one_is_wanted() -> None:
    def twice(n: int) -> dict[str, int]:
        return {"twice": 2 * n}

    assert run(as_step(twice), {"n": 2}) == [{"n": 2, "twice": 4}]
    assert as_step(shout) == shout()
    assert as_step(as_step(shout)) == shout()
    with pytest.raises(SpecError, match="is no step"):
        as_step(3)


def test_the_digest_is_that_of_the_code_and_its_settings() -> None:
    assert shout().digest == shout(name="other").digest
    assert shout().digest != shout(mark="?").digest


# --- the form of 1.x ---


@step(inputs=["instruction"], outputs=["generation"])
def generate(inputs: StepInput, dummy: RuntimeParameter[str]) -> StepOutput:
    for row in inputs:
        row["generation"] = dummy
    yield inputs


@step(inputs=["n"], step_type="global")
def small(inputs: StepInput, limit: RuntimeParameter[int] = 2) -> StepOutput:
    yield [row for row in inputs if row["n"] < limit]


@step(outputs=["n"], step_type="generator")
def numbers(offset: int = 0, n_rows: int = 5) -> GeneratorStepOutput:
    for n in range(offset, n_rows, 2):
        yield [{"n": i} for i in range(n, min(n + 2, n_rows))], n + 2 >= n_rows


@step
def join(*inputs: StepInput) -> StepOutput:
    yield [{**a, **b} for a, b in zip(*inputs, strict=True)]


def test_a_1x_function_takes_and_yields_batches_and_leaves_the_input_alone() -> None:
    given = {"instruction": "i"}
    assert run(generate(name="g", dummy="d"), given) == [{"instruction": "i", "generation": "d"}]
    assert given == {"instruction": "i"}
    assert (generate(dummy="d").needed(), generate(dummy="d").made()) == (["instruction"], ["generation"])


def test_a_setting_without_a_value_is_told_before_the_run() -> None:
    with pytest.raises(SpecError, match="no value for 'dummy'"):
        generate(name="g").check()
    generate(name="g", dummy="d").check()


def test_a_global_function_sees_all_rows() -> None:
    assert isinstance(small(), GlobalStep)
    assert run(small(), {"n": 1}, {"n": 5}) == [{"n": 1}]
    assert run(small(limit=9), {"n": 1}, {"n": 5}) == [{"n": 1}, {"n": 5}]
    with pytest.raises(SpecError, match="sees all rows"):
        step(step_type="global")(lambda n: n)


def test_a_source_of_a_function_starts_at_the_offset_and_renames() -> None:
    source: Any = numbers(name="n", n_rows=5, output_mappings={"n": "number"})
    assert [row["number"] for rows, _ in source.process() for row in rows] == [0, 1, 2, 3, 4]
    assert [row["number"] for rows, _ in source.process(offset=3) for row in rows] == [3, 4]
    assert [last for _, last in source.process()][-1]
    assert source.columns_after([]) == Columns(("number",))


def test_a_source_may_yield_single_rows() -> None:
    @step(step_type="generator")
    def letters() -> Iterator[Row]:
        for letter in "abc":
            yield {"letter": letter}

    source: Any = letters(batch_size=2)
    assert [*source.process(offset=0)] == [
        ([{"letter": "a"}, {"letter": "b"}], False),
        ([{"letter": "c"}], True),
    ]
    assert [*source.process(offset=2)] == [([{"letter": "c"}], True)]


def test_only_a_function_of_several_inputs_joins() -> None:
    [[row]] = join().process([{"a": 1}], [{"b": 2}])
    assert row == {"a": 1, "b": 2}
    join().check_inputs([Columns(("a",)), Columns(("b",))])
    with pytest.raises(StepConnectionError, match="takes rows of one step"):
        shout().check_inputs([Columns(("text",)), Columns(("text",))])


def test_in_a_with_block_the_functions_name_names_the_step() -> None:
    with drafting(Draft()):
        assert [shout().name, shout().name, shout(name="loud").name] == ["shout_0", "shout_1", "loud"]


# --- MapRows ---


def test_map_rows_adds_columns_and_wants_a_dict() -> None:
    assert run(MapRows(function=lambda n: {"n": n + 1}), {"n": 1}) == [{"n": 2}]
    with pytest.raises(StepRowError, match="Return a dict"):
        run(MapRows(function=lambda n: None), {"n": 1})


def test_map_rows_passes_other_columns_by_double_star() -> None:
    assert run(MapRows(function=lambda a, **rest: {"n": len(rest)}), {"a": 1, "b-c": 2}) == [
        {"a": 1, "b-c": 2, "n": 1}
    ]


def test_map_rows_takes_no_function_of_batches() -> None:
    with pytest.raises(SpecError, match="takes whole batches"):
        MapRows(function=lambda rows: {}).check()


@step
def even(n: int) -> Any:
    return {"is_even": n == 0 or odd(n - 1)["is_odd"]}


@step
def odd(n: int) -> Any:
    return {"is_odd": n > 0 and even(n - 1)["is_even"]}


def test_functions_that_name_each_other_have_digests() -> None:
    assert run(even(), {"n": 4}) == [{"n": 4, "is_even": True}]
    assert even().digest == even().digest != odd().digest
