"""The model host: one for all, seen when it dies, gone when it is not needed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import distilnb as dn
from distilnb.errors import (
    HostDiedError,
    ModelLoadError,
    RefusedRequestError,
    RequestTimeoutError,
    ServerError,
    SpecError,
)
from distilnb.llms.hosts import client as client_module
from distilnb.llms.hosts import link as link_module
from distilnb.llms.hosts.place import MARK, Info, Place
from distilnb.llms.hosts.starting import unload_hosts
from distilnb.llms.request import Request
from tests.conftest import is_alive
from tests.llms.hosts.fake_engine import pid_in
from tests.llms.hosts.fake_llm import FakeLLM

ASK = """
import sys
from tests.llms.hosts.fake_llm import FakeLLM
print(FakeLLM(load_s=0.5).ask("hello"))
"""


def place_of(llm: FakeLLM) -> Place:
    return llm.host().place()


def events_of(llm: FakeLLM) -> Counter[str]:
    return Counter(event["event"] for event in place_of(llm).events())


def wait_until(is_so: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def ask_all(llm: FakeLLM, *texts: str) -> list[Any]:
    """Ask through one client, all at once; return the texts, or what was raised."""

    async def ask() -> list[Any]:
        client = llm.make_client()
        try:
            requests = [Request(({"role": "user", "content": text},)) for text in texts]
            return await asyncio.gather(*map(client.send, requests), return_exceptions=True)
        finally:
            await client.close()

    answers = asyncio.run(ask())
    return [
        answer if isinstance(answer, BaseException) else str(answer.replies[0].text) for answer in answers
    ]


# --- one for all ----------------------------------------------------------------


def test_processes_that_start_at_the_same_moment_share_one_host(home: Path) -> None:
    others = [
        subprocess.Popen([sys.executable, "-c", ASK], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    replies = [other.communicate(timeout=60)[0] for other in others]
    assert len({pid_in(reply) for reply in replies}) == 1
    assert events_of(FakeLLM(load_s=0.5))["loaded"] == 1


def test_a_second_client_does_not_load_again() -> None:
    llm = FakeLLM()
    first, second = llm.ask("hello"), FakeLLM(generation_kwargs={"max_new_tokens": 2}).ask("hello")
    assert pid_in(first) == pid_in(second)
    assert events_of(llm) == {"loading": 1, "loaded": 1}


def test_another_setting_of_the_engine_is_another_host() -> None:
    assert pid_in(FakeLLM().ask("hello")) != pid_in(FakeLLM(batch_size=2).ask("hello"))


def test_requests_that_wait_are_answered_together() -> None:
    together = [int(text.split()[1]) for text in ask_all(FakeLLM(), "a", "b", "c", "d")]
    assert max(together) > 1


def test_a_host_lies_in_private_folders() -> None:
    llm = FakeLLM()
    llm.ask("hello")
    info = place_of(llm).info()
    assert info is not None
    assert stat.S_IMODE(place_of(llm).path.stat().st_mode) == 0o700
    assert stat.S_IMODE(os.stat(info.socket).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(info.socket)).st_mode) == 0o700


def test_a_long_path_gets_a_socket_in_a_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILNB_HOME", str(tmp_path / "home" / ("long" * 30)))
    llm = FakeLLM()
    llm.ask("hello")
    info = place_of(llm).info()
    assert info is not None
    assert len(info.socket) < 100
    assert stat.S_IMODE(os.stat(os.path.dirname(info.socket)).st_mode) == 0o700
    dn.unload()
    assert not os.path.exists(os.path.dirname(info.socket))


def test_a_token_reaches_the_host_and_no_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLLM, "token_variable", "HF_TOKEN")
    reply = FakeLLM(api_key="hf_canary").ask("token")
    assert str(reply).endswith("yranac_fh")
    dn.unload()
    assert not [path for path in home.rglob("*") if path.is_file() and b"hf_canary" in path.read_bytes()]


# --- its end ----------------------------------------------------------------------


def test_a_host_leaves_when_nobody_has_asked_for_a_while() -> None:
    llm = FakeLLM(keep_alive=0)
    pid = pid_in(llm.ask("hello"))
    wait_until(lambda: not psutil.pid_exists(pid))
    info = place_of(llm).info()
    assert info is not None
    assert info.state == "leaving"
    assert not os.path.exists(info.socket)
    assert pid_in(llm.ask("hello")) != pid
    assert events_of(llm)["loaded"] == 2


def test_unload_waits_for_the_end_of_all_hosts_or_of_one() -> None:
    first, second = FakeLLM(), FakeLLM(model="cockatoo")
    pids = [pid_in(llm.ask("hello")) for llm in (first, second)]
    assert dn.unload(second) == ["fake:cockatoo"]
    assert not place_of(second).is_alive()
    wait_until(lambda: not psutil.pid_exists(pids[1]))  # the system lets go of its lock a moment before
    assert place_of(first).is_alive()
    assert dn.unload() == ["fake:parrot"]
    assert not place_of(first).is_alive()
    assert dn.unload() == []


def test_unload_of_a_model_that_is_not_local_says_so() -> None:
    with pytest.raises(SpecError, match="is not held by a process"):
        dn.unload("openai:gpt-4o-mini")


def test_a_request_that_an_unload_interrupts_is_answered_by_the_next_host() -> None:
    llm = FakeLLM()
    before = pid_in(llm.ask("hello"))

    async def ask() -> str:
        client = llm.make_client()
        asked = asyncio.ensure_future(client.send(Request(({"role": "user", "content": "slow slow slow"},))))
        await asyncio.sleep(0.1)
        await asyncio.get_running_loop().run_in_executor(None, unload_hosts)
        answer = await asked
        await client.close()
        return str(answer.replies[0].text)

    assert pid_in(asyncio.run(ask())) != before


def test_what_an_engine_has_started_ends_with_its_host() -> None:
    llm = FakeLLM()
    host = psutil.Process(pid_in(llm.ask("a child")))
    children = host.children()
    assert children
    dn.unload()
    wait_until(lambda: not any(is_alive(child) for child in children))


@pytest.mark.parametrize("child", ["a child", "a child far away", "a bare child"])
def test_what_a_killed_host_has_started_ends_before_the_next_one_loads(child: str) -> None:
    llm = FakeLLM()
    host = psutil.Process(pid_in(llm.ask(child)))
    children = host.children()
    assert children
    host.kill()
    assert pid_in(llm.ask("hello")) != host.pid
    assert not any(is_alive(child) for child in children)


def test_a_host_whose_folder_is_removed_leaves() -> None:
    llm = FakeLLM()
    pid = pid_in(llm.ask("hello"))
    (place_of(llm).path / "lock").unlink()
    wait_until(lambda: not psutil.pid_exists(pid))


# --- death and rescue -------------------------------------------------------------


def test_requests_in_flight_at_a_death_are_asked_again() -> None:
    llm = FakeLLM()
    replies = ask_all(llm, "die once", "slow 1", "slow 2", "slow 3")
    assert [text.split(" ", 2)[2] for text in replies] == ["die once", "slow 1", "slow 2", "slow 3"]
    assert events_of(llm)["loaded"] == 2


def test_a_request_that_kills_every_host_fails_alone() -> None:
    llm = FakeLLM()
    dead, *others = ask_all(llm, "die", "slow 1", "slow 2", "slow 3", "slow 4", "slow 5")
    assert isinstance(dead, HostDiedError)
    assert not dead.retryable
    assert not dead.fatal
    assert "the fake begins to load" in dead.what
    assert [text.split(" ", 2)[2] for text in others] == [f"slow {i}" for i in range(1, 6)]
    assert pid_in(llm.ask("hello")) > 0


def test_a_host_that_dies_of_loading_three_times_ends_it_with_its_log(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_text("3")
    with pytest.raises(ModelLoadError, match="died 3 times") as caught:
        FakeLLM(load_dies=str(left)).ask("hello")
    assert "the fake dies of loading" in caught.value.what
    assert caught.value.fatal
    assert left.read_text() == "0"


def test_a_host_that_dies_of_loading_twice_is_started_again(tmp_path: Path) -> None:
    left = tmp_path / "left"
    left.write_text("2")
    assert "hello" in FakeLLM(load_dies=str(left)).ask("hello")


def test_an_error_of_loading_is_told_at_once() -> None:
    llm = FakeLLM(load_raises="no such architecture")
    with pytest.raises(ModelLoadError, match="ValueError: no such architecture"):
        llm.ask("hello")
    assert events_of(llm)["loading"] == 1


def test_an_engine_that_broke_is_loaded_anew() -> None:
    llm = FakeLLM()
    assert "break" in llm.ask("break")
    assert events_of(llm)["loaded"] == 2


def test_a_stopped_host_is_seen_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as impatient:
        impatient.setattr(link_module, "TICK_S", 0.1)
        impatient.setattr(link_module, "SILENT_TICKS", 30)
        impatient.setattr(client_module, "SUSPECT_AFTER", 0)
        dead, *_ = ask_all(FakeLLM(), "stop")
    assert isinstance(dead, HostDiedError)
    assert "hello" in FakeLLM().ask("hello")


def test_a_host_that_does_nothing_for_the_time_of_a_request_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "SUSPECT_AFTER", 0)
    monkeypatch.setattr(client_module, "STUCK_SHARE", 0.5)  # a loaded machine is late to begin
    dead, *_ = ask_all(FakeLLM(timeout=2.5), "hang")
    assert isinstance(dead, HostDiedError)
    assert "hello" in FakeLLM().ask("hello")


def test_a_host_is_not_stuck_by_what_it_said_long_ago() -> None:
    async def main() -> bool:
        client = FakeLLM().make_client()
        assert isinstance(client, client_module.HostClient)
        await client.send(Request(({"role": "user", "content": "hello"},)))
        link = client._link
        assert link is not None
        slow = asyncio.ensure_future(client.send(Request(({"role": "user", "content": "slow " * 8},))))
        link._still = (0.1, asyncio.get_running_loop().time() - 10.0)
        assert link.still_s > 10.0
        is_stuck = await link.is_stuck(5.0)
        assert not slow.done()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        await client.close()
        return is_stuck

    assert not asyncio.run(main())


def test_a_request_that_waits_too_long_in_a_busy_host_times_out() -> None:
    patient = FakeLLM(batch_size=1)  # of the same host: the time of a request is the client's affair
    host = pid_in(patient.ask("hello"))
    outcomes = ask_all(FakeLLM(timeout=2.5, batch_size=1), *(f"slow {number}" for number in range(8)))
    assert any(isinstance(outcome, RequestTimeoutError) for outcome in outcomes)
    assert pid_in(patient.ask("hello")) == host


def test_what_a_killed_host_left_behind_is_no_hindrance() -> None:
    llm = FakeLLM()
    place = place_of(llm)
    (place.path / "socket").touch()
    place.tell(Info(os.getpid(), str(place.path / "socket"), "fake:parrot", "ready"))
    assert "hello" in llm.ask("hello")


def test_no_process_is_killed_that_is_not_of_the_host() -> None:
    place = place_of(FakeLLM())
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        place.tell(Info(bystander.pid, str(place.path / "socket"), "fake:parrot", "ready"))
        place.kill()
        assert bystander.poll() is None
        assert MARK not in os.environ
    finally:
        bystander.send_signal(signal.SIGKILL)
        bystander.wait()


# --- what requests bring ------------------------------------------------------------


def test_errors_of_one_request_are_its_own() -> None:
    failed, refused, fine = ask_all(FakeLLM(batch_size=1), "fail", "refuse", "fine")
    assert isinstance(failed, ServerError)
    assert failed.retryable
    assert "ValueError: this one failed" in failed.what
    assert isinstance(refused, RefusedRequestError)
    assert "fine" in fine


def test_replies_carry_their_tokens_and_their_reason() -> None:
    async def ask() -> Any:
        client = FakeLLM(generation_kwargs={"max_new_tokens": 3}).make_client()
        answer = await client.send(Request(({"role": "user", "content": "one two"},), n=2))
        await client.close()
        return answer

    replies = asyncio.run(ask()).replies
    assert [(reply.input_tokens, reply.output_tokens, reply.finish_reason) for reply in replies] == [
        (2, 3, "length"),
        (0, 3, "length"),
    ]
    assert {reply.model for reply in replies} == {"parrot"}


def test_a_reply_that_is_asked_for_later_has_a_seed_of_its_own() -> None:
    async def seeds(**asked: int) -> list[str]:
        client = FakeLLM(generation_kwargs=generation).make_client()
        answer = await client.send(Request(({"role": "user", "content": "seeds"},), **asked))
        await client.close()
        return [str(reply.text).split(" ")[1] for reply in answer.replies]

    generation: dict[str, int] = {"seed": 7}
    assert asyncio.run(seeds(n=2)) == ["7", "8"]
    assert asyncio.run(seeds(n=2, first=2)) == ["9", "10"]
    generation = {}
    assert asyncio.run(seeds(n=1, first=2)) == ["None"]


def test_a_lone_surrogate_comes_through() -> None:
    assert str(FakeLLM().ask("\ud800 ünïcödé 漢字 🦜")).endswith("\ud800 ünïcödé 漢字 🦜")


def test_a_request_that_is_taken_back_holds_nobody_up() -> None:
    async def ask() -> str:
        client = FakeLLM(batch_size=1).make_client()
        slow = [
            asyncio.ensure_future(client.send(Request(({"role": "user", "content": f"slow {i}"},))))
            for i in range(8)
        ]
        await asyncio.sleep(0.7)
        for one in slow:
            one.cancel()
        answer = await client.send(Request(({"role": "user", "content": "hello"},)))
        await asyncio.gather(*slow, return_exceptions=True)
        await client.close()
        return str(answer.replies[0].text)

    assert asyncio.run(ask()).endswith("hello")


def test_the_client_says_what_the_host_is_at() -> None:
    async def ask() -> set[str]:
        client = FakeLLM(load_s=2.5).make_client()
        asked = asyncio.ensure_future(client.send(Request(({"role": "user", "content": "hello"},))))
        seen: set[str] = set()
        while not asked.done():
            await asyncio.sleep(0.02)
            seen.add(client.words)  # type: ignore[attr-defined]
        await client.close()
        return seen

    seen = asyncio.run(ask())
    assert any("loading fake:parrot (1 s)" in words for words in seen), seen


def test_events_are_lines_of_json() -> None:
    llm = FakeLLM()
    llm.ask("hello")
    lines = (place_of(llm).path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["loading", "loaded"]
