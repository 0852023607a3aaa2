"""The processes that distilnb starts, runners, workers and model hosts: their environment, and whether one lives.

A runner imports this before it starts its workers: nothing heavy.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping


def child_environment() -> Mapping[str, str]:
    """Return the environment of a process that distilnb starts."""
    return {
        **os.environ,
        "PYTHONSAFEPATH": "1",  # from Python 3.11 on: a stray `re.py` beside the notebook breaks no import
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        # To look for plugins (tools that trace a program) pydantic opens every installed package.
        "PYDANTIC_DISABLE_PLUGINS": os.environ.get("PYDANTIC_DISABLE_PLUGINS", "__all__"),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }


def is_held(lock: str | os.PathLike[str]) -> bool:
    """Whether some process holds a lock file; False too when there is none, or it cannot be opened."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        # Shared: two who look are not taken for a holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
