"""What a run is told, and what it tells itself by the clock; here the clock is a number."""

from __future__ import annotations

from distilnb.engine.control import LONGEST_TURN_S, MAX_PAUSE_S, Control, Ending
from distilnb.engine.limits import RunLimits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def after(control: Control, clock: Clock, seconds: float) -> Ending | None:
    """Let so much time pass in turns of a second; return the first ending."""
    for _ in range(int(seconds)):
        clock.now += 1.0
        ending = control.tick()
        if ending:
            return ending
    return None


def ticking(**limits: float) -> tuple[Control, Clock]:
    clock = Clock()
    control = Control(RunLimits(**limits), clock=clock)  # type: ignore[arg-type]
    control.tick()
    return control, clock


def test_running_time_is_counted_and_pauses_are_not() -> None:
    control, clock = ticking()
    after(control, clock, 3)
    assert control.pause()
    assert not control.pause()
    after(control, clock, 50)
    assert control.resume()
    assert not control.resume()
    after(control, clock, 2)
    assert control.ran_s == 5


def test_the_time_of_earlier_runners_counts() -> None:
    control, clock = ticking(max_time=10)
    control.ran_s = 7
    assert after(control, clock, 2) is None
    assert after(control, clock, 5) == Ending("stopped", "time: max_time 10 s", reached={"max_time": 10})


def test_a_machine_that_slept_did_not_run() -> None:
    control, clock = ticking(max_time=60)
    clock.now += 7200
    assert control.tick() is None
    assert control.ran_s == LONGEST_TURN_S


def test_a_pause_of_an_hour_ends_the_run() -> None:
    control, clock = ticking()
    control.pause()
    assert after(control, clock, MAX_PAUSE_S - 1) is None
    assert after(control, clock, 2) == Ending("stopped", "paused")


def test_the_first_reason_to_stop_counts_and_ends_a_pause() -> None:
    control, clock = ticking(max_time=1)
    control.pause()
    assert control.stop(Ending("stopped", "user"))
    assert not control.stop(Ending("stopped", "signal"))
    assert control.ending == Ending("stopped", "user")
    assert not control.is_paused
    assert not control.pause()
    assert after(control, clock, 5) is None


def test_running_time_is_noted_once_a_second() -> None:
    control, clock = ticking()
    assert control.must_note_ran()
    noted = 0
    for _ in range(100):
        clock.now += 0.1
        control.tick()
        noted += control.must_note_ran()
    assert 9 <= noted <= 10
