from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from distilnb.llms.hosts.place import all_places, remove_socket
from tests.conftest import end_processes_of

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def hosts_find_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a host import the fake engine: it is a fresh interpreter."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(autouse=True)
def killed_hosts_leave_no_socket(home: Path) -> Iterator[None]:
    """Remove the sockets that stand in temporary folders: the paths of tests are long, and no next host comes."""
    yield
    end_processes_of(home)
    for place in all_places():
        info = place.info()
        if info is not None:
            remove_socket(place.path, info.socket)
