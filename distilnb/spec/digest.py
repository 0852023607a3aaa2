"""Digests: short names of content, the same in every process and on every machine."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest_of(value: Any, *, size_bytes: int = 16) -> str:
    """Return the hexadecimal digest of JSON-ready data; the order of keys does not matter."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size_bytes).hexdigest()
