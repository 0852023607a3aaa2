from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distilnb.errors import ServerError, SpecError, UnknownParameterError
from distilnb.llms.calling import Caller
from distilnb.llms.rehearsal import GARBAGE, RehearsalLLM
from distilnb.llms.request import Answer, Reply, Request
from distilnb.llms.shape import ReplyShape
from tests.llms.scripted import ask
from tests.llms.virtual import now_s, run_virtually

SCHEMA = {
    "type": "object",
    "properties": {"rating": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["rating"],
}


def replies_to(request: Request, **fields: Any) -> tuple[Reply, ...]:
    return run_virtually(RehearsalLLM(**fields).make_client().send(request)).replies


def text_of(prompt: str, **fields: Any) -> str:
    (reply,) = replies_to(ask(prompt), **fields)
    assert reply.text is not None
    return reply.text


# determinism -----------------------------------------------------------------------------------------------


@given(st.text(max_size=200), st.integers(0, 5), st.integers(1, 4))
def test_the_same_question_has_the_same_replies_and_more_of_them_begin_alike(
    prompt: str, seed: int, n: int
) -> None:
    some = replies_to(ask(prompt, n=n), seed=seed)
    assert replies_to(ask(prompt, n=n), seed=seed) == some
    more = replies_to(ask(prompt, n=n + 2), seed=seed)
    assert [reply.text for reply in more[:n]] == [reply.text for reply in some]
    assert all((reply.text or "").startswith("(rehearsed) ") for reply in more)


def test_replies_depend_on_seed_model_prompt_index_and_salt() -> None:
    prompt = "Explain why the northern harbor freezes in winter while the southern lagoon stays open"
    first, second = (reply.text for reply in replies_to(ask(prompt, n=2)))
    salted = replies_to(Request(ask(prompt).messages, salt="repeat 1"))[0].text
    others = [second, salted, text_of(prompt, seed=1), text_of(prompt, model="other"), text_of(prompt + "!")]
    assert len({first, *others}) == 6


def test_another_process_gives_the_same_reply() -> None:
    code = "from distilnb.llms import llm; print(llm('rehearsal').ask('hello there world'))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == RehearsalLLM().ask("hello there world")


# what replies are ------------------------------------------------------------------------------------------


def test_a_free_reply_is_marked_and_quotes_the_last_message() -> None:
    texts = {text_of("Describe the lighthouse keeper", seed=seed) for seed in range(20)}
    assert all(text.startswith("(rehearsed) ") for text in texts)
    assert all(re.search("Describe|lighthouse|keeper", text) for text in texts)
    assert len({len(text) for text in texts}) > 5


@pytest.mark.parametrize(
    "prompt, letters",
    [
        ("写一首关于春天的诗", r"[\u4e00-\u9fff]"),
        ("春についての短い詩を書いてください", r"[\u3040-\u30ff]"),
        ("봄에 대한 짧은 시를 써 주세요", r"[\uac00-\ud7af]"),
        ("Напиши короткое стихотворение о весне", r"[\u0400-\u04ff]"),
        ("اكتب قصيدة قصيرة عن الربيع", r"[\u0600-\u06ff]"),
        ("Écris un poème sur l'été à Málaga", r"[a-zà-ÿ]"),
    ],
)
def test_a_reply_is_in_the_script_of_the_instruction(prompt: str, letters: str) -> None:
    text = text_of(prompt).removeprefix("(rehearsed) ")
    assert len(re.findall(letters, text)) > len(re.findall(r"[^\W\d_]", text)) / 2


@pytest.mark.parametrize("prompt", ["", "   ", "?", "1 + 1 =", "a b"])
def test_a_prompt_without_words_is_answered_too(prompt: str) -> None:
    assert text_of(prompt).startswith("(rehearsed) ")


def test_parts_of_a_message_are_read() -> None:
    parts = [{"type": "text", "text": "lighthouse"}, {"type": "image_url", "image_url": {"url": "x"}}]
    (reply,) = replies_to(Request(({"role": "user", "content": parts},)))
    assert "lighthouse" in (reply.text or "")


@given(st.integers(0, 100))
def test_a_schema_is_satisfied(seed: int) -> None:
    (reply,) = replies_to(Request(ask().messages, shape=ReplyShape("json", SCHEMA)), seed=seed)
    made = json.loads(reply.text or "")
    assert made.keys() == {"rating"}
    assert type(made["rating"]) is int
    assert 1 <= made["rating"] <= 5


def test_every_value_of_a_schema_comes_up() -> None:
    request = Request(ask().messages, shape=ReplyShape("json", SCHEMA))
    replies = [replies_to(request, seed=seed)[0].text or "" for seed in range(60)]
    assert {json.loads(text)["rating"] for text in replies} == {1, 2, 3, 4, 5}


def test_the_sample_of_a_task_comes_before_schema_and_prose() -> None:
    request = Request(
        ask().messages,
        n=5,
        shape=ReplyShape("json", SCHEMA),
        sample=lambda random: f"Rating: {random.randint(1, 5)}",
    )
    texts = [reply.text or "" for reply in replies_to(request)]
    assert all(re.fullmatch(r"Rating: [1-5]", text) for text in texts)
    assert texts == [reply.text for reply in replies_to(request)]
    assert len(set(texts)) > 1


def test_garbage_is_a_share_of_the_replies() -> None:
    request = Request(ask().messages, n=400, shape=ReplyShape("json", SCHEMA))
    assert all(reply.text == GARBAGE for reply in replies_to(request, garbage_rate=1.0))
    n_garbage = sum(reply.text == GARBAGE for reply in replies_to(request, garbage_rate=0.25))
    assert 60 < n_garbage < 140
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(GARBAGE)
    assert not re.search(r"\d", GARBAGE)


def test_a_token_limit_cuts_and_says_so() -> None:
    (reply,) = replies_to(ask("Describe the keeper"), generation_kwargs={"max_new_tokens": 3})
    assert (len((reply.text or "").split()), reply.finish_reason, reply.is_truncated) == (3, "length", True)


def test_tokens_are_counted_and_every_reply_names_the_stand_in() -> None:
    first, second = replies_to(ask("x" * 400, n=2), model="gpt-4o")
    assert (first.input_tokens, second.input_tokens) == (100, 0)
    assert first.output_tokens == len((first.text or "").split())
    assert first.model == second.model == RehearsalLLM(model="gpt-4o").label == "rehearsal:gpt-4o"


# faults and time -------------------------------------------------------------------------------------------


def outcomes_of(client: Any, n_attempts: int) -> list[bool]:
    """Tell for each of several attempts at one request whether it was answered."""

    async def main() -> list[bool]:
        found = []
        for _ in range(n_attempts):
            try:
                await client.send(ask())
                found.append(True)
            except ServerError:
                found.append(False)
        return found

    return run_virtually(main())


def test_failures_are_drawn_anew_for_each_attempt_and_the_same_in_each_run() -> None:
    drawn = [outcomes_of(RehearsalLLM(failure_rate=0.5, seed=seed).make_client(), 4) for seed in range(30)]
    again = [outcomes_of(RehearsalLLM(failure_rate=0.5, seed=seed).make_client(), 4) for seed in range(30)]
    assert drawn == again
    assert [False, True] in [outcomes[:2] for outcomes in drawn]
    assert [False, False] in [outcomes[:2] for outcomes in drawn]


def test_failures_do_not_change_what_is_answered() -> None:
    async def main() -> list[list[Answer]]:
        told = []
        for rate in (0.0, 0.4):
            caller = Caller.of(RehearsalLLM(failure_rate=rate, max_retries=50))

            async def one(number: int, caller: Caller = caller) -> Answer:
                async with caller.asking(ask(f"question {number}")) as answer:
                    return answer

            told.append(list(await asyncio.gather(*[one(number) for number in range(100)])))
            assert (caller.retries > 20) is (rate > 0)
        return told

    without, with_failures = run_virtually(main())
    assert without == with_failures


def test_latency_is_what_was_asked_for() -> None:
    async def main() -> float:
        await RehearsalLLM(latency_s=2.5).make_client().send(ask())
        return now_s()

    assert run_virtually(main()) == pytest.approx(2.5, abs=0.01)


# the model as data -----------------------------------------------------------------------------------------


def test_what_changes_no_reply_is_no_part_of_identity() -> None:
    plain = RehearsalLLM()
    assert plain.updated(latency_s=1.0, failure_rate=0.5).identity() == plain.identity()
    assert plain.updated(latency_s=1.0, failure_rate=0.5).digest == plain.digest
    assert plain.updated(seed=1).identity() != plain.identity()
    assert plain.updated(garbage_rate=0.1).identity() != plain.identity()


def test_parameters_of_other_models_are_accepted_and_mistakes_are_not() -> None:
    RehearsalLLM(generation_kwargs={"temperature": 0.7, "top_k": 5, "max_tokens": 9}).check()
    with pytest.raises(UnknownParameterError, match="temprature"):
        RehearsalLLM(generation_kwargs={"temprature": 0.7})
    with pytest.raises(SpecError, match="failure_rate: Input should be less than or equal to 1"):
        RehearsalLLM(failure_rate=2)
