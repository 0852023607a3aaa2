"""Which rows are to blame for a death, and from when on."""

from __future__ import annotations

from distilnb.engine.deaths import Deaths, Poison, poison_of, reason_of
from distilnb.engine.vitals import WHOLE, LastWords

BATCH = LastWords(3, 0, 7, WHOLE)
ROW = LastWords(3, 1, 7, 5)


def test_a_batch_is_done_row_by_row_after_a_death_of_its_own_doing() -> None:
    deaths = Deaths()
    assert deaths.orders(3, 7) == {}
    assert not deaths.note(BATCH, "exit code 3", is_own_doing=True)
    assert deaths.orders(3, 7) == {"one_by_one": True, "poison": []}
    assert deaths.orders(3, 8) == deaths.orders(2, 7) == {}


def test_a_row_named_after_its_batch_died_has_killed_twice() -> None:
    deaths = Deaths()
    deaths.note(BATCH, "exit code 3", is_own_doing=True)
    assert deaths.note(ROW, "exit code 3", is_own_doing=True)
    assert poison_of(deaths.orders(3, 7)) == {5: Poison(1, "exit code 3", 2)}


def test_kills_from_outside_blame_a_row_only_when_they_name_it_three_times() -> None:
    deaths = Deaths()
    deaths.note(BATCH, "killed by SIGKILL", is_own_doing=False)
    assert deaths.orders(3, 7) == {}
    deaths.note(BATCH, "killed by SIGKILL", is_own_doing=False)
    assert deaths.orders(3, 7)["one_by_one"]
    assert not deaths.note(ROW, "killed by SIGKILL", is_own_doing=False)
    assert not deaths.note(ROW._replace(entry=6), "killed by SIGKILL", is_own_doing=False)
    assert not deaths.note(ROW, "killed by SIGKILL", is_own_doing=False)
    assert poison_of(deaths.orders(3, 7)) == {}
    assert deaths.note(ROW, "killed by SIGKILL", is_own_doing=False)
    assert list(poison_of(deaths.orders(3, 7))) == [5]


def test_a_kill_from_outside_does_not_add_to_what_another_row_of_the_batch_has_done() -> None:
    deaths = Deaths()
    deaths.note(BATCH, "exit code 3", is_own_doing=True)
    assert not deaths.note(ROW._replace(entry=6), "killed by SIGKILL", is_own_doing=False)
    assert deaths.note(ROW, "exit code 3", is_own_doing=True)
    assert list(poison_of(deaths.orders(3, 7))) == [5]


def test_the_step_to_blame_is_where_the_row_killed_not_where_a_kill_from_outside_found_it() -> None:
    deaths = Deaths()
    deaths.note(BATCH, "exit code 3", is_own_doing=True)
    deaths.note(ROW, "exit code 3", is_own_doing=True)
    deaths.note(ROW._replace(step=0), "killed by SIGKILL", is_own_doing=False)
    assert poison_of(deaths.orders(3, 7)) == {5: Poison(1, "exit code 3", 3)}


def test_the_reason_says_how_often_and_how() -> None:
    reason = "The worker died 2 times while it was at this row (killed by SIGSEGV)."
    assert reason_of(Poison(0, "killed by SIGSEGV", 2)) == reason
