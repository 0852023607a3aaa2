"""What the suite leaves out is told at the end; with DISTILNB_TEST_ALL=1 leaving out is failing.

Property tests draw the same in each run, so that a failure is the change's and not the draw's. DISTILNB_SEED=random
draws anew, a number draws that again.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from random import SystemRandom
from typing import Any, TypeVar

import pytest
from hypothesis import core, settings

REQUIRE_ALL = os.environ.get("DISTILNB_TEST_ALL") == "1"
PARTS = ("browser", "argilla", "dot", "crash", "litellm", "slow", "engines", "widgets7")

# A skip whose reason starts so may stand even then: its input is not part of the project.
NOT_SHIPPED = "not shipped:"

if os.environ.get("DISTILNB_SEED") == "random":
    os.environ["DISTILNB_SEED"] = str(SystemRandom().randrange(1, 10**6))
SEED = os.environ.get("DISTILNB_SEED", "")  # "": the draws are fixed

settings.register_profile("fixed", derandomize=True, database=None)
settings.register_profile("drawn", database=None, print_blob=True, deadline=None, max_examples=300)
settings.load_profile("drawn" if SEED else "fixed")
if SEED:
    core.global_force_seed = int(SEED)  # what --hypothesis-seed sets

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
left_out = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[left_out] = Counter()
    if os.environ.get("CI") == "true":
        config.option.color = "no"


def pytest_report_header() -> str:
    return f"draws: DISTILNB_SEED={SEED}" if SEED else "draws: fixed (DISTILNB_SEED=random draws anew)"


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
        terminalreporter.write_line(f"left out: {told} (all of them: make test-all, make test-engines)")
