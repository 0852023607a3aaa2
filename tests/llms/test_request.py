from __future__ import annotations

from distilnb.llms.request import Reply, Request

MESSAGES = ({"role": "user", "content": "hi"},)


def test_what_only_rehearsals_read_is_no_part_of_a_request() -> None:
    plain = Request(MESSAGES)
    rehearsed = Request(MESSAGES, sample=lambda random: "4", salt="1")
    assert plain == rehearsed
    assert repr(plain) == repr(rehearsed)


def test_a_reply_cut_at_the_token_limit_says_so() -> None:
    assert Reply("half", finish_reason="length").is_truncated
    assert not Reply("whole").is_truncated
