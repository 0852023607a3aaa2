"""Run the suite, and write docs/llms.md when all of it passes: ``python -m tests.llms.conformance``.

``python -m tests.llms.conformance engines`` runs all tests of real engines instead, those of the suite among them, and
writes down what they showed, which the page tells.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.llms.conformance.page import PAGE, SUITES, write_page
from tests.llms.conformance.record import RECORD, Recorder

FOLDER = Path(__file__).parent


def main() -> int:
    """Return the exit status: that of the suite."""
    of_engines = sys.argv[1:] == ["engines"]
    status = run_engines() if of_engines else run_providers()
    if status == 0:
        PAGE.write_text(write_page(), encoding="utf-8")
        sys.stdout.write(f"written: {PAGE}\n")
    return status


def run_providers() -> int:
    """Run the suite on the providers."""
    marks = "not engines" if importlib.util.find_spec("litellm") else "not engines and not litellm"
    return int(pytest.main([*(str(FOLDER / f"{name}.py") for name in SUITES), "-q", "-m", marks]))


def run_engines() -> int:
    """Run all tests of real engines, in one process, so that each is loaded once."""
    recorder = Recorder()
    folders = [str(FOLDER), str(FOLDER.parent / "engines")]
    status = int(pytest.main([*folders, "-m", "engines", "-p", "no:randomly"], plugins=[recorder]))
    if status == 0:
        stale = recorder.write()
        sys.stdout.write("\n".join([f"written: {RECORD}", *stale, ""]))
        status = int(bool(stale))
    return status


if __name__ == "__main__":
    sys.exit(main())
