"""What the suite leaves out is told at the end; with DISTILNB_TEST_ALL=1 leaving out is failing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any, TypeVar

import pytest

REQUIRE_ALL = os.environ.get("DISTILNB_TEST_ALL") == "1"
PARTS = ("browser", "argilla", "dot", "crash", "slow")

# A skip whose reason starts so may stand even then: its input is not part of the project.
NOT_SHIPPED = "not shipped:"

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
left_out = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[left_out] = Counter()
    if os.environ.get("CI") == "true":
        config.option.color = "no"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return refuse_skip((yield))


def refuse_skip(report: Report) -> Report:
    """Make a skipped test, or a module that skips itself, a failure where all parts are required."""
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(NOT_SHIPPED):
            report.outcome = "failed"
            report.longrepr = f"skipped, where all parts are required: {reason}"
    return report


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        marks = [part for part in PARTS if item.get_closest_marker(part)]
        item.config.stash[left_out][" and ".join(marks) or "fast"] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(
        session.config, "workeroutput", None
    )  # where tests run in several processes: to the first
    if output is not None:
        output["left_out"] = dict(session.config.stash[left_out])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a process has left out; each of them leaves out the same."""
    node.config.stash[left_out] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = config.stash[left_out]
    if counts:
        told = ", ".join(f"{n} {part}" for part, n in sorted(counts.items()))
        terminalreporter.write_line(f"left out: {told} (all of them: make test-all)")
