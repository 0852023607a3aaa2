"""All processes of a run in one thread and in no time: the engine's own parts, and who acts next is drawn.

The runner is the engine's, with its journal, its crew and its own loop. What is replaced is what lies below them: a
worker's process and socket, the clock, and the event loop's waiting. While the runner waits for its sockets, here the
other processes take their turns; each may be killed between any two of its actions and in the midst of a batch, may
stop or hang, and what was in its socket may be cut anywhere. So an interleaving that takes luck to meet among real
processes is one number here.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import heapq
import io
import itertools
import json
import os
import selectors
import signal
import sqlite3
import subprocess
from bisect import insort
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from distilnb.engine import (
    ask_worker,
    crew,
    editing,
    launch,
    models,
    ordering,
    pieces,
    planning,
    retrying,
    row_worker,
    runner,
    spool,
    versions,
    watch,
    wire,
    workers,
)
from distilnb.engine.ask_worker import AskWorker
from distilnb.engine.cache import ReplyCache
from distilnb.engine.inbox import WORK
from distilnb.engine.lineage import Attempt, Lineage
from distilnb.engine.processes import Sight
from distilnb.engine.reading import RunReader
from distilnb.engine.retry_orders import read_orders
from distilnb.engine.row_worker import RowWorker
from distilnb.engine.rundir import RunDir
from distilnb.engine.vitals import WHOLE, LastWords, Vitals, shared_memory
from distilnb.engine.wire import LineSplitter, Message, encode
from distilnb.engine.workers import Worker, role_of
from distilnb.errors import RunError
from distilnb.llms.base import LLM
from distilnb.llms.calling import Caller
from distilnb.rows import read_batch, write_text
from distilnb.spec import base
from distilnb.spec.graph import Graph
from distilnb.spec.step import Step
from distilnb.steps import cutting
from tests.property import steps
from tests.property.graphs import edited
from tests.property.rounds import Order, Place
from tests.property.steps import OracleClient

MAX_WAITS = 4000  # of the runner in a row without hearing anything: a hang
MAX_LIVES = 30  # of the runner
STROKES = (
    "rows",
    "ask",
    "runner",
    "all",
    "freeze",
    "stop",
    "abort",
    "pause",
    "retry",
)  # the first four are kills


class Blow(NamedTuple):
    """Something that befalls the run when the world has ticked so often: a kill, or a command."""

    tick: int
    what: str  # of STROKES, or the resume that follows a pause


class Opened(NamedTuple):
    """What an order has opened again, and the rows that each join had made by then."""

    places: list[Place]
    joined: dict[str, set[str]]


class Sizes(NamedTuple):
    """Small sizes, so that few rows are many batches; and how many row workers there are.

    `part` is that of the parts into which files are cut, in bytes; of large files alone, where it is 0.
    """

    batch: int
    window: int
    flush: int
    row_workers: int
    part: int = 0


# An event loop lets nothing but a KeyboardInterrupt (or an exit) through, and these two must come through at once.


class RunnerKilled(KeyboardInterrupt):
    """The runner ends here, wherever it is."""


class Struck(KeyboardInterrupt):
    """The worker that acts ends or freezes here, in the midst of what it does."""


class MortalRunner(runner.Runner):
    """The engine's runner, which leaves no word when it is killed."""

    is_killed = False

    def _finish(self, state: str, reason: str, error: str) -> None:
        if not self.is_killed:
            super()._finish(state, reason, error)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that takes its turns when it is told to, and whose clock is moved by hand."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._due: list[float] = []

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        heapq.heappush(self._due, when)
        return super().call_at(when, *arguments, **options)

    def take_turn(self) -> None:
        self.call_soon(self.stop)
        self.run_forever()

    def move_on(self) -> None:
        """Move the clock to the next timer."""
        if self._due:
            self._now = max(self._now, heapq.heappop(self._due))


# --- processes ----------------------------------------------------------------------


class MortalVitals(Vitals):
    """A worker's vitals: each word of them is a moment at which it may be struck."""

    def __init__(self, moment: Callable[[], None]) -> None:
        descriptor = shared_memory()
        super().__init__(descriptor)
        os.close(descriptor)
        self._moment = moment
        self._at_death: bytes | None = None

    @contextlib.contextmanager
    def at(self, stage: int, batch: int, entry: int = WHOLE, *, finishes: bool = True) -> Iterator[None]:
        with super().at(stage, batch, entry, finishes=finishes):
            self._moment()
            yield

    def at_step(self, step: int) -> None:
        super().at_step(step)
        self._moment()

    def moved(self) -> None:
        super().moved()
        self._moment()

    def beat(self) -> None:
        self._numbers[0] += 1

    def hold(self) -> None:
        """Remember how they are: what Python does on its way out of a struck worker, a dead one does not."""
        self._at_death = bytes(self._memory)

    def restore(self) -> None:
        if self._at_death is not None:
            self._memory[:] = self._at_death


class Actor:
    """A worker's process and the two ends of its socket: both `Popen` and `socket` as `Worker` uses them."""

    def __init__(self, world: World, pid: int) -> None:
        self.world = world
        self.pid = pid
        self.returncode: int | None = None
        self.inbox: deque[Message] = deque()
        self.outbox = bytearray()
        self.vitals = MortalVitals(self._moment)
        self.is_frozen = False
        self.is_stopped = False  # frozen by a signal, not by what it ran
        self.is_held = world.random.random() < 0.1  # a forked child of it holds the socket open
        self._splitter = LineSplitter()
        self._doom: Callable[[], None] | None = None  # what befalls it while it acts

    # as a process

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Let it come to its end, as a process does that was told to exit."""
        while self.returncode is None and not self.is_frozen and self.inbox:
            self.act()
        if self.is_frozen:
            self.world.now += timeout
            raise subprocess.TimeoutExpired("", timeout)
        if self.returncode is None:
            self.die()  # its runner hung up
        return self.returncode or 0

    # as a socket

    def send(self, data: bytes) -> int:
        self.world.tick()
        if self.returncode is not None:
            raise BrokenPipeError
        n_bytes = self.world.random.randint(1, len(data)) if self.world.random.random() < 0.2 else len(data)
        for message in self._splitter.feed(bytes(data[:n_bytes])):
            self.hear(message)
        return n_bytes

    def recv(self, _: int) -> bytes:
        self.world.tick()
        if not self.is_readable:
            raise BlockingIOError
        n_bytes = self.world.random.randint(1, max(1, len(self.outbox)))
        data = bytes(self.outbox[:n_bytes])
        del self.outbox[:n_bytes]
        return data

    @property
    def is_readable(self) -> bool:
        return bool(self.outbox) or (self.returncode is not None and not self.is_held)

    def close(self) -> None: ...

    # as itself

    def hear(self, message: Message) -> None:
        """Take a message in; it is looked at when its turn comes."""
        self.inbox.append(message)

    def act(self) -> None:
        """Do one thing, or be struck while at it."""
        self.world.acting = self
        try:
            self._act()
        except Struck:
            self.world.acting = None
            self.vitals.restore()
            assert self._doom is not None
            self._doom()
        finally:
            self.world.acting = None

    def _act(self) -> None:
        raise NotImplementedError

    def _moment(self) -> None:
        """Let a moment pass in the midst of a batch."""
        if self.world.acting is self:
            self.world.tick()
            if self._doom is not None:
                self.vitals.hold()
                raise Struck

    def strike(self, doom: Callable[[], None]) -> None:
        """Let something befall it: at once, or, while it acts, as soon as that can be."""
        if self.world.acting is self:
            self._doom = doom
        else:
            doom()

    def say(self, message: Message) -> None:
        if self.returncode is None:
            self.outbox += encode(message)

    def die(self, exit_code: int = -signal.SIGKILL) -> None:
        """Be dead: nothing more is said, and the last that was may be cut anywhere."""
        if self.returncode is None:
            self.returncode = exit_code
            if self.world.random.random() < 0.5:
                del self.outbox[self.world.random.randint(0, len(self.outbox)) :]
            self.bury()

    def freeze(self, *, by_signal: bool) -> None:
        """Neither act nor beat any more."""
        self.is_frozen, self.is_stopped = True, by_signal

    def bury(self) -> None:
        """Free what the dead process held."""


class RowActor(Actor):
    """A row worker: it handles a message to its end, or leaves a batch off, before it looks at the next."""

    def __init__(self, world: World, pid: int) -> None:
        super().__init__(world, pid)
        # Called off for no reason too: there is more to leave off than these few blows find at work.
        self._worker = RowWorker(
            world.run_dir, self.vitals, lambda: self._is_calling or world.random.random() < 0.2
        )
        self._replies: Iterator[Message] | None = None
        self._may_work = True
        self._is_draining = False

    def hear(self, message: Message) -> None:
        """Do as its thread does that listens: a pause comes at once, before what waits already."""
        if message["do"] == "pause":
            self._may_work = False
        else:
            super().hear(message)
        if message["do"] in ("resume", "drain", "exit"):
            self._may_work = True
        self._is_draining |= message["do"] == "drain"

    @property
    def _is_calling(self) -> bool:
        return self._is_draining or not self._may_work

    def _act(self) -> None:
        if self._replies is not None:
            reply = next(self._replies, None)
            if reply is not None:
                self.say(reply)
                return
            self._replies = None
            rest = self._worker.take_rest()
            if rest is not None:
                self.world.n_left_off += 1
                self.inbox.appendleft(rest)
        elif self.inbox and self._may_work:
            message = self.inbox.popleft()
            if self._is_draining and message["do"] in WORK:
                return
            if message["do"] == "exit":
                self._worker.unload()
                self.returncode = 0
            else:
                self._replies = self._worker.handle(message)


class AskActor(Actor):
    """An ask worker, with an event loop of its own."""

    def __init__(self, world: World, pid: int) -> None:
        super().__init__(world, pid)
        self._loop = VirtualLoop()
        self._loop.set_exception_handler(lambda *_: None)  # that a task was struck is no news
        self._worker = AskWorker(world.run_dir, self.vitals, self.say)
        self._is_ending = False
        self._n_cached_before = world.n_cached()
        self._n_sent_before = world.n_sent()

    def _act(self) -> None:
        if self.inbox and self.world.random.random() < 0.5:
            message = self.inbox.popleft()
            if message["do"] == "exit":
                self._take_last_turn()
                self._loop.run_until_complete(self._worker.close())
                self.returncode = 0
                self.bury()
                return
            self._loop.call_soon(self._handle, message)
        if self.world.random.random() < 0.3:
            self._loop.move_on()
        was_paused, n_requests = self._is_paused, self.world.n_requests()
        self._loop.take_turn()
        if was_paused and self._is_paused:
            assert self.world.n_requests() == n_requests, "a request was sent in a pause"
        self.vitals.moved()

    @property
    def _is_paused(self) -> bool:
        asker = self._worker.asker
        return asker is not None and not asker._may_send.is_set()

    def _handle(self, message: Message) -> None:
        if not self._is_ending:
            self._worker.handle(message)

    def die(self, exit_code: int = -signal.SIGKILL) -> None:
        if self.returncode is None:
            words = bytes(self.vitals._memory)
            self._take_last_turn()
            self.vitals._memory[:] = words
            n_sent = self.world.n_sent() - self._n_sent_before
            n_safe = self.world.n_cached() - self._n_cached_before
            self.world.n_in_flight_at_kills += n_sent - n_safe
        super().die(exit_code)

    def _take_last_turn(self) -> None:
        """Let every task begin: Python complains of coroutines that never did. Nothing is said any more."""
        self._is_ending = True
        self._worker.say = lambda _: None
        acting, self.world.acting = self.world.acting, None
        self._loop.take_turn()
        self.world.acting = acting

    def bury(self) -> None:
        words = bytes(self.vitals._memory)
        asker = self._worker.asker
        if asker is not None:  # before its tasks end, or the dead would still write
            asker.cache._pending.clear()
            asker.cache.close()
            asker.repeats.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            with contextlib.redirect_stderr(io.StringIO()):
                self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()
        self.vitals._memory[:] = words


# --- the world ----------------------------------------------------------------------


@dataclass
class World:
    """What is around the runner: it is the runner's selector and clock, and starts its workers."""

    run_dir: RunDir
    graph: Graph
    random: Random
    blows: list[Blow]
    now: float = 0.0
    n_ticks: int = 0
    n_left_off: int = 0  # batches of which a row worker gave a rest back
    n_in_flight_at_kills: int = 0  # replies that were asked for and not yet safe when their worker died
    strokes: Counter[str] = field(default_factory=Counter)  # what has befallen it
    endings: list[str] = field(default_factory=list)  # rows at which a runner ended the run
    acting: Actor | None = None
    # In one life of the runner: how often a kill from outside found a worker at a row. A few, and the row is blamed.
    n_found: Counter[LastWords] = field(default_factory=Counter)
    n_found_most: int = 0
    runner: MortalRunner | None = None
    orders: list[Order] = field(default_factory=list)
    opened: defaultdict[str, Opened] = field(
        default_factory=lambda: defaultdict(lambda: Opened([], {}))
    )  # by name of the order
    editions: dict[tuple[str, int], Step] = field(
        default_factory=dict
    )  # (step, version) → what a retry made of it
    _workers: dict[Actor, Worker] = field(default_factory=dict)
    _pids: Iterator[int] = field(default_factory=lambda: itertools.count(100_000))
    _clients: list[OracleClient] = field(default_factory=list)
    _n_silent: int = 0
    _seen: list[dict[str, Any]] = field(default_factory=list)  # errors, by one who orders a retry later

    def live(self) -> str:
        """Start or resume the run and let it go on until its runner ends; returns the state it left, or "killed"."""
        self._workers.clear()
        self.n_found.clear()
        self.acting = None
        self.runner = MortalRunner(self.run_dir, {})
        self.runner.crew.selector = self  # type: ignore[assignment]  # it has what the crew uses
        self.runner.control.clock = self.monotonic
        self._n_silent = 0
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(RunnerKilled):
            self.runner.run()
        if self.runner.is_killed:
            self.runner.journal.close()
            for actor in list(self._workers):
                actor.die()
            return "killed"
        assert self.runner.end is not None
        return self.runner.end[0]

    @property
    def end_of_life(self) -> tuple[str, str, str] | None:
        """State, reason and error with which the last runner ended."""
        return self.runner.end if self.runner else None

    @property
    def died_too_often(self) -> bool:
        """Whether the runner gave a worker up: to it, deaths in a row without a finished row are the step's fault."""
        return self.end_of_life is not None and self.end_of_life[1] == "worker"

    @property
    def ended_at(self) -> str:
        """The row at which the last runner ended, as on_error="raise" wants it; "" where it ended otherwise."""
        state, reason, _ = self.end_of_life or ("", "", "")
        return reason.removeprefix("row: ") if state == "failed" and reason.startswith("row: ") else ""

    def end(self) -> None:
        """Free what a life that was cut short by a failed assertion holds."""
        for actor in list(self._workers):
            actor.die()

    def tick(self) -> None:
        """Let a moment pass; what is to befall the run at this one does."""
        self.n_ticks += 1
        while self.blows and self.blows[0].tick <= self.n_ticks:
            self._strike(self.blows.pop(0).what)

    def _strike(self, what: str) -> None:
        if what in ("retry", "retry late"):
            self._retry_at_once(self._seen if what == "retry late" else None)
            return
        self.strokes[what] += 1
        if what in ("stop", "abort"):
            self.run_dir.command(what)
        elif what == "pause":
            self.run_dir.command("pause")
            insort(self.blows, Blow(self.n_ticks + self.random.randint(1, 150), "resume"))
        elif what == "resume":
            self.run_dir.command("resume")
        living = [actor for actor in self._workers if actor.returncode is None]
        mine = [actor for actor in living if what in (self._workers[actor].role, "freeze", "all")]
        for actor in mine if what == "all" else self.random.sample(mine, min(1, len(mine))):
            self._note_found(actor)
            actor.strike(functools.partial(actor.freeze, by_signal=True) if what == "freeze" else actor.die)
        if what in ("runner", "all"):
            assert self.runner is not None
            self.runner.is_killed = True
            raise RunnerKilled

    # --- as the user who retries ---

    def retry(
        self,
        step: str | None = None,
        using: Graph | None = None,
        *,
        rows: Sequence[str | int] | None = None,
        is_live: bool = False,
    ) -> Order:
        """Order failed rows to be done again; raises RunError when there are none."""
        pipeline = SimpleNamespace(name="drawn", description="", llm=None, graph=using) if using else None
        if using and not (self.run_dir.path / "steps.json").exists():
            write_plain_steps(self.run_dir.path, self.graph)
        reader = RunReader(self.run_dir)
        try:
            chosen = ordering.order_retry(
                reader,
                {},
                step=step,
                rows=rows,
                using=pipeline,  # type: ignore[arg-type]  # it has what is looked at
                parameters=None,
            )
        finally:
            reader.close()
        left = read_orders(self.run_dir)[-1]
        for name, number in left.versions.items():
            if number > versions.FIRST:
                assert using is not None
                known = self.editions.setdefault((name, number), using.steps[name])
                assert known.dump() == using.steps[name].dump()
        places = [(error["step"], error["row_id"]) for error in chosen]
        opened = self.opened[left.name]
        self.orders.append(Order(left.name, places, left.versions, opened.places, opened.joined, is_live))
        return self.orders[-1]

    def _retry_at_once(self, seen: list[dict[str, Any]] | None = None) -> None:
        """Retry while the run goes on: all failed rows, or those of a step or by name, maybe edited.

        With none, look again later. `seen` are the errors as they were a while ago: the user's process may be slow.
        """
        reader = RunReader(self.run_dir)
        errors = reader.errors() if seen is None else seen
        reader.close()
        opened = [error for error in errors if error["state"] == "open"]
        if seen is None and opened and self.random.random() < 0.5:
            self._seen = errors
            insort(self.blows, Blow(self.n_ticks + self.random.randint(5, 200), "retry late"))
            return
        step = self.random.choice([None, *sorted({error["step"] for error in opened})])
        rows = None
        if opened and self.random.random() < 0.3:
            rows = [self.random.choice([error["row_id"], error["row"]]) for error in opened[::2]]
        is_edited = step is not None and self.random.random() < 0.5
        using = edited(self.graph, step, self.random.randint(1, 3)) if step and is_edited else None
        try:
            with mock.patch.object(RunReader, "errors", return_value=errors):
                self.retry(step, using, rows=rows, is_live=True)
        except RunError:  # nothing has failed, or nothing that can be done again
            insort(self.blows, Blow(self.n_ticks + self.random.randint(10, 60), "retry"))
            return
        self.strokes["retry"] += 1
        self.run_dir.command("retry")

    @property
    def has_waiting_order(self) -> bool:
        """Whether no runner has taken up the last order: it was killed, or had ended, before."""
        reader = RunReader(self.run_dir)
        known = reader.orders()
        reader.close()
        return any(order.name not in known for order in self.orders)

    def _note_found(self, actor: Actor) -> None:
        words = actor.vitals.words()
        if words is not None and words.entry != WHOLE:
            self.n_found[words._replace(step=0)] += 1
            self.n_found_most = max(self.n_found_most, *self.n_found.values())

    def perish(self, how: str) -> None:
        """What a step does to the worker that it is in: a drawn row kills it, or hangs it in C code."""
        actor = self.acting
        if actor is None:  # the interpreter's call, or one in a worker that is dead already
            return
        self.strokes[f"{how} by a row of {self._workers[actor].role}"] += 1
        is_hang = how == "hang"
        actor.strike(
            functools.partial(actor.freeze, by_signal=False)
            if is_hang
            else functools.partial(actor.die, -signal.SIGSEGV)
        )
        actor.vitals.hold()
        raise Struck

    # --- as the clock and the starter of workers, and as the system below them ---

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def start_worker(
        self, name: str, _: RunDir, selector: selectors.BaseSelector, __: object = None
    ) -> Worker:
        self.tick()
        actor = (AskActor if role_of(name) == "ask" else RowActor)(self, next(self._pids))
        worker = Worker(name, actor, actor, selector, actor.vitals)  # type: ignore[arg-type]  # it is process and socket
        self._workers[actor] = worker
        return worker

    def look_at(self, pid: int) -> Sight | None:
        actor = next((actor for actor in self._workers if actor.pid == pid), None)
        if actor is None:
            return None
        return Sight(
            actor.is_stopped, is_runnable=not actor.is_frozen, cpu_s=0.0 if actor.is_frozen else self.now
        )

    def select_connection(
        self, actors: Sequence[Actor], *_: object
    ) -> tuple[list[Actor], list[Actor], list[Actor]]:
        return [actor for actor in actors if actor.is_readable], [], []

    def steps_of_worker(self, _: object, names: Sequence[str], __: object) -> dict[str, Step]:
        return {name: self.graph.steps[name].model_copy() for name in names}

    def steps_of_version(self, _: object, number: int, names: Sequence[str], __: object) -> dict[str, Step]:
        return {name: self.editions[name, number].model_copy() for name in names}

    def of(self, llm: LLM) -> Caller:
        """Make the caller of a model, and remember its client for what it counts."""
        caller = Caller.of(llm)
        assert isinstance(caller.client, OracleClient)
        self._clients.append(caller.client)
        return caller

    def n_requests(self) -> int:
        return sum(client.n_requests for client in self._clients)

    def n_sent(self) -> int:
        return sum(client.n_replies for client in self._clients)

    def n_cached(self) -> int:
        path = ReplyCache.default_path()
        if not path.is_file():
            return 0
        with contextlib.closing(sqlite3.connect(path)) as db:
            try:
                return int(db.execute("SELECT count(*) FROM replies").fetchone()[0])
            except sqlite3.OperationalError:  # made, and its table is not there yet
                return 0

    # --- as the crew's selector: while the runner waits, the others act ---

    def register(self, *_: object) -> None: ...

    def unregister(self, connection: Any) -> None:
        self._workers.pop(connection, None)

    def select(self, timeout: float) -> list[tuple[SimpleNamespace, int]]:
        for _ in range(self.random.randint(1, 6)):
            living = [a for a in self._workers if a.returncode is None and not a.is_frozen]
            if living:
                self.random.choice(living).act()
            self.tick()
        self.now += timeout * self.random.randint(0, 2)
        for actor in self._workers:
            if actor.returncode is None and not actor.is_frozen:
                actor.vitals.beat()
        ready = [worker for actor, worker in self._workers.items() if actor.is_readable]
        self._n_silent = 0 if ready else self._n_silent + 1
        if self._n_silent > MAX_WAITS:
            raise AssertionError(f"the run hangs:\n{self.describe()}")
        chosen = [worker for worker in ready if self.random.random() < 0.7]
        return [(SimpleNamespace(data=worker), selectors.EVENT_READ) for worker in chosen]

    def describe(self) -> str:
        """Say what everybody is doing."""
        assert self.runner is not None
        lines = [f"tick {self.n_ticks}, facts {self.runner.reader.facts()}"]
        lines += [f"  {state}" for state in vars(self.runner.flow).get("_states", {}).values()]
        lines += [f"  {worker.name}: inbox {list(actor.inbox)}" for actor, worker in self._workers.items()]
        return "\n".join(lines)


class WatchedLineage(Lineage):
    """The runner's tables of retries, from which is seen what each order has opened, and when."""

    def __init__(self, world: World, db: sqlite3.Connection) -> None:
        super().__init__(db)
        self._world = world
        self._places: list[Place] = []

    def set_attempt(self, step: str, row_id: str, attempt: Attempt) -> None:
        super().set_attempt(step, row_id, attempt)
        self._places.append((step, row_id))

    def carry_out(self, name: str, n_rows: int) -> None:
        super().carry_out(name, n_rows)
        opened = self._world.opened[name]
        opened.places[:] = self._places  # not added: a runner may have been killed before its commit
        self._places.clear()
        for stage in self._world.run_dir.plan().stages:
            if stage.kind == "join":
                batches = self._batches("stage = ?", (stage.name,))
                files = [read_batch(self._world.run_dir.path / batch.path) for batch in batches]
                opened.joined[stage.name] = {row_id for file in files for row_id in file.ids}


def kill_worker(worker: Worker) -> None:
    """Stand in for `Worker.kill`, whose process group here would be somebody else's."""
    actor = worker.process
    assert isinstance(actor, Actor)
    actor.die()


@contextlib.contextmanager
def simulated(
    graph: Graph, sizes: Sizes, blows: Sequence[Blow], seed: int, *, on_error: str = "quarantine"
) -> Iterator[World]:
    """Write the run of a graph, with nothing started, and make the world in which it lives."""
    with contextlib.ExitStack() as stack:
        patch = lambda target, **values: stack.enter_context(mock.patch.multiple(target, **values))  # noqa: E731
        patch(planning, ROW_BATCH=sizes.batch, ASK_BATCH=sizes.batch, ROW_WINDOW=sizes.window)
        if sizes.part:
            patch(planning, PART_BYTES=sizes.part)
            patch(cutting, MANY_BYTES=0)
        patch(base, code_digest=_digest_of_class)
        # Steps are handed over as they are: their trip to a worker is not what is in question here.
        patch(spool, FIRST_ROWS=sizes.batch)
        patch(launch, start_runner=mock.Mock(), write_steps=mock.Mock())
        patch(versions, write_steps=write_plain_steps)
        patch(editing, to_record=lambda _: "")
        patch(ordering, start_again=mock.Mock())
        options: Mapping[str, Any] = {"rows": None, "max_cost": None, "max_tokens": None, "cache": "on"}
        options = {**options, "row_workers": sizes.row_workers, "on_error": on_error}
        run_dir = launch.launch(graph, pipeline="drawn", text=str, options=dict(options))
        _narrow(run_dir, sizes.window)
        world = World(run_dir, graph, Random(seed), sorted(blows))
        patch(crew, time=world)
        patch(runner, time=world)
        patch(watch, time=world, look_at=world.look_at)
        patch(workers, time=world, select=SimpleNamespace(select=world.select_connection))
        made = {"read_steps": world.steps_of_worker, "read_version_steps": world.steps_of_version}
        # Messages hold the names of files, and where they are cut hangs on their length: it must be the same again.
        patch(wire, _serial=itertools.count(1000))
        patch(ask_worker, FLUSH_ROWS=sizes.flush, **made)
        patch(row_worker, **made)
        patch(pieces, GROWTH=1, time=world)
        patch(Worker, start=world.start_worker, kill=kill_worker)
        patch(steps, FATES=[world.perish])
        patch(models, Caller=world)
        patch(retrying, Lineage=functools.partial(WatchedLineage, world))
        stack.callback(world.end)
        yield world


_digest_of_class = functools.cache(base.code_digest)  # they do not change here, and it costs more than a run


def write_plain_steps(folder: Path, graph: Graph) -> None:
    """Write what tells equal steps from others; their code is not needed here."""
    write_text(folder / "steps.json", json.dumps([step.dump() for step in graph.steps.values()]))


def _narrow(run_dir: RunDir, window: int) -> None:
    """Write the plan again with small windows towards the models too."""
    plan = run_dir.plan()
    stages = tuple(dataclasses.replace(stage, window=min(stage.window, window)) for stage in plan.stages)
    (run_dir.path / "plan.json").write_text(
        dataclasses.replace(plan, stages=stages).to_json(), encoding="utf-8"
    )
