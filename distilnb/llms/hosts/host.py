"""The process of a model host: it loads one model, answers whoever asks, and leaves when nobody does any more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from distilnb.errors import DistilnbError, ModelError
from distilnb.llms.engines.base import Ask, Engine
from distilnb.llms.hosts.devices import choose_devices, one_at_a_time
from distilnb.llms.hosts.messages import Message, dump_error, encode, read_message, read_shape
from distilnb.llms.hosts.place import MAX_SOCKET_BYTES, Info, Place, birth_of, remove_socket

BEAT_S = 1.0
TOUCHED_S = 5.0  # a model in use stays at least so long, however short its keep_alive is
UNLOAD_PATIENCE_S = 20.0


def main() -> None:
    """Hold one model until nobody needs it."""
    place = Place(Path(sys.argv[1]))
    said = json.loads(sys.stdin.readline())
    lock = place.take_lock()
    if lock is None:
        return  # another host lives
    os.environ.update(said["secrets"])
    asyncio.run(Host(place, lock, said["engine"], said["label"], said["settings"]).serve())
    # The engine's helpers are of this process group: none of them may outlive it.
    if os.getpgid(0) == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


@dataclass(eq=False)
class _Visitor:
    """A client that is connected."""

    writer: asyncio.StreamWriter
    keep_alive_s: float
    work: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    def say(self, message: Message) -> None:
        if not self.writer.is_closing():
            self.writer.write(encode(message))


@dataclass
class Host:
    """What the process does. `lock` is the descriptor of the lock that says that it lives."""

    place: Place
    lock: int
    engine_class: str
    label: str
    settings: Mapping[str, Any]
    engine: Engine | None = None
    _state: str = "starting"
    _words: str = "starting"
    _began: float = field(default_factory=time.monotonic)
    _used: float = field(default_factory=time.monotonic)
    _moved: float = field(default_factory=time.monotonic)
    _keep_alive_s: float = TOUCHED_S  # as the last visitor said who left
    _why: str = ""  # it leaves
    _leaving: asyncio.Event = field(default_factory=asyncio.Event)
    _failure: Message | None = None
    _is_broken: bool = False
    _visitors: set[_Visitor] = field(default_factory=set)

    async def serve(self) -> None:
        """Listen, load, and answer until it is time to leave."""
        loop = asyncio.get_running_loop()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_signal_handler(signal.SIGTERM, self._leave, "was told to end")
        path = await self._listen()
        self._set_state("loading", f"loading {self.label}", path)
        loading = asyncio.ensure_future(self._load(path))
        while not self._why:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), BEAT_S if self._visitors else BEAT_S / 4)
            self._beat()
        self._set_state("leaving", "leaving", path)
        remove_socket(self.place.path, path)  # first: who comes now finds nobody, and starts the next host
        self.place.add_event("left", why=self._why)
        for visitor in self._visitors:
            if not self._is_broken:
                visitor.say({"say": "bye", "why": self._why})
            visitor.writer.close()
        for visitor in list(self._visitors):
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                await asyncio.wait_for(visitor.writer.wait_closed(), 1.0)
        if loading.done() and self.engine is not None and not self._is_broken:
            await self._unload(self.engine)

    async def _listen(self) -> str:
        """Bind the socket, in a folder that only this user can enter, and return its path."""
        own = str(self.place.path / "socket")
        before = self.place.info()
        if before is not None:
            remove_socket(self.place.path, before.socket)
        paths = [own] if len(os.fsencode(own)) <= MAX_SOCKET_BYTES else []
        for path in (*paths, None):
            if path is None:  # also where the home is on a file system that knows no sockets
                path = f"{tempfile.mkdtemp(prefix='distilnb-')}/socket"
            with contextlib.suppress(OSError):
                os.unlink(path)
            try:
                await asyncio.start_unix_server(self._meet, path=path)
            except OSError:
                if not paths or path != own:
                    raise
            else:
                os.chmod(path, 0o600)
                return path
        raise AssertionError("unreachable")

    def _set_state(self, state: str, words: str, path: str) -> None:
        self._state, self._words = state, words
        self._write_down(path)
        self._tell_all({"say": "state", "state": state, "what": words})

    def _write_down(self, path: str) -> None:
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        pid = os.getpid()
        self.place.tell(Info(pid, path, self.label, self._state, devices, birth_of(pid)))

    # --- the model ---

    async def _load(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        self.place.add_event("loading", label=self.label)
        try:
            await loop.run_in_executor(None, self._choose_devices, path)
            module, _, name = self.engine_class.partition(":")
            engine: Engine = getattr(import_module(module), name)(self.settings, self._note_move)
            await loop.run_in_executor(engine.thread, engine.load)
        except BaseException as error:  # noqa: BLE001 - a library may raise anything, SystemExit too: clients are told
            self._fail(error)
            return
        self.engine = engine
        self._used = self._moved = time.monotonic()
        took_s = self._used - self._began
        self.place.add_event("loaded", label=self.label, seconds=round(took_s, 3))
        print(f"{self.label} was loaded in {took_s:.1f} s", flush=True)  # noqa: T201 - into the host's log
        self._set_state("ready", "ready", path)

    def _choose_devices(self, path: str) -> None:
        with one_at_a_time():
            choose_devices(self.place, self.settings)
            self._write_down(path)  # the next host that chooses sees what this one took

    def _fail(self, error: BaseException) -> None:
        traceback.print_exception(type(error), error, error.__traceback__)
        self.place.add_event("failed", what=str(error))
        told = dump_error(error)
        if not isinstance(error, DistilnbError):
            told = {
                "kind": "ModelLoadError",
                "what": f"{self.label} could not be loaded: {told['what']}",
                "fix": f"The log of its host has the whole story: {self.place.log}",
            }
        self._failure = {"say": "failed", **told}
        self._tell_all(self._failure)
        # Who has started it may still be on the way, and would start another one that fails.
        delay_s = 0.0 if self._visitors else TOUCHED_S
        asyncio.get_running_loop().call_later(delay_s, self._leave, "the model could not be loaded")

    async def _unload(self, engine: Engine) -> None:
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(engine.thread, engine.unload)
        with contextlib.suppress(Exception):  # it ends anyway, and with it what it holds
            await asyncio.wait_for(work, UNLOAD_PATIENCE_S)

    def _note_move(self) -> None:
        self._moved = time.monotonic()

    # --- visitors ---

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitor = _Visitor(writer, 0.0)
        try:
            while (message := await read_message(reader)) is not None:
                self._take(visitor, message)
        finally:
            if visitor in self._visitors:
                self._visitors.discard(visitor)
                self._keep_alive_s = visitor.keep_alive_s
                self._used = time.monotonic()
            for work in visitor.work.values():
                work.cancel()
            writer.close()

    def _take(self, visitor: _Visitor, message: Message) -> None:
        kind = message["do"]
        if kind == "hello":
            visitor.keep_alive_s = float(message["keep_alive"])
            self._visitors.add(visitor)
            self._used = time.monotonic()
            visitor.say(self._failure or {"say": "state", "state": self._state, "what": self._words})
            if self._failure:
                self._leave("the model could not be loaded")
        elif kind == "ask":
            work = asyncio.ensure_future(self._answer(visitor, message))
            visitor.work[message["id"]] = work
            work.add_done_callback(lambda _: visitor.work.pop(message["id"], None))
        elif kind == "cancel":
            asked = visitor.work.get(message["id"])
            if asked is not None:
                asked.cancel()
        elif kind == "unload":
            self._leave("was told to unload")

    async def _answer(self, visitor: _Visitor, message: Message) -> None:
        assert self.engine is not None  # clients ask once it is ready
        if self._n_at_work() <= 1:
            self._moved = time.monotonic()
        try:
            ask = Ask(
                message["messages"],
                message["n"],
                read_shape(message["shape"]),
                message["mode"],
                message["parameters"],
                message["first"],
            )
            completed = await self.engine.answer(ask)
        except Exception as error:  # noqa: BLE001 - whatever the library raises is the failure of this request
            if not isinstance(error, ModelError):
                traceback.print_exception(type(error), error, error.__traceback__)
            if self.engine.is_broken_by(error):
                self._is_broken = True  # clients are not told bye: for them it has died
                self._leave(f"the engine broke: {error}")
            else:
                visitor.say({"say": "error", "id": message["id"], **dump_error(error)})
        else:
            visitor.say(
                {
                    "say": "answer",
                    "id": message["id"],
                    "completions": [one._asdict() for one in completed.completions],
                    "input_tokens": completed.input_tokens,
                }
            )
        finally:
            self._used = self._moved = time.monotonic()

    def _n_at_work(self) -> int:
        return sum(len(visitor.work) for visitor in self._visitors)

    def _tell_all(self, message: Message) -> None:
        for visitor in self._visitors:
            visitor.say(message)

    # --- how long ---

    def _beat(self) -> None:
        now = time.monotonic()
        is_busy = self._n_at_work() > 0
        self._tell_all({"say": "beat", "still_s": now - self._moved if is_busy else 0.0})
        if self._state == "loading":
            self._words = f"loading {self.label} ({now - self._began:.0f} s)"
            self._tell_all({"say": "state", "state": self._state, "what": self._words})
        elif not is_busy and now - self._used > self._stay_s():
            self._leave("nobody asked for a while")
        if not self._is_in_place():
            self._leave("its folder was removed")

    def _stay_s(self) -> float:
        if not self._visitors:
            return self._keep_alive_s
        return max(TOUCHED_S, *(visitor.keep_alive_s for visitor in self._visitors))

    def _is_in_place(self) -> bool:
        try:
            return os.stat(self.place.path / "lock").st_ino == os.fstat(self.lock).st_ino
        except OSError:
            return False

    def _leave(self, why: str) -> None:
        self._why = self._why or why
        self._leaving.set()
