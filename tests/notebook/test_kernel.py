"""A real kernel is killed in the middle of a run: the run ends, and a new kernel reads the same dataset."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from distilnb.run import attach
from tests.conftest import wait_until_gone
from tests.runs import wait_for, worker_pids
from tests.servers import mock_llm
from tests.test_run import EXPECTED, some_rows_are_done

START = """
%load_ext distilnb
from types import SimpleNamespace
from tests.test_run import pipeline
run = pipeline(SimpleNamespace(base_url="{base_url}")).start()
print(run.id)
"""
READ = """
import distilnb as dn
print(list(dn.attach("{run_id}").distiset()["default"]["train"]["instruction"]))
"""


@contextmanager
def kernel() -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """Start a kernel, and end it however it stands."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(Path(__file__).parents[2]))
    client: Any = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


def printed(client: BlockingKernelClient, cell: str) -> str:
    """Run a cell and return the last line it printed."""
    lines: list[str] = []

    def note(message: dict[str, Any]) -> None:
        if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
            lines.extend(message["content"]["text"].splitlines())

    reply = client.execute_interactive(cell, timeout=60, output_hook=note)
    assert reply["content"]["status"] == "ok", reply["content"]
    return lines[-1]


def test_a_killed_kernel_loses_nothing_and_a_new_one_reads_on(home: Path) -> None:
    with mock_llm(latency_ms=60) as server:
        with kernel() as (manager, client):
            run_id = printed(client, START.format(base_url=server.base_url))
            run = attach(run_id)
            wait_for(run, some_rows_are_done)
            pid = manager.provisioner.pid  # type: ignore[union-attr]  # of a local kernel, which has one
            assert os.getsid(worker_pids(run)["runner"]) != os.getsid(pid)
            os.kill(pid, signal.SIGKILL)
        with kernel() as (_, client):
            assert run.wait(60).state == "finished"
            assert printed(client, READ.format(run_id=run_id)) == repr(EXPECTED)
        assert server.stats()["duplicate_prompts_after_ok"] == 0
    assert wait_until_gone(home) == []
