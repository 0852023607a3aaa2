"""Replies with a shape over real runs: forced as the server allows, mended, validated, and asked for again."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, Field, field_validator

import distilnb as dn
from distilnb.errors import MissingColumnError, ParseError, SpecError
from distilnb.llms.calling import answer_now
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.request import Request
from distilnb.llms.shape import ReplyShape
from distilnb.pipeline import Pipeline
from distilnb.run import Run, attach
from distilnb.tasks import TextGeneration
from tests.conftest import wait_until_gone
from tests.runs import wait_for, worker_pids
from tests.servers import MockLLM, mock_llm
from tests.test_run import some_rows_are_done

CONCURRENCY = 8


class Mood(Enum):
    """How somebody is."""

    FINE = "fine"
    SAD = "sad"


class Person(BaseModel):
    """Somebody."""

    name: str = Field(min_length=1)
    age: int = Field(ge=0, le=9)
    mood: Mood
    nickname: str | None = None

    @field_validator("name")
    @classmethod
    def _is_no_list(cls, name: str) -> str:
        if "," in name:
            raise ValueError("one name only")
        return name


class Strict(Person):
    """Somebody."""

    @field_validator("age")
    @classmethod
    def _is_even(cls, age: int) -> int:
        if age % 2:
            raise ValueError("odd people are not wanted")
        return age


Strict.__name__ = Strict.__qualname__ = "Person"  # the schema that is sent is the same

NAMED = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture(scope="module")
def any_server() -> Iterator[MockLLM]:
    """A server that forces all forms."""
    with mock_llm() as server:
        yield server


@pytest.fixture
def server(any_server: MockLLM) -> MockLLM:
    any_server.reset()
    return any_server


def llm(server: MockLLM, model: str = "person", **fields: Any) -> OpenAILLM:
    fields = {"max_concurrency": CONCURRENCY, "price": (1.0, 1.0), **fields}
    return OpenAILLM(model=model, base_url=server.base_url, **fields)


def source(n_rows: int, mark: str = "") -> Pipeline:
    return Pipeline("shaped").from_dicts(
        [{"id": i, "instruction": f"Who is {i}? {mark}"} for i in range(n_rows)]
    )


def people(server: MockLLM, n_rows: int = 6, mark: str = "", schema: Any = Person, **more: Any) -> Pipeline:
    return source(n_rows, mark).generate(llm=llm(server), schema=schema, **more)


def end(pipeline: Pipeline, **options: Any) -> Run:
    run = pipeline.start(new=True, **options)
    run.wait(60)
    assert run.status().state == "finished", run.status().error
    return run


# --- columns ----------------------------------------------------------------------


def test_the_fields_of_a_model_become_columns(server: MockLLM) -> None:
    pipeline = people(server).filter("age >= 0")
    run = end(pipeline)
    frame = run.to_pandas()
    assert len(frame) == 6
    for row in frame.to_dict("records"):
        said = Person(name=row["name"], age=row["age"], mood=row["mood"], nickname=row["nickname"])
        assert json.loads(row["generations"][0]) == said.model_dump(mode="json")
    assert server.stats()["by_form"] == {"json_schema": 6}
    step = run.status().step("generate")
    assert (step.asked, step.reasked, step.retries, step.failed) == (6, 0, 0, 0)


def test_the_columns_are_known_before_anything_runs(server: MockLLM) -> None:
    pipeline = people(server)
    assert pipeline.graph.steps["generate"].made() == [
        *("generations", "name", "age", "mood", "nickname"),
        "generation_models",
    ]
    types = {"name": "str", "age": "int", "mood": "str", "nickname": "str | None"}
    assert pipeline.check().types == {"generate": types}
    assert "age (int), mood (str)" in repr(pipeline["generate"])
    assert people(server, k=2).check().types["generate"]["age"] == "list[int]"
    with pytest.raises(MissingColumnError, match="'agee'") as caught:
        pipeline.filter("agee > 3")
    assert "'age'" in caught.value.fix


def test_another_name_for_the_generations_stands_before_the_fields(server: MockLLM) -> None:
    run = end(people(server, 2, into="who"))
    frame = run.to_pandas()
    assert {"who", "who_models", "who_name", "who_age", "who_mood", "who_nickname"} <= set(frame.columns)
    assert all(isinstance(name, str) for name in frame["who_name"])


def test_a_field_writes_over_no_column(server: MockLLM) -> None:
    rows = Pipeline("p").from_dicts([{"instruction": "Hi.", "name": "me"}])
    with pytest.raises(SpecError, match="would overwrite column 'name'"):
        rows.generate(llm=llm(server), schema=Person)
    assert (
        "who_name" in rows.generate(llm=llm(server), schema=Person, into="who").graph.steps["generate"].made()
    )
    with pytest.raises(SpecError, match="name of their own"):
        rows.generate(llm=llm(server), schema={"type": "object", "properties": {"generations": {}}})
    with pytest.raises(SpecError, match="columns of its own"):
        TextGeneration(schema={"type": "object", "properties": {"generation": {}}})


def test_several_replies_and_several_models_give_lists(server: MockLLM) -> None:
    two = end(people(server, 2, k=2)).to_pandas()
    assert [len(ages) for ages in two["age"]] == [2, 2]
    schema = {
        "type": "object",
        "properties": {"tags": {"type": "array", "minItems": 2}},
        "required": ["tags"],
    }
    models = [llm(server), llm(server, "other")]
    both = end(source(2).generate(llm=models, schema=schema)).to_pandas()
    for row in both.to_dict("records"):
        assert [list(tags) for tags in row["tags"]] == [
            json.loads(text)["tags"] for text in row["generations"]
        ]
        assert list(row["generation_models"]) == ["person", "other"]


@pytest.mark.parametrize(
    "schema, is_so",
    [
        (["fine", "sad"], lambda value: value in ("fine", "sad")),
        ("red|blue", lambda value: value in ("red", "blue")),
        ({"type": "array", "items": {"type": "integer"}}, lambda value: isinstance(json.loads(value), list)),
        ({"format": "json", "schema": NAMED}, lambda value: json.loads(value).keys() == {"name"}),
        ({"format": "json"}, lambda value: isinstance(json.loads(value), dict)),
    ],
    ids=["choice", "regex", "list", "1.x", "any"],
)
def test_every_kind_of_schema_runs(server: MockLLM, schema: Any, is_so: Callable[[str], bool]) -> None:
    if schema == "red|blue":  # the server knows no patterns but in guided decoding
        model: Any = VLLM(model="m", base_url=server.base_url)
    else:
        model = llm(server)
    run = end(source(4).ask(TextGeneration(llm=model, schema=schema, name="ask")))
    frame = run.to_pandas()
    assert run.status().step("ask").reasked == 0
    assert len(frame) == 4
    assert all(map(is_so, frame["generation"]))
    assert ("value" in frame) is (
        schema in ({"type": "array", "items": {"type": "integer"}}, {"format": "json"})
    )


class VLLM(OpenAILLM):
    """A server that is known to be vLLM's."""

    def shape_modes(self, shape: Any) -> tuple[str, ...]:
        return ("structured_outputs",)


def test_the_forms_of_1_x_mean_the_same(server: MockLLM) -> None:
    wanted = {"format": "json", "schema": NAMED}
    of_task = TextGeneration(llm=llm(server), structured_output=wanted, name="ask")
    assert of_task == TextGeneration(llm=llm(server), schema=NAMED, name="ask")
    assert end(source(1).ask(of_task)).to_pandas()["name"].map(type).tolist() == [str]
    of_model = TextGeneration(llm=llm(server, structured_output=wanted), name="ask")
    frame = end(source(2, "[[wrongx1]]").ask(of_model)).to_pandas()
    assert [json.loads(text).keys() for text in frame["generation"]] == [{"name"}, {"name"}]
    assert "name" not in frame  # as there: the text alone
    with pytest.raises(SpecError, match="both"):
        TextGeneration(schema=NAMED, structured_output=wanted)


def test_a_row_may_bring_its_own_schema(server: MockLLM) -> None:
    rows = [
        {"instruction": "a", "form": json.dumps(NAMED)},
        {"instruction": "b", "form": '["yes", "no"]'},
        {"instruction": "c", "form": '{"type": "objekt"}'},
        {"instruction": "d", "form": None},
    ]
    run = end(Pipeline("p").from_dicts(rows).generate(llm=llm(server), schema="{{ form }}"))
    first, second = run.to_pandas()["value"]
    assert first.keys() == {"name"}
    assert second in ("yes", "no")
    errors = run.errors().set_index("row")
    assert list(errors["kind"]) == ["StepRowError", "MissingValueError"]
    assert "Column 'form' holds no schema" in errors.loc[2, "reason"]
    assert server.stats()["requests"] == 2
    with pytest.raises(MissingColumnError, match="'shape'"):
        source(1).generate(llm=llm(server), schema="{{ shape }}")


def test_a_rehearsal_keeps_to_every_schema() -> None:
    pipeline = source(20)
    for number, schema in enumerate([Person, NAMED, ["yes", "no"], r"[A-Z]{2}-\d+", {"type": "array"}]):
        task = TextGeneration(
            llm="rehearsal", schema=schema, name=f"t{number}", output_mappings={"generation": f"g{number}"}
        )
        pipeline = pipeline.ask(task)
    run = end(pipeline)
    assert all(step.failed == step.reasked == 0 for step in run.status().steps)
    assert len(run.to_pandas()) == 20


# --- the ladder -------------------------------------------------------------------


def test_a_server_like_llama_cpp_costs_no_row(home: Path) -> None:
    with mock_llm(refuses=("json_schema",), refuse_status=500, one_choice=True, latency_ms=5) as server:
        run = end(people(server, 30, k=3))
        frame, stats = run.to_pandas(), server.stats()
        assert [len(ages) for ages in frame["age"]] == [3] * 30
        step = run.status().step("generate")
        assert (step.failed, step.retries) == (
            0,
            0,
        )  # another way, or the replies that were left out, is no retry
        assert step.asked == stats["requests"]
        assert stats["by_form"]["json_schema"] <= CONCURRENCY + 2
        assert stats["by_form"]["json_object_schema"] == stats["ok"] == 90
        assert "Reply with one JSON object" in server.bodies()[-1]["messages"][-1]["content"]


def test_control_characters_of_a_server_like_vllm_are_read() -> None:
    with mock_llm(control_characters=True) as server:
        run = end(people(server, 3, schema=NAMED))
        assert all(name.endswith("\x05") for name in run.to_pandas()["name"])
        assert run.status().step("generate").reasked == 0


def test_a_server_that_forces_nothing_is_told_and_its_reply_mended() -> None:
    forms = ("json_schema", "json_object_schema", "json_object")
    said = "Sure: {'name': 'Ann', 'age': 3, 'mood': 'fine',}"
    with mock_llm(refuses=forms, templates={"person": said}) as server:
        run = end(people(server, 20))
        assert run.to_pandas()["name"].tolist() == ["Ann"] * 20
        assert server.stats()["rejected_form"] <= 3 * CONCURRENCY
        assert run.status().step("generate").retries == 0
        assert all("response_format" not in body for body in server.bodies())
        assert '"properties"' in server.bodies()[0]["messages"][-1]["content"]


@pytest.mark.parametrize("mark", ["[[fenced]]", "[[loose]]"])
def test_what_stands_around_json_and_slips_in_it_cost_no_re_ask(server: MockLLM, mark: str) -> None:
    run = end(people(server, 3, mark, schema=NAMED))
    assert (len(run.to_pandas()), run.status().step("generate").reasked) == (3, 0)


# --- re-asks ----------------------------------------------------------------------


def test_a_reply_that_does_not_fit_is_asked_for_again_with_what_is_wrong(server: MockLLM) -> None:
    run = end(people(server, 5, "[[wrongx1]]"))
    step = run.status().step("generate")
    assert (step.done, step.asked, step.reasked, step.retries, step.failed) == (5, 10, 5, 0, 0)
    stats = server.stats()
    assert (step.input_tokens, step.output_tokens) == (stats["prompt_tokens"], stats["completion_tokens"])
    assert step.cost_usd == pytest.approx((step.input_tokens + step.output_tokens) / 1e6)
    asked, wrong, complaint = next(body["messages"] for body in server.bodies() if len(body["messages"]) == 3)
    assert "Who is" in asked["content"]
    assert wrong == {"role": "assistant", "content": '{"wrong": true}'}
    assert "at $.name: Field required" in complaint["content"]
    assert "JSON schema" in complaint["content"]
    assert "5 re-asked" in run._repr_mimebundle_()["text/plain"]


def test_the_story_of_a_row_has_the_replies_that_were_asked_for_again(server: MockLLM) -> None:
    run = end(people(server, 1, "[[wrongx1]]", schema=NAMED))
    told = repr(run.why(0))
    assert told.index('{"wrong": true}') < told.rindex('"name"')


def test_a_reply_that_never_fits_is_quarantined_with_all_that_tells_why(server: MockLLM) -> None:
    run = end(people(server, 2, "[[wrong]]"))
    step = run.status().step("generate")
    assert (step.failed, step.asked, step.reasked) == (2, 6, 4)
    error = run.errors().iloc[0]
    assert error["kind"] == "ParseError"
    assert "at $.name: Field required" in error["reason"]
    assert "Who is" in error["prompt"]
    assert error["reply"] == '{"wrong": true}'
    assert error["attempts"] == 3


def test_what_was_asked_again_is_not_asked_once_more(server: MockLLM) -> None:
    end(people(server, 2, "[[wrongx1]]"))
    again = end(people(server, 3, "[[wrongx1]]"))
    step = again.status().step("generate")
    assert (step.asked, step.reasked, step.cached) == (2, 1, 2)
    failing = people(server, 2, "[[wrong]]")
    end(failing)
    n_requests = server.stats()["requests"]
    step = end(failing).status().step("generate")
    assert (step.failed, step.asked, step.reasked) == (2, 0, 0)
    assert server.stats()["requests"] == n_requests


def test_the_number_of_re_asks_is_the_users(server: MockLLM) -> None:
    assert end(people(server, 1, "[[wrong]]", max_reasks=0)).status().step("generate").asked == 1
    patient = end(people(server, 1, "[[wrongx4]]", max_reasks=4))
    assert patient.status().step("generate").reasked == 4
    assert len(patient.to_pandas()) == 1


def test_a_retry_asks_anew_and_leaves_what_a_re_ask_has_mended(server: MockLLM) -> None:
    run = end(people(server, 1, "[[wrong]]"))
    run.retry()
    run.wait(60)
    step = run.status().step("generate")
    assert (step.failed, step.asked, step.reasked) == (1, 6, 4)


def test_of_several_replies_only_the_wrong_ones_are_asked_for_again(server: MockLLM) -> None:
    run = end(people(server, 1, schema=Strict, k=8, max_reasks=9))
    odd = [json.loads(text)["age"] % 2 for text in first_replies(server)]
    step = run.status().step("generate")
    assert 0 < sum(odd) < 8
    assert step.asked == 1 + step.reasked
    assert step.reasked >= sum(odd)
    assert all(age % 2 == 0 for age in run.to_pandas()["age"][0])


def first_replies(server: MockLLM) -> list[str]:
    """Return what the server says to the first row, which is the same whenever it is asked."""
    messages = ({"role": "user", "content": "Who is 0? "},)
    request = Request(messages, 8, ReplyShape("json", Strict.model_json_schema()))
    return [reply.text or "" for reply in answer_now(llm(server), request).replies]


def test_a_stricter_validator_asks_only_for_what_it_refuses(server: MockLLM) -> None:
    first = end(people(server, 20))
    n_odd = sum(age % 2 for age in first.to_pandas()["age"])
    assert 0 < n_odd < 20
    step = end(people(server, 20, schema=Strict, max_reasks=1)).status().step("generate")
    assert (step.asked, step.reasked) == (n_odd, n_odd)
    assert step.cached == 20 - n_odd


def test_another_schema_asks_anew(server: MockLLM) -> None:
    end(people(server, 3))
    assert end(people(server, 3, schema=NAMED)).status().step("generate").asked == 3
    assert end(people(server, 3)).status().step("generate").asked == 0


def test_a_budget_counts_re_asks(server: MockLLM) -> None:
    whole = end(people(server, 20, "[[wrongx1]]"))
    cost = whole.status().cost_usd or 0
    server.reset()
    run = people(server, 20, "[[wrongx1]]").start(new=True, cache="refresh", max_cost=cost * 0.7)
    status = run.wait(60)
    assert status.reason.startswith("budget")
    assert (status.cost_usd or 0) <= cost * 0.7
    run.adjust(max_cost=cost * 2)
    run.resume()
    assert run.wait(60).state == "finished"
    assert run.status().cost_usd == pytest.approx(cost)
    assert server.stats()["requests"] == run.status().step("generate").asked == 40


@pytest.mark.parametrize("role", ["ask_worker", "runner"])
def test_a_kill_in_the_middle_of_re_asks_repeats_no_more_than_was_in_flight(home: Path, role: str) -> None:
    with mock_llm(latency_ms=40) as server:
        run = people(server, 60, "[[wrongx2]]").start()
        wait_for(run, some_rows_are_done)
        os.kill(worker_pids(run)[role], signal.SIGKILL)
        if role == "runner":
            assert wait_until_gone(home) == []
            deadline = time.monotonic() + 10
            while run.status().state != "lost" and time.monotonic() < deadline:
                time.sleep(0.01)
            attach(run.id).resume()
        assert run.wait(90).state == "finished"
        assert len(run.to_pandas()) == 60
        stats, step = server.stats(), run.status().step("generate")
        assert stats["duplicate_prompts_after_ok"] <= CONCURRENCY
        assert step.reasked <= 120
        # What was in flight at the kill was answered and paid, and nobody is left who knows.
        assert stats["ok"] - CONCURRENCY <= step.asked <= stats["ok"]
        assert stats["distinct_prompts"] == 180


# --- by hand, in the preview, in a file ---------------------------------------------


def test_one_question_returns_what_the_schema_says(server: MockLLM) -> None:
    model = llm(server)
    person = model.ask("Who? [[wrongx2]]", schema=Person)
    assert isinstance(person, Person)
    assert model.ask("Who?", schema=["yes", "no"]) in ("yes", "no")
    assert model.ask("Who?", schema=NAMED).keys() == {"name"}
    assert len(model.ask("Who?", schema=NAMED, n=2)) == 2
    with pytest.raises(ParseError, match=r"at \$\.name"):
        model.ask("Who? [[wrong]]", schema=Person)
    assert server.stats()["requests"] == 3 + 1 + 1 + 1 + 3
    assert dn.llm("rehearsal").ask("Who?", schema=r"\d{4}").isdigit()


def test_a_task_by_hand_asks_again_too(server: MockLLM) -> None:
    made = TextGeneration(llm=llm(server), schema=NAMED).ask({"instruction": "Who? [[wrongx1]]"})
    assert isinstance(made, dict)
    assert made.keys() == {"generation", "name", "model_name"}


def test_a_preview_tells_of_re_asks_and_the_run_reuses_them(server: MockLLM) -> None:
    pipeline = people(server, 3, "[[wrongx1]]")
    preview = pipeline.preview()
    assert (preview.asked, preview.reasked) == (6, 3)
    assert "asked 6, reused 0, re-asked 3" in repr(preview)
    assert preview.to_pandas()["age"].between(0, 9).all()
    assert pipeline.preview().asked == 0
    frame = pipeline.estimate(ask=False).to_pandas()
    assert (frame["cached"].tolist(), frame["requests_high"].tolist()) == ([3], [0.0])
    assert end(pipeline).status().step("generate").asked == 0


def test_a_model_comes_back_from_a_file_that_is_trusted(server: MockLLM) -> None:
    pipeline = people(server, 2)
    text = pipeline.to_yaml()
    trusted = Pipeline.from_yaml(text, trust_code=True)
    assert trusted == pipeline
    assert len(end(trusted).to_pandas()) == 2
    with pytest.raises(SpecError, match="'Person' came from a file and was not trusted"):
        Pipeline.from_yaml(text).check()
