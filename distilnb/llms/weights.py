"""A local model's files: whether they are there, what they are, and how large."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from distilnb.errors import UnknownModelError, did_you_mean

WHOLE_BYTES = 16 << 20  # a file up to this size is read whole
N_SAMPLES = 64  # of a larger one: so many blocks, spread evenly, the first and the last among them
BLOCK_BYTES = 1 << 16

# What does not change a reply.
_NOT_THE_MODEL = frozenset({".md", ".txt~", ".png", ".jpg", ".pdf", ".lock", ".gitattributes", ".gitignore"})


def is_path(name: str) -> bool:
    """Whether a model's name is a path, and not a name on the Hub (`owner/name`)."""
    is_written_so = name.startswith((".", "/", "~")) or name.endswith(".gguf") or name.count("/") > 1
    return is_written_so or Path(name).expanduser().exists()


def full_path(name: str) -> str:
    """Return a path as the host's process can use it."""
    return str(Path(name).expanduser().resolve())


def check_path(name: str, provider: str) -> None:
    """Raise UnknownModelError, with the near match, when no file or folder is at a path."""
    path = Path(name).expanduser()
    if path.exists():
        return
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    beside = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    raise UnknownModelError(
        f"There is no model at {name!r}; {str(folder)!r} holds {beside[:10] or 'nothing'}.",
        did_you_mean(path.name, beside, "Correct the path, or download the model there."),
        provider=provider,
    )


def content_digest(path: str) -> str:
    """Return the digest of a model's files: equal replies need equal weights, wherever they lie.

    Of a large file the size and 64 blocks count, which any training has changed; "" where nothing is there.
    """
    root = Path(path)
    seen = blake2b(digest_size=16)
    for file in _files(root):
        name = file.relative_to(root).as_posix() if root.is_dir() else ""
        stat = file.stat()
        seen.update(f"{name}\0{_file_digest(str(file), stat.st_size, stat.st_mtime_ns)}\n".encode())
    return seen.hexdigest() if root.exists() else ""


def size_bytes(path: str) -> int:
    """Return the size of a model's weights; 0 where nothing is there."""
    weights = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
    return sum(file.stat().st_size for file in _files(Path(path)) if file.suffix in weights)


def _files(root: Path) -> Iterator[Path]:
    if root.is_file():
        yield root
        return
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            path = Path(folder, name)
            if not name.startswith(".") and path.suffix not in _NOT_THE_MODEL and path.is_file():
                yield path


@lru_cache(maxsize=4096)
def _file_digest(path: str, n_bytes: int, mtime_ns: int) -> str:
    """Return the digest of a file's content; size and time are here for the memo alone."""
    seen = blake2b(str(n_bytes).encode(), digest_size=16)
    with open(path, "rb") as file:
        if n_bytes <= WHOLE_BYTES:
            seen.update(file.read())
        else:
            for number in range(N_SAMPLES):
                file.seek((n_bytes - BLOCK_BYTES) * number // (N_SAMPLES - 1))
                seen.update(file.read(BLOCK_BYTES))
    return seen.hexdigest()
