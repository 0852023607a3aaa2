"""The file of a pipeline: equal pipelines have equal text, and the text can do no harm."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distilnb.errors import (
    DuplicateStepError,
    SourceNotFoundError,
    SpecError,
    UnknownKindError,
    UnknownStepError,
    UnsafeFileError,
)
from distilnb.spec.draft import Draft, drafting
from distilnb.spec.files import PipelineFile, classes_in, code_in, from_text, load, save, to_record, to_text
from distilnb.spec.graph import Graph
from distilnb.spec.inline import Inline
from distilnb.spec.registry import build
from distilnb.spec.step import Step

HEAD = "distilnb: {version: 0.1.0, format: 1}\n"


def double(n):
    return {"twice": n * 2}


class Add(Step):
    amount: int = 1
    inputs = ["n"]

    def process(self, rows):
        yield [{**row, "n": row["n"] + self.amount} for row in rows]


def chain(*steps: dict[str, Any]) -> Graph:
    graph, last = Graph(), []
    for data in steps:
        graph = graph.appending(build(data), last)  # type: ignore[arg-type]
        last = [data["name"]]
    return graph


def source(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"kind": "LoadDataFromDicts", "name": "load", "data": Inline(rows)}


# --- there and back -----------------------------------------------------------

words = st.text(max_size=12)
names = st.text("abcxyz_äß0123456789-", min_size=1, max_size=8)
columns = st.lists(names, min_size=1, max_size=3, unique=True)
values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | words
    | st.binary()
)
rows = st.lists(
    st.dictionaries(words, values | st.lists(values, max_size=2) | st.dates(), max_size=3),
    min_size=1,
    max_size=3,
)
models = st.fixed_dictionaries(
    {"kind": st.just("RehearsalLLM")},
    optional={
        "seed": st.integers(0, 9),
        "generation_kwargs": st.fixed_dictionaries({"temperature": st.floats(0, 2)}),
    },
)
later = st.one_of(
    st.fixed_dictionaries({"kind": st.sampled_from(["KeepColumns", "DropColumns"]), "columns": columns}),
    st.fixed_dictionaries(
        {
            "kind": st.just("RenameColumns"),
            "columns": columns.map(lambda olds: {old: f"new {old}" for old in olds}),
        }
    ),
    st.fixed_dictionaries({"kind": st.just("MergeColumns"), "columns": columns, "output_column": names}),
    st.fixed_dictionaries(
        {"kind": st.just("ExactDedup"), "columns": columns, "input_batch_size": st.integers(1, 99)}
    ),
    st.fixed_dictionaries({"kind": st.just("TakeRows"), "n": st.integers(1, 1000)}),
    st.fixed_dictionaries({"kind": st.just("FilterRows"), "condition": st.just('topic == "ü"\nand not n')}),
    st.fixed_dictionaries(
        {"kind": st.just("TextGeneration"), "llm": models},
        optional={"system_prompt": words, "num_generations": st.integers(1, 4)},
    ),
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A source, steps in a row, and branches out of it."""
    with drafting(None):
        step: Any = build({"kind": "LoadDataFromDicts", "name": draw(names), "data": Inline(draw(rows))})
        graph = Graph().appending(step)
        for data in draw(st.lists(later, max_size=4)):
            name = f"{len(graph.steps)} {draw(names)}"
            after = draw(st.sampled_from(list(graph.steps)))
            made: Any = build({**data, "name": name})
            graph = graph.appending(made, [after])
    return graph


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(graphs(), words, st.sampled_from(["yaml", "json"]))
def test_any_graph_of_built_in_steps_comes_back_equal(
    graph: Graph, description: str, format_: Literal["yaml", "json"]
) -> None:
    file = PipelineFile("p", graph, description, history={"answer": ["digest"]})
    text = to_text(file, format_)
    back = from_text(text)
    assert back.graph.digest == graph.digest
    assert list(back.graph.steps) == list(graph.steps)
    assert back.graph.edges == graph.edges
    assert back == file
    assert to_text(back, format_) == text


def test_rows_with_bytes_and_dates_come_back_exactly() -> None:
    data = [{"kind": "column named kind", "b": b"\x00", "day": dt.date(2020, 1, 1), "n": None, "word": "yes"}]
    back = from_text(to_text(PipelineFile("p", chain(source(data)))))
    assert list(back.graph.steps["load"].data.rows) == data  # type: ignore[attr-defined]


def test_many_rows_are_named_and_not_held() -> None:
    graph = chain(source([{"text": "x" * 1000}] * 400))
    text = to_text(PipelineFile("p", graph))
    back = from_text(text)
    assert len(text) < 2000
    assert back.graph.digest == graph.digest
    assert not back.graph.steps["load"].data.is_here  # type: ignore[attr-defined]


def test_the_default_model_comes_back() -> None:
    model: Any = build({"kind": "RehearsalLLM", "seed": 3})
    assert from_text(to_text(PipelineFile("p", llm=model))).llm == model


def test_a_secret_field_is_not_in_the_file() -> None:
    model: Any = build({"kind": "OpenAILLM", "model": "gpt-4o", "api_key": "canary-secret"})
    text = to_text(PipelineFile("p", llm=model))
    assert "canary" not in text
    assert "gpt-4o" in text


def test_a_secret_in_a_prompt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "canary-0123456789")
    with pytest.raises(UnsafeFileError, match="MY_TOKEN"):
        to_text(PipelineFile("p", description="use canary-0123456789"))


@pytest.mark.parametrize(
    "data, place",
    [
        (
            {"kind": "LoadDataFromHub", "repo_id": "a/b", "storage_options": {"secret": "canary"}},
            "it.storage_options.secret",
        ),
        (
            {
                "kind": "TextGeneration",
                "llm": {
                    "kind": "OpenAILLM",
                    "model": "m",
                    "generation_kwargs": {"extra": {"api_key": "canary"}},
                },
            },
            "it.llm.generation_kwargs.extra.api_key",
        ),
    ],
)
def test_a_text_with_the_name_of_a_secret_is_refused_by_its_path(data: dict[str, Any], place: str) -> None:
    file = PipelineFile("p", chain({**data, "name": "it"}))
    for write in (to_text, to_record):
        with pytest.raises(UnsafeFileError, match=f"'{place}'.*\n.*environment") as told:
            write(file)
        assert "canary" not in str(told.value)


def test_a_text_with_the_name_of_a_secret_in_the_default_model_is_refused() -> None:
    model: Any = build(
        {"kind": "OpenAILLM", "model": "m", "generation_kwargs": {"extra": {"api_key": "canary"}}}
    )
    with pytest.raises(UnsafeFileError, match=r"'llm\.generation_kwargs\.extra\.api_key'"):
        to_text(PipelineFile("p", llm=model))


def test_numbers_columns_and_rows_may_have_the_name_of_a_secret() -> None:
    model = {
        "kind": "OpenAILLM",
        "model": "m",
        "generation_kwargs": {"max_new_tokens": 5, "extra": {"key": 3}},
    }
    graph = chain(
        source([{"token": "word", "key": "a"}]),
        {"kind": "RenameColumns", "name": "rename", "columns": {"token": "text", "key": "instruction"}},
        {"kind": "TextGeneration", "name": "say", "llm": model, "input_mappings": {"key": "text"}},
    )
    file = PipelineFile("p", graph)
    assert from_text(to_text(file)) == file


def test_a_file_is_saved_whole_and_loaded(tmp_path: Path) -> None:
    file = PipelineFile(
        "p", chain(source([{"a": 1}]), {"kind": "KeepColumns", "name": "keep", "columns": ["a"]})
    )
    for name in ("p.yaml", "p.json"):
        save(tmp_path / name, file)
        assert load(tmp_path / name) == file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.json", "p.yaml"]
    json.loads((tmp_path / "p.json").read_text("utf-8"))


def test_the_text_of_a_small_pipeline() -> None:
    graph = chain(source([{"q": "Why?"}]), {"kind": "TakeRows", "name": "take", "n": 1})
    assert json.loads(to_text(PipelineFile("small", graph), "json"))["pipeline"]["connections"] == [
        ["load", "take"]
    ]
    assert "connections:\n    - [load, take]\n" in to_text(PipelineFile("small", graph))


def test_opening_a_file_inside_a_with_block_adds_nothing_to_it() -> None:
    text = to_text(PipelineFile("p", chain(source([{"a": 1}]))))
    draft = Draft()
    with drafting(draft):
        from_text(text)
    assert draft.steps == {}


# --- code ---------------------------------------------------------------------


def with_function() -> str:
    step: Any = build({"kind": "MapRows", "name": "map", "function": double, "made_columns": ["twice"]})
    return to_text(PipelineFile("p", chain(source([{"n": 1}])).appending(step, ["load"])))


def test_a_function_is_shown_and_dead_until_trusted() -> None:
    text = with_function()
    assert [source.strip().splitlines()[0] for source in code_in(text)] == ["def double(n):"]
    dead: Any = from_text(text).graph.steps["map"]
    with pytest.raises(SpecError, match="not trusted"):
        _ = dead.function.live
    live: Any = from_text(text, trust_code=True).graph.steps["map"]
    assert live.function.live(4) == {"twice": 8}
    assert live.digest == dead.digest


def test_a_comment_at_the_end_of_one_part_does_not_seem_to_hide_the_next() -> None:
    entry = {"source": "class A: pass", "digest": "0", "needs": "import os  #"}
    text = json.dumps({"distilnb": {"format": 1}, "pipeline": {}, "classes": {"A": entry}})
    assert code_in(text) == ["import os  #\nclass A: pass"]
    assert classes_in(text) == ["A"]


def test_trusted_code_is_saved_as_it_was_opened() -> None:
    text = with_function()
    assert to_text(from_text(text, trust_code=True)) == text


def test_a_class_of_the_user_needs_trust_or_the_class() -> None:
    graph = chain(source([{"n": 1}])).appending(Add(name="add", amount=5), ["load"])
    text = to_text(PipelineFile("p", graph))
    with pytest.raises(UnsafeFileError, match="'Add'"):
        from_text(text)
    assert from_text(text, classes=[Add]).graph.digest == graph.digest
    made: Any = from_text(text, trust_code=True).graph.steps["add"]
    assert [*made.process([{"n": 1}])] == [[{"n": 6}]]
    assert to_text(from_text(text, trust_code=True)) == text


def test_untrusted_text_runs_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    evil = {"source": f"class KeepColumns: open({str(mark)!r}, 'w')", "digest": "0"}
    document = {
        "distilnb": {"format": 1},
        "pipeline": {
            "name": "p",
            "steps": [
                {"kind": "KeepColumns", "name": "k", "columns": ["a"]},
                {"kind": "MapRows", "name": "m", "function": {"code": "f", **evil}},
            ],
        },
        "classes": {"KeepColumns": evil},
    }
    back = from_text(json.dumps(document))
    assert type(back.graph.steps["k"]).__module__ == "distilnb.steps.columns"
    assert not mark.exists()


# --- what is no such file -----------------------------------------------------


@pytest.mark.parametrize(
    "text,error,told",
    [
        ("just words", SpecError, "no mapping"),
        ("pipeline: {}", SpecError, "format None"),
        ("distilnb: {format: 9}\npipeline: {}", SpecError, "format 9"),
        ("distilabel: {version: 1.5.3}\npipeline: {}", SpecError, "distilabel"),
        (HEAD + "pipeline: {}\nimports: [os]", UnsafeFileError, "imports"),
        (HEAD + "pipeline: {stepz: []}", UnsafeFileError, "steps"),
        (HEAD + "pipeline: {steps: [{name: x}]}", SpecError, "kind"),
        (HEAD + "pipeline: {steps: {}, connections: 3}", SpecError, "pairs"),
        (HEAD + "pipeline: {steps: [{kind: KeepColumn, name: k}]}", UnknownKindError, "KeepColumns"),
        (HEAD + "pipeline: {steps: [{kind: 'os:system', name: k}]}", UnknownKindError, "os:system"),
        (HEAD + "pipeline: {steps: [{kind: RehearsalLLM}]}", SpecError, "no step"),
        (HEAD + "pipeline: {steps: [{kind: TakeRows, n: 1}]}", SpecError, "no name"),
        (HEAD + "pipeline: {steps: [], connections: [[a, b]]}", UnknownStepError, "'a'"),
        (
            HEAD + "pipeline: {steps: [{kind: TakeRows, name: t, n: 1}, {kind: TakeRows, name: t, n: 1}]}",
            DuplicateStepError,
            "'t'",
        ),
        (HEAD + "pipeline: {}\nclasses: [A]", SpecError, "classes"),
        ("{" * 100_000, UnsafeFileError, "nested"),
        ('{"distilnb":' * 50_000, UnsafeFileError, "nested"),
    ],
)
def test_a_wrong_file_is_told_by_what_is_wrong(text: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        from_text(text)


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match="cannot be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="UTF-8"):
        load(tmp_path / "binary")
