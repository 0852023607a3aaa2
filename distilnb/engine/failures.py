"""The texts of failures on their way to the journal: short ones in the message, long ones in a file beside the batch.

A prompt may be megabytes long. It would hold up the socket and swell the journal, which every reader polls.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilnb.errors import StoreError
from distilnb.rows import write_text

if TYPE_CHECKING:
    from distilnb.engine.apply import Failure

TEXTS = ("reason", "prompt", "reply", "traceback")
MAX_INLINE = 4096  # characters of all texts of one failure that travel in the message
MAX_REASON = 500  # characters of the reason that the journal keeps of a failure whose texts are in a file


def pack_failures(failures: Sequence[Failure], folder: Path, path: Path) -> list[dict[str, Any]]:
    """Return failures as data for the journal; long texts are written to `path`, named relative to `folder`.

    `texts` is then the file and the byte at which the failure's line begins; raises StoreError.
    """
    packed: list[dict[str, Any]] = []
    lines: list[str] = []
    offset = 0
    for failure in failures:
        data = asdict(failure)
        order = data.pop("order")
        data["row"] = order[0] if order else None
        if _is_long(data):
            line = json.dumps({name: data[name] for name in TEXTS}, ensure_ascii=False) + "\n"
            data["texts"] = f"{path.relative_to(folder)}:{offset}"
            data.update(dict.fromkeys(TEXTS, ""), reason=_plain(data["reason"][:MAX_REASON]))
            lines.append(line)
            offset += len(line.encode("utf-8", "surrogatepass"))
        packed.append(data)
    if lines:
        write_text(path, "".join(lines))
    return packed


def unpack_failure(error: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return an error of the journal with its long texts read from their file; raises StoreError."""
    place = error.get("texts")
    if not place:
        return error
    path, _, offset = place.rpartition(":")
    try:
        with (folder / path).open("rb") as file:
            file.seek(int(offset))
            texts = json.loads(file.readline().decode("utf-8", "surrogatepass"))
    except (OSError, ValueError) as error_of_file:
        raise StoreError(
            f"The texts of a failure cannot be read from {str(folder / path)!r}: {error_of_file}.",
            "If the file is gone or damaged, its prompts and replies are lost; run.retry() asks the rows again.",
        ) from error_of_file
    return {**error, **texts}


def _is_long(data: dict[str, Any]) -> bool:
    """Whether texts must go by file: they are long, or no database takes them (half of a surrogate pair)."""
    if sum(len(data[name]) for name in TEXTS) > MAX_INLINE:
        return True
    return any(_plain(data[name]) != data[name] for name in TEXTS)


def _plain(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")
