"""Where distilnb keeps what it writes on its own: one folder, named by DISTILNB_HOME."""

from __future__ import annotations

import os
from pathlib import Path

from distilnb.errors import StoreError


def home() -> Path:
    """Return the folder that holds runs, the reply cache and pinned samples.

    It is `$DISTILNB_HOME`, else `~/.distilnb`. It is not created here.
    """
    named = os.environ.get("DISTILNB_HOME")
    return Path(named).expanduser() if named else Path.home() / ".distilnb"


def private_folder(*parts: str) -> Path:
    """Return a folder under `home()`, made with mode 0700 when it does not exist.

    Raises StoreError when it cannot be made (a full or read-only disk).
    """
    path = home().joinpath(*parts)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The folder {str(path)!r} cannot be made: {error.strerror or error}.",
            "Set DISTILNB_HOME to a folder that can be written.",
        ) from error
    return path
