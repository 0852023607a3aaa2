"""Steps on their way to a worker: literal keys find their step again, whatever it is called."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from distilnb.engine.building import literal_secrets, read_plain_steps, read_steps, write_steps
from distilnb.errors import DuplicateStepError
from distilnb.llms.openai import OpenAILLM
from distilnb.spec.graph import Graph
from distilnb.spec.step import Step
from distilnb.tasks.generation import TextGeneration

NAMES = ("answer", "v1", "v1.0", "v1.0.1", "v1.llm", "a/b", "..", "é ü", "0")


class Keyed(Step):
    api_key: SecretStr | None = None


def task(name: str) -> Step:
    model = OpenAILLM(model="m", base_url="http://127.0.0.1:9/v1", api_key=f"key of {name}")
    return TextGeneration(name=name, llm=model)


def graph_of(*steps: Step) -> Graph:
    return Graph({step.name: step for step in steps})


def key_of(step: Step) -> str:
    assert isinstance(step, TextGeneration)
    assert isinstance(step.llm, OpenAILLM)
    return step.llm.key()


@pytest.mark.parametrize("name", NAMES)
def test_a_worker_of_one_step_gets_its_key(name: str, tmp_path: Path) -> None:
    graph = graph_of(*map(task, NAMES))
    write_steps(tmp_path, graph)
    built = read_steps(tmp_path, [name], literal_secrets(graph))
    assert {step.name: key_of(step) for step in built.values()} == {name: f"key of {name}"}


def test_a_worker_of_all_steps_gets_all_keys(tmp_path: Path) -> None:
    graph = graph_of(*map(task, NAMES))
    write_steps(tmp_path, graph)
    built = read_steps(tmp_path, NAMES, literal_secrets(graph))
    assert {name: key_of(step) for name, step in built.items()} == {name: f"key of {name}" for name in NAMES}


def test_a_place_is_the_dotted_path_of_the_field() -> None:
    assert literal_secrets(graph_of(task("v1.0"))) == {"v1.0.llm.api_key": "key of v1.0"}


def test_a_class_of_the_user_gets_its_key(tmp_path: Path) -> None:
    graph = graph_of(Keyed(name="my.step", api_key=SecretStr("mine")), task("my"))
    write_steps(tmp_path, graph)
    built = read_steps(tmp_path, ["my.step", "my"], literal_secrets(graph))
    assert built["my.step"].api_key.get_secret_value() == "mine"  # type: ignore[attr-defined]
    assert key_of(built["my"]) == "key of my"


def test_two_keys_of_one_place_are_refused() -> None:
    graph = graph_of(task("a"), Keyed(name="a.llm", api_key=SecretStr("mine")))
    with pytest.raises(DuplicateStepError, match=r"'a\.llm\.api_key'"):
        literal_secrets(graph)


def test_keys_are_not_written(tmp_path: Path) -> None:
    write_steps(tmp_path, graph_of(task("v1.0"), Keyed(name="my.step", api_key=SecretStr("key of mine"))))
    for path in tmp_path.iterdir():
        assert b"key of" not in path.read_bytes()


def test_a_reader_builds_the_steps_without_code(tmp_path: Path) -> None:
    write_steps(tmp_path, graph_of(task("v1.0"), Keyed(name="my.step")))
    assert list(read_plain_steps(tmp_path, ["v1.0", "my.step"])) == ["v1.0"]


class Christened(Step):
    """Its class has a name for it."""

    name: str = "christened"


def test_a_step_that_has_its_name_from_its_class_is_found_by_it(tmp_path: Path) -> None:
    assert Christened().dump() == {"kind": "Christened", "name": "christened"}
    write_steps(tmp_path, graph_of(Christened(), task("v1")))
    assert [*read_steps(tmp_path, ["christened"], {})] == ["christened"]
