"""Who is measured: distilnb, bare loops, and other libraries in venvs of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
VENVS = HERE / ".venvs"  # not in git; about 3 GB

OWN = ""  # the venv of this interpreter

# The versions that the drivers were written for, and of what they lean on. distilabel imports requests without
# declaring it; curator pins what it needs itself.
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    "distilabel": (
        "distilabel[openai]==1.5.3",
        "requests",
        "openai==3.52.0",
        "datasets==5.2.0",
        "pyarrow==26.0.1",
        "pydantic==2.14.3",
    ),
    "curator": ("bespokelabs-curator==0.1.31", "litellm==1.83.7", "datasets==3.6.0"),
    "datadesigner": (
        "data-designer==0.9.6",
        "httpx==0.28.1",
        "pandas==3.1.1",
        "duckdb==1.5.6",
        "tiktoken",
    ),
    "bare": ("openai[aiohttp]==3.52.0", "aiohttp==3.14.5"),
}
_NEVER = ("torch", "nvidia", "triton")  # gigabytes that no workload needs


@dataclass(frozen=True)
class Peer:
    """One line of a table: a driver, its variant, and the venv whose interpreter runs it."""

    name: str
    driver: str
    variant: str = ""
    venv: str = OWN
    label: str = ""
    lives_on: bool = False  # its run survives the kill of the process that started it

    @property
    def python(self) -> Path:
        """The interpreter."""
        return Path(sys.executable) if self.venv == OWN else VENVS / self.venv / "bin" / "python"

    @property
    def is_installed(self) -> bool:
        """Whether its interpreter is there."""
        return self.python.exists()


_ALL = (
    Peer("list", "bare", "list", label="bare loop, in memory"),
    Peer("list-file", "bare", "list-file", label="bare loop that reads the file too"),
    Peer("arrow", "bare", "arrow", label="pyarrow, in memory"),
    Peer("datasets", "bare", "datasets", label="datasets.map and filter"),
    Peer("aiohttp", "bare", "aiohttp", label="bare aiohttp loop"),
    Peer("openai", "bare", "openai", label="openai client, default transport"),
    Peer("openai-aiohttp", "bare", "openai-aiohttp", "bare", label="openai client, aiohttp transport"),
    Peer("distilnb", "distilnb", "rows", label="distilnb", lives_on=True),
    Peer("distilnb-columns", "distilnb", "columns", label="distilnb, built-in verbs", lives_on=True),
    Peer(
        "distilnb-list", "distilnb", "list", label="distilnb, rows from a list in the kernel", lives_on=True
    ),
    Peer("distilnb-arrow", "distilnb", "rows-arrow", label="distilnb, from an Arrow file", lives_on=True),
    Peer(
        "distilnb-columns-arrow",
        "distilnb",
        "columns-arrow",
        label="distilnb, built-in verbs, from an Arrow file",
        lives_on=True,
    ),
    Peer("distilnb-hasty", "distilnb", "hasty", label="distilnb, no pause before the preview", lives_on=True),
    Peer("distilabel", "distilabel", "", "distilabel", label="distilabel 1.5.3"),
    Peer("distilabel-b1000", "distilabel", "b1000", "distilabel", label="distilabel 1.5.3, batches of 1,000"),
    Peer("curator", "curator", "", "curator", label="curator 0.1.31"),
    Peer("datadesigner", "datadesigner", "", "datadesigner", label="data-designer 0.9.6"),
    Peer(
        "datadesigner-b100",
        "datadesigner",
        "buffer=100",
        "datadesigner",
        label="data-designer 0.9.6, buffer of 100",
    ),
)
PEERS: Mapping[str, Peer] = {peer.name: peer for peer in _ALL}


def install(names: tuple[str, ...] = tuple(REQUIREMENTS)) -> None:
    """Make the venvs of the peers, each of its own; raises RuntimeError when one pulled in what it must not."""
    for name in names:
        python = VENVS / name / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(VENVS / name)], check=True)
        print(f"installing {' '.join(REQUIREMENTS[name])} into {VENVS / name}", flush=True)
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, *REQUIREMENTS[name]], check=True)
        listed = subprocess.run(
            [str(python), "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
        )
        unwanted = [line for line in listed.stdout.splitlines() if line.lower().startswith(_NEVER)]
        if unwanted:
            raise RuntimeError(f"The venv {name!r} holds {unwanted}: remove it, and pin what pulled them in.")
