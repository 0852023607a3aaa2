"""Run the suite, and write docs/llms.md when all of it passes: ``python -m tests.llms.conformance``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from tests.llms.conformance.page import PAGE, SUITES, write_page


def main() -> int:
    """Return the exit status: that of the suite."""
    folder = Path(__file__).parent
    marks = [] if importlib.util.find_spec("litellm") else ["-m", "not litellm"]
    status = pytest.main([*(str(folder / f"{name}.py") for name in SUITES), "-q", *marks])
    if status == 0:
        PAGE.write_text(write_page(), encoding="utf-8")
        sys.stdout.write(f"written: {PAGE}\n")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
