"""Commands to a runner: taken in order, each until it was obeyed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from distilnb.children import is_held
from distilnb.engine.rundir import RunDir, make_run_dir


def test_commands_are_taken_in_order_with_what_they_say(home: Path) -> None:
    run = make_run_dir("r-0001")
    run.command("pause")
    run.command("adjust", steps=["ä"], changes={"rpm": None})
    run.command("stop")
    assert [(one.name, one.payload) for one in run.commands()] == [
        ("pause", {}),
        ("adjust", {"steps": ["ä"], "changes": {"rpm": None}}),
        ("stop", {}),
    ]
    run.remove_command(run.commands()[0])
    run.remove_command(run.commands()[0])
    assert [one.name for one in run.commands()] == ["stop"]
    assert run.has_command("abort", "stop")


def test_a_new_runner_takes_only_changed_limits(home: Path) -> None:
    run = make_run_dir("r-0002")
    for name in ("stop", "pause", "abort", "resume"):
        run.command(name)
    run.command("adjust", changes={"max_cost": 2})
    run.drop_late_commands()
    assert [one.name for one in run.commands()] == ["adjust"]


def test_what_is_half_written_or_no_command_harms_nobody(home: Path) -> None:
    run = make_run_dir("r-0003")
    (Path(run.path) / "commands" / ".1-2-3.tmp").write_text("{")
    (Path(run.path) / "commands" / "17-stop").write_text("stop")
    (Path(run.path) / "commands" / "18-adjust").write_text("[1]")
    assert [(one.name, one.payload) for one in run.commands()] == [("stop", {}), ("adjust", {})]


def test_the_tail_of_a_log_is_its_last_lines(home: Path) -> None:
    run: RunDir = make_run_dir("r-0004")
    assert run.log_tail("rows") == ""
    run.log("rows").write_bytes(b"x" * 2_000_000 + b"\nlast but one\nlast \xff\n")
    assert run.log_tail("rows", 2) == "last but one\nlast �"
    assert run.log_tail("rows", 0) == ""
    run.log("runner").touch()
    assert run.logs() == ["runner", "rows"]


def test_a_runner_that_let_its_lock_go_is_not_about_to_take_it(home: Path) -> None:
    run = make_run_dir("r-0005")
    run.write_pid(os.getpid())
    assert run.is_alive()
    lock = run.lock()
    assert run.was_just_started()
    run.sign_lock(lock)
    assert run.is_alive()
    os.close(lock)
    assert not run.is_alive()
    run.write_pid(os.getppid())
    assert run.is_alive()


def test_a_lock_is_held_by_its_holder_and_by_nobody_who_looks(home: Path) -> None:
    run = make_run_dir("r-0006")
    path = run.path / "lock"
    assert not is_held(path)
    lock = run.lock()
    assert is_held(path)
    assert run.is_locked()
    os.close(lock)
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)  # as another process does while it looks
    assert not is_held(path)
    assert not run.is_locked()
    os.close(looking)
