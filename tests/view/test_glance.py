from __future__ import annotations

from typing import Any

from distilnb.view.glance import errors_html, group_errors, log_html, newest_rows_html
from tests.view.samples import check_html


def error(row: int | None, reason: str, **other: Any) -> dict[str, Any]:
    plain = {"row_id": f"load:{row}:0", "row": row, "step": "judge", "kind": "ParseError", "reason": reason}
    return {**plain, "is_partial": False, "state": "open", **other}


def test_errors_that_differ_in_numbers_and_quotes_only_are_one_group() -> None:
    errors = [error(n, f"rating {n + 6} is outside 1..5, in 'text {n}'\nsee the prompt") for n in range(4)]
    errors += [error(9, "no rating"), error(10, "half of it", is_partial=True)]
    errors += [error(11, "no rating", state="mended"), error(12, "no rating", state="retried")]
    groups = group_errors(errors)
    assert [(len(group.rows), group.is_partial) for group in groups] == [(4, False), (1, False), (1, True)]
    assert str(groups[0]) == "4 rows of judge: ParseError: rating 6 is outside 1..5, in 'text 0'"
    assert str(groups[2]) == "1 row of judge, went on: ParseError: half of it"
    told = check_html(errors_html(errors))
    assert "(row 0, 1, 2, …)" in told
    assert "see the prompt" in told


def test_ids_do_not_keep_errors_apart() -> None:
    sent = 'no JSON (line 1 column {}): \'{{"id": "mock-{}'
    errors = [error(n, sent.format(n, f'{n}a{n}f60", "text": "{word}')) for n, word in enumerate("abc")]
    errors += [error(8, "it isn't there"), error(9, "it isn't here")]
    assert [len(group.rows) for group in group_errors(errors)] == [3, 1, 1]


def test_a_group_shows_what_was_sent_and_came_back_of_its_first_row() -> None:
    asked: list[int] = []

    def whole(one: Any) -> dict[str, Any]:
        asked.append(one["row"])
        return {**one, "prompt": "user:\nRate it. <b>", "reply": "Rating: 7"}

    told = check_html(errors_html([error(n, f"rating {n} is outside") for n in (12, 8)], whole))
    assert asked == [12]
    assert told.index("prompt of row 12") < told.index("Rate it. <b>") < told.index("Rating: 7")


def test_a_row_without_an_ordinal_is_named_by_its_id() -> None:
    assert group_errors([error(None, "lost")])[0].rows == ("load:None:0",)


def test_many_kinds_of_errors_are_counted() -> None:
    told = errors_html([error(n, "x" * (n + 1)) for n in range(11)])
    assert "… 3 more kinds: run.errors() has all" in told


def test_nothing_to_see_is_said() -> None:
    assert "No row has failed." in errors_html([])
    assert "No row has come out" in newest_rows_html([], [], 0)
    assert "Nothing was written" in log_html(" \n")


def test_hostile_texts_are_shown_and_not_obeyed() -> None:
    hostile = "<script>alert(1)</script>\x1b[31m</style>\u202e<img onerror=x>"
    for told in (
        errors_html([error(1, hostile, step=hostile, kind=hostile)]),
        newest_rows_html([{hostile: hostile}], [3], 1),
        log_html(hostile),
    ):
        assert "<script" not in told
        assert "<img" not in told
        assert "\x1b" not in told
        assert "\u202e" not in told
        check_html(told)


def test_the_newest_rows_are_shown_and_the_others_counted() -> None:
    told = check_html(newest_rows_html([{"n": f"text {n}"} for n in range(7)], list(range(93, 100)), 400))
    assert "text 1" not in told
    assert "text 2" in told
    assert "395 more rows" in told
