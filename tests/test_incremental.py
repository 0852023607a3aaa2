"""What is asked again, by the server's own count: never stale, never twice.

The replies of this server depend on the parameters too, and on how often a prompt was asked; so a reply that comes
from the wrong place can be told from the right one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import distilnb as dn
from distilnb import Pipeline
from distilnb.llms import OpenAILLM
from distilnb.llms.base import LLM
from tests.servers import MockLLM, mock_llm

JUDGE = "{each}## Text {i}\nRating: {score}\nRationale: {words}\n\n{/each}"
N_ROWS = 20

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(scope="module")
def running() -> Iterator[MockLLM]:
    models = ("writer", "judge", "other")
    with mock_llm(vary=True, models=models, templates={"judge": JUDGE}) as server:
        yield server


@pytest.fixture
def server(running: MockLLM) -> MockLLM:
    running.reset()
    return running


def model(server: MockLLM, name: str = "writer", **options: Any) -> LLM:
    return dn.llm(f"openai:{name}", base_url=server.base_url, **{"max_concurrency": 64, **options})


def rows(n: int = N_ROWS) -> list[dict[str, Any]]:
    return [{"instruction": f"Say {i}.", "note": "a"} for i in range(n)]


def finished(pipeline: Pipeline, **options: Any) -> dn.Run:
    run = pipeline.start(new=True, **options)
    assert run.wait(60).state == "finished"
    return run


def texts(run: dn.Run, column: str = "generations") -> list[Any]:
    return [list(value) for value in run.to_pandas()[column]]


class Asked:
    """The requests by model since the last look."""

    def __init__(self, server: MockLLM) -> None:
        self._server = server
        self._seen: dict[str, int] = {}

    def __call__(self) -> dict[str, int]:
        now = dict(self._server.stats()["by_model"])
        new = {name: n - self._seen.get(name, 0) for name, n in now.items()}
        self._seen = now
        return {name: n for name, n in new.items() if n}


# --- an edit, and what it costs ----------------------------------------------------


def base(
    server: MockLLM, data: list[dict[str, Any]] | None = None, *, name: str = "p", **changes: Any
) -> Pipeline:
    """Return load → answer → judge; `changes` edit it in one place."""
    prompt = changes.get("prompt", "{{ instruction }}")
    judge = model(server, "judge", **changes.get("judge", {}))
    answer = changes.get("answer", model(server))
    p = Pipeline(name).from_dicts(rows() if data is None else data)
    p = p.generate("answer", prompt, llm=answer, k=changes.get("k", 2))
    p = p.judge(llm=judge)
    return p.filter("ratings | length > 0") if changes.get("filter") else p


def edited_column() -> list[dict[str, Any]]:
    return [{**row, "note": "b"} for row in rows()]


CHANGES: list[tuple[str, Callable[[MockLLM], Pipeline], dict[str, int]]] = [
    ("nothing", base, {}),
    ("the name of the pipeline", lambda s: base(s, name="q"), {}),
    ("a step after", lambda s: base(s, filter=True), {}),
    ("the order of the rows", lambda s: base(s, rows()[::-1]), {}),
    ("fewer rows", lambda s: base(s, rows(5)), {}),
    ("a column that no prompt uses", lambda s: base(s, edited_column()), {}),
    ("one row appended", lambda s: base(s, rows(N_ROWS + 1)), {"writer": 1, "judge": 1}),
    ("concurrency, timeout, price", lambda s: base(s, judge={"max_concurrency": 2, "timeout": 9.0}), {}),
    ("the judge's temperature", lambda s: base(s, judge={"temperature": 0.5}), {"judge": N_ROWS}),
    ("the judge's length", lambda s: base(s, judge={"max_new_tokens": 77}), {"judge": N_ROWS}),
    ("the first prompt", lambda s: base(s, prompt="{{ instruction }}!"), {"writer": N_ROWS, "judge": N_ROWS}),
    ("the first model", lambda s: base(s, answer=model(s, "other")), {"other": N_ROWS, "judge": N_ROWS}),
    # The two replies that are there stay; the third is one more request a row.
    ("one more reply a row", lambda s: base(s, k=3), {"writer": N_ROWS, "judge": N_ROWS}),
    # Its only reply is the first of the two that are there.
    ("one reply fewer a row", lambda s: base(s, k=1), {"judge": N_ROWS}),
]


def test_an_edit_costs_what_it_touches(server: MockLLM) -> None:
    asked = Asked(server)
    finished(base(server))
    assert asked() == {"writer": N_ROWS, "judge": N_ROWS}
    cost: dict[str, dict[str, int]] = {}
    for what, edit, _ in CHANGES:
        finished(edit(server))
        cost[what] = asked()
    assert cost == {what: expected for what, _, expected in CHANGES}
    for _, edit, _ in CHANGES[::4]:  # going back costs nothing
        finished(edit(server))
    assert asked() == {}


def test_another_endpoint_is_another_model_unless_it_has_the_same_cache_id(server: MockLLM) -> None:
    asked = Asked(server)
    other = server.base_url.replace("127.0.0.1", "localhost")

    def at(url: str, **options: Any) -> Pipeline:
        return (
            Pipeline("p").from_dicts(rows()).generate(llm=OpenAILLM(model="writer", base_url=url, **options))
        )

    finished(at(server.base_url))
    assert asked() == {"writer": N_ROWS}
    finished(at(other))
    assert asked() == {"writer": N_ROWS}
    first = finished(at(server.base_url, cache_id="lab"))
    assert asked() == {"writer": N_ROWS}
    assert texts(finished(at(other, cache_id="lab"))) == texts(first)
    assert asked() == {}


# --- equal requests -------------------------------------------------------------------


def same(n: int, llm: LLM, *, key: bool = False) -> Pipeline:
    """Return a pipeline of n rows that render one prompt."""
    data = [{"topic": "cats", **({"n": i} if key else {})} for i in range(n)]
    return Pipeline("same").from_dicts(data).generate(prompt="Write about {{ topic }}.", llm=llm)


@pytest.mark.parametrize("key", [True, False], ids=["different rows", "equal rows"])
def test_a_thousand_equal_prompts_are_a_thousand_replies(server: MockLLM, key: bool) -> None:
    asked = Asked(server)
    first = finished(same(1000, model(server), key=key))
    assert asked() == {"writer": 1000}
    replies = [text for (text,) in texts(first)]
    assert len(set(replies)) == 1000
    again = finished(same(1000, model(server), key=key))
    assert asked() == {}
    assert texts(again) == texts(first)
    appended = finished(same(1001, model(server), key=key))
    assert asked() == {"writer": 1}
    assert texts(appended)[:1000] == texts(first)
    assert len({text for (text,) in texts(appended)}) == 1001


@pytest.mark.parametrize("fixed", [{"temperature": 0.0}, {"seed": 7}], ids=["temperature 0", "a seed"])
def test_equal_prompts_of_a_model_that_repeats_itself_are_asked_once(
    server: MockLLM, fixed: dict[str, Any]
) -> None:
    asked = Asked(server)
    run = finished(same(1000, model(server, **fixed)))
    assert asked() == {"writer": 1}
    assert len({text for (text,) in texts(run)}) == 1


# --- one cache for all --------------------------------------------------------------------


def test_preview_run_resume_and_a_later_pipeline_share_every_reply(server: MockLLM) -> None:
    asked = Asked(server)
    p = Pipeline("p").from_dicts(rows(200)).generate(llm=model(server))
    seen = p.preview(5)
    assert asked() == {"writer": 5}
    run = p.start()
    run.abort()
    run.wait(30)
    if run.status().state != "finished":
        run.resume()
    assert run.wait(60).state == "finished"
    n_asked = asked().get("writer", 0)
    # What an abort cut off on its way is asked again; nothing else is.
    assert 195 <= n_asked <= 195 + 64
    assert server.stats()["duplicate_prompts_after_ok"] <= 64
    made = run.to_pandas().set_index("instruction")["generations"]
    assert {row["instruction"]: list(row["generations"]) for row in seen.rows} == {
        row["instruction"]: list(made[row["instruction"]]) for row in seen.rows
    }
    later = finished(Pipeline("q").from_dicts(rows(200)).generate(llm=model(server)))
    assert asked() == {}
    assert texts(later) == texts(run)


def test_cache_off_neither_reads_nor_writes(server: MockLLM) -> None:
    asked = Asked(server)
    p = Pipeline("p").from_dicts(rows()).generate(llm=model(server))
    kept = finished(p)
    asked()
    off = finished(p, cache="off")
    assert asked() == {"writer": N_ROWS}
    assert texts(off) != texts(kept)
    assert texts(finished(p)) == texts(kept)
    assert asked() == {}


def test_cache_refresh_asks_again_and_replaces(server: MockLLM) -> None:
    asked = Asked(server)
    p = Pipeline("p").from_dicts(rows()).generate(llm=model(server))
    old = finished(p)
    asked()
    new = finished(p, cache="refresh")
    assert asked() == {"writer": N_ROWS}
    assert texts(new) != texts(old)
    assert texts(finished(p)) == texts(new)
    assert asked() == {}


def test_a_mended_parser_costs_nothing(server: MockLLM) -> None:
    asked = Asked(server)

    def strict(generations: list[str]) -> dict[str, int]:
        raise ValueError("not yet")

    def lax(generations: list[str]) -> dict[str, int]:
        return {"letters": len(generations[0])}

    p = Pipeline("p").from_dicts(rows()).generate(llm=model(server))
    run = finished(p.map(strict))
    assert len(run.errors()) == N_ROWS
    assert asked() == {"writer": N_ROWS}
    run = finished(p.map(lax))
    assert len(run.errors()) == 0
    assert asked() == {}
