"""Bad input: one table. Each row says what is wrong, when that is told, in which words, and that nothing is lost.

`Told` is told while the pipeline is built, or by the check before a run: nothing was started, asked or written.
`Quarantined` costs its own row and no other. `Ends` ends the run, which keeps what is finished and can go on.
`Harmless` looks bad and is not.
"""

from __future__ import annotations

import os
import re
import resource
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pydantic import SecretStr

import distilnb as dn
from distilnb import GeneratorStep, GlobalStep, Pipeline, Step
from distilnb.errors import (
    CodeNotPortableError,
    CycleError,
    DistilnbError,
    DuplicateStepError,
    InputError,
    MissingColumnError,
    MissingKeyError,
    NoRowsError,
    RunFailedError,
    RunNotFinishedError,
    RunNotFoundError,
    SourceNotFoundError,
    SpecError,
    StepConnectionError,
    StoreError,
    TemplateError,
    UnknownKindError,
    UnknownParameterError,
    UnknownPriceError,
    UnknownStepError,
    UnreachableError,
    UnsafeFileError,
    UnsupportedParameterError,
)
from distilnb.llms import OpenAILLM, catalog
from distilnb.pipeline import sample_n_steps
from distilnb.rows import IdMaker
from distilnb.steps import (
    CombineOutputs,
    DropColumns,
    ExpandColumns,
    FilterRows,
    KeepColumns,
    LoadDataFromDicts,
    MapRows,
    RouteRows,
    StepInput,
)
from tests.conftest import processes_of, wait_until_gone
from tests.servers import FakeHub, MockLLM, fake_hub, mock_llm

Rows: TypeAlias = list[dict[str, Any]]

HI = [{"instruction": "hi"}]
NO_RATING = "I would rather not say."


@pytest.fixture(scope="module")
def server() -> Iterator[MockLLM]:
    templates = {"judge": NO_RATING, "long": "word " * 10_000}
    with mock_llm(models=("mock-model", *templates), templates=templates) as running:
        yield running


@dataclass
class Place:
    """What a row of the table may use."""

    tmp: Path
    home: Path
    server: MockLLM
    monkeypatch: pytest.MonkeyPatch
    open: Callable[[AbstractContextManager[FakeHub]], FakeHub]  # until the end of the test
    said: dict[str, str] = field(default_factory=dict)  # what stands for <name> in an expected text

    def fill(self, text: str) -> str:
        """Return an expected text with what differs from test to test put in."""
        host = self.server.base_url.removeprefix("http://").removesuffix("/v1")
        for name, value in {"tmp": str(self.tmp), "home": str(self.home), "host": host, **self.said}.items():
            text = text.replace(f"<{name}>", value)
        return text

    def llm(self, model: str = "mock-model", **options: Any) -> OpenAILLM:
        """Return a model of the mock server that is soon given up."""
        return OpenAILLM(
            model=model, base_url=self.server.base_url, **{"timeout": 10, "max_retries": 0, **options}
        )

    def file(self, name: str, text: str) -> str:
        """Write a file and return its path."""
        (self.tmp / name).write_text(text, encoding="utf-8")
        return str(self.tmp / name)


def plain(text: str) -> str:
    """Return what was told without names that chance, the clock or a process id made."""
    text = re.sub(r"/runs/p-[0-9a-f]{4}(?=[/'])", "/runs/<run>", text)
    return re.sub(r"/[0-9a-f]+-\d+-\d+\.json'", "/<batch>'", text)


@pytest.fixture
def place(tmp_path: Path, home: Path, server: MockLLM, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    server.reset()
    folder = tmp_path / "data"
    folder.mkdir()
    with ExitStack() as stack:
        yield Place(folder, home, server, monkeypatch, stack.enter_context)
    assert wait_until_gone(home) == []


def empty(**options: Any) -> Pipeline:
    return Pipeline("p", llm="rehearsal", **options)


def hi() -> Pipeline:
    return empty().from_dicts(HI)


def numbers(n: int = 4) -> Pipeline:
    return Pipeline("p").from_dicts([{"n": i} for i in range(n)])


def texts(place: Place, *instructions: object, **options: Any) -> Pipeline:
    """Return a pipeline that asks the mock server for each text, one request at a time."""
    llm = place.llm(**{"model": "mock-model", "max_concurrency": 1, **options})
    return Pipeline("p", llm=llm).from_dicts([{"instruction": text} for text in instructions]).generate()


# --- told before anything runs ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """Told at once: no run directory, no process, no request."""

    do: Callable[[Place], object]
    error: type[DistilnbError]
    text: str

    def prove(self, place: Place) -> None:
        with pytest.raises(DistilnbError) as caught:
            self.do(place)
        assert type(caught.value) is self.error
        assert plain(str(caught.value)) == place.fill(self.text)
        assert [*place.home.glob("runs/*")] == []
        assert processes_of(place.home) == []
        assert place.server.stats()["requests"] == 0


def circle(_: Place) -> None:
    with empty() as p:
        load = LoadDataFromDicts(name="load", data=HI)
        one, two = (KeepColumns(name=name, columns=["instruction"]) for name in ("one", "two"))
        load >> one >> two >> one
    p.check()


def two_of_one_name(_: Place) -> None:
    with empty():
        LoadDataFromDicts(name="load", data=HI)
        KeepColumns(name="load", columns=["instruction"])


def branches_of_one_name(_: Place) -> None:
    hi() >> [KeepColumns(name="a", columns=["instruction"]), DropColumns(name="a", columns=["instruction"])]


def file_of_one_name(_: Place) -> None:
    step = "{kind: KeepColumns, name: keep, columns: [a]}"
    Pipeline.from_yaml(f"distilnb: {{format: 1}}\npipeline: {{steps: [{step}, {step}]}}")


def join_of_two_sources(_: Place) -> None:
    with empty() as p:
        one, two = (LoadDataFromDicts(name=name, data=HI) for name in ("one", "two"))
        [one, two] >> CombineOutputs(name="both")
    p.check()


def expand_in_one_branch(_: Place) -> None:
    p = empty().from_dicts([{"xs": [1, 2], "y": 1}])
    p = p >> [ExpandColumns(name="one_each", columns=["xs"]), KeepColumns(name="rest", columns=["y"])]
    p.combine().check()


def keeping(*names: str) -> list[Step]:
    return [KeepColumns(name=name, columns=["instruction"]) for name in names]


def routed(*names: str, **fields: Any) -> Callable[[Place], object]:
    """Return what checks a route with branches of these names."""
    return lambda _: (hi().then(RouteRows(name="r", **fields)) >> keeping(*names)).check()


def route_by(function: Callable[..., Any]) -> Callable[[Place], object]:
    return lambda _: hi().route(keeping("left", "right"), by=function).check()


def expand_in_a_routed_branch(_: Place) -> None:
    p = empty().from_dicts([{"xs": [1, 2], "y": 1}])
    one_each, rest = ExpandColumns(name="one_each", columns=["xs"]), KeepColumns(name="rest", columns=["y"])
    p.route([one_each, rest], n=1).combine().check()


def sample_more_than_there_are(_: Place) -> None:
    with empty() as p:
        load = LoadDataFromDicts(name="load", data=HI)
        load >> sample_n_steps(3) >> keeping("a", "b")
    p.check()


def route_without_branches(_: Place) -> None:
    with empty() as p:
        LoadDataFromDicts(name="load", data=HI) >> sample_n_steps(1)
    p.check()


def circle_through_a_route(_: Place) -> None:
    with empty() as p:
        load, [a, b] = LoadDataFromDicts(name="load", data=HI), keeping("a", "b")
        load >> a >> sample_n_steps(1) >> [b]
        b >> a
    p.check()


def into_a_source(_: Place) -> None:
    with empty() as p:
        one, two = (LoadDataFromDicts(name=name, data=HI) for name in ("one", "two"))
        one.connect(two)
    p.check()


def step_of_another_pipeline(_: Place) -> None:
    stranger = KeepColumns(name="keep", columns=["instruction"])
    with empty():
        LoadDataFromDicts(name="load", data=HI).connect(stranger)


def branches() -> Pipeline:
    return hi() >> [
        KeepColumns(name="a", columns=["instruction"]),
        KeepColumns(name="b", columns=["instruction"]),
    ]


def closed_port(place: Place) -> OpenAILLM:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    place.said["port"] = str(port)
    return OpenAILLM(model="any", base_url=f"http://127.0.0.1:{port}/v1")


@contextmanager
def full_disk(free_bytes: int) -> Iterator[None]:
    """Let no file grow beyond so many bytes, in this process and in those that it starts meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def start_on_a_full_disk(_: Place) -> None:
    with full_disk(100):
        numbers().map(add_one).start()


def preview_on_a_full_disk(_: Place) -> None:
    with full_disk(100):
        numbers(50).preview()


def below_a_file(place: Place, act: Callable[[Pipeline], object]) -> None:
    """Act with a DISTILNB_HOME in which no folder can be made, for root neither."""
    place.monkeypatch.setenv("DISTILNB_HOME", place.file("file", "") + "/home")
    act(Pipeline("p").from_dicts([{"n": 1}]))


KEY = "sk-" + "0123456789abcdef" * 2
SECRET = SecretStr("correct horse battery staple")
LOCK = threading.Lock()


class Client:
    def __init__(self, key: str) -> None:
        self.key = key


CLIENT = Client(KEY)


def add_one(n: int) -> dict[str, int]:
    return {"more": n + 1}


def uses_a_key(instruction: str) -> dict[str, str]:
    return {"key": KEY}


def uses_a_client(instruction: str) -> dict[str, str]:
    return {"key": CLIENT.key}


def uses_a_secret(instruction: str) -> dict[str, str]:
    return {"key": SECRET.get_secret_value()}


def uses_a_lock(instruction: str) -> dict[str, int]:
    with LOCK:
        return {"length": len(instruction)}


def closes_over_much() -> Callable[[str], dict[str, int]]:
    big = b"x" * 11_000_000

    def weigh(instruction: str) -> dict[str, int]:
        return {"size": len(big)}

    return weigh


def closes_over_a_connection(place: Place) -> None:
    with socket.socket() as connection:

        def send(instruction: str) -> dict[str, int]:
            return {"n": connection.send(instruction.encode())}

        hi().map(send).start()


def closes_over_a_token(place: Place) -> None:
    place.monkeypatch.setenv("MY_TOKEN", "correct horse battery staple")
    client = Client(os.environ["MY_TOKEN"])

    def call(instruction: str) -> dict[str, str]:
        return {"answer": client.key}

    hi().map(call).start()


def prompt_with_a_token(place: Place) -> None:
    place.monkeypatch.setenv("MY_TOKEN", "correct horse battery staple")
    hi().generate(prompt="correct horse battery staple: {{ instruction }}").start()


class Mine(Step):
    inputs = ["instruction"]

    def process(self, rows: StepInput) -> Any:  # type: ignore[override]  # as users write it
        yield rows


def untrusted_class(_: Place) -> None:
    Pipeline.from_yaml(hi().then(Mine(name="mine")).to_yaml())


def untrusted_function(_: Place) -> None:
    Pipeline.from_yaml(numbers().map(add_one).to_yaml()).start()


def opened(text: str) -> Callable[[Place], object]:
    return lambda _: Pipeline.from_yaml("distilnb: {format: 1}\n" + text)


def needs_n(instruction: str, *, n: int) -> dict[str, str]:
    return {"instruction": instruction * n}


def answer() -> Pipeline:
    return hi().generate("answer", llm=OpenAILLM(model="any", base_url="http://127.0.0.1:9/v1"))


def start_with(**parameters: Any) -> Callable[[Place], object]:
    return lambda _: answer().start(parameters={k.replace("__", "."): v for k, v in parameters.items()})


NO_ROWS = "The list of rows is empty.\nGive at least one row."
OF_THE_MODEL = (
    "['api_key', 'base_url', 'base_urls', 'cache_id', 'default_headers', 'extra', 'frequency_penalty', "
    "'generation_kwargs', 'logprobs', 'magpie_pre_query_template', 'max_concurrency', 'max_new_tokens', "
    "'max_retries', 'min_p', 'model', 'offline_batch', 'offline_batch_discount', 'offline_batch_poll', "
    "'offline_batch_size', 'presence_penalty', 'price', 'rpm', 'seed', 'stop', 'structured_output', "
    "'temperature', 'timeout', 'top_k', 'top_logprobs', 'top_p', 'tpm', 'transport', 'use_magpie_template']"
)
OF_THE_TASK = (
    "['cache', 'columns', 'group_generations', 'image_folder', 'image_type', 'images', 'input_batch_size', "
    "'input_mappings', 'llm', 'max_reasks', 'messages', 'min_generations', 'name', 'num_generations', "
    "'on_truncated', 'output_mappings', 'resources', 'structured_output', 'system_prompt', 'template', "
    "'unlists_fields', 'use_cache', 'use_system_prompt']"
)
PROVIDERS = sorted(catalog.PROVIDERS)
NOT_A_DIRECTORY = "cannot be made: Not a directory.\nSet DISTILNB_HOME to a folder that can be written."
NO_SECRETS = "Take it out of prompts, rows and functions; read it from the environment where it is used."

TOLD = {
    # rows
    "no rows": Told(lambda _: empty().from_dicts([]).generate(), NoRowsError, NO_ROWS),
    "no rows in a DataFrame": Told(
        lambda _: empty().from_pandas(__import__("pandas").DataFrame({"instruction": []})).generate(),
        NoRowsError,
        NO_ROWS,
    ),
    "no rows in their place": Told(lambda _: hi().generate().with_rows([]), NoRowsError, NO_ROWS),
    "no rows at the start": Told(lambda _: hi().generate().start(dataset=[]), NoRowsError, NO_ROWS),
    "no rows in a file": Told(
        lambda place: empty().from_files(place.file("none.jsonl", "\n")).generate().check(),
        NoRowsError,
        "'<tmp>/none.jsonl' holds no row.\nPut at least one row in it.",
    ),
    "no rows in a class's list": Told(
        lambda _: Pipeline.from_yaml(hi().generate().to_yaml().replace("- instruction: hi", "[]")).check(),
        NoRowsError,
        NO_ROWS,
    ),
    "a row that is no dict": Told(
        lambda _: empty().from_dicts([*HI, "hi"]),  # type: ignore[list-item]  # what is tested
        InputError,
        "Row 1 is of type 'str'.\nEach row is a dict of column names to values.",
    ),
    "a column name that is no text": Told(
        lambda _: empty().from_dicts([{1: "hi"}]),  # type: ignore[dict-item]  # what is tested
        InputError,
        "Row 0 has the column name 1, which is no text.\nUse text keys.",
    ),
    "rows that are one dict": Told(
        lambda _: empty().from_dicts({"instruction": "hi"}),  # type: ignore[arg-type]  # what is tested
        InputError,
        "Rows were given as one dict with the keys ['instruction'].\nGive a list of dicts, one per row.",
    ),
    "a live object in a row": Told(
        lambda _: empty().from_dicts([{"instruction": object()}]).start(),
        InputError,
        "A row holds a value of type 'object', which cannot be stored.\n"
        "Use str, int, float, bool, None, list, dict, bytes, datetime or Decimal; make live objects in `load`.",
    ),
    "a dataset that is none": Told(
        lambda _: hi().start(dataset=3),
        InputError,
        "A dataset was given as 'int'.\nGive a list of dicts, a DataFrame or a Dataset.",
    ),
    # places
    "a path that does not exist": Told(
        lambda place: (
            place.file("rows.jsonl", '{"instruction": "hi"}') and None,
            empty().from_files(place.tmp / "row.jsonl").generate().check(),
        ),
        SourceNotFoundError,
        "There is no file '<tmp>/row.jsonl'; '<tmp>' holds ['rows.jsonl'].\nDid you mean '<tmp>/rows.jsonl'?",
    ),
    "a pattern that no file matches": Told(
        lambda place: empty().from_files(place.tmp / "*.csv").check(),
        SourceNotFoundError,
        "No file matches '<tmp>/*.csv'; '<tmp>' holds nothing.\nPaths are relative to the working directory.",
    ),
    "a folder that holds no dataset": Told(
        lambda place: empty().from_disk(place.tmp / "saved").check(),
        SourceNotFoundError,
        "There is no saved dataset in '<tmp>/saved'.\n"
        "It is a folder that `save_to_disk` wrote; for other files use LoadDataFromFileSystem.",
    ),
    "a pipeline file that does not exist": Told(
        lambda place: dn.open(place.tmp / "p.yaml"),
        SourceNotFoundError,
        "The pipeline file '<tmp>/p.yaml' cannot be read: No such file or directory.\nCheck the path.",
    ),
    "a file that is not what its name says": Told(
        lambda place: empty().from_files(place.file("rows.jsonl", "instruction\nhi\n")).check(),
        InputError,
        "'<tmp>/rows.jsonl', line 1: no JSON: Expecting value at column 1.\nThe line begins 'instruction'.",
    ),
    "a home that cannot be written": Told(
        lambda place: below_a_file(place, lambda p: p.preview()),
        StoreError,
        "The folder '<tmp>/file/home/pipelines/p' " + NOT_A_DIRECTORY,
    ),
    "a disk that is full at the preview": Told(
        preview_on_a_full_disk,
        StoreError,
        "The file '<home>/pipelines/p/sample-load.json' cannot be written: File too large.\n"
        "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume.",
    ),
    # columns
    "a missing column": Told(
        lambda _: hi().judge(),
        MissingColumnError,
        "Step 'judge' reads column 'generations'; upstream has ['instruction'].\n"
        "Add a step that makes 'generations'.",
    ),
    "a missing column with a near match": Told(
        lambda _: hi().generate(prompt="{{ instructions }}"),
        MissingColumnError,
        "Step 'generate' reads column 'instructions'; upstream has ['instruction'].\n"
        "Did you mean 'instruction'?",
    ),
    "a missing column of a function": Told(
        lambda _: hi().map(add_one),
        MissingColumnError,
        "Step 'map' reads column 'n'; upstream has ['instruction'].\n"
        "Add a step that makes 'n'. A function's parameters are columns; one named 'row' takes the whole row.",
    ),
    "a missing column of a filter": Told(
        lambda _: hi().filter("stars >= 4"),
        MissingColumnError,
        "Step 'filter' reads column 'stars'; upstream has ['instruction'].\nAdd a step that makes 'stars'.",
    ),
    "a column renamed over another": Told(
        lambda _: empty().from_dicts([{"a": 1, "b": 2}]).rename(a="b"),
        SpecError,
        "Step 'rename' renames column 'a' to 'b', which exists already.\nDrop or rename 'b' first.",
    ),
    # the graph
    "no step": Told(
        lambda _: empty().check(),
        SpecError,
        "The pipeline has no steps.\nBegin with a source: p.from_dicts([...]).",
    ),
    "a step without rows": Told(
        lambda _: empty().generate(),
        StepConnectionError,
        "No rows flow into step 'generate'.\nBegin with a source: p.from_dicts([...]).",
    ),
    "a cycle": Told(
        circle,
        CycleError,
        "The steps form a circle: one → two → one.\nRemove one of these connections.",
    ),
    "duplicate names": Told(
        two_of_one_name,
        DuplicateStepError,
        "Two steps are named 'load'.\nGive one of them another name: name='...'.",
    ),
    "duplicate names in a list": Told(
        branches_of_one_name,
        DuplicateStepError,
        "Two steps are named 'a'.\nGive one of them another name.",
    ),
    "duplicate names in a file": Told(
        file_of_one_name, DuplicateStepError, "Two steps are named 'keep'.\nGive one of them another name."
    ),
    "an unknown step": Told(
        lambda _: answer()["anser"],
        UnknownStepError,
        "There is no step 'anser'; the pipeline has ['load', 'answer'].\nDid you mean 'answer'?",
    ),
    "an unknown step to follow": Told(
        lambda _: answer().judge(after="anser"),
        UnknownStepError,
        "There is no step 'anser'; the pipeline has ['load', 'answer'].\nDid you mean 'answer'?",
    ),
    "a join of different sources": Told(
        join_of_two_sources,
        StepConnectionError,
        "The rows of ['one', 'two'] meet in step 'both', but they come from different sources.\n"
        "Rows are joined by the id that they got at one common source.",
    ),
    "expand in one branch": Told(
        expand_in_one_branch,
        StepConnectionError,
        "The rows of ['one_each', 'rest'] meet one to one in step 'combine', but ['one_each'] makes several "
        "rows of one.\nExpand after the join, where all branches have met.",
    ),
    "expand in a routed branch": Told(
        expand_in_a_routed_branch,
        StepConnectionError,
        "The rows of ['one_each', 'rest'] meet one to one in step 'combine', but ['one_each'] makes several "
        "rows of one.\nExpand after the join, where all branches have met.",
    ),
    "a circle through a route": Told(
        circle_through_a_route,
        CycleError,
        "The steps form a circle: a → route_rows_0 → b → a.\nRemove one of these connections.",
    ),
    "a route without branches": Told(
        route_without_branches,
        StepConnectionError,
        "Route 'route_rows_0' has no branches.\nLet steps follow it: route >> [a, b].",
    ),
    "a route to more branches than there are": Told(
        sample_more_than_there_are,
        SpecError,
        "Route 'route_rows_0' sends each row to 3 branches; it has ['a', 'b'].\nGive n=2 at most.",
    ),
    "a route to no branch": Told(
        lambda _: sample_n_steps(0), SpecError, "sample_n_steps was given 0.\nGive a whole number above 0."
    ),
    "a weight of nothing": Told(
        routed("a", "b", weights={"a": 0, "b": 1}),
        SpecError,
        "Route 'r' gives branch 'a' the weight 0.0.\n"
        "Give a number above 0; leave the branch out if no row is to go there.",
    ),
    "a weight below zero": Told(
        routed("a", "b", weights={"a": 1, "b": -2}),
        SpecError,
        "Route 'r' gives branch 'b' the weight -2.0.\n"
        "Give a number above 0; leave the branch out if no row is to go there.",
    ),
    "a weight for a branch that is not there": Told(
        routed("short", "long", weights={"shrt": 1, "long": 1}),
        UnknownStepError,
        "Route 'r' has a weight for 'shrt'; its branches are ['short', 'long'].\nDid you mean 'short'?",
    ),
    "a branch without a weight": Told(
        routed("a", "b", weights={"a": 1}),
        SpecError,
        "Route 'r' has no weight for branch 'b'; it has {'a': 1.0}.\nGive one to each branch.",
    ),
    "a condition for a branch that is not there": Told(
        routed("short", "long", when={"shrt": "instruction"}, default="long"),
        UnknownStepError,
        "Route 'r' has a condition for 'shrt'; its branches are ['short', 'long'].\nDid you mean 'short'?",
    ),
    "a branch without a condition": Told(
        routed("a", "b", when={"a": "instruction"}),
        SpecError,
        "Route 'r' has no condition for branch 'b'.\nGive it one, or make it the default: default='b'.",
    ),
    "a default that is not there": Told(
        routed("a", "b", when={"a": "instruction", "b": "instruction"}, default="rest"),
        UnknownStepError,
        "Route 'r' has the default for 'rest'; its branches are ['a', 'b'].\n"
        "Let a step of that name follow the route.",
    ),
    "a default without conditions": Told(
        routed("a", "b", default="a"),
        SpecError,
        "Route 'r' has the default 'a', but no conditions.\n"
        "The default is for rows that meet no condition of `when`.",
    ),
    "a condition on a column that is not there": Told(
        routed("a", "b", when={"a": "instructions"}, default="b"),
        MissingColumnError,
        "Step 'r' reads column 'instructions'; upstream has ['instruction'].\nDid you mean 'instruction'?",
    ),
    "a route told two ways": Told(
        routed("a", "b", n=1, when={"a": "instruction"}),
        SpecError,
        "Route 'r' is told several ways to choose branches.\n"
        "Give n and weights, or when and default, or a function.",
    ),
    "a route to a step that does not follow": Told(
        routed("short", "long", branches=["shrt", "long"]),
        UnknownStepError,
        "Route 'r' sends rows to 'shrt'; the steps that follow it are ['short', 'long'].\nDid you mean 'short'?",
    ),
    "a routing function that names no branch": Told(
        route_by(lambda steps: "lft"),
        UnknownStepError,
        "The function of route 'route' names 'lft'; the branches are ['left', 'right'].\nDid you mean 'left'?",
    ),
    "a branch that leads nowhere": Told(
        lambda _: hi().route({"a": lambda p: p.keep("instruction"), "b": lambda p: p}, n=1).check(),
        StepConnectionError,
        "Nothing follows in branch 'b' of route 'route'.\n"
        "Join the branches again, for instance with combine().",
    ),
    "a branch that is no branch": Told(
        lambda _: hi().route({"a": lambda p: {"instruction": "hi"}}, n=1),
        SpecError,
        "The function of branch 'a' returned a 'dict'.\n"
        "It takes a pipeline and returns a longer one: lambda p: p.generate().",
    ),
    "rows for a source that is not there": Told(
        lambda _: hi().start(dataset={"laod": HI}),
        StepConnectionError,
        "There is no source 'laod'; the pipeline has ['load'].\nDid you mean 'load'?",
    ),
    "two branches into one step": Told(
        lambda _: branches().generate(),
        StepConnectionError,
        "The pipeline ends in ['a', 'b']; step 'generate' takes the rows of one step.\n"
        "Join the branches first with group(...) or combine(), or say after='...'.",
    ),
    "rows into a source": Told(
        into_a_source,
        StepConnectionError,
        "Source 'two' makes rows from nothing, but ['one'] flows into it.\nRemove that connection.",
    ),
    "a step of another pipeline": Told(
        step_of_another_pipeline,
        StepConnectionError,
        "Step 'keep' does not belong to this pipeline.\nMake it inside the same `with Pipeline()` block.",
    ),
    # parameters
    "an unknown parameter": Told(
        lambda _: KeepColumns(colums=["a"]),
        UnknownParameterError,
        "KeepColumns has no field 'colums'; it has ['cache', 'columns', 'input_batch_size', 'input_mappings', "
        "'name', 'output_mappings', 'resources', 'use_cache'].\nDid you mean 'columns'?",
    ),
    "an unknown parameter of the model": Told(
        start_with(answer__llm__temprature=1),
        UnknownParameterError,
        f"There is no parameter answer.llm.temprature; OpenAILLM has {OF_THE_MODEL}.\n"
        "Did you mean 'temperature'?",
    ),
    "an unknown parameter of the step": Told(
        start_with(answer__num_generation=2),
        UnknownParameterError,
        f"There is no parameter answer.num_generation; TextGeneration has {OF_THE_TASK}.\n"
        "Did you mean 'num_generations'?",
    ),
    "an unknown step in a parameter": Told(
        start_with(anser__llm__temperature=1),
        UnknownStepError,
        "There is no step 'anser'; the pipeline has ['load', 'answer'].\nDid you mean 'answer'?",
    ),
    "a parameter without a field": Told(
        start_with(answer=1),
        UnknownParameterError,
        "The parameter 'answer' names a step but no field of it.\nFor instance answer.<field>.",
    ),
    "a parameter of the wrong type": Told(
        start_with(answer__num_generations="two"),
        SpecError,
        "TextGeneration cannot be made: num_generations: Input should be a valid integer, unable to parse "
        "string as an integer (got 'two').",
    ),
    "a setting without a value": Told(
        lambda _: hi().then(dn.step(needs_n), name="repeat").check(),
        SpecError,
        "Step 'repeat' has no value for 'n', a setting of needs_n.\n"
        "Give it: needs_n(n=...), or in run(parameters=...).",
    ),
    "a limit that makes no sense": Told(
        lambda _: hi().start(max_cost=0),
        InputError,
        "max_cost is 0.\nGive a number above 0, or leave it out.",
    ),
    "a preview of nothing": Told(
        lambda _: hi().preview(0),
        InputError,
        "A preview of 0 rows was asked for.\nGive a number above 0.",
    ),
    # models
    "an absent key": Told(
        lambda _: hi().generate(llm="openai:gpt-4o-mini").check(),
        MissingKeyError,
        "No API key for openai is set.\nSet the environment variable OPENAI_API_KEY, or pass api_key=.",
    ),
    "an absent key at the preview of a step": Told(
        lambda _: hi().generate("answer", llm="openai:gpt-4o-mini")["answer"].preview(),
        MissingKeyError,
        "No API key for openai is set.\nSet the environment variable OPENAI_API_KEY, or pass api_key=.",
    ),
    "an unknown provider": Told(
        lambda _: Pipeline("p", llm="opnai:gpt-4o-mini"),
        UnknownKindError,
        f"There is no provider 'opnai'; there are {PROVIDERS}.\nDid you mean 'openai'?",
    ),
    "an unknown model class": Told(
        opened(
            "pipeline: {steps: [{kind: TextGeneration, name: answer, llm: {kind: OpenALLM, model: any}}]}"
        ),
        UnknownKindError,
        "There is no step, task or model class 'OpenALLM'.\nDid you mean 'OpenAILLM'?",
    ),
    "no model": Told(
        lambda _: Pipeline("p").from_dicts(HI).generate().check(),
        SpecError,
        "Step 'generate' has no model.\n"
        "Give it one (llm='openai:gpt-4o-mini'), or the pipeline: Pipeline('name', llm=...).",
    ),
    "an unreachable server": Told(
        lambda place: hi().generate(llm=closed_port(place)).start(),
        UnreachableError,
        "Nothing listens at 127.0.0.1:<port>.\nStart the server there, or correct base_url=.",
    ),
    "a parameter that the provider lacks": Told(
        lambda _: hi().generate(llm=dn.llm("openai:gpt-4o", api_key="any", top_k=3)).check(),
        UnsupportedParameterError,
        "OpenAI's API has no parameter 'top_k', which 'gpt-4o' is given.\n"
        "Leave top_k out, or set base_url= to a server that takes it (vLLM, llama.cpp).",
    ),
    "a budget with an unknown price": Told(
        lambda _: hi().generate(llm=dn.llm("openai:no-such-model", api_key="any")).start(max_cost=1),
        UnknownPriceError,
        "max_cost cannot be kept: the price of openai:no-such-model is unknown.\n"
        "Give it in USD: per million tokens, price=(input, output), or a line of prices.yaml; or leave max_cost out.",
    ),
    "an unknown judge": Told(
        lambda _: hi().generate().judge("ultrafeed"),
        UnknownKindError,
        "There is no judge 'ultrafeed'; there are ['prometheus', 'ultrafeedback'].\n"
        "Did you mean 'ultrafeedback'?",
    ),
    "an unknown rubric": Told(
        lambda _: hi().generate(into="generation").judge("prometheus", rubric="honest"),
        SpecError,
        "PrometheusEval has no rubric 'honest'; it has ['factual-validity', 'harmlessness', 'helpfulness', "
        "'honesty', 'reasoning'].\nDid you mean 'honesty'?",
    ),
    # templates and expressions
    "a template that cannot be read": Told(
        lambda _: hi().generate(prompt="user:\nSay\n{{ instruction"),
        TemplateError,
        "Line 3 of the template cannot be read: unexpected end of template, expected 'end of print "
        "statement'.\nText with braces in it is kept as it is between {% raw %} and {% endraw %}.",
    ),
    "a template without a message of the user": Told(
        lambda _: hi().generate(prompt="system:\nBe terse."),
        TemplateError,
        "The prompt has no message of the user.\nWrite one: a line `user:` and its text below.",
    ),
    "a template that includes a file": Told(
        lambda _: hi().generate(prompt="{{ instruction }}\n{% include '/etc/passwd' %}"),
        TemplateError,
        "Line 2 of the template includes another file.\n"
        "A template stands alone; write the text in it, or pass it as a column.",
    ),
    "a filter that cannot be read": Told(
        lambda _: hi().filter("instruction >"),
        TemplateError,
        "The expression 'instruction >' cannot be read: unexpected 'end of template'.",
    ),
    # code
    "code that holds a key": Told(
        lambda _: hi().map(uses_a_key).start(),
        UnsafeFileError,
        "The file would hold the text of the global 'KEY', whose name is that of a secret.\n"
        "Read it from the environment inside the function: os.environ['KEY'].",
    ),
    "code that holds a key in an object": Told(
        lambda _: hi().map(uses_a_client).start(),
        CodeNotPortableError,
        "The functions ['uses_a_client'] hold what looks like a secret key.\n"
        "Read it inside the function from the environment.",
    ),
    "code that holds a secret": Told(
        lambda _: hi().map(uses_a_secret).start(),
        CodeNotPortableError,
        "The functions ['uses_a_secret'] hold what looks like a secret key.\n"
        "Read it inside the function from the environment.",
    ),
    "code that holds a token of the environment": Told(
        closes_over_a_token,
        CodeNotPortableError,
        "The functions ['call'] hold the value of the environment variable MY_TOKEN.\n"
        "Read it inside the function: os.environ['MY_TOKEN'].",
    ),
    "a prompt that holds a token of the environment": Told(
        prompt_with_a_token,
        UnsafeFileError,
        "The file of pipeline 'p' would hold the value of the environment variable MY_TOKEN.\n" + NO_SECRETS,
    ),
    "code over 10 MB": Told(
        lambda _: hi().map(closes_over_much()).start(),
        CodeNotPortableError,
        "The functions ['weigh'] weigh 11.0 MB with the globals they use: 'big'. The limit is 10 MB.\n"
        "Read large data inside the function, or pass it as a column.",
    ),
    "a live object in a closure": Told(
        closes_over_a_connection,
        CodeNotPortableError,
        "The functions ['send'] use something that cannot be sent to a worker: "
        "cannot pickle 'socket' object.\n"
        "Make live objects (clients, locks, open files) inside the function, or in `load` of a step class.",
    ),
    "a live object among the globals": Told(
        lambda _: hi().map(uses_a_lock).start(),
        CodeNotPortableError,
        "The functions ['uses_a_lock'] use something that cannot be sent to a worker: "
        "cannot pickle '_thread.lock' object.\n"
        "Make live objects (clients, locks, open files) inside the function, or in `load` of a step class.",
    ),
    # files
    "an untrusted class in YAML": Told(
        untrusted_class,
        UnsafeFileError,
        "The file holds a class of its own, 'Mine', which is not run untrusted.\n"
        "Pass your own: classes=[Mine]; or read code_in(text), then open with trust_code=True.",
    ),
    "an untrusted function in YAML": Told(
        untrusted_function,
        SpecError,
        "The function 'add_one' came from a file and was not trusted, so it cannot run.\n"
        "Open the file with trust_code=True after reading it.",
    ),
    "a tag in YAML": Told(
        opened("pipeline: {steps: [!!python/object/apply:os.getpid {}]}"),
        UnsafeFileError,
        "The file holds the tag 'tag:yaml.org,2002:python/object/apply:os.getpid' in line 2; tags can make "
        "objects.\nPipeline files hold plain text, numbers, lists and mappings only.",
    ),
    "an unknown step class in YAML": Told(
        opened("pipeline: {steps: [{kind: KeepColumn, name: keep, columns: [a]}]}"),
        UnknownKindError,
        "There is no step, task or model class 'KeepColumn'.\nDid you mean 'KeepColumns'?",
    ),
    "a connection to no step in YAML": Told(
        opened(
            "pipeline: {steps: [{kind: KeepColumns, name: keep, columns: [a]}], connections: [[keep, b]]}"
        ),
        UnknownStepError,
        "There is no step 'b'; the pipeline has ['keep'].",
    ),
    "a file of distilabel": Told(
        lambda _: Pipeline.from_yaml("distilabel: {version: 1.5.3}\npipeline: {name: p}"),
        SpecError,
        "This is a pipeline file of distilabel, not of distilnb.\n"
        "Write its steps with distilnb; it cannot be imported yet.",
    ),
    # runs
    "an unknown run": Told(
        lambda _: dn.attach("p-0000"),
        RunNotFoundError,
        "There is no run 'p-0000' in '<home>/runs'; there are [].\nList them with dn.runs() or `%distil ps`.",
    ),
    "a home that cannot be written at the start": Told(
        lambda place: below_a_file(place, lambda p: p.start()),
        StoreError,
        "The folder '<tmp>/file/home' " + NOT_A_DIRECTORY,
    ),
    "a disk that is full at the start": Told(
        start_on_a_full_disk,
        StoreError,
        "The file '<home>/runs/<run>/batches/load/000000.json' cannot be written: File too large.\n"
        "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume.",
    ),
}


# --- one row's failure -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quarantined:
    """The run finishes; `row` (the place of it among the source's rows) is in quarantine, the others are not."""

    make: Callable[[Place], Pipeline]
    row: int
    kind: str
    reason: str
    n_good: int
    reply: str = ""
    raised: str = ""  # the last line of the traceback, where code of the user raised

    def prove(self, place: Place) -> None:
        p = self.make(place)
        run = p.start()
        status = run.wait(60)
        assert (status.state, status.error) == ("finished", "")
        step, *_ = p.graph.leaves()
        rows = p.graph.steps["load"].data.rows  # type: ignore[attr-defined]  # a list of dicts in every row
        [found] = run.errors().to_dict("records")
        assert {name: found[name] for name in ("row_id", "step", "kind", "reason", "reply")} == {
            "row_id": IdMaker("load").make(rows[self.row]),
            "step": step,
            "kind": self.kind,
            "reason": place.fill(self.reason),
            "reply": self.reply,
        }
        was_asked = place.server.stats()["requests"] > 0 and self.kind != "MissingValueError"
        assert found["prompt"] == (repr(p[step].prompt(rows[self.row])) if was_asked else "")
        assert found["traceback"].rpartition("\n")[0].rpartition("\n")[2] == self.raised
        assert not found["is_partial"]
        counted = status.step(step)
        assert (counted.done, counted.failed, counted.dropped) == (self.n_good, 1, 0)
        assert len(run.rows(step)) == self.n_good
        assert len(run.distiset().to_pandas()) == self.n_good


def unlucky(n: int) -> dict[str, int]:
    if n == 500:
        raise ValueError("bad luck")
    return {"more": n + 1}


def live_once(n: int) -> dict[str, object]:
    return {"made": object() if n == 2 else n}


def no_dict_once(n: int) -> Any:
    return "more" if n == 2 else {"more": n}


EMPTY = "The reply is empty.\nRaise max_new_tokens if the model thinks first, or ask again."

QUARANTINED = {
    "a row lacking a column": Quarantined(
        lambda place: Pipeline("p", llm=place.llm()).from_dicts([*HI, {"Instruction": "hi"}, *HI]).generate(),
        row=1,
        kind="MissingValueError",
        reason="Step 'generate' reads column 'instruction'; this row has ['Instruction'].\n"
        "Rows of one source may differ: fill the column, or filter such rows out.",
        n_good=2,
    ),
    "a row lacking a column of a function": Quarantined(
        lambda _: Pipeline("p").from_dicts([{"n": 1}, {"m": 1}]).map(add_one),
        row=1,
        kind="MissingValueError",
        reason="Step 'map' reads column 'n'; this row has ['m'].\n"
        "Rows of one source may differ: fill the column, or filter such rows out.",
        n_good=1,
    ),
    "None": Quarantined(
        lambda place: texts(place, "one", None, "two"),
        row=1,
        kind="MissingValueError",
        reason="Column 'instruction' is None in this row.\nFill it, or filter such rows out.",
        n_good=2,
    ),
    "NaN": Quarantined(
        lambda place: texts(place, "one", float("nan"), "two"),
        row=1,
        kind="MissingValueError",
        reason="Column 'instruction' is NaN in this row.\nFill it, or filter such rows out.",
        n_good=2,
    ),
    "None for a judge": Quarantined(
        lambda place: (
            Pipeline("p", llm=place.llm())
            .from_dicts([{"instruction": None, "generations": ["a", "b"]}])
            .judge()
        ),
        row=0,
        kind="MissingValueError",
        reason="Column 'instruction' is None in this row.\nFill it, or filter such rows out.",
        n_good=0,
    ),
    "NaN for a judge": Quarantined(
        lambda place: (
            Pipeline("p", llm=place.llm())
            .from_dicts([{"instruction": float("nan"), "generations": ["a", "b"]}])
            .judge()
        ),
        row=0,
        kind="MissingValueError",
        reason="Column 'instruction' is NaN in this row.\nFill it, or filter such rows out.",
        n_good=0,
    ),
    "a comparison with None": Quarantined(
        lambda _: Pipeline("p").from_dicts([{"n": 1}, {"n": None}]).filter("n < 4"),
        row=1,
        kind="MissingValueError",
        reason="Column 'n' is None in this row.\nFill it, or filter such rows out.",
        n_good=1,
    ),
    "a comparison of text with a number": Quarantined(
        lambda _: Pipeline("p").from_dicts([{"n": 1}, {"n": "many"}]).filter("n < 4"),
        row=1,
        kind="StepRowError",
        reason="The expression fails on this row: TypeError: '<' not supported between instances of 'str' and "
        "'int'.\nCheck the types of the columns.",
        n_good=1,
    ),
    "a list that is none": Quarantined(
        lambda _: Pipeline("p").from_dicts([{"xs": [1]}, {"xs": "[1, 2]"}]).expand("xs"),
        row=1,
        kind="StepRowError",
        reason="Column 'xs' holds str, not a list.\nIf it is JSON text, say encoded=True.",
        n_good=1,
    ),
    "a reply that cannot be parsed": Quarantined(
        lambda place: (
            Pipeline("p", llm=place.llm("judge"))
            .from_dicts([{"instruction": "hi", "generations": ["Hello.", "Go away."]}])
            .judge()
        ),
        row=0,
        kind="ParseError",
        reason="The reply rates none of the 2 texts: it names no rating.\nAsk again, or another judge.",
        reply=NO_RATING,
        n_good=0,
    ),
    "a reply without a text": Quarantined(
        lambda place: texts(place, "one", "two [[empty]]", "three"),
        row=1,
        kind="ParseError",
        reason=EMPTY,
        n_good=2,
    ),
    "a reply that is null": Quarantined(
        lambda place: texts(place, "one", "two [[null]]", "three"),
        row=1,
        kind="ParseError",
        reason=EMPTY,
        reply="(no text)",
        n_good=2,
    ),
    "an answer that is no answer": Quarantined(
        lambda place: texts(place, "one", "two [[garbage]]", "three"),
        row=1,
        kind="MalformedReplyError",
        reason="openai (<host>, model 'mock-model') sent an answer that is not a chat completion "
        "(JSONDecodeError: Expecting value: line 1 column 1 (char 0)): '<html><body>Bad gateway, and yet the "
        "status is 200.</body></html>'\n"
        "A proxy may stand between, or base_url= leads to a server with another protocol.",
        n_good=2,
    ),
    "a model that answers 429": Quarantined(
        lambda place: texts(place, "one", "two [[429x9]]", "three", max_retries=2),
        row=1,
        kind="RateLimitError",
        reason="openai (<host>, model 'mock-model') asks for fewer requests: HTTP 429: injected limit\n"
        "Lower max_concurrency=, or set rpm= and tpm=.",
        n_good=2,
    ),
    "a model that answers 500": Quarantined(
        lambda place: texts(place, "one", "two [[500]]", "three", max_retries=1),
        row=1,
        kind="ServerError",
        reason="openai (<host>, model 'mock-model') failed to answer: HTTP 500: injected failure\n"
        "It is asked again; when it stays so, see the provider's status page.",
        n_good=2,
    ),
    "a model that never answers": Quarantined(
        lambda place: texts(place, "one", "two [[never]]", "three", timeout=0.3),
        row=1,
        kind="RequestTimeoutError",
        reason="openai (<host>, model 'mock-model') did not answer within 0.3 s.\n"
        "Raise timeout=, lower max_new_tokens, or lower max_concurrency=.",
        n_good=2,
    ),
    "a function that raises on one row in a thousand": Quarantined(
        lambda _: numbers(1000).map(unlucky),
        row=500,
        kind="ValueError",
        reason="bad luck",
        raised="ValueError: bad luck",
        n_good=999,
    ),
    "a function that returns no dict": Quarantined(
        lambda _: numbers().map(no_dict_once),
        row=2,
        kind="StepRowError",
        reason="no_dict_once returned 'more' (str).\nReturn a dict: {'column': value}.",
        n_good=3,
    ),
    "a function that returns a live object": Quarantined(
        lambda _: numbers().map(live_once),
        row=2,
        kind="InputError",
        reason="A row holds a value of type 'object', which cannot be stored.\n"
        "Use str, int, float, bool, None, list, dict, bytes, datetime or Decimal; make live objects in `load`.",
        n_good=3,
    ),
}


# --- the end of a run ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ends:
    """The run ends unfinished; `kept` says how many rows of each step stay. `resumed` is what a resume makes."""

    make: Callable[[Place], Pipeline]
    reason: str
    error: str
    kept: dict[str, int]
    state: str = "failed"
    options: dict[str, Any] = field(default_factory=dict)
    free_bytes: int = 0  # on a disk that is full then
    mend: Callable[[Place], None] = lambda place: None
    resumed: int | None = None  # rows of the leaf, once the cause is mended
    n_paid_twice: int = 0  # at most: what was in flight
    flowed_on: range = range(1)  # how many rows may have reached the leaf by then, where `kept` does not say

    def prove(self, place: Place) -> None:
        p = self.make(place)
        if self.free_bytes:
            with full_disk(self.free_bytes):
                run = p.start(**self.options)
        else:
            run = p.start(**self.options)
        status = run.wait(60)
        assert (status.state, status.reason) == (self.state, self.reason)
        assert plain(status.error) == place.fill(self.error)
        assert {step: len(run.rows(step)) for step in self.kept} == self.kept
        error = RunFailedError if self.state == "failed" else RunNotFinishedError
        with pytest.raises(error, match=run.id):
            run.distiset()
        [leaf] = p.graph.leaves()
        n_made = len(run.distiset(partial=True)["default"]["train"])
        assert n_made in ([self.kept[leaf]] if leaf in self.kept else self.flowed_on)
        if self.resumed is not None:
            self.mend(place)
            assert run.resume().wait(60).state == "finished"
            assert len(run.distiset().to_pandas()) == self.resumed
            assert place.server.stats()["duplicate_prompts_after_ok"] <= self.n_paid_twice


class RaisesInGlobal(GlobalStep):
    inputs = ["n"]

    def process(self, rows: StepInput) -> Any:  # type: ignore[override]  # as users write it
        raise RuntimeError(f"{len(rows)} rows are too many")
        yield


class RaisesInLoad(Step):
    inputs = ["n"]

    def load(self) -> None:
        raise RuntimeError("the index is not there")

    def process(self, rows: StepInput) -> Any:  # type: ignore[override]  # as users write it
        yield rows


class RaisesInTheMiddle(GeneratorStep):
    outputs = ["n"]
    batch_size: int = 1000

    def process(self, offset: int = 0) -> Any:
        yield [{"n": i} for i in range(1000)], False
        raise RuntimeError("the connection broke")


class Dies(Step):
    inputs = ["n"]

    def load(self) -> None:  # at nobody's row: a row that kills is quarantined, and the run goes on
        os._exit(7)

    def process(self, rows: StepInput) -> Any:  # type: ignore[override]  # as users write it
        yield rows


def much_text(n: int) -> dict[str, str]:
    return {"text": "x" * 1000}


def half_a_file(place: Place) -> Pipeline:
    lines = [f'{{"n": {i}}}' for i in range(2500)]
    return Pipeline("p").from_files(place.file("half.jsonl", "\n".join([*lines, "{oops}"]))).map(add_one)


def mend_the_file(place: Place) -> None:
    path = place.tmp / "half.jsonl"
    path.write_text(path.read_text().replace("{oops}", '{"n": 2500}'))


def absent_dataset(place: Place) -> Pipeline:
    """Return a pipeline on a dataset that the loopback Hub does not have; only a worker asks that Hub."""
    for name, value in place.open(fake_hub()).env.items():
        place.monkeypatch.setenv(name, value)
    return Pipeline("p").from_hub("nobody/nothing", split="train").take(1)


ENDS = {
    "a model that answers 401": Ends(
        lambda place: texts(place, "one", "two [[401x1]]", "three", "four"),
        reason="AuthenticationError",
        error="Step 'generate' failed: AuthenticationError: openai (<host>, model 'mock-model') refused the API "
        "key: HTTP 401: Incorrect API key provided: .\n"
        "No key was sent: OPENAI_API_KEY goes to OpenAI's own host only. Pass api_key= here.",
        kept={"load": 4},
        resumed=4,
        flowed_on=range(4),  # those that were answered before the refusal came
    ),
    "a model that answers 404": Ends(
        lambda place: texts(place, "one", "two [[404x1]]", "three", "four"),
        reason="UnknownModelError",
        error="Step 'generate' failed: UnknownModelError: openai (<host>, model 'mock-model') does not know the "
        "model: HTTP 404: The model `mock-model` does not exist or you do not have access to it.\n"
        "Correct the model's name. If it is right, base_url= should end in the API's path, often /v1.",
        kept={"load": 4},
        resumed=4,
        flowed_on=range(4),  # those that were answered before the refusal came
    ),
    "a budget": Ends(
        # A request may cost 0.512, and costs 0.032: the fourth could pass the limit.
        lambda place: texts(place, *"abcdefgh", price=(0, 1000)),
        options={"max_cost": 0.6},
        state="stopped",
        reason="budget: max_cost 0.6 USD",
        error="",
        kept={"load": 8, "generate": 3},
    ),
    "a global step that raises": Ends(
        lambda _: numbers().map(add_one).then(RaisesInGlobal(name="all")),
        reason="RuntimeError",
        error="Step 'all' failed: RuntimeError: 4 rows are too many",
        kept={"load": 4, "map": 4},
    ),
    "a step whose load raises": Ends(
        lambda _: numbers().take(3).then(RaisesInLoad(name="search")),
        reason="RuntimeError",
        error="Step 'search' failed: RuntimeError: the index is not there",
        kept={"load": 4, "take": 3},
    ),
    "a source that raises": Ends(
        lambda _: Pipeline("p").then(RaisesInTheMiddle(name="made")).map(add_one),
        reason="RuntimeError",
        error="Step 'made' failed: RuntimeError: the connection broke",
        kept={"made": 1000},
        flowed_on=range(1001),
    ),
    "a file that is damaged in the middle": Ends(
        half_a_file,
        reason="InputError",
        error="Step 'load' failed: InputError: '<tmp>/half.jsonl', line 2501: no JSON: Expecting property name "
        "enclosed in double quotes at column 2.\nThe line begins '{oops}'.",
        kept={"load": 2500},
        flowed_on=range(2501),
        mend=mend_the_file,
        resumed=2501,
    ),
    "a dataset that does not exist": Ends(
        absent_dataset,
        reason="SourceNotFoundError",
        error="Step 'load' failed: SourceNotFoundError: Dataset 'nobody/nothing' cannot be loaded: Dataset "
        "'nobody/nothing' doesn't exist on the Hub or cannot be accessed..\n"
        "Check its name; a private one needs a login: `hf auth login`, or HF_TOKEN.",
        kept={},
    ),
    "a step that kills its process": Ends(
        lambda _: numbers().take(3).then(Dies(name="crash")),
        reason="worker",
        error="The rows worker died 3 times (exit code 7) without finishing a row of 'crash'.",
        kept={"load": 4, "take": 3},
    ),
    "a disk that is full in the middle": Ends(
        lambda _: numbers(500).map(much_text),
        free_bytes=300_000,
        reason="StoreError",
        error="Step 'map' failed: StoreError: The file '<home>/runs/<run>/batches/map/<batch>' cannot be written: "
        "File too large.\n"
        "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume.",
        kept={"load": 500, "map": 64},
        resumed=500,
    ),
    "a disk that is full for replies": Ends(
        # A reply is 50 kB: the first ones fit, a later one is answered and cannot be kept.
        lambda place: texts(place, *"abcd", model="long"),
        free_bytes=250_000,
        reason="StoreError",
        error="StoreError: The reply cache '<home>/cache/replies.sqlite' cannot be written: disk I/O error.\n"
        "Free some disk space, or set DISTILNB_HOME to a folder that can be written; then resume.",
        kept={"load": 4},
        flowed_on=range(4),  # on a busy machine those that fit are flushed before
        resumed=4,
        n_paid_twice=2,
    ),
}


# --- what only looks bad ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Harmless:
    """The run finishes, every row comes out with what it came with, and the model was asked all of it."""

    make: Callable[[Place], Pipeline]

    def prove(self, place: Place) -> None:
        p = self.make(place)
        rows = p.graph.steps["load"].data.rows  # type: ignore[attr-defined]  # a list of dicts in every row
        run = p.start()
        status = run.wait(60)
        assert (status.state, status.error, len(run.errors())) == ("finished", "", 0)
        [leaf] = p.graph.leaves()
        assert [{name: row[name] for name in rows[0]} for row in run.rows_of_leaf(leaf)] == list(rows)
        assert place.server.stats()["answered_prompts"] == len(rows)
        assert len(run.rows(leaf)) == len(rows)
        assert len(run.distiset().to_pandas()) == len(rows)


def lone(place: Place) -> Sequence[str]:
    return ["half an emoji \ud83d", "the other half \ude00"]


HARMLESS = {
    "1 MB of text": Harmless(lambda place: texts(place, "x" * 1_000_000, "two")),
    "emoji": Harmless(lambda place: texts(place, "👩‍👩‍👧 🏳️‍🌈 🙂", "🇫🇷")),
    "Chinese": Harmless(lambda place: texts(place, "写一首关于秋天的诗。", "把下面的句子翻译成英文:你好。")),
    "text from right to left": Harmless(lambda place: texts(place, "שלום \u202eעולם\u202c!", "مرحبا")),
    "half of a surrogate pair": Harmless(lambda place: texts(place, *lone(place))),
    "characters that are none": Harmless(lambda place: texts(place, "a\x00b", "\u2028line\x85", "\ufeffbom")),
    "None where nothing reads it": Harmless(
        lambda place: (
            Pipeline("p", llm=place.llm())
            .from_dicts([{"instruction": "hi", "topic": None}, {"instruction": "ho", "topic": "x"}])
            .generate()
        )
    ),
    "a model that answers 429 at first": Harmless(
        lambda place: texts(place, "one", "two [[429]]", max_retries=3)
    ),
    "a model that answers 500 at first": Harmless(
        lambda place: texts(place, "one", "two [[500x1]]", max_retries=3)
    ),
    "a model that never answers at first": Harmless(
        lambda place: texts(place, "one", "two [[neverx1]]", max_retries=1, timeout=0.3)
    ),
}

Case: TypeAlias = Told | Quarantined | Ends | Harmless
TABLE: dict[str, Case] = {**TOLD, **QUARANTINED, **ENDS, **HARMLESS}


@pytest.mark.parametrize("name", TABLE)
def test_bad_input(name: str, place: Place) -> None:
    """Bad input gets a clear error, at the right time, and loses nothing."""
    TABLE[name].prove(place)


def test_a_row_lost_in_one_branch_is_told_at_the_join(place: Place) -> None:
    """The join names the root cause; rows that were filtered in one branch are quarantined there too."""
    p = numbers() >> [
        MapRows(name="share", function=lambda n: {"share": 1 / (n - 2)}),
        FilterRows(name="small", condition="n != 3"),
    ]
    run = p.combine().start()
    assert run.wait(60).state == "finished"
    ids = [IdMaker("load").make({"n": n}) for n in range(4)]
    fix = "\nIf it failed there, mend that step; if it was left out on purpose, leave it out after the join."
    found = run.errors().sort_values(["row_id", "step"]).to_dict("records")
    expected = [
        (ids[2], "share", "ZeroDivisionError", "division by zero"),
        (
            ids[2],
            "combine",
            "MissingPartnerError",
            f"A partner of this row did not arrive: step 'share': division by zero{fix}",
        ),
        (
            ids[3],
            "combine",
            "MissingPartnerError",
            f"A partner of this row did not arrive: step 'small': left out by the step{fix}",
        ),
    ]
    assert [(e["row_id"], e["step"], e["kind"], e["reason"]) for e in found] == sorted(expected)
    assert run.rows("combine")["n"].tolist() == [0, 1]


def test_an_unknown_run_is_told_with_the_near_match(place: Place) -> None:
    run = numbers(1).start()
    run.wait(60)
    wrong = run.id[:-1]
    with pytest.raises(RunNotFoundError) as caught:
        dn.attach(wrong)
    assert str(caught.value) == (
        f"There is no run {wrong!r} in '{place.home}/runs'; there are [{run.id!r}].\nDid you mean {run.id!r}?"
    )


def test_rows_that_cannot_be_paired_are_counted_with_their_reason(place: Place) -> None:
    ratings: list[list[int | None]] = [[1, 2], [3, 3], [None, 2]]
    rows = [{"instruction": "hi", "generations": ["a", "b"], "ratings": pair} for pair in ratings]
    run = Pipeline("p").from_dicts(rows).to_dpo().start()
    status = run.wait(60).step("to_dpo")
    assert (status.done, status.failed, status.dropped) == (1, 0, 2)
    assert status.drop_reasons == {
        "tie: all generations are rated equal": 1,
        "fewer than two rated generations": 1,
    }
