"""The verbs and the step classes: the columns that each makes, and what a pipeline of them is.

One table has a row for each verb, one a row for each step class of the registry; columns are compared with
literal ones (those that users of distilabel 1.x know, and ours).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from datasets import Dataset
from huggingface_hub import HfApi

import distilnb as dn
from distilnb import Pipeline
from distilnb.errors import NoRowsError, SpecError
from distilnb.llms import OpenAILLM, RehearsalLLM
from distilnb.spec.registry import STEPS, TASKS
from distilnb.steps import (
    CombineOutputs,
    DropColumns,
    ExactDedup,
    ExpandColumns,
    FilterRows,
    FormatTextGenerationDPO,
    FormatTextGenerationSFT,
    GroupColumns,
    KeepColumns,
    LoadDataFromDicts,
    LoadDataFromDisk,
    LoadDataFromFileSystem,
    LoadDataFromHub,
    MapRows,
    MergeColumns,
    RenameColumns,
    RouteRows,
    Step,
    StepInput,
    TakeRows,
)
from distilnb.steps.best import BestGeneration
from distilnb.tasks import (
    EmbeddingGeneration,
    ImageGeneration,
    Magpie,
    MagpieRows,
    PrometheusEval,
    TextGeneration,
    TextGenerationWithImage,
    UltraFeedback,
)
from tests.llms.conformance.test_images import PNG
from tests.servers import fake_hub

ROWS: list[dict[str, Any]] = [
    {"instruction": "Name two fish.", "topic": "sea", "answers": ["Cod", "Eel"]},
    {"instruction": "Name a wind.", "topic": "air", "answers": ["Mistral"]},
    {"instruction": "Name a bird.", "topic": "air", "answers": ["Kite", "Owl", "Wren"]},
]
COLUMNS = ["instruction", "topic", "answers"]
RATED: list[dict[str, Any]] = [
    {
        "instruction": "Say hi.",
        "generations": ["Hi.", "No.", "Hello!"],
        "generation_models": ["a", "b", "c"],
        "ratings": [4, 1, 5],
    }
]
PAIR = [
    "prompt",
    "prompt_id",
    "chosen",
    "chosen_model",
    "chosen_rating",
    "rejected",
    "rejected_model",
    "rejected_rating",
]
MODELS = [RehearsalLLM(model="one"), RehearsalLLM(model="two", seed=2)]


@dn.task
def keywords(reply: str) -> dict[str, list[str]]:
    """List the keywords of {{ instruction }}."""
    return {"keywords": reply.split()}


@dn.step
def shout(topic: str, *, mark: str = "!") -> dict[str, str]:
    return {"loud": topic.upper() + mark}


@dn.step(inputs=["topic"], outputs=["n"], step_type="global")
def number(rows: StepInput) -> Any:
    yield [{**row, "n": n} for n, row in enumerate(rows)]


@dn.step(outputs=["n"], step_type="generator")
def counter(*, end: int = 3) -> Any:
    yield [{"n": n} for n in range(end)], True


def count(instruction: str) -> dict[str, int]:
    return {"length": len(instruction)}


def load() -> Pipeline:
    return Pipeline("verbs", llm="rehearsal").from_dicts(ROWS)


def rated() -> Pipeline:
    return Pipeline("verbs", llm="rehearsal").from_dicts(RATED)


def mapped_by_a_lambda(_: Path) -> Pipeline:
    return load().map(lambda row: {"all": len(row)})


def filtered_by_a_lambda(_: Path) -> Pipeline:
    return load().filter(lambda answers: len(answers) > 1)


def two_branches() -> Pipeline:
    return load() >> [
        MapRows(name="left", function=lambda topic: {"side": topic + "-left"}, made_columns=["side"]),
        MapRows(name="right", function=lambda topic: {"side": topic + "-right"}, made_columns=["side"]),
    ]


def with_side(p: Pipeline) -> Pipeline:
    return p.map(lambda topic: {"side": topic}, makes=["side"])


def jsonl(folder: Path) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def saved(folder: Path) -> str:
    Dataset.from_list(ROWS).save_to_disk(folder / "saved")
    return str(folder / "saved")


class Case(NamedTuple):
    make: Callable[[Path], Pipeline]
    columns: list[str]
    n_rows: int = 3


VERBS: dict[str, Case] = {
    "from_dicts": Case(lambda _: load(), COLUMNS),
    "from_pandas": Case(lambda _: Pipeline("p").from_pandas(pd.DataFrame(ROWS)), COLUMNS),
    "from_dataset": Case(lambda _: Pipeline("p").from_dataset(Dataset.from_list(ROWS)), COLUMNS),
    "from_files": Case(lambda folder: Pipeline("p").from_files(jsonl(folder)), COLUMNS),
    "from_disk": Case(lambda folder: Pipeline("p").from_disk(saved(folder)), COLUMNS),
    "with_rows": Case(lambda _: load().keep("topic").with_rows(ROWS[:2]), ["topic"], 2),
    "map": Case(lambda _: load().map(count), [*COLUMNS, "length"]),
    "map, a lambda": Case(mapped_by_a_lambda, [*COLUMNS, "all"]),
    "filter": Case(lambda _: load().filter("topic == 'air'"), COLUMNS, 2),
    "filter, a function": Case(filtered_by_a_lambda, COLUMNS, 2),
    "expand": Case(lambda _: load().expand("answers"), COLUMNS, 6),
    "expand, renamed": Case(
        lambda _: load().expand({"answers": "answer"}), ["instruction", "topic", "answer"], 6
    ),
    "rename": Case(lambda _: load().rename(topic="theme"), ["instruction", "theme", "answers"]),
    "keep": Case(lambda _: load().keep("topic", "instruction"), ["topic", "instruction"]),
    "drop": Case(lambda _: load().drop("answers"), ["instruction", "topic"]),
    "drop_step": Case(lambda _: load().keep("topic").drop_step("keep"), COLUMNS),
    "take": Case(lambda _: load().take(2), COLUMNS, 2),
    "merge": Case(lambda _: load().merge("topic", "answers", into="words"), ["instruction", "words"]),
    "group": Case(lambda _: two_branches().group("side", into="sides"), [*COLUMNS, "sides"]),
    "group, unnamed": Case(lambda _: two_branches().group("side"), [*COLUMNS, "grouped_side"]),
    "combine": Case(lambda _: two_branches().combine(), [*COLUMNS, "side"]),
    "route": Case(
        lambda _: load().route({"a": with_side, "b": lambda p: p}, weights={"a": 2, "b": 1}).combine(),
        [*COLUMNS, "side"],
    ),
    "dedup": Case(lambda _: load().dedup("topic"), COLUMNS, 2),
    "then": Case(lambda _: load().then(KeepColumns(columns=["topic"])), ["topic"]),
    "then, a function": Case(lambda _: load().then(shout), [*COLUMNS, "loud"]),
    "generate": Case(lambda _: load().generate(), [*COLUMNS, "generations", "generation_models"]),
    "generate, into": Case(
        lambda _: load().generate("draft", "About {{ topic }}", k=2, into="drafts"),
        [*COLUMNS, "drafts", "drafts_models"],
    ),
    "generate, images": Case(
        lambda _: (
            Pipeline("verbs", llm="rehearsal")
            .from_dicts([{"photo": PNG}])
            .generate("look", "What is it?", images="photo")
        ),
        ["photo", "generations", "generation_models"],
        1,
    ),
    "generate, several models": Case(
        lambda _: load().generate(llm=MODELS), [*COLUMNS, "generations", "generation_models"]
    ),
    "embed": Case(
        lambda _: load().embed("topic", model="rehearsal"), [*COLUMNS, "embedding", "embedding_model"]
    ),
    "embed, into": Case(
        lambda _: load().embed("topic", model="rehearsal", into="near"), [*COLUMNS, "near", "near_model"]
    ),
    "judge": Case(
        lambda _: load().generate(k=2).judge(),
        [*COLUMNS, "generations", "generation_models", "ratings", "rationales", "judge_model"],
    ),
    "judge, over": Case(
        lambda _: load().judge(over="answers"), [*COLUMNS, "ratings", "rationales", "judge_model"]
    ),
    "judge, a second": Case(
        lambda _: load().judge(over="answers").judge(over="answers", name="honesty", aspect="honesty"),
        [
            *COLUMNS,
            *("ratings", "rationales", "judge_model"),
            *("honesty_ratings", "honesty_rationales", "honesty_model"),
        ],
    ),
    "judge, prometheus": Case(
        lambda _: load().ask(TextGeneration()).judge("prometheus", over="generation"),
        [*COLUMNS, "generation", "model_name", "feedback", "result", "judge_model"],
    ),
    "ask": Case(lambda _: load().ask(keywords), [*COLUMNS, "keywords", "model_name"]),
    "ask, a task": Case(
        lambda _: load().ask(TextGeneration(num_generations=2)), [*COLUMNS, "generation", "model_name"], 6
    ),
    "to_dpo": Case(lambda _: rated().to_dpo(), [*RATED[0], *PAIR], 1),
    "to_sft": Case(
        lambda _: rated().to_sft(),
        [*RATED[0], "generation", "generation_model", "prompt", "prompt_id", "messages"],
        1,
    ),
    ">>": Case(lambda _: load() >> KeepColumns(columns=["topic"]) >> shout, ["topic", "loud"]),
    ">> [a, b]": Case(
        lambda _: (
            load()
            >> [MapRows(function=count, name="one"), MapRows(function=lambda topic: {"n": len(topic)})]
            >> CombineOutputs()
        ),
        [*COLUMNS, "length", "n"],
    ),
}


def following(step: Step, rows: list[dict[str, Any]] = ROWS) -> Callable[[Path], Pipeline]:
    return lambda _: Pipeline("steps", llm="rehearsal").from_dicts(rows).then(step)


def sourced(make: Callable[[Path], Step]) -> Callable[[Path], Pipeline]:
    return lambda folder: Pipeline("steps").then(make(folder))


def joined(step: Step) -> Callable[[Path], Pipeline]:
    return lambda _: two_branches().then(step)


def with_topic(topic: str) -> dict[str, str]:
    return {"side": topic}


def routed(step: Step) -> Callable[[Path], Pipeline]:
    """Return what is behind a route with a condition for `a`, and `b` for the rest."""

    def make(_: Path) -> Pipeline:
        a, b = (MapRows(name=n, function=with_topic) for n in "ab")  # type: ignore[arg-type]  # as users write it
        return (load().then(step) >> [a, b]).combine()

    return make


UF = ["instruction", "generations", "generation_models", "ratings"]
ONE = [{"instruction": "Say hi.", "generation": "Hi."}]
JUDGED = [{"instruction": "Say hi.", "generations": ["Hi.", "No."]}]
TYPED = ["types", "rationales", "ratings", "rationales-for-ratings", "model_name"]

CLASSES: dict[str, Case] = {
    "LoadDataFromDicts": Case(sourced(lambda _: LoadDataFromDicts(data=ROWS)), COLUMNS),  # type: ignore[arg-type]
    "LoadDataFromFileSystem": Case(
        sourced(lambda folder: LoadDataFromFileSystem(data_files=jsonl(folder))), COLUMNS
    ),
    "LoadDataFromDisk": Case(sourced(lambda folder: LoadDataFromDisk(dataset_path=saved(folder))), COLUMNS),
    "LoadDataFromDisk, output_mappings": Case(
        sourced(
            lambda folder: LoadDataFromDisk(dataset_path=saved(folder), output_mappings={"topic": "theme"})
        ),
        ["instruction", "theme", "answers"],
    ),
    "KeepColumns": Case(
        following(KeepColumns(columns=["answers", "instruction"])), ["answers", "instruction"]
    ),
    "DropColumns": Case(following(DropColumns(columns=["topic"])), ["instruction", "answers"]),
    "RenameColumns": Case(
        following(RenameColumns(columns={"topic": "theme"})), ["instruction", "theme", "answers"]
    ),
    "ExpandColumns": Case(following(ExpandColumns(columns=["answers"])), COLUMNS, 6),
    "MergeColumns": Case(
        following(MergeColumns(columns=["topic", "answers"])), ["instruction", "combine_topic_answers"]
    ),
    "GroupColumns": Case(joined(GroupColumns(columns=["side"])), [*COLUMNS, "grouped_side"]),
    "CombineOutputs": Case(joined(CombineOutputs()), [*COLUMNS, "side"]),
    "ExactDedup": Case(following(ExactDedup(columns=["topic"])), COLUMNS, 2),
    "FilterRows": Case(following(FilterRows(condition="topic == 'sea'")), COLUMNS, 1),
    "RouteRows": Case(routed(RouteRows(when={"a": "topic == 'sea'"}, default="b")), [*COLUMNS, "side"]),
    "TakeRows": Case(following(TakeRows(n=1)), COLUMNS, 1),
    "MapRows": Case(following(MapRows(function=count)), [*COLUMNS, "length"]),  # type: ignore[arg-type]
    "FunctionStep": Case(following(shout(mark="?")), [*COLUMNS, "loud"]),
    "GlobalFunctionStep": Case(following(number()), [*COLUMNS, "n"]),
    "FunctionSource": Case(sourced(lambda _: counter()), ["n"]),
    "FunctionTask": Case(following(keywords(num_generations=2)), [*COLUMNS, "keywords", "model_name"], 6),
    "TextGeneration": Case(following(TextGeneration()), [*COLUMNS, "generation", "model_name"]),
    "TextGeneration, n": Case(
        following(TextGeneration(num_generations=2)), [*COLUMNS, "generation", "model_name"], 6
    ),
    "TextGeneration, grouped": Case(
        following(TextGeneration(num_generations=2, group_generations=True)),
        [*COLUMNS, "generation", "model_name"],
    ),
    "TextGenerationWithImage": Case(
        following(TextGenerationWithImage(), [{"instruction": "What is it?", "image": PNG}]),
        ["instruction", "image", "generation", "model_name"],
        1,
    ),
    "UltraFeedback": Case(
        following(UltraFeedback(), JUDGED),
        ["instruction", "generations", "ratings", "rationales", "model_name"],
        1,
    ),
    "UltraFeedback, honesty": Case(
        following(UltraFeedback(aspect="honesty"), JUDGED),
        ["instruction", "generations", "ratings", "rationales", "model_name"],
        1,
    ),
    "UltraFeedback, instruction-following": Case(
        following(UltraFeedback(aspect="instruction-following"), JUDGED),
        ["instruction", "generations", "ratings", "rationales", "model_name"],
        1,
    ),
    "UltraFeedback, helpfulness": Case(
        following(UltraFeedback(aspect="helpfulness"), JUDGED), ["instruction", "generations", *TYPED], 1
    ),
    "UltraFeedback, truthfulness": Case(
        following(UltraFeedback(aspect="truthfulness"), JUDGED), ["instruction", "generations", *TYPED], 1
    ),
    "PrometheusEval": Case(
        following(PrometheusEval(), ONE),
        ["instruction", "generation", "feedback", "result", "model_name"],
        1,
    ),
    "PrometheusEval, relative": Case(
        following(PrometheusEval(mode="relative"), JUDGED),
        ["instruction", "generations", "feedback", "result", "model_name"],
        1,
    ),
    "EmbeddingGeneration": Case(
        following(EmbeddingGeneration(embeddings="rehearsal"), [{"text": "A kite."}]),
        ["text", "embedding", "model_name"],
        1,
    ),
    "ImageGeneration": Case(
        following(ImageGeneration(image_generation_model="rehearsal"), [{"prompt": "A kite."}]),
        ["prompt", "image", "model_name"],
        1,
    ),
    "ImageGeneration, files": Case(
        following(ImageGeneration(llm="rehearsal", save_artifacts=True), [{"prompt": "A kite."}]),
        ["prompt", "image", "image_path", "model_name"],
        1,
    ),
    "Magpie": Case(
        lambda _: Pipeline("m").then(MagpieRows(num_rows=2)).ask(Magpie(llm="rehearsal")),
        ["system_prompt", "instruction", "response", "model_name"],
        2,
    ),
    "MagpieRows": Case(
        sourced(lambda _: MagpieRows(num_rows=3, system_prompt="Be kind.")), ["system_prompt"]
    ),
    "BestGeneration": Case(following(BestGeneration(), RATED), [*UF, "generation", "generation_model"], 1),
    "FormatTextGenerationSFT": Case(
        following(FormatTextGenerationSFT(), ONE),
        ["instruction", "generation", "prompt", "prompt_id", "messages"],
        1,
    ),
    "FormatTextGenerationDPO": Case(following(FormatTextGenerationDPO(), RATED), [*UF, *PAIR], 1),
    "FormatTextGenerationDPO, no models": Case(
        following(
            FormatTextGenerationDPO(),
            [{"instruction": "Say hi.", "generations": ["Hi.", "No."], "ratings": [2, 1]}],
        ),
        [
            *("instruction", "generations", "ratings", "prompt", "prompt_id"),
            *("chosen", "chosen_rating", "rejected", "rejected_rating"),
        ],
        1,
    ),
}


@pytest.mark.parametrize(
    "case", [*VERBS.values(), *CLASSES.values()], ids=[*(f"p.{name}" for name in VERBS), *CLASSES]
)
def test_columns(case: Case, tmp_path: Path) -> None:
    """The rows have the columns that the table says, in its order, and the check foretold them."""
    p = case.make(tmp_path)
    [leaf] = p.graph.leaves()
    foretold = p.check().columns[leaf]
    preview = p.preview(5)
    assert len(preview.errors()) == 0
    assert [list(row) for row in preview.rows] == [case.columns] * case.n_rows
    assert set(foretold.names) <= set(case.columns)
    assert foretold.is_open or set(foretold.names) == set(case.columns)


def test_the_tables_are_whole() -> None:
    """Every verb and every class has its row; LoadDataFromHub has a test of its own, for its server."""
    kinds = {name.partition(",")[0] for name in CLASSES}
    assert kinds == {*STEPS, *TASKS} - {"LoadDataFromHub"}
    public = {
        name
        for name, member in vars(Pipeline).items()
        if inspect.isfunction(member)
        and not name.startswith("_")
        and member.__annotations__.get("return") == "Pipeline"
    }
    assert public - {"from_hub"} == {name.partition(",")[0] for name in VERBS if ">>" not in name}


def test_from_hub_and_its_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the worker asks the Hub: the check before lets any column pass."""
    with fake_hub() as hub:
        for name, value in hub.env.items():
            monkeypatch.setenv(name, value)
        api = HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("tester/rows", repo_type="dataset")
        api.upload_file(
            path_or_fileobj=jsonl(tmp_path),
            path_in_repo="data/test.jsonl",
            repo_id="tester/rows",
            repo_type="dataset",
        )
        p = Pipeline("hub").from_hub("tester/rows", split="test", output_mappings={"topic": "theme"})
        assert p.graph.steps["load"] == LoadDataFromHub(
            name="load", repo_id="tester/rows", split="test", output_mappings={"topic": "theme"}
        )
        made = p.run(show=False).to_pandas().to_dict("records")
    assert [list(row) for row in made] == [["instruction", "theme", "answers"]] * 3
    assert [row["theme"] for row in made] == ["sea", "air", "air"]


# --- values: what the columns hold ---------------------------------------------------------------------------


def rows_of(p: Pipeline) -> list[dict[str, Any]]:
    return p.preview(5).rows


def test_generations_of_several_models_stand_in_their_order() -> None:
    [row, *_] = rows_of(load().generate("answer", llm=MODELS, k=2))
    assert row["generation_models"] == ["rehearsal:one"] * 2 + ["rehearsal:two"] * 2
    assert [len(row["generations"]), len(set(row["generations"]))] == [4, 4]


def test_ratings_run_beside_generations() -> None:
    for row in rows_of(load().generate(k=3).judge()):
        assert len(row["generations"]) == len(row["ratings"]) == len(row["rationales"]) == 3
        assert all(rating in {1, 2, 3, 4, 5} for rating in row["ratings"])
        assert row["judge_model"] == "rehearsal"


def test_a_pair_is_the_best_and_the_worst() -> None:
    [row] = rows_of(rated().to_dpo())
    assert (row["prompt"], row["chosen_rating"], row["rejected_rating"]) == ("Say hi.", 5, 1)
    assert row["chosen"] == [
        {"role": "user", "content": "Say hi."},
        {"role": "assistant", "content": "Hello!"},
    ]
    assert row["rejected"][-1] == {"role": "assistant", "content": "No."}
    assert (row["chosen_model"], row["rejected_model"]) == ("c", "b")


def test_sft_takes_the_best_rated() -> None:
    [row] = rows_of(rated().to_sft())
    assert row["messages"] == [
        {"role": "user", "content": "Say hi."},
        {"role": "assistant", "content": "Hello!"},
    ]


def test_branches_meet_row_by_row() -> None:
    sides = [row["sides"] for row in rows_of(two_branches().group("side", into="sides"))]
    assert sides == [["sea-left", "sea-right"], ["air-left", "air-right"], ["air-left", "air-right"]]


# --- preview = run --------------------------------------------------------------------------------------------


def test_a_run_makes_the_rows_of_the_preview() -> None:
    """Every verb in one graph, each a branch of its own: for each leaf the rows are equal."""
    p = load()
    for number, (verb, arguments) in enumerate(
        [
            ("map", {"function": count}),
            ("filter", {"condition": "topic == 'air'"}),
            ("expand", {"columns": {"answers": "answer"}}),
            ("take", {"n": 2}),
            ("generate", {"k": 2}),
            ("judge", {"over": "answers"}),
            ("ask", {"task": keywords}),
        ]
    ):
        name = f"{verb}_{number}"
        p = getattr(p, verb)(**arguments, name=name, after="load")
        if verb == "generate":
            p = p.judge(name="rate", after=name, over="generations").to_dpo(keep_ties=True)
            p = p.keep("topic", "prompt", "chosen", "rejected", name="pairs")
            p = p.dedup("prompt", name="unique").merge("topic", "prompt", into="both", name="merged")
    branches = load() >> [
        KeepColumns(name="a", columns=["topic"]),
        KeepColumns(name="b", columns=["answers"]),
    ]
    for pipeline in (p, branches.combine()):
        preview = pipeline.preview(3)
        run = pipeline.start()
        assert run.wait(60).state == "finished"
        for step in preview.steps:
            expected = preview[step].rows
            if step in pipeline.graph.leaves():
                assert run.rows_of_leaf(step) == expected, step
        assert len(run.errors()) == 0
        status = run.status()
        assert sum(step.asked for step in status.steps) == 0
        assert sum(step.cached for step in status.steps) == preview.asked


# --- what a pipeline is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_leaves_the_pipeline_it_was_called_on_as_it_is(name: str, tmp_path: Path) -> None:
    before = load()
    text, digest = before.to_yaml(), before.digest
    after = VERBS[name].make(tmp_path)
    assert before.to_yaml() == text == load().to_yaml()
    assert before.digest == digest
    assert after is not before


def test_an_equal_verb_is_not_added_twice_and_says_so() -> None:
    once = load().filter("topic == 'air'")
    twice = once.filter("topic == 'air'")
    assert twice == once
    assert twice.notes == ("'filter' is an equal step already; nothing was added.",)
    assert list(once.filter("topic == 'sea'").graph.steps) == ["load", "filter", "filter_2"]


def test_a_step_of_a_known_name_is_replaced_in_place_and_keeps_what_follows() -> None:
    p = load().generate("answer", "Say {{ topic }}").judge(name="judge").to_dpo()
    edited = p.generate("answer", "Sing {{ topic }}")
    assert edited.notes == ("answer is replaced.",)
    assert edited.graph.edges == p.graph.edges
    assert list(edited.graph.steps) == list(p.graph.steps)
    assert edited.graph.steps["judge"] == p.graph.steps["judge"]
    assert repr(edited["answer"].prompt()).startswith("user:\nSing ")
    assert repr(p["answer"].prompt()).startswith("user:\nSay ")


def test_one_model_becomes_two_and_one_again() -> None:
    one = load().generate("answer").judge()
    two = one.generate("answer", llm=MODELS)
    assert list(two.graph.predecessors("answer")) == ["answer_1", "answer_2"]
    assert two.graph.predecessors("judge") == ["answer"]
    assert rows_of(two.take(1))[0]["generation_models"] == ["rehearsal:one", "rehearsal:two"]
    again = two.generate("answer")
    assert sorted(again.graph.edges) == sorted(one.graph.edges)
    assert again == one


def test_branches_of_a_list_are_replaced_by_name() -> None:
    p = load() >> [KeepColumns(name="a", columns=["topic"]), KeepColumns(name="b", columns=["answers"])]
    again = p >> [KeepColumns(name="a", columns=["instruction"]), KeepColumns(name="b", columns=["answers"])]
    assert again.graph.edges == p.graph.edges
    assert list(rows_of(again.combine())[0]) == ["instruction", "answers"]


def test_unnamed_verbs_are_numbered() -> None:
    p = load().generate().generate("", "Why {{ topic }}?", into="why").keep("why").keep("why", name="end")
    assert list(p.graph.steps) == ["load", "generate", "generate_2", "keep", "end"]


def test_with_rows_changes_the_rows_and_nothing_else() -> None:
    p = load().generate("answer")
    other = p.with_rows([{"instruction": "New."}])
    assert [row["instruction"] for row in rows_of(other)] == ["New."]
    assert other.graph.edges == p.graph.edges
    assert other.graph.steps["answer"] == p.graph.steps["answer"]
    assert other.digest != p.digest
    with pytest.raises(NoRowsError):
        p.with_rows([])


def test_rows_may_be_given_at_the_start() -> None:
    """A list, a DataFrame and a Dataset are the same rows."""
    new = [{"instruction": "One."}, {"instruction": "Two."}]
    p = load().map(count)
    made = [
        p.run(show=False, dataset=rows).to_pandas()["length"].tolist()
        for rows in (new, pd.DataFrame(new), Dataset.from_list(new))
    ]
    assert made == [[4, 4]] * 3


def test_rows_limits_each_source() -> None:
    assert len(load().map(count).run(show=False, rows=2).to_pandas()) == 2


@pytest.mark.parametrize("name", {**VERBS, **CLASSES})
def test_a_pipeline_reads_back_equal(name: str, tmp_path: Path) -> None:
    """From YAML, and from JSON in a file; the code of the user is trusted and runs."""
    p = {**VERBS, **CLASSES}[name].make(tmp_path)
    again = Pipeline.from_yaml(p.to_yaml(), trust_code=True)
    assert again == p
    assert again.to_yaml() == p.to_yaml()
    assert again.graph.edges == p.graph.edges
    assert again.llm == p.llm
    p.save(tmp_path / "p.json")
    opened = dn.open(tmp_path / "p.json", trust_code=True, allow=[tmp_path])
    assert opened == p
    assert opened.preview().rows == p.preview().rows


# --- parameters -----------------------------------------------------------------------------------------------

LLM = OpenAILLM(model="any", base_url="http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    "parameters",
    [
        {"answer": {"llm": {"generation_kwargs": {"temperature": 0.7, "max_new_tokens": 9}}}},
        {"answer": {"llm": {"temperature": 0.7, "max_new_tokens": 9}}},
        {
            "answer.llm.generation_kwargs.temperature": 0.7,
            "answer.llm.generation_kwargs.max_new_tokens": 9,
        },
        {"answer.llm.temperature": 0.7, "answer.llm.max_new_tokens": 9},
        {"answer.llm": {"temperature": 0.7, "generation_kwargs": {"max_new_tokens": 9}}},
    ],
    ids=["1.x", "short", "path", "short path", "mixed"],
)
def test_parameters_reach_the_model(parameters: dict[str, Any]) -> None:
    from distilnb.spec.parameters import with_parameters

    p = load().generate("answer", llm=LLM)
    graph = with_parameters(p.graph, parameters)
    answer = graph.steps["answer"]
    assert isinstance(answer, TextGeneration)
    assert answer.llm is not None
    assert answer.llm.generation_kwargs == {"temperature": 0.7, "max_new_tokens": 9}
    assert LLM.generation_kwargs == {}


def test_parameters_of_steps_and_functions_reach_the_run() -> None:
    p = load().take(1).then(shout, name="shout").generate("answer")
    run = p.start(parameters={"take": {"n": 2}, "shout.mark": "?", "answer.num_generations": 3})
    assert run.wait(60).state == "finished"
    rows = run.rows_of_leaf("answer")
    assert [row["loud"] for row in rows] == ["SEA?", "AIR?"]
    assert [len(row["generations"]) for row in rows] == [3, 3]
    assert p.graph.steps["take"].n == 1  # type: ignore[attr-defined]


def test_a_second_prompt_does_not_write_over_the_first() -> None:
    p = Pipeline("p", llm="rehearsal").from_dicts([{"instruction": "a"}]).generate()
    with pytest.raises(SpecError, match=r"Step 'generate_2' would overwrite column 'generations'"):
        p.generate(prompt="Again: {{ instruction }}")
    with pytest.raises(SpecError, match=r"Step 'x' would overwrite column 'instruction'"):
        p.generate("x", into="instruction")
    assert "more" in p.generate(into="more").preview(1).rows[0]


def test_a_step_of_a_function_has_its_name() -> None:
    from distilnb import step, task

    @step
    def shout(instruction: str) -> dict[str, str]:
        return {"loud": instruction.upper()}

    @task
    def summary(loud: str) -> None:
        """Sum up: {{ loud }}."""

    p = Pipeline("p", llm="rehearsal").from_dicts([{"instruction": "a"}])
    assert list((p >> shout).ask(summary).graph.steps) == ["load", "shout", "summary"]
