"""`to_script` writes a program that builds an equal pipeline, and says by name what it cannot write."""

from __future__ import annotations

import linecache
import os
import subprocess
import sys
import tempfile
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distilnb as dn
from distilnb.errors import DistilnbError, SpecError, UnsafeFileError
from distilnb.pipeline import Pipeline
from distilnb.pipeline.layout import call, laid_out, node_of
from distilnb.pipeline.script import connections
from distilnb.spec.files import PipelineFile, from_text, to_text
from distilnb.steps.route import RouteRows
from tests.property.graphs import draw_pipeline
from tests.property.steps import Mark

ROWS = [{"instruction": "Name a fish.", "text": "one two"}, {"instruction": "数到三。", "text": 'say "hi"'}]
RUFF = str(Path(sys.executable).with_name("ruff"))


def base(**options: Any) -> Pipeline:
    return Pipeline("prefs", llm="rehearsal", **options).from_dicts(ROWS)


def built(text: str, variable: str = "prefs") -> Pipeline:
    """Run a script as a file of its own would be, but for its last lines, and return its pipeline."""
    name = f"<test {hash(text)}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, Any] = {"__name__": name}
    exec(compile(text, name, "exec", dont_inherit=True), namespace)
    pipeline = namespace[variable]
    assert isinstance(pipeline, Pipeline)
    return pipeline


def ruff(*arguments: str, text: str) -> str:
    """Return what ruff, set as it comes, has to say about a text; `tests` is a folder beside it."""
    own = "lint.isort.known-first-party=['tests']"
    command = [RUFF, *arguments, "--isolated", "--config", own, "-"]
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, cwd=tempfile.gettempdir()
    )
    return done.stdout + done.stderr if done.returncode else ""


def cell(source: str, **names: Any) -> dict[str, Any]:
    """Run source as a cell would be run, where its text can be found, and return its names."""
    source = textwrap.dedent(source)
    name = f"<cell {hash(source)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    namespace = {"__name__": "__main__", "dn": dn, **names}
    exec(compile(source, name, "exec", dont_inherit=True), namespace)
    return namespace


def a_prompt() -> Pipeline:
    return base().generate("answer", "system:\nBe terse.\nuser:\nSay {{ text }}\nand \\n more", k=2)


def preferences() -> Pipeline:
    models = [dn.llm("openai:gpt-4o-mini", temperature=0.7), "rehearsal:b"]
    return a_prompt().generate("more", llm=models, into="says").judge(aspect="honesty").to_dpo()


def a_route() -> Pipeline:
    branches = {"short": lambda p: p.keep("text"), "long": lambda p: p}
    return base().route(branches, when={"short": "text|length < 5"}, default="long").combine()


def odd_words() -> Pipeline:
    return (
        Pipeline("class", llm="rehearsal", description='it\'s\na "quoted" \x1b[31m thing')
        .from_dicts(ROWS, name="import")
        .keep("text", name="print")
        .take(2, name="1st")
        .rename({"text": "日本"}, name="日本")
    )


def values() -> Pipeline:
    made = base().from_dicts([{"a": b"bytes", "b": [1.5], "c": None}], name="load")
    return made.filter("b[0] > 1").merge("a", "c", into="both").expand({"b": "one"})


def a_schema() -> Pipeline:
    return base().generate(
        "typed", "{{ text }}", schema={"type": "object", "properties": {"n": {"type": "integer"}}}
    )


def functions() -> Pipeline:
    names = cell(
        '''
        import re
        from collections import Counter as Count

        LIMIT = 3


        def cut(text):
            return text[:LIMIT]


        def shout(text):
            """Say it loud."""
            return {"loud": re.sub("a", "b", cut(text)).upper()}


        def words(text, row):
            return {"words": dict(Count(cut(text).split()))}
        '''
    )
    return base().map(names["shout"]).map(names["words"]).map(lambda text: {"n": len(text)})


def same_names() -> Pipeline:
    one = cell("LIMIT = 3\n\n\ndef cut(text):\n    return {'one': text[:LIMIT]}\n")
    two = cell("LIMIT = 4\n\n\ndef cut(text):\n    return {'two': text[:LIMIT]}\n")
    return base().map(one["cut"]).map(two["cut"])


def decorated() -> Pipeline:
    names = cell(
        '''
        from distilnb import task


        @dn.step(inputs=["text"], outputs=["loud"])
        def shout(rows):
            yield [{**row, "loud": row["text"].upper()} for row in rows]


        @task
        def keywords(reply):
            """List three keywords of this text: {{ text }}"""
            return {"keywords": reply.split(",")}
        '''
    )
    return base().then(names["shout"]).ask(names["keywords"])


def a_class() -> Pipeline:
    names = cell(
        """
        from distilnb.steps import Step

        MARK = "!"


        class Louder(Step):
            times: int = 1

            @property
            def inputs(self):
                return ["text"]

            @property
            def outputs(self):
                return ["loud"]

            def process(self, rows):
                yield [{**row, "loud": row["text"] + MARK * self.times} for row in rows]
        """
    )
    return base().then(names["Louder"](name="louder", times=3)).then(Mark(name="mark", salt=2))


WHOLE = [a_prompt, preferences, a_route, odd_words, values, a_schema]
OF_USERS = [functions, same_names, decorated, a_class]


@pytest.mark.parametrize("make", [*WHOLE, *OF_USERS], ids=lambda make: make.__name__)
def test_the_script_builds_an_equal_pipeline(make: Any) -> None:
    pipeline = make()
    text = pipeline.to_script()
    other = built(text, "class_" if pipeline.name == "class" else "prefs")
    assert other.digest == pipeline.digest
    assert other.graph.edges == pipeline.graph.edges
    assert (other.name, other.description, other.llm) == (pipeline.name, pipeline.description, pipeline.llm)
    assert ruff("check", text=text) == ""


@pytest.mark.parametrize("make", WHOLE, ids=lambda make: make.__name__)
def test_a_formatter_would_change_nothing(make: Any) -> None:
    assert ruff("format", "--diff", text=make().to_script()) == ""


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_a_drawn_pipeline_comes_back_from_its_script_and_from_its_file(
    data: st.DataObject, tmp_path: Path
) -> None:
    graph = draw_pipeline(data, tmp_path).graph
    pipeline = Pipeline("drawn", graph=graph)
    other = built(pipeline.to_script(), "drawn")
    assert other.digest == pipeline.digest
    assert list(other.graph.steps) == list(graph.steps)
    assert other.graph.edges == graph.edges
    for step, again in zip(graph.steps.values(), other.graph.steps.values(), strict=True):
        assert step.dump() == again.dump()
        if isinstance(step, RouteRows):
            assert list(step.branches) == list(again.branches)  # type: ignore[attr-defined]
    classes = {type(step).__name__: type(step) for step in graph.steps.values()}
    classes |= {
        type(llm).__name__: type(llm) for step in graph.steps.values() if (llm := getattr(step, "llm", None))
    }
    file = from_text(to_text(PipelineFile("drawn", graph)), trust_code=True, classes=classes)
    assert file.graph.digest == graph.digest


_TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | _TEXT
    | st.sampled_from(["a\nb", '"', "\\"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4) | st.tuples(inner),
    max_leaves=25,
)


@given(_VALUES)
def test_any_plain_value_is_written_as_itself(value: object) -> None:
    written = laid_out(node_of(value), before="x = ")
    namespace: dict[str, Any] = {}
    exec(written, namespace)
    assert namespace["x"] == value


@settings(max_examples=25, deadline=None)
@given(st.lists(_VALUES, min_size=8, max_size=8))
def test_what_is_laid_out_is_laid_out_as_a_formatter_does(values: list[object]) -> None:
    text = "".join(f"x = {laid_out(call('dict', [], {'value': node_of(value)}))}\n" for value in values)
    assert ruff("format", "--diff", text=text) == ""


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(5, 9)), unique=True, max_size=12))
def test_statements_connect_the_edges_in_their_order(pairs: list[tuple[int, int]]) -> None:
    from distilnb.spec.draft import Draft, drafting
    from distilnb.steps.columns import KeepColumns

    edges = [(f"s{a}", f"s{b}") for a, b in pairs]
    draft = Draft()
    with drafting(draft):
        steps = {f"s{n}": KeepColumns(name=f"s{n}", columns=["a"]) for n in range(10)}
        for line in connections(edges, {name: name for name in steps}):
            exec(line, dict(steps))
    assert draft.edges == edges


# --- what is not written --------------------------------------------------------


def test_a_key_is_not_written_and_the_script_says_so() -> None:
    model = dn.llm("openai:gpt-4o-mini", api_key="a-key-that-is-literal")
    text = base().generate(prompt="{{ text }}", llm=model).to_script()
    assert "literal" not in text.replace("a key that was given literally", "")
    assert (
        "# api_key is not written: give it here, or where the provider looks for it.\ngpt_4o_mini = " in text
    )


def test_a_secret_in_a_prompt_or_in_the_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "canary-0123456789")
    with pytest.raises(UnsafeFileError, match="the value of the environment variable SOME_TOKEN"):
        base().generate(prompt="Use canary-0123456789 on {{ text }}").to_script()
    names = cell("API_KEY = 'abcdefghijkl'\n\n\ndef ask(text):\n    return {'a': API_KEY}\n")
    with pytest.raises(UnsafeFileError, match="'API_KEY'"):
        base().map(names["ask"]).to_script()


def test_many_rows_are_named_and_not_held() -> None:
    rows = [{"text": "word " * 20, "n": number} for number in range(4000)]
    pipeline = Pipeline("prefs").from_dicts(rows).keep("text")
    text = pipeline.to_script()
    assert len(text) < 2000
    assert "# The 4000 rows of step 'load' are not in here. Give them: .with_rows(rows)" in text
    assert built(text).digest == pipeline.digest
    assert ruff("format", "--diff", text=text) == ""


def _marked(mark: str, text: str) -> dict[str, str]:
    return {"a": text + mark}


def live() -> Any:
    return cell("import threading\nlock = threading.Lock()\n\n\ndef f(text):\n    return {'a': lock}\n")["f"]


def closed_over() -> Any:
    def outer(mark: Any) -> Any:
        def inner(text: str) -> Any:
            return {"a": mark}

        return inner

    return outer(object())


@pytest.mark.parametrize(
    "function, said",
    [
        (eval("lambda text: {'a': 1}"), "the source of the function '<lambda>' of step 'map' cannot be read"),
        (live(), "step 'map' uses 'lock', a lock, which has no source"),
        (closed_over(), "step 'map' uses 'mark', a object, which has no source"),
        (partial(_marked, "!"), "the source of the function 'partial' of step 'map' cannot be read"),
    ],
    ids=["lambda", "live", "closure", "partial"],
)
def test_what_cannot_be_written_is_said_by_name(function: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said) as caught:
        base().map(function, makes=["a"]).to_script()
    assert "Give a lambda a name" in caught.value.fix


def test_code_that_was_not_trusted_is_not_written() -> None:
    opened = Pipeline.from_yaml(functions().to_yaml())
    with pytest.raises(
        SpecError, match="the function 'shout' of step 'map' came from a file that was not trusted"
    ):
        opened.to_script()


def test_trusted_code_is_written_as_the_file_has_it() -> None:
    opened = Pipeline.from_yaml(functions().to_yaml(), trust_code=True)
    assert built(opened.to_script()).digest == functions().digest


def test_all_that_is_missing_is_said_at_once() -> None:
    made = base().map(live(), makes=["a"], name="one").map(partial(_marked, "!"), makes=["b"], name="two")
    with pytest.raises(DistilnbError, match=r"step 'one' uses 'lock'.*of step 'two' cannot be read"):
        made.to_script()


def test_save_writes_a_script_that_runs_as_a_program(tmp_path: Path, home: Path) -> None:
    path = functions().save(tmp_path / "prefs.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, env=environment, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 rows" in done.stdout
