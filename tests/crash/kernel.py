"""A kernel as a process of its own: `start VARIANT BASE_URL FOLDER` or `resume RUN_ID`; it waits for the end."""

from __future__ import annotations

import sys
from pathlib import Path

from distilnb.run import attach
from tests.crash.pipelines import build


def main(verb: str, *arguments: str) -> None:
    """Say when it begins, and which run it has; then wait."""
    if verb == "start":
        variant, base_url, folder = arguments
        pipeline = build(variant, base_url, Path(folder))
        _say("starting")
        run = pipeline.start()
    else:
        run = attach(arguments[0])
        if run.status().is_ended:
            run.resume()
    _say(run.id)
    run.wait()


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
