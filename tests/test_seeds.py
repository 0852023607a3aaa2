"""Programs of distilabel 1.x: only their import lines are changed, the model's class, and the Hub's address.

Each runs as a script of its own, as a user's does: its classes live in `__main__`, and `huggingface_hub` reads
the address of the (loopback) Hub when it is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from distilnb import Pipeline
from distilnb.llms import OpenAILLM
from distilnb.tasks import PrometheusEval, TextGeneration
from tests.conftest import wait_until_gone
from tests.servers import FakeHub, MockLLM, fake_hub, mock_llm

PROMETHEUS = "prometheus-eval/prometheus-7b-v2.0"
TEMPLATES = {PROMETHEUS: "Feedback: {words} [RESULT] {score}", "poet": "A poem, {digest}."}


@pytest.fixture(scope="module")
def running() -> Iterator[MockLLM]:
    with mock_llm(models=("gpt-4", *TEMPLATES), templates=TEMPLATES) as server:
        yield server


@pytest.fixture
def server(running: MockLLM) -> MockLLM:
    running.reset()
    return running


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with fake_hub() as served:
        yield served


def run(program: str, folder: Path, server: MockLLM, env: Mapping[str, str] | None = None) -> Any:
    """Run a script that ends by printing JSON; return what it printed."""
    script = folder / "program.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, **(env or {}), "MOCK": server.base_url},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


BLOG = """
import os
from distilnb.llms import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.steps import LoadDataFromDicts
from distilnb.tasks import TextGeneration

with Pipeline() as pipeline:
    load_dataset = LoadDataFromDicts(
        name="load_dataset",
        data=[
            {
                "instruction": "Write a short story about a dragon that saves a princess from a tower.",
            },
        ],
    )

    text_generation = TextGeneration(
        name="text_generation",
        llm=OpenAILLM(model="gpt-4", base_url=os.environ["MOCK"]),
    )

    load_dataset.connect(text_generation)

    ...

if __name__ == "__main__":
    distiset = pipeline.run(
        parameters={
            "text_generation": {
                "llm": {
                    "generation_kwargs": {
                        "temperature": 0.7,
                        "max_new_tokens": 512,
                    }
                }
            },
        },
    )
    distiset.push_to_hub(
        "distilabel-internal-testing/instruction-dataset-mini-with-generations"
    )
"""

PROMETHEUS_2 = """
import os
from distilnb.llms import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.steps import KeepColumns, LoadDataFromHub
from distilnb.tasks import PrometheusEval

if __name__ == "__main__":
    with Pipeline(name="prometheus") as pipeline:
        load_dataset = LoadDataFromHub(
            name="load_dataset",
            repo_id="HuggingFaceH4/instruction-dataset",
            split="test",
            output_mappings={"prompt": "instruction", "completion": "generation"},
        )

        task = PrometheusEval(
            name="task",
            llm=OpenAILLM(
                model="prometheus-eval/prometheus-7b-v2.0",
                base_url=os.environ["MOCK"],
            ),
            mode="absolute",
            rubric="factual-validity",
            reference=False,
            num_generations=1,
            group_generations=False,
        )

        keep_columns = KeepColumns(
            name="keep_columns",
            columns=["instruction", "generation", "feedback", "result", "model_name"],
        )

        load_dataset >> task >> keep_columns

distiset = pipeline.run(
    parameters={
        task.name: {
            "llm": {
                "generation_kwargs": {
                    "max_new_tokens": 1024,
                    "temperature": 0.7,
                },
            },
        },
    },
)

distiset.push_to_hub(
    "my-org/my-dataset",
    commit_message="Initial commit",
    private=False,
    token=os.getenv("HF_TOKEN"),
)
"""

TELL = """
import json
print(json.dumps({"subsets": list(distiset), "rows": distiset["default"]["train"].to_list()}))
"""


def pushed(hub: FakeHub, repo_id: str) -> Pipeline:
    """Return the pipeline that was pushed with a dataset; its card and its rows are there too."""
    files = hub.files(repo_id)
    assert any(path.endswith(".parquet") for path in files)
    assert files["README.md"].startswith(b"---\n")
    return Pipeline.from_yaml(files["pipeline.yaml"].decode())


def test_the_program_of_the_blog(tmp_path: Path, home: Path, server: MockLLM, hub: FakeHub) -> None:
    told = run(BLOG + TELL, tmp_path, server, hub.env)
    assert told["subsets"] == ["default"]
    [row] = told["rows"]
    assert list(row) == ["instruction", "generation", "model_name"]
    assert row["instruction"] == "Write a short story about a dragon that saves a princess from a tower."
    assert len(row["generation"].split()) == 32
    assert row["model_name"] == "gpt-4"
    assert server.stats()["by_model"] == {"gpt-4": 1}
    pipeline = pushed(hub, "distilabel-internal-testing/instruction-dataset-mini-with-generations")
    asked = pipeline.graph.steps["text_generation"]
    assert isinstance(asked, TextGeneration)
    assert isinstance(asked.llm, OpenAILLM)
    assert asked.llm.generation_kwargs == {"temperature": 0.7, "max_new_tokens": 512}
    assert wait_until_gone(home) == []


def test_the_program_of_prometheus_2(tmp_path: Path, home: Path, server: MockLLM, hub: FakeHub) -> None:
    rows = [
        {"prompt": f"What is {n} and {n}?", "completion": f"It is {2 * n}.", "meta": {"n": n}}
        for n in range(5)
    ]
    api = HfApi(endpoint=hub.url, token=hub.token)
    api.create_repo("HuggingFaceH4/instruction-dataset", repo_type="dataset")
    api.upload_file(
        path_or_fileobj="".join(json.dumps(row) + "\n" for row in rows).encode(),
        path_in_repo="data/test.jsonl",
        repo_id="HuggingFaceH4/instruction-dataset",
        repo_type="dataset",
    )
    told = run(PROMETHEUS_2 + TELL, tmp_path, server, hub.env)
    assert told["subsets"] == ["default"]
    columns = ["instruction", "generation", "feedback", "result", "model_name"]
    assert [list(row) for row in told["rows"]] == [columns] * 5
    assert [row["instruction"] for row in told["rows"]] == [row["prompt"] for row in rows]
    assert [row["generation"] for row in told["rows"]] == [row["completion"] for row in rows]
    assert {row["result"] for row in told["rows"]} <= {1, 2, 3, 4, 5}
    assert all(isinstance(row["feedback"], str) and row["feedback"] for row in told["rows"])
    assert {row["model_name"] for row in told["rows"]} == {PROMETHEUS}
    assert server.stats()["by_model"] == {PROMETHEUS: 5}
    pipeline = pushed(hub, "my-org/my-dataset")
    task = pipeline.graph.steps["task"]
    assert isinstance(task, PrometheusEval)
    assert task.llm is not None
    assert task.llm.generation_kwargs == {"temperature": 0.7, "max_new_tokens": 1024}
    assert list(pipeline.graph.steps) == ["load_dataset", "task", "keep_columns"]
    assert wait_until_gone(home) == []


CLASSES = '''
import json
import os
from typing import Any, Dict, List, Union

from pydantic import Field, PrivateAttr

from distilnb.llms import OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.steps import GeneratorStep, GlobalStep, RuntimeParameter, Step, StepInput, step
from distilnb.steps.typing import GeneratorStepOutput, StepOutput
from distilnb.tasks import Task, task

SEPARATOR = " and "


def joined(words: List[str]) -> str:
    return SEPARATOR.join(words)


class Topics(GeneratorStep):
    """A source with a parameter that is given when the pipeline runs."""

    topics: List[str]
    repeat: RuntimeParameter[int] = Field(default=1, description="How often the topics are given.")
    _all: List[str] = PrivateAttr(default_factory=list)

    def load(self) -> None:
        super().load()
        self._all = self.topics * self.repeat

    @property
    def outputs(self) -> List[str]:
        return ["topic"]

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        while offset < len(self._all):
            batch = [{"topic": topic} for topic in self._all[offset : offset + self.batch_size]]
            offset += len(batch)
            yield batch, offset >= len(self._all)


class Shout(Step):
    """A step whose columns are properties, and that changes its rows in place."""

    mark: RuntimeParameter[str] = "!"
    _upper: Union[Any, None] = PrivateAttr(None)

    @property
    def inputs(self) -> List[str]:
        return ["word"]

    @property
    def outputs(self) -> List[str]:
        return ["loud"]

    def load(self) -> None:
        super().load()
        self._upper = str.upper

    def process(self, inputs: StepInput) -> StepOutput:
        for input in inputs:
            input["loud"] = self._upper(input["word"]) + self.mark
        yield inputs


class Drops(Step):
    """A step whose columns are lists, and that leaves rows out."""

    inputs = ["heading"]
    outputs = ["length"]

    def process(self, inputs: StepInput) -> StepOutput:
        yield [{**input, "length": len(input["heading"])} for input in inputs if "WIND" not in input["heading"]]


class Rank(GlobalStep):
    """A step that sees all rows."""

    @property
    def inputs(self) -> List[str]:
        return ["heading"]

    @property
    def outputs(self) -> List[str]:
        return ["rank", "all"]

    def process(self, inputs: StepInput) -> StepOutput:
        ordered = sorted(inputs, key=lambda input: input["heading"])
        for rank, input in enumerate(ordered):
            input["rank"] = rank
            input["all"] = joined([one["topic"] for one in inputs])
        yield ordered


class Both(Step):
    """A step that takes the rows of two others."""

    inputs = ["side"]
    outputs = ["sides"]

    def process(self, *inputs: StepInput) -> StepOutput:
        yield [
            {**left, "sides": [left["side"], right["side"]]} for left, right in zip(*inputs)
        ]


class Title(Task):
    """A task of one's own."""

    prefix: RuntimeParameter[str] = "Title"
    _asked: str = PrivateAttr("")

    def load(self) -> None:
        super().load()
        self._asked = f"{self.prefix} for"

    @property
    def inputs(self) -> List[str]:
        return ["topic"]

    @property
    def outputs(self) -> List[str]:
        return ["title", "model_name"]

    def format_input(self, input: Dict[str, Any]) -> List[Dict[str, Any]]:
        return [{"role": "user", "content": f"{self._asked} {input['topic']}?"}]

    def format_output(self, output: Union[str, None], input: Dict[str, Any]) -> Dict[str, Any]:
        return {"title": f"{input['topic']}: {output}"}


@step(inputs=["topic"], outputs=["side"])
def Left(inputs: StepInput, sign: RuntimeParameter[str] = "<") -> StepOutput:
    for input in inputs:
        input["side"] = sign + input["topic"]
    yield inputs


@step(inputs=["topic"], outputs=["side"])
def Right(inputs: StepInput) -> StepOutput:
    yield [{**input, "side": input["topic"] + ">"} for input in inputs]


@step(outputs=["topic"], step_type="generator")
def Made(offset: int = 0) -> GeneratorStepOutput:
    rows = [{"topic": topic} for topic in ("salt", "sea", "sun")]
    yield rows[offset:], True


@step(inputs=["topic"], outputs=["n"], step_type="global")
def Count(inputs: StepInput) -> StepOutput:
    yield [{**input, "n": len(inputs)} for input in inputs]


@task(inputs=["topic"], outputs=["poem"])
def Poem(output: Union[str, None], input: Dict[str, Any]) -> Dict[str, Any]:
    """Write a poem.

    ---
    system_prompt: |
      You are a poet.
    user_message_template: |
      About {topic}, please.
    ---
    """
    return {"poem": f"{input['topic']}: {output}"}
'''

CUSTOM = (
    CLASSES
    + """
if __name__ == "__main__":
    with Pipeline(name="custom") as pipeline:
        topics = Topics(name="topics", topics=["sea", "wind", "salt"], batch_size=2)
        shout = Shout(
            name="shout",
            input_mappings={"word": "topic"},
            output_mappings={"loud": "heading"},
            input_batch_size=1,
        )
        drops = Drops(name="drops")
        rank = Rank(name="rank")
        left, right, both = Left(name="left"), Right(name="right"), Both(name="both")
        title = Title(name="title", llm=OpenAILLM(model="poet", base_url=os.environ["MOCK"]))
        topics >> shout >> drops >> rank >> [left, right] >> both >> title
    parameters = {
        "topics": {"repeat": 2},
        "shout": {"mark": "?"},
        "left": {"sign": "<<"},
        "title": {"prefix": "A title", "llm": {"generation_kwargs": {"temperature": 0}}},
    }
    preview = pipeline.preview(6, parameters=parameters)
    distiset = pipeline.run(parameters=parameters)
    again = Pipeline.from_yaml(pipeline.to_yaml(), trust_code=True)
    print(json.dumps({
        "preview": preview.rows,
        "rows": list(distiset.rows()),
        "columns": list(distiset.to_pandas().columns),
        "is_equal": again == pipeline,
        "again": list(again.run(parameters=parameters, show=False).rows()),
    }))
"""
)

DECORATED = (
    CLASSES
    + """
if __name__ == "__main__":
    with Pipeline() as pipeline:
        made, count = Made(), Count()
        poem = Poem(llm=OpenAILLM(model="poet", base_url=os.environ["MOCK"]), num_generations=2)
        made.connect(count)
        count.connect(poem)
    distiset = pipeline.run()
    print(json.dumps({"steps": list(pipeline.graph.steps), "rows": list(distiset.rows())}))
"""
)


def test_classes_of_ones_own(tmp_path: Path, home: Path, server: MockLLM) -> None:
    """Step, GeneratorStep, GlobalStep and Task, defined in the script itself, with parameters of the run."""
    told = run(CUSTOM, tmp_path, server)
    columns = ["topic", "heading", "length", "rank", "all", "side", "sides", "title", "model_name"]
    assert told["columns"] == columns
    rows = told["rows"]
    assert [row["heading"] for row in rows] == ["SALT?", "SALT?", "SEA?", "SEA?"]
    assert [row["rank"] for row in rows] == [0, 1, 2, 3]
    assert {row["all"] for row in rows} == {"sea and salt and sea and salt"}
    assert [row["length"] for row in rows] == [5, 5, 4, 4]
    assert rows[0]["sides"] == ["<<salt", "salt>"]
    assert all(row["title"].startswith(f"{row['topic']}: A poem, ") for row in rows)
    assert rows[0]["model_name"] == "poet"
    assert told["is_equal"]
    assert told["again"] == rows
    assert sorted(map(str, told["preview"])) == sorted(map(str, rows))
    # At temperature 0 equal prompts are one request; the run and its repetition reuse the preview's.
    assert server.stats()["requests"] == 2
    assert wait_until_gone(home) == []


def test_functions_with_the_decorators_of_1x(tmp_path: Path, home: Path, server: MockLLM) -> None:
    told = run(DECORATED, tmp_path, server)
    assert told["steps"] == ["Made_0", "Count_0", "Poem_0"]
    rows = told["rows"]
    assert [list(row) for row in rows] == [["topic", "n", "poem", "model_name"]] * 6
    assert [row["topic"] for row in rows] == ["salt", "salt", "sea", "sea", "sun", "sun"]
    assert {row["n"] for row in rows} == {3}
    assert all(row["poem"].startswith(f"{row['topic']}: A poem, ") for row in rows)
    assert server.stats()["by_model"] == {"poet": 3}  # two replies in one request
    assert wait_until_gone(home) == []
