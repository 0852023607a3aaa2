"""The reply cache: the key of what made a reply, and replies that stay."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilnb.engine.cache import _JSON, ReplyCache, _messages_text, reply_key, request_digests
from distilnb.errors import StoreError
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.request import Reply, Request
from distilnb.llms.shape import ReplyShape

LLM = OpenAILLM(model="m", base_url="http://127.0.0.1:9/v1")
REQUEST = Request(({"role": "user", "content": "hi"},))


def request_digest(llm: OpenAILLM, request: Request) -> bytes:
    return request_digests(llm, [request])[0]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"base_url": "http://127.0.0.1:10/v1"},
        {"generation_kwargs": {"temperature": 0.5}},
        {"generation_kwargs": {"seed": 1}},
    ],
)
def test_what_changes_the_reply_changes_the_key(change: dict[str, Any]) -> None:
    assert request_digest(LLM.updated(**change), REQUEST) != request_digest(LLM, REQUEST)


@pytest.mark.parametrize(
    "change",
    [{"max_concurrency": 3}, {"timeout": 9.0}, {"rpm": 5}, {"api_key": "sk-other"}, {"price": (1.0, 2.0)}],
)
def test_what_does_not_change_the_reply_is_not_in_the_key(change: dict[str, Any]) -> None:
    assert request_digest(LLM.updated(**change), REQUEST) == request_digest(LLM, REQUEST)


texts = st.text(st.characters(), max_size=8) | st.sampled_from(["half \ud83d", '"\\\n\x00\x7f\u2028', "é🎉"])
parts = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=2)
message = st.fixed_dictionaries(
    {"role": texts, "content": texts | parts | st.none()}
) | st.fixed_dictionaries({"role": texts, "content": texts, "name": texts})


@settings(deadline=None)
@given(st.lists(message, max_size=3))
def test_plain_messages_have_the_key_that_they_always_had(messages: list[dict[str, Any]]) -> None:
    assert _messages_text(tuple(messages)) == _JSON.encode(tuple(messages))


def test_messages_and_schema_are_in_the_key_and_the_number_of_replies_is_not() -> None:
    digest = request_digest(LLM, REQUEST)
    assert request_digest(LLM, Request(({"role": "user", "content": "ho"},))) != digest
    shapes = [
        ReplyShape("json"),
        ReplyShape("json", {"type": "object"}),
        ReplyShape("regex", pattern="a|b"),
        ReplyShape("choice", choices=("a", "b")),
    ]
    assert len({digest, *(request_digest(LLM, replace(REQUEST, shape=shape)) for shape in shapes)}) == 5
    assert request_digest(LLM, replace(REQUEST, shape=shapes[0], mode="prompt")) == request_digest(
        LLM, replace(REQUEST, shape=shapes[0])
    )
    assert request_digest(LLM, replace(REQUEST, n=5)) == digest


def test_index_repeat_and_attempt_tell_replies_apart() -> None:
    digest = request_digest(LLM, REQUEST)
    keys = {
        reply_key(digest, index=i, repeat=r, attempt=a) for i in range(3) for r in range(3) for a in range(3)
    }
    assert len(keys) == 27


def test_replies_come_back_marked_as_cached() -> None:
    async def keep() -> dict[bytes, Reply]:
        cache = ReplyCache()
        one = cache.keep([(b"a" * 16, Reply("one", "stop", "m", 3, 4))])
        await asyncio.gather(one, cache.keep([(b"b" * 16, Reply(None))]))
        found = cache.find([b"a" * 16, b"b" * 16, b"c" * 16])
        cache.close()
        return found

    assert asyncio.run(keep()) == {
        b"a" * 16: Reply("one", "stop", "m", 3, 4, is_cached=True),
        b"b" * 16: Reply(None, is_cached=True),
    }


def test_of_replies_that_come_together_each_finds_its_own_where_one_was_there_already() -> None:
    async def keep() -> tuple[list[bool], dict[bytes, Reply]]:
        cache = ReplyCache()
        await cache.keep([(b"a" * 16, Reply("first"))])
        groups = [[(b"a" * 16, Reply("second"))], [(b"b" * 16, Reply("one")), (b"c" * 16, Reply("two"))]]
        told = await asyncio.gather(*[cache.keep(group) for group in groups])
        found = cache.find([b"a" * 16, b"b" * 16, b"c" * 16])
        cache.close()
        return told, found

    told, found = asyncio.run(keep())
    assert not told[0]  # whoever is told so reads what is stored
    assert [reply.text for reply in found.values()] == ["first", "one", "two"]


def test_what_is_stored_stays_unless_it_is_to_be_replaced() -> None:
    async def keep() -> list[str | None]:
        cache, texts = ReplyCache(), []
        key = b"k" * 16
        await cache.keep([(key, Reply("first"))])
        await cache.keep([(key, Reply("second"))])
        texts.append(cache.find([key])[key].text)
        await cache.keep([(key, Reply("third"))], replace=True)
        texts.append(cache.find([key])[key].text)
        cache.close()
        return texts

    assert asyncio.run(keep()) == ["first", "third"]


def test_a_failing_commit_is_told_to_everybody_who_waits_for_it() -> None:
    async def keep() -> list[object]:
        cache = ReplyCache()
        other = sqlite3.connect(cache.path)
        other.execute("DROP TABLE replies")
        other.commit()
        other.close()
        results = await asyncio.gather(
            *(cache.keep([(bytes([i]) * 16, Reply("x"))]) for i in range(2)), return_exceptions=True
        )
        cache.close()
        return list(results)

    assert [type(result) for result in asyncio.run(keep())] == [StoreError, StoreError]


def test_a_cache_in_a_place_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"reply cache .* cannot be opened"):
        ReplyCache(tmp_path / "absent" / "replies.sqlite")


def test_the_cache_of_a_version_that_did_not_note_the_run_is_used_on(tmp_path: Path) -> None:
    path = tmp_path / "replies.sqlite"
    old = sqlite3.connect(path)
    old.execute(
        "CREATE TABLE replies (key BLOB PRIMARY KEY, text TEXT, finish_reason TEXT, model TEXT,"
        " input_tokens INTEGER, output_tokens INTEGER, at REAL) WITHOUT ROWID"
    )
    old.execute("INSERT INTO replies VALUES (?, 'old', 'stop', 'm', 3, 4, 0.0)", (b"a" * 16,))
    old.commit()
    old.close()

    async def use() -> dict[bytes, Reply]:
        cache = ReplyCache(path, run_id="r")
        await cache.keep([(b"b" * 16, Reply("new"))])
        cache.close()
        cache = ReplyCache(path)  # the second time there is nothing to add
        found = cache.find([b"a" * 16, b"b" * 16])
        cache.close()
        return found

    assert {reply.text for reply in asyncio.run(use()).values()} == {"old", "new"}
