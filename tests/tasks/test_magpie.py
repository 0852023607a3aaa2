"""Magpie: which columns, which system prompts, as many conversations as rows, each paid for once."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from distilnb.errors import ParseError, SpecError
from distilnb.llms import AnthropicLLM, LLMPool, MixtureOfAgentsLLM, OpenAILLM
from distilnb.pipeline import Pipeline
from distilnb.tasks import Magpie, MagpieGenerator, MagpieRows
from tests.runs import done
from tests.servers import MockLLM, mock_llm

TURNS = [
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Because."},
    {"role": "user", "content": "Really?"},
    {"role": "assistant", "content": "Yes."},
]


def model(server: MockLLM | None = None, **fields: Any) -> OpenAILLM:
    url = server.base_url if server else "http://127.0.0.1:1/v1"
    return OpenAILLM(**{"model": "m", "base_url": url, "magpie_pre_query_template": "qwen2", **fields})


def test_a_pool_writes_with_the_template_of_all_its_members_and_says_which_ones_differ() -> None:
    with mock_llm() as server:
        pool = LLMPool(llms=[model(server, model="a"), model(server, model="b")])
        p = Pipeline("talk").from_dicts([{"i": i} for i in range(12)]).ask(Magpie(name="talk", llm=pool))
        rows = list(done(p).distiset().rows())
    assert {row["model_name"] for row in rows} == {"a", "b"}
    assert all(row["instruction"] and row["response"] for row in rows)
    other = LLMPool(llms=[model(), model(magpie_pre_query_template="llama3")])
    with pytest.raises(SpecError, match=r"have these: openai:m: qwen2, openai:m: llama3.\nGive all members"):
        Magpie(llm=other).check()
    mixture = MixtureOfAgentsLLM(aggregator_llm=model(), proposers_llms=[model()])
    with pytest.raises(SpecError, match="have these: openai:m: qwen2"):
        Magpie(llm=mixture).check()
    with pytest.raises(SpecError, match="writes chats only") as caught:
        Magpie(llm=AnthropicLLM(model="m", api_key="k")).check()
    assert "OllamaLLM" in caught.value.fix


@pytest.mark.parametrize(
    "fields, n_messages, columns",
    [
        ({"only_instruction": True}, 1, {"instruction": "Why?"}),
        ({}, 2, {"instruction": "Why?", "response": "Because."}),
        ({"n_turns": 2}, 4, {"conversation": TURNS}),
        ({"n_turns": 2, "end_with_user": True}, 3, {"conversation": TURNS[:3]}),
        (
            {"n_turns": 2, "include_system_prompt": True, "system_prompt": "Be kind."},
            4,
            {"conversation": [{"role": "system", "content": "Be kind."}, *TURNS]},
        ),
        (
            {"system_prompt": {"kind": ("Be kind.", 1.0)}},
            2,
            {"instruction": "Why?", "response": "Because.", "system_prompt_key": "kind"},
        ),
    ],
)
def test_what_is_asked_for_and_what_is_made_of_it(
    fields: dict[str, Any], n_messages: int, columns: dict[str, Any]
) -> None:
    task = Magpie(llm=model(), **fields)
    [*system, asked] = task.format_input({})
    assert asked == {"role": "magpie", "content": "qwen2", "n_messages": n_messages}
    assert [message["content"] for message in system] == (["Be kind."] if "system_prompt" in fields else [])
    assert task.format_output(json.dumps(TURNS[:n_messages]), {}) == columns
    assert [*columns, "model_name"] == task.made()


def test_a_turn_that_is_missing_is_told_by_who_was_to_write_it() -> None:
    task = Magpie(llm=model())
    with pytest.raises(ParseError, match="nothing as the user, at message 1 of 2"):
        task.format_output("[]", {})
    with pytest.raises(ParseError, match="nothing as the assistant, at message 2 of 2"):
        task.format_output(json.dumps(TURNS[:1]), {})
    with pytest.raises(ParseError, match="no conversation"):
        task.format_output("Why?", {})


def test_the_check_says_what_a_model_lacks() -> None:
    for llm in (model(magpie_pre_query_template=None), model(magpie_pre_query_template="")):
        with pytest.raises(SpecError, match="no pre-query template"):
            Magpie(name="m", llm=llm).check()
    own = model(magpie_pre_query_template="User: ")
    Magpie(name="m", llm=own).check()
    for fields in ({"n_turns": 2}, {"system_prompt": "Be kind."}):
        with pytest.raises(SpecError, match="no form for system prompts"):
            Magpie(name="m", llm=own, **fields).check()


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"end_with_user": True}, "only_instruction=True"),
        ({"only_instruction": True, "n_turns": 2}, "Give one of them"),
        ({"system_prompt": []}, "at least one"),
        ({"system_prompt": {"a": ("x", 0.0)}}, "weights above 0"),
    ],
)
def test_what_makes_no_sense_is_told_at_once(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        Magpie(**fields)


def test_a_rows_own_system_prompt_comes_first_and_others_are_drawn_by_its_content() -> None:
    task = Magpie(llm=model(), system_prompt=["a", "b", "c"])
    assert task.format_input({"system_prompt": "mine"})[0]["content"] == "mine"
    drawn = [task.format_input({"n": n})[0]["content"] for n in range(60)]
    assert set(drawn) == {"a", "b", "c"}
    assert drawn == [task.format_input({"n": n})[0]["content"] for n in range(60)]


def test_weights_count_and_the_key_tells_which_was_drawn() -> None:
    prompts = {"often": ("A", 9.0), "seldom": ("B", 1.0), "never": ("C", 0.0)}
    rows = [row for batch, _ in MagpieRows(num_rows=500, system_prompt=prompts).process() for row in batch]
    counts = Counter(row["system_prompt_key"] for row in rows)
    assert counts["never"] == 0
    assert 400 < counts["often"] < 490
    assert {(row["system_prompt_key"], row["system_prompt"]) for row in rows} == {
        ("often", "A"),
        ("seldom", "B"),
    }
    later = [
        row for batch, _ in MagpieRows(num_rows=500, system_prompt=prompts).process(400) for row in batch
    ]
    assert later == rows[400:]


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_a_source_makes_as_many_rows_as_it_is_asked_for(batch_size: int) -> None:
    batches = list(MagpieRows(num_rows=23, batch_size=batch_size).process())
    assert sum(len(rows) for rows, _ in batches) == 23
    assert [is_last for _, is_last in batches] == [False] * (len(batches) - 1) + [True]


def test_a_thousand_rows_of_one_prompt_are_a_thousand_replies() -> None:
    with mock_llm(vary=True) as server:
        with Pipeline("wild") as p:
            MagpieGenerator(llm=model(server), num_rows=1000, only_instruction=True)
        assert set(p.graph.steps) == {"magpie_generator_0_rows", "magpie_generator_0"}
        run = done(p)
        rows = list(run.distiset().rows())
        assert len(rows) == 1000
        assert len({row["instruction"] for row in rows}) == 1000
        assert server.stats()["requests"] == 1000
        assert [row["instruction"] for row in done(p).distiset().rows()] == [
            row["instruction"] for row in rows
        ]
        assert server.stats()["requests"] == 1000


def test_conversations_in_a_run_and_a_preview() -> None:
    with mock_llm() as server:
        p = Pipeline("talk").then(MagpieRows(num_rows=3, system_prompt={"a": "A.", "b": "B."}))
        p = p.ask(Magpie(llm=model(server), n_turns=2, include_system_prompt=True))
        previewed = p.preview(2).rows
        rows = list(done(p).distiset().rows())
    assert all(row in rows for row in previewed)
    for row in rows:
        roles = [message["role"] for message in row["conversation"]]
        assert roles == ["system", "user", "assistant", "user", "assistant"]
        assert row["conversation"][0]["content"] == row["system_prompt"]
        assert row["system_prompt_key"] in ("a", "b")


def test_a_rehearsal_needs_no_template() -> None:
    p = (
        Pipeline("try")
        .then(MagpieRows(num_rows=2))
        .ask(Magpie(llm="rehearsal", n_turns=2, end_with_user=True))
    )
    assert [len(row["conversation"]) for row in p.preview(2).rows] == [3, 3]


def test_the_generator_of_1x_is_two_steps_in_a_pipeline() -> None:
    with pytest.raises(SpecError, match="two steps"):
        MagpieGenerator(llm="rehearsal", num_rows=2)
    with Pipeline("two") as p:
        MagpieGenerator(name="wild", llm="rehearsal", num_rows=2, system_prompt={"a": "A."})
    assert p.graph.predecessors("wild") == ["wild_rows"]
    assert [row["system_prompt_key"] for row in p.preview(2).rows] == ["a", "a"]
    assert Pipeline.from_yaml(p.to_yaml()) == p
