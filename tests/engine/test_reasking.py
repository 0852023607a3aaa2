from __future__ import annotations

from distilnb.engine.cache import reply_key
from distilnb.engine.reasking import n_reasks, reask_key
from distilnb.llms.request import Reply, Request
from distilnb.llms.shape import ReplyShape
from distilnb.tasks import TextGeneration

TASK = TextGeneration(schema=["yes", "no"], max_reasks=3)


def test_each_re_ask_has_a_place_of_its_own() -> None:
    keys = [reply_key(b"d", index=i, repeat=r, attempt=a) for i in (0, 1) for r in (0, 1) for a in (0, 1)]
    places = {*keys, *(reask_key(key, number) for key in keys for number in (1, 2))}
    assert len(places) == 3 * len(keys)


def test_only_a_request_with_a_shape_is_asked_again() -> None:
    messages = ({"role": "user", "content": "Well?"},)
    assert n_reasks(TASK, Request(messages, shape=ReplyShape("json"))) == 3
    assert n_reasks(TASK, Request(messages)) == 0


def test_only_replies_of_no_use_are_complained_about() -> None:
    told = [
        TASK.complaint(reply, {"instruction": "x"}) for reply in (Reply("yes"), Reply("perhaps"), Reply(None))
    ]
    assert [bool(words) for words in told] == [False, True, True]
    assert "'perhaps'" in told[1]
