"""Following a request that several models have a part in: what is asked when, and which reply counts."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from distilnb.errors import AuthenticationError, ModelError, ServerError
from distilnb.llms.base import LLM
from distilnb.llms.fallback import FallbackLLM
from distilnb.llms.mixture import MixtureOfAgentsLLM, with_answers
from distilnb.llms.parts import Course, Standing, Wanted
from distilnb.llms.pool import LLMPool
from distilnb.llms.rehearsal import RehearsalLLM
from distilnb.llms.request import Reply, Request

A, B, C = (RehearsalLLM(model=name) for name in "abc")
REQUEST = Request(({"role": "user", "content": "Well?"},))


def course_of(llm: LLM, n: int = 1) -> Course[LLM]:
    return Course(llm.parts(Request(REQUEST.messages, n=n)))


def answer(course: Course[LLM], wanted: Wanted[LLM], *texts: str) -> None:
    course.take({key: Reply(text) for key, text in zip(wanted.keys, texts, strict=False)})
    course.ended(wanted)


def named(wanted: Sequence[Wanted[LLM]]) -> list[tuple[str, int]]:
    """Return whom to ask, and for how many replies."""
    return [(one.asks[0].llm.model, len(one.asks)) for one in wanted]


def texts(course: Course[LLM]) -> list[str | None]:
    return [one.reply.text for one in course.standing()]


def test_the_replies_of_one_model_are_asked_for_together_and_once() -> None:
    course = course_of(A, 3)
    [wanted] = course.wanted()
    assert named([wanted]) == [("a", 3)]
    assert course.wanted() == []  # they are on their way
    answer(course, wanted, "1", "2", "3")
    assert (course.wanted(), texts(course)) == ([], ["1", "2", "3"])


def test_replies_that_a_server_withholds_are_not_asked_for_for_ever() -> None:
    course = course_of(A, 3)
    answer(course, course.wanted()[0], "1")
    assert (course.wanted(), texts(course)) == ([], ["1"])


def test_what_is_withheld_a_backup_gives() -> None:
    course = course_of(FallbackLLM(llms=[A, B]), 3)
    answer(course, course.wanted()[0], "1", "2")
    [wanted] = course.wanted()
    assert named([wanted]) == [("b", 1)]
    answer(course, wanted, "3")
    assert texts(course) == ["1", "2", "3"]
    assert [bool(one.why) for one in course.standing()] == [False, False, True]


def test_a_backup_is_asked_once_the_first_has_failed_and_says_why() -> None:
    course = course_of(FallbackLLM(llms=[A, B, C]))
    [first] = course.wanted()
    assert (named([first]), first.backup) == ([("a", 1)], B.label)
    assert [*first.marks.values()] == ["", ""]  # if it answers, nobody stands in for it
    course.ended(first, ServerError("It fails."))
    [second] = course.wanted()
    assert (named([second]), second.backup) == ([("b", 1)], C.label)
    course.ended(second, ServerError("It fails too."))
    [third] = course.wanted()
    assert (named([third]), third.backup) == ([("c", 1)], "")
    assert list(third.marks.values()) == ["rehearsal:a: It fails.; rehearsal:b: It fails too."]
    answer(course, third, "yes")
    [stands] = course.standing()
    assert (stands.reply.text, stands.why) == ("yes", *third.marks.values())


@pytest.mark.parametrize(
    "first, second, is_fatal",
    [
        (AuthenticationError("No."), ServerError("Down."), False),
        (ServerError("Down."), AuthenticationError("No."), False),
        (AuthenticationError("No."), AuthenticationError("Neither."), True),
    ],
)
def test_an_error_is_fatal_only_where_nobody_is_left_for_any_row(
    first: ModelError, second: ModelError, is_fatal: bool
) -> None:
    course = course_of(FallbackLLM(llms=[A, B]))
    course.ended(course.wanted()[0], first)
    course.ended(course.wanted()[0], second)
    with pytest.raises(ModelError) as raised:
        course.wanted()
    assert raised.value.fatal is is_fatal
    assert first.what in str(raised.value)
    assert second.what in str(raised.value)


def test_a_backup_that_was_noted_stands_whatever_the_first_says_now() -> None:
    course = course_of(FallbackLLM(llms=[A, B]))
    mark, first = course.unknown()  # the note, and the first model's reply
    course.take({first: Reply("a's"), mark: Reply("It was down.")})
    [backup] = course.unknown()
    course.take({backup: Reply("b's")})
    [stands] = course.standing()
    assert (stands.reply.text, stands.why, stands.marks) == ("b's", "It was down.", ())


def test_a_reply_of_the_backup_alone_stands_in_for_nothing() -> None:
    course = course_of(FallbackLLM(llms=[A, B]))
    alone = Course(B.parts(REQUEST))
    course.take({alone.unknown()[0]: Reply("b's")})
    assert named(course.wanted()) == [("a", 1)]


def test_a_note_counts_only_with_the_reply_that_it_is_about() -> None:
    course = course_of(FallbackLLM(llms=[A, B]))
    mark, _ = course.unknown()
    course.take({mark: Reply("It was down.")})
    assert named(course.wanted()) == [("a", 1)]


def test_a_mixture_asks_its_proposers_together_and_the_aggregator_for_each_reply() -> None:
    course = course_of(MixtureOfAgentsLLM(aggregator_llm=C, proposers_llms=[A, B]), 2)
    first, second = course.wanted()
    assert named([first, second]) == [("a", 2), ("b", 2)]
    answer(course, first, "a0", "a1")
    assert course.wanted() == []  # b's answers are on their way
    answer(course, second, "b0", "b1")
    wanted = course.wanted()
    assert named(wanted) == [("c", 1), ("c", 1)]
    for number, one in enumerate(wanted):
        said = one.asks[0].request.messages[0]["content"]
        assert [f"{who}{number}" in said for who in "ab"] == [True, True]
        assert [f"{who}{1 - number}" in said for who in "ab"] == [False, False]
    answer(course, wanted[1], "second")
    answer(course, wanted[0], "first")
    assert texts(course) == ["first", "second"]


def test_each_round_of_a_mixture_is_shown_the_answers_of_the_one_before() -> None:
    mixture = MixtureOfAgentsLLM(aggregator_llm=C, proposers_llms=[A, B], rounds=3)
    course, asked = course_of(mixture), []
    while wanted := course.wanted():
        asked.append(named(wanted))
        for one in wanted:
            answer(course, one, f"{one.asks[0].llm.model} in round {len(asked)}")
    assert asked == [[("a", 1), ("b", 1)]] * 3 + [[("c", 1)]]
    [stands] = course.standing()
    shown = stands.ask.request.messages[0]["content"]
    assert ("in round 3" in shown, "in round 2" in shown) == (True, False)


def test_a_proposer_that_fails_fails_the_reply_once_nothing_is_on_its_way() -> None:
    course = course_of(MixtureOfAgentsLLM(aggregator_llm=C, proposers_llms=[A, B]))
    first, second = course.wanted()
    course.ended(first, ServerError("Down."))
    assert course.wanted() == []
    answer(course, second, "b")
    with pytest.raises(ServerError, match=r"Down\."):
        course.wanted()


def test_combinations_nest() -> None:
    mixture = MixtureOfAgentsLLM(aggregator_llm=A | B, proposers_llms=[C, A | B])  # type: ignore[list-item]
    course = course_of(LLMPool(llms=[mixture, mixture]), 2)
    asked = []
    while wanted := course.wanted():
        asked += named(wanted)
        for one in wanted:
            if one.asks[0].llm is mixture.aggregator_llm.members[0]:
                course.ended(one, ServerError("Down."))
            else:
                answer(course, one, *"xyz")
    assert [isinstance(course.look(place), Standing) for place in range(2)] == [True, True]
    assert [one.ask.llm.model for one in course.standing()] == ["b", "b"]


def test_a_conversation_keeps_its_own_system_prompt_and_its_turns() -> None:
    turns = [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "Well?"}]
    system, user = with_answers(turns, [Reply("Yes."), Reply(None)])
    assert system["content"].startswith("Be terse.\n\n")
    assert system["content"].endswith("## Answer 1\n\nYes.\n\n## Answer 2\n\n(empty)")
    assert user == turns[1]
    assert [message["role"] for message in with_answers(turns[1:], [Reply("Yes.")])] == ["system", "user"]
