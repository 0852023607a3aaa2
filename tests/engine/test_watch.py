"""Who is stuck, who is only busy: by a clock and a process table that the tests set."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from distilnb.engine import watch
from distilnb.engine.processes import Sight, look_at
from distilnb.engine.vitals import Vitals, shared_memory
from distilnb.engine.watch import Finding, Watch

TURN_S = 0.1


def fresh_vitals() -> Vitals:
    descriptor = shared_memory()
    try:
        return Vitals(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class FakeWorker:
    name: str = "rows-0"
    role: str = "rows"
    pid: int = 4711
    is_ready: bool = True
    vitals: Vitals = field(default_factory=fresh_vitals)

    def beat(self) -> None:
        self.vitals._numbers[0] += 1


@dataclass
class Scene:
    """A watch, a worker and a clock."""

    worker: FakeWorker = field(default_factory=FakeWorker)
    watch: Watch = field(default_factory=lambda: Watch(blocked_limit_s=20, row_limit_s=30))
    sight: Sight | None = field(default_factory=lambda: Sight(False, False, 0.0))
    cpu_per_turn_s: float = 0.0
    now: float = 1000.0

    def run(self, for_s: float, *, beats: bool = False, moves: bool = False) -> list[Finding]:
        found = []
        for _ in range(round(for_s / TURN_S)):
            self.now += TURN_S + 1e-6
            if beats:
                self.worker.beat()
            if moves:
                self.worker.vitals.moved()
            if self.sight:
                self.sight = self.sight._replace(cpu_s=self.sight.cpu_s + self.cpu_per_turn_s)
            found += self.watch.look([self.worker], self.now)
        return found


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    scene = Scene()
    monkeypatch.setattr(watch, "look_at", lambda pid: scene.sight)
    scene.run(1, beats=True)
    yield scene
    scene.worker.vitals.close()


def test_a_beating_worker_is_well(scene: Scene) -> None:
    assert scene.run(3600, beats=True) == []


def test_silence_without_use_of_the_processor_is_stuck_within_two_seconds(scene: Scene) -> None:
    assert scene.run(1.3) == []
    finding = scene.run(0.7)[0]
    assert (finding.kind, finding.is_own_doing) == ("stuck", True)


def test_a_stopped_worker_is_stuck_and_its_row_is_not_to_blame(scene: Scene) -> None:
    scene.sight = Sight(True, False, 0.0)
    finding = scene.run(2)[0]
    assert (finding.kind, finding.is_own_doing) == ("stuck", False)
    assert "stopped by a signal" in finding.why


def test_the_little_that_waiting_for_the_lock_uses_is_no_work(scene: Scene) -> None:
    scene.cpu_per_turn_s = 0.0005
    assert [finding.kind for finding in scene.run(2)][:1] == ["stuck"]


def test_a_worker_that_waits_for_a_processor_is_not_stuck(scene: Scene) -> None:
    scene.sight = Sight(False, True, 0.0)
    assert [finding.kind for finding in scene.run(15)] == ["busy"]


def test_silence_that_uses_the_processor_is_busy_once_and_then_well_again(scene: Scene) -> None:
    scene.cpu_per_turn_s = 0.09
    with scene.worker.vitals.at(0, 1):
        assert [finding.kind for finding in scene.run(15)] == ["busy"]
    assert [finding.kind for finding in scene.run(1, beats=True)] == ["awake"]
    assert [finding.kind for finding in scene.run(3)] == ["busy"]


def test_a_row_that_is_busy_over_the_limit_is_overdue(scene: Scene) -> None:
    scene.cpu_per_turn_s = 0.09
    with scene.worker.vitals.at(0, 1):
        assert [finding.kind for finding in scene.run(20.5)][:2] == ["busy", "overdue"]


def test_work_that_is_nobodys_row_has_ten_times_the_limit(scene: Scene) -> None:
    scene.cpu_per_turn_s = 0.09
    assert [finding.kind for finding in scene.run(199)] == ["busy"]
    assert [finding.kind for finding in scene.run(2)][:1] == ["overdue"]


def test_a_worker_that_stops_using_the_processor_is_stuck_from_then_on(scene: Scene) -> None:
    scene.cpu_per_turn_s = 0.09
    scene.run(5)
    scene.cpu_per_turn_s = 0.0
    assert [finding.kind for finding in scene.run(2)][:1] == ["stuck"]


def test_a_row_that_makes_no_progress_is_overdue_though_the_worker_beats(scene: Scene) -> None:
    with scene.worker.vitals.at(0, 1):
        assert scene.run(29, beats=True) == []
        assert [finding.kind for finding in scene.run(2, beats=True)][:1] == ["overdue"]


def test_progress_is_what_counts_not_time(scene: Scene) -> None:
    with scene.worker.vitals.at(0, 1):
        assert scene.run(300, beats=True, moves=True) == []


def test_a_loop_that_does_not_turn_is_busy_then_overdue(scene: Scene) -> None:
    scene.worker.role = "ask"
    assert scene.run(5, beats=True, moves=True) == []
    with scene.worker.vitals.at(0, 1):
        assert [finding.kind for finding in scene.run(19, beats=True)] == ["busy"]
        assert [finding.kind for finding in scene.run(2, beats=True)][:1] == ["overdue"]


def test_loading_steps_may_take_long(scene: Scene) -> None:
    scene.worker.role, scene.worker.is_ready = "ask", False
    assert scene.run(600, beats=True) == []


def test_a_jump_of_the_clock_gives_fresh_leases(scene: Scene) -> None:
    scene.run(1.2)
    scene.now += 60
    assert scene.run(1.2) == []
    assert [finding.kind for finding in scene.run(1)][:1] == ["stuck"]


def test_a_new_process_has_time_to_start(scene: Scene) -> None:
    scene.worker.pid += 1
    scene.worker.vitals = fresh_vitals()
    assert scene.run(29) == []
    assert [finding.kind for finding in scene.run(3)][:1] == ["stuck"]


def test_without_a_process_table_the_long_limit_alone_counts(scene: Scene) -> None:
    scene.sight = None
    with scene.worker.vitals.at(0, 1):
        assert [finding.kind for finding in scene.run(21)][:2] == ["busy", "overdue"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="not shipped: a system without /proc")
def test_the_process_table_tells_of_a_living_process_and_of_none() -> None:
    before = look_at(os.getpid())
    assert before is not None
    assert not before.is_stopped
    assert before.is_runnable
    while (after := look_at(os.getpid())) and after.cpu_s == before.cpu_s:
        sum(range(100_000))
    assert look_at(2**22 + 1) is None
