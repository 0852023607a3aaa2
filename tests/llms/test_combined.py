"""Models that are made of others, as users write them: `|`, lists, files, parameters, and the checks before a run."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

import distilnb as dn
from distilnb.errors import (
    MissingKeyError,
    SpecError,
    UnknownParameterError,
    UnreachableError,
    UnsupportedParameterError,
)
from distilnb.llms import (
    FallbackLLM,
    LLMPool,
    MixtureOfAgentsLLM,
    OpenAIEmbeddings,
    OpenAIImageGeneration,
    OpenAILLM,
    TransformersLLM,
)
from distilnb.llms.base import LLM
from distilnb.pipeline import Pipeline
from distilnb.spec.graph import Graph
from distilnb.spec.parameters import with_parameters
from distilnb.spec.registry import build
from distilnb.tasks.generation import TextGeneration

DEAD = "http://127.0.0.1:9/v1"  # the discard port: nothing listens there
KEYED = {"api_key": "sk-canary-of-a-member"}


def combinations(**fields: Any) -> list[LLM]:
    first, second = OpenAILLM(model="a", **fields), dn.llm("rehearsal")
    return [
        LLMPool(llms=[first, second], n=1, weights=[1, 2]),
        first | second,
        MixtureOfAgentsLLM(aggregator_llm=second, proposers_llms=[first], rounds=2),
        LLMPool(llms=[second, first | second]),
    ]


def test_a_chain_is_one_list_and_takes_names_on_either_side() -> None:
    chain = dn.llm("openai:a") | "ollama:b" | dn.llm("rehearsal")
    assert isinstance(chain, FallbackLLM)
    assert chain.label == "openai:a | ollama:b | rehearsal"
    assert ("openai:a" | dn.llm("rehearsal")).label == "openai:a | rehearsal"
    assert (
        dn.llm("rehearsal") | (dn.llm("openai:a") | "openai:b")
    ).label == "rehearsal | openai:a | openai:b"
    with pytest.raises(TypeError, match="unsupported operand"):
        dn.llm("rehearsal") | 3


@pytest.mark.parametrize("place", range(4))
def test_they_are_data_like_any_model(place: int) -> None:
    llm = combinations()[place]
    again = build(llm.dump())
    assert (again, again.digest, again.dump()) == (llm, llm.digest, llm.dump())
    assert pickle.loads(pickle.dumps(llm)) == llm


@pytest.mark.parametrize("place", range(4))
def test_keys_of_members_are_nowhere_in_them(place: int) -> None:
    llm = combinations(**KEYED)[place]
    assert llm == combinations()[place]
    for text in (repr(llm), str(llm.dump()), llm.label, str(llm.identity()), str(pickle.dumps(llm))):
        assert KEYED["api_key"] not in text


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize(
    "field", ["model", "api_key", "generation_kwargs", "max_concurrency", "price", "rpm"]
)
def test_what_belongs_to_members_is_refused_by_name(place: int, field: str) -> None:
    kind = combinations()[place]
    with pytest.raises(SpecError, match=f"{field}=.*asks nobody itself"):
        type(kind)(**{**{name: getattr(kind, name) for name in kind.model_fields_set}, field: "x"})


@pytest.mark.parametrize("place", range(4))
def test_each_members_key_and_parameters_are_checked(place: int) -> None:
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        combinations()[place].check()
    bad = combinations(**KEYED, generation_kwargs={"top_k": 3})[place]
    with pytest.raises(UnsupportedParameterError, match=r"top_k.*'a'"):
        bad.check()
    combinations(**KEYED)[place].check()


@pytest.mark.parametrize("place", range(4))
def test_images_are_shown_where_all_members_see_them(place: int) -> None:
    seeing = combinations(**KEYED)[place]
    TextGeneration(name="look", images="photo", llm=seeing).check()
    blind = LLMPool(llms=[seeing, TransformersLLM(model="m")])
    with pytest.raises(UnsupportedParameterError, match="no images"):
        blind.check_images()


def test_servers_of_all_members_must_answer_but_of_backups_only_one() -> None:
    dead, alive = dn.llm("openai:a", base_url=DEAD), dn.llm("rehearsal")
    for llm in (LLMPool(llms=[alive, dead]), MixtureOfAgentsLLM(aggregator_llm=alive, proposers_llms=[dead])):
        with pytest.raises(UnreachableError):
            llm.probe()
    (dead | alive).probe()
    with pytest.raises(UnreachableError):
        (dead | dn.llm("openai:b", base_url=DEAD)).probe()


def test_members_must_agree_on_the_shape_that_their_settings_ask_for() -> None:
    shaped = {"structured_output": {"format": "regex", "schema": "a+"}}
    first, second = (dn.llm(f"openai:{name}", **KEYED, **shaped) for name in "ab")
    pool = LLMPool(llms=[first, second])
    pool.check()
    assert pool.reply_shape == first.reply_shape != None  # noqa: E711 - equal, and there is one
    with pytest.raises(SpecError, match="different shapes"):
        LLMPool(llms=[first, dn.llm("rehearsal")]).check()


def test_models_that_make_no_texts_are_told_why_they_have_no_place_among_others() -> None:
    small, large = (OpenAIEmbeddings(model=f"text-embedding-3-{size}") for size in ("small", "large"))
    drawing = OpenAIImageGeneration(model="gpt-image-1")
    for combine in (
        lambda: small | large,
        lambda: dn.llm("rehearsal") | small,
        lambda: LLMPool(llms=[small, large]),
        lambda: MixtureOfAgentsLLM(aggregator_llm="rehearsal", proposers_llms=[small]),
    ):
        with pytest.raises(SpecError, match="text-embedding-3-small, which makes vectors") as caught:
            combine()
        assert "Vectors of two models do not mix" in caught.value.fix
        assert "base_urls" in caught.value.fix
    with pytest.raises(SpecError, match="gpt-image-1, which makes images") as caught:
        LLMPool(llms=[drawing, drawing])
    assert "base_urls" in caught.value.fix


def parameters_of(llm: LLM, changes: dict[str, Any]) -> LLM:
    graph = Graph().appending(TextGeneration(name="answer", llm=llm), [])
    changed = with_parameters(graph, changes).steps["answer"].llm  # type: ignore[attr-defined]
    assert isinstance(changed, LLM)
    return changed


@pytest.mark.parametrize("path", ["0.generation_kwargs.temperature", "0.temperature", "llms.0.temperature"])
def test_parameters_reach_a_member_by_its_place(path: str) -> None:
    for llm in (LLMPool(llms=["openai:a", "openai:b"]), FallbackLLM(llms=["openai:a", "openai:b"])):
        changed = parameters_of(llm, {f"answer.llm.{path}": 0.25})
        assert [m.generation_kwargs for m in changed.members] == [{"temperature": 0.25}, {}]


def test_parameters_of_a_mixture_name_the_part_that_a_member_has() -> None:
    mixture = MixtureOfAgentsLLM(aggregator_llm="openai:a", proposers_llms=["openai:b", "openai:c"])
    changed = parameters_of(
        mixture, {"answer.llm.proposers_llms.1.temperature": 0.5, "answer.llm.aggregator_llm.seed": 1}
    )
    assert [m.generation_kwargs for m in changed.members] == [{"seed": 1}, {}, {"temperature": 0.5}]


def test_parameters_reach_a_model_of_a_list_by_its_place() -> None:
    pipeline = (
        Pipeline("list").from_dicts([{"instruction": "x"}]).generate("answer", llm=["openai:a", "openai:b"])
    )
    graph = with_parameters(pipeline.graph, {"answer.llm.1.generation_kwargs.temperature": 0.5})
    given = [graph.steps[f"answer_{n}"].llm.generation_kwargs for n in (1, 2)]  # type: ignore[attr-defined]
    assert given == [{}, {"temperature": 0.5}]
    with pytest.raises(UnknownParameterError, match="list of 2"):
        with_parameters(pipeline.graph, {"answer.llm.2.temperature": 0.5})


@pytest.mark.parametrize("path", ["2.temperature", "llms.7.temperature", "temperatur"])
def test_a_place_that_is_not_there_is_told(path: str) -> None:
    with pytest.raises(UnknownParameterError):
        parameters_of(LLMPool(llms=["openai:a", "openai:b"]), {f"answer.llm.{path}": 1})


def test_a_question_by_hand_goes_to_who_is_to_answer() -> None:
    first, second = (dn.llm(f"rehearsal:{name}") for name in "ab")
    assert len(LLMPool(llms=[first, second]).ask("Well?", n=3)) == 3
    broken = dn.llm("rehearsal:c", failure_rate=1.0).updated(max_retries=0)
    assert (broken | second).ask("Well?") == second.ask("Well?")
    answer = MixtureOfAgentsLLM(aggregator_llm=first, proposers_llms=[second]).ask(
        "Well?", schema=["yes", "no"]
    )
    assert answer in ("yes", "no")
    task = TextGeneration(llm=LLMPool(llms=[first, second]), num_generations=2, group_generations=True)
    assert task.ask({"instruction": "Well?"})["model_name"] == [first.label, second.label]  # type: ignore[call-overload]
