"""Where distilnb keeps what it writes on its own: one folder, named by DISTILNB_HOME."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from distilnb.errors import StoreError

_PLAIN_LENGTH = 60  # of a folder's name: with a prefix and a suffix still far below the limit of 255
_CUT_LENGTH = 48  # leaves room for the digest


def home() -> Path:
    """Return the folder that holds runs, the reply cache and pinned samples.

    It is `$DISTILNB_HOME`, else `~/.distilnb`. It is not created here.
    """
    named = os.environ.get("DISTILNB_HOME")
    return Path(named).expanduser() if named else Path.home() / ".distilnb"


def private_folder(*parts: str) -> Path:
    """Return a folder under `home()`, made when it does not exist, as are those above it, with mode 0700.

    Raises StoreError when it cannot be made (a full or read-only disk).
    """
    path = home().joinpath(*parts)
    try:
        # One by one: mkdir(parents=True) makes those above without the mode.
        missing = [folder for folder in path.parents if not folder.exists()]
        for folder in (*reversed(missing), path):
            folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"The folder {str(path)!r} cannot be made: {error.strerror or error}.",
            "Set DISTILNB_HOME to a folder that can be written.",
        ) from error
    return path


def folder_name(name: str) -> str:
    """Return a name for a folder or file that stands for any text: readable, safe, another for another text.

    Short names of ASCII letters, digits, `-` and `_` stay as they are; others lose what is not safe and get a digest.

    >>> folder_name("text_generation_0")
    'text_generation_0'
    >>> folder_name("../up & away")
    'up-away-1f106b23'
    """
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    # What ends like a digest gets one as well, or it could be another name's folder.
    if safe == name and 0 < len(name) <= _PLAIN_LENGTH and not re.search(r"-[0-9a-f]{8}$", name):
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=4).hexdigest()
    return f"{safe[:_CUT_LENGTH].strip('-') or 'name'}-{digest}"
