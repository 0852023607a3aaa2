"""What a run costs, and where it stops, though the provider tells no tokens, counts images, or fails half-way."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from distilnb.engine.ask import Asker
from distilnb.engine.asked import Asked, FatalModelError
from distilnb.engine.budget import Budget, BudgetReached, estimate
from distilnb.engine.cache import ReplyCache
from distilnb.engine.forecast import Interval
from distilnb.engine.models import Models
from distilnb.engine.repeats import Repeats
from distilnb.errors import AuthenticationError, ModelError, RefusedRequestError, SpecError, UnknownPriceError
from distilnb.llms import (
    AnthropicLLM,
    InferenceEndpointsImageGeneration,
    LLMPool,
    OpenAIImageGeneration,
    OpenAILLM,
)
from distilnb.llms.base import LLM
from distilnb.llms.magpie import MagpieClient
from distilnb.llms.prices import Price, price_of
from distilnb.llms.request import Answer, Client, Reply, Request
from distilnb.notebook.bounds import most_of_preview
from distilnb.pipeline import Pipeline
from distilnb.rows import Batch
from distilnb.tasks import ImageGeneration, Magpie
from distilnb.view.card import run_cost
from tests.llms.conformance.test_images import PNG
from tests.runs import done
from tests.servers import MockLLM, mock_llm


@pytest.fixture
def silent() -> Iterator[MockLLM]:
    """A server that tells no usage."""
    with mock_llm(usage=False) as running:
        yield running


def texts(server: MockLLM, n_rows: int = 30, **options: Any) -> Pipeline:
    llm = OpenAILLM(model="m", base_url=server.base_url, max_concurrency=4, **options)
    return (
        Pipeline("texts", llm=llm)
        .from_dicts([{"i": i} for i in range(n_rows)])
        .generate(prompt="Say {{ i }}.")
    )


def pictures(
    server: MockLLM, n_rows: int = 10, kind: type[LLM] = OpenAIImageGeneration, **options: Any
) -> Pipeline:
    url = (
        server.base_url
        if kind is OpenAIImageGeneration
        else f"{server.base_url.removesuffix('/v1')}/huggingface"
    )
    llm = kind(**{"model": "owner/name", "base_url": url, "max_concurrency": 2, **options})
    rows = [{"prompt": f"A kite, number {i}."} for i in range(n_rows)]
    return Pipeline("pictures").from_dicts(rows).ask(ImageGeneration(name="draw", llm=llm))


# --- texts whose tokens nobody has told ---


def test_a_budget_ends_a_run_whose_server_tells_no_usage(silent: MockLLM) -> None:
    whole = done(texts(silent, price=(1.0, 1.0))).status()
    assert whole.cost_usd
    assert whole.steps[1].guessed == 30
    assert run_cost(whole).startswith("≈ ")
    half = done(texts(silent, price=(1.0, 1.0)), cache="refresh", max_cost=whole.cost_usd / 2).status()
    assert (half.state, half.reason.partition(" ")[0]) == ("stopped", "budget:")
    assert 0 < (half.cost_usd or 0) <= whole.cost_usd / 2
    tokens = whole.steps[1].input_tokens + whole.steps[1].output_tokens
    half = done(texts(silent), cache="refresh", max_tokens=tokens // 2).status()
    assert (half.state, half.reason.partition(" ")[0]) == ("stopped", "budget:")


def test_a_guess_is_called_one_and_what_was_told_is_not(silent: MockLLM) -> None:
    with mock_llm() as server:
        told = done(texts(server, price=(1.0, 1.0))).status()
    guessed = done(texts(silent, price=(1.0, 1.0))).status()
    assert told.steps[1].guessed == 0
    assert "≈" not in run_cost(told)
    assert told.cost_usd
    assert 0.3 * told.cost_usd < (guessed.cost_usd or 0) < 10 * told.cost_usd


def test_the_quote_counts_as_the_run_will(silent: MockLLM) -> None:
    p = texts(silent, 30, price=(1.0, 1.0))
    assert "≈ $" in repr(p.preview(8))
    quote = p.estimate()
    assert quote.cost_usd is not None
    spent = sum(row.cost_usd or 0 for row in [done(p).status()])
    assert quote.cost_usd.low <= spent <= quote.cost_usd.high


def test_a_quote_has_a_request_for_each_reply_where_the_provider_brings_one() -> None:
    with mock_llm() as server:
        url = f"{server.base_url.removesuffix('/v1')}/anthropic"
        llm = AnthropicLLM(model="m", base_url=url, api_key="k", price=(1.0, 1.0), max_retries=0)
        p = (
            Pipeline("three", llm=llm)
            .from_dicts([{"i": i} for i in range(20)])
            .generate(prompt="Say {{ i }}.", k=3)
        )
        assert p.estimate(ask=False).requests == (60, 60, 60)
        p.preview(4)
        quote = p.estimate()
        status = done(p).status()
    asked = status.steps[1].asked
    assert quote.requests == (asked, asked, asked) == (45, 45, 45)  # 5 are of the Sample
    assert quote.cost_usd is not None
    assert quote.input_tokens is not None
    assert quote.input_tokens.low <= status.steps[1].input_tokens <= quote.input_tokens.high
    assert quote.cost_usd.low <= (status.cost_usd or 0) <= quote.cost_usd.high


def test_an_image_is_as_long_as_its_tokens_in_a_quote(silent: MockLLM) -> None:
    def quote(**row: Any) -> Interval | None:
        llm = OpenAILLM(model="gpt-4o", base_url=silent.base_url, price=(1.0, 1.0))
        images = "photo" if row else None
        p = Pipeline("look", llm=llm).from_dicts([{"i": 1, **row}] * 10)
        return p.generate("look", "What is it?", images=images).estimate(ask=False).input_tokens

    plain, seen = quote(), quote(photo=base64.b64encode(PNG).decode())
    assert plain is not None
    assert seen is not None
    assert seen.expected - plain.expected == pytest.approx(2550, rel=0.1)  # a square each


# --- prices by image and by request ---


@pytest.mark.parametrize("kind", [OpenAIImageGeneration, InferenceEndpointsImageGeneration])
def test_images_cost_what_is_said_of_each_and_a_budget_ends_the_run(silent: MockLLM, kind: type[LLM]) -> None:
    p = pictures(silent, kind=kind, price={"per_image": 0.25})
    assert p.estimate(ask=False).cost_usd == pytest.approx((2.5, 2.5, 2.5))
    run = done(p, max_cost=1.0)
    status = run.status()
    assert (status.state, status.cost_usd, status.steps[1].done) == ("stopped", 1.0, 4)
    assert "≈" not in run_cost(status)


def test_a_magic_knows_what_images_may_cost_and_where_nobody_can_know_it(silent: MockLLM) -> None:
    def most(**options: Any) -> float | None:
        p = pictures(silent, kind=InferenceEndpointsImageGeneration, **options)
        return most_of_preview(p.name, p.graph, 2, enough=0.0).cost

    assert most(price={"per_image": 0.25}) == pytest.approx(0.5)
    assert most(price=(1.0, 1.0)) is None


def test_a_price_by_request_counts_requests(silent: MockLLM) -> None:
    status = done(texts(silent, 8, price={"per_request": 0.5})).status()
    assert status.cost_usd == 4.0


@pytest.mark.parametrize(
    "llm, price",
    [
        (
            OpenAIImageGeneration(model="dall-e-3", api_key="k", price=(1.0, 1.0)),
            "tells no tokens with its images",
        ),
        (
            OpenAIImageGeneration(model="openai/dall-e-2", api_key="k", price=(1.0, 1.0)),
            "tells no tokens with its images",
        ),
        (
            InferenceEndpointsImageGeneration(model="o/n", api_key="k", price=(1.0, 1.0)),
            "tells no tokens with its images",
        ),
        (InferenceEndpointsImageGeneration(model="o/n", api_key="k"), "is unknown"),
    ],
)
def test_a_budget_that_could_not_be_kept_is_refused_before_the_run(llm: LLM, price: str) -> None:
    p = Pipeline("pictures").from_dicts([{"prompt": "A kite."}]).ask(ImageGeneration(llm=llm))
    with pytest.raises(UnknownPriceError, match=price) as caught:
        p.start(max_cost=1.0)
    assert "price={'per_image': 0.04}" in caught.value.fix


def test_a_server_that_turns_out_to_tell_nothing_ends_a_run_with_a_budget(silent: MockLLM) -> None:
    p = pictures(silent, model="drawer", price=(1.0, 1.0))
    status = done(p, max_cost=100.0).status()
    assert status.state == "failed"
    assert "max_cost cannot be kept: openai:drawer tells no tokens with its images" in status.error
    assert status.steps[1].asked <= 2 * 2
    free = done(p).status()
    assert (free.state, free.cost_usd) == ("finished", None)


@pytest.mark.parametrize(
    "price",
    [
        *({}, {"per_picture": 1}, {"per_image": -1}, {"per_image": True}),
        *((-1, 1), (1, float("inf")), (1, float("nan")), (1,), [1, 2, 3], 1.0, "cheap"),
    ],
)
def test_a_price_that_makes_no_sense_says_how_to_write_it(price: Any) -> None:
    with pytest.raises(SpecError, match="price is") as caught:
        OpenAILLM(model="m", price=price)
    assert "price={'per_image': 0.04}" in caught.value.fix


def test_a_price_by_image_is_kept_in_the_pipelines_file_and_in_the_users_list(home: Path) -> None:
    llm = OpenAIImageGeneration(model="m", price={"per_image": 0.04})
    p = Pipeline("pictures").from_dicts([{"prompt": "A kite."}]).ask(ImageGeneration(name="draw", llm=llm))
    again = Pipeline.from_yaml(p.to_yaml())
    assert price_of(again.graph.steps["draw"].llm) == Price(image_usd=0.04)  # type: ignore[attr-defined]
    home.mkdir(exist_ok=True)
    (home / "prices.yaml").write_text("openai:m: {per_image: 0.02, input: 1}\n", "utf-8")
    assert price_of(OpenAIImageGeneration(model="m")) == Price(1.0, 0.0, 0.0, 0.02)


def test_the_public_lists_price_of_a_request_counts() -> None:
    price = price_of(OpenAILLM(model="sonar", base_url="https://api.perplexity.ai"))
    assert price is not None
    assert price.request_usd > 0


# --- conversations that a model writes itself ---


class Talker(LLM):
    """Writes conversations; at the turn whose number is `fails_at` it refuses."""

    provider: ClassVar[str] = "talker"
    model: str = "m"
    fails_at: int = 0
    fails_with: type[ModelError] = RefusedRequestError
    tells: bool = True

    @property
    def pre_query_template(self) -> str:
        return "qwen2"

    def make_client(self) -> Client:
        talk = _Talk(self)
        return MagpieClient(talk, talk)


class _Talk:
    def __init__(self, llm: Talker) -> None:
        self._llm, self._n_sent = llm, 0

    async def send(self, request: Request) -> Answer:
        await asyncio.sleep(0)
        self._n_sent += 1
        if self._n_sent == self._llm.fails_at:
            raise self._llm.fails_with("No.", "Ask another.")
        tokens = (10 * self._n_sent, 5) if self._llm.tells else (None, None)
        return Answer((Reply("Why do kites fly?", "stop", "m", *tokens),))

    async def close(self) -> None: ...


def talk(
    folder: Path, llm: LLM, budget: Budget | None = None, n_turns: int = 2, k: int = 1
) -> tuple[Asked, Budget]:
    async def main() -> Asked:
        ended: list[Asked] = []
        folder.mkdir(exist_ok=True)
        asker = Asker(ReplyCache(folder / "replies.sqlite"), Models(), budget, Repeats())
        task = Magpie(name="talk", llm=llm, n_turns=n_turns, num_generations=k)
        await asker.ask_rows(task, Batch([{}], ["row"], [[0]]), [0], lambda _, asked: ended.append(asked))
        [asked] = ended
        return asked

    budget = budget or Budget()
    return asyncio.run(main()), budget


def test_a_conversation_is_held_as_all_its_requests() -> None:
    llm = Talker(price=(1.0, 1.0), generation_kwargs={"max_new_tokens": 100})
    request = Request(tuple(Magpie(name="talk", llm=llm, n_turns=3).format_input({})))
    price = price_of(llm)
    cost, tokens = estimate(llm, price, request)
    assert tokens == 6 * 8 + (0 + 100 + 200 + 300 + 400 + 500) + 6 * 100
    assert cost == pytest.approx(tokens / 1e6)
    assert estimate(llm, price, replace(request, n=4)) == (pytest.approx(4 * cost), 4 * tokens)


def test_several_conversations_of_a_row_stay_within_the_budget(tmp_path: Path) -> None:
    llm = Talker(price=(1.0, 1.0), generation_kwargs={"max_new_tokens": 100})
    whole, budget = talk(tmp_path / "whole", llm, k=4)
    assert (len(whole.replies), whole.n_asked, budget.spent_tokens) == (4, 4, 1440)
    budget = Budget(max_tokens=1200)
    with pytest.raises(BudgetReached):
        talk(tmp_path / "half", llm, budget, k=4)
    assert 0 < budget.spent_tokens <= 1200
    price = {"per_request": 0.5}
    asked, budget = talk(tmp_path / "priced", Talker(price=price), k=3)
    assert asked.cost_usd == budget.spent_cost == 3 * 4 * 0.5


def test_a_conversation_that_was_paid_for_is_kept_though_the_next_of_its_row_fails(tmp_path: Path) -> None:
    asked, budget = talk(tmp_path, Talker(price=(1.0, 1.0), fails_at=6), k=2)
    assert asked.failure is not None
    assert (asked.input_tokens, asked.output_tokens) == (10 + 20 + 30 + 40 + 50, 5 * 5)
    assert budget.spent_tokens == 175
    asked, _ = talk(tmp_path, Talker(price=(1.0, 1.0)), k=2)
    assert (len(asked.replies), asked.n_asked, asked.replies[0].is_cached) == (2, 1, True)


def test_turns_that_were_paid_for_before_a_conversation_failed_are_counted(tmp_path: Path) -> None:
    asked, budget = talk(tmp_path, Talker(price=(1.0, 1.0), fails_at=4))
    assert asked.failure is not None
    assert (asked.input_tokens, asked.output_tokens, asked.n_guessed) == (10 + 20 + 30, 15, 0)
    assert asked.cost_usd == pytest.approx(75 / 1e6)
    assert (budget.spent_cost, budget.spent_tokens) == (pytest.approx(75 / 1e6), 75)


def test_what_one_conversation_paid_is_counted_once_though_others_meet_its_error(tmp_path: Path) -> None:
    async def main() -> None:
        asker = Asker(ReplyCache(tmp_path / "replies.sqlite"), Models(), budget, Repeats())
        llm = Talker(price=(1.0, 1.0), fails_at=4, fails_with=AuthenticationError, max_concurrency=1)
        batch = Batch([{}] * 20, [f"row{i}" for i in range(20)], [[i] for i in range(20)])
        with pytest.raises(FatalModelError):
            await asker.ask_rows(Magpie(llm=llm, n_turns=2), batch, range(20), lambda *_: None)

    budget = Budget()
    asyncio.run(main())
    assert (budget.spent_cost, budget.spent_tokens) == (pytest.approx(75 / 1e6), 75)


def test_those_of_a_server_that_tells_nothing_are_guessed(tmp_path: Path) -> None:
    asked, budget = talk(tmp_path, Talker(price=(1.0, 1.0), fails_at=3, tells=False))
    assert asked.failure is not None
    assert asked.n_guessed == 1
    assert (asked.input_tokens, asked.output_tokens) == (
        6,
        12,
    )  # two texts of 17 letters, one before the other
    assert budget.spent_tokens == 18


def test_a_reply_without_tokens_is_safe_though_the_budget_cannot_be_kept(
    tmp_path: Path, silent: MockLLM
) -> None:
    async def main() -> None:
        asker = Asker(ReplyCache(tmp_path / "replies.sqlite"), Models(), Budget(max_cost=50.0), Repeats())
        llm = OpenAIImageGeneration(model="m", base_url=silent.base_url, price=(1.0, 1.0))
        task = ImageGeneration(name="draw", llm=llm)
        batch = Batch([{"prompt": "A kite."}], ["row"], [[0]])
        try:
            with pytest.raises(FatalModelError):
                await asker.ask_rows(task, batch, [0], lambda *_: None)
            found: list[Asked] = []
            await asker.ask_rows(task, batch, [0], lambda _, asked: found.append(asked))
            assert found[0].replies[0].is_cached
        finally:
            await asker.models.close()

    asyncio.run(main())
    assert silent.stats()["requests"] == 1


def test_a_pool_adds_up_what_its_members_cost(silent: MockLLM) -> None:
    def member(name: str, price: dict[str, float]) -> LLM:
        return OpenAILLM(model=name, base_url=silent.base_url, price=price)

    pool = LLMPool(llms=[member("a", {"per_request": 1.0}), member("b", {"per_request": 0.5})])
    p = (
        Pipeline("pool", llm=pool)
        .from_dicts([{"i": i} for i in range(4)])
        .generate(prompt="Say {{ i }}.", k=2)
    )
    assert done(p).status().cost_usd == 6.0
