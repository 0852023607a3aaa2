"""A real JupyterLab, or Notebook 7, in Chromium, for tests that look at what a person sees.

With DISTILNB_SCREENSHOTS=FOLDER the pages are kept there as pictures, light and dark.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_until_gone

QUICKSTART = Path(__file__).parents[2] / "notebooks" / "quickstart.ipynb"
TOKEN = "only-on-loopback"
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]

# No news, no update check, no toasts; and every cell in the page, also those below its edge.
SETTINGS = {
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "notebook-extension/tracker": {"windowingMode": "none"},
}
READY = """() => {
    const panel = window.jupyterapp?.shell?.currentWidget;
    return Boolean(panel?.context?.isReady && panel.content?.widgets?.length > 1
        && panel.sessionContext?.session?.kernel?.status === 'idle');
}"""
ALL_RAN = """() => {
    const panel = window.jupyterapp.shell.currentWidget;
    const code = panel.content.widgets.map(cell => cell.model).filter(model => model.type === 'code');
    return code.every(model => model.executionCount) && panel.sessionContext.session.kernel.status === 'idle';
}"""
PLACE = "id => window.jupyterapp.shell.currentWidget.content.widgets.findIndex(cell => cell.model.id === id)"
CHOOSE = "place => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = place; }"
COUNT = """id => {
    const panel = window.jupyterapp.shell.currentWidget;
    const cell = panel.content.widgets.find(cell => cell.model.id === id);
    return panel.sessionContext.session.kernel.status === 'idle' ? cell.model.executionCount : null;
}"""
HEIGHT = """() => {
    const cells = [...document.querySelectorAll('.jp-Notebook .jp-Cell')];
    return cells.reduce((sum, cell) => sum + cell.offsetHeight, 0);
}"""
TO_TOP = """() => {
    const outer = document.querySelector('.jp-WindowedPanel-outer') ?? document.querySelector('.jp-Notebook');
    outer.scrollTop = 0;
}"""


@dataclass(frozen=True)
class FrontEnd:
    """A program that shows notebooks in a browser: its module, its options, and where it shows one.

    `own_complaints` are how errors begin that it makes in any notebook, also in one that never heard of distilnb.
    """

    module: str
    options: tuple[str, ...]
    page: str
    own_complaints: tuple[str, ...] = ("Could not restore the debugger state",)  # after a second restart


FRONT_ENDS = {
    "lab": FrontEnd(
        "jupyterlab",
        (
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            "--LabApp.extension_manager=readonly",
            "--LabApp.expose_app_in_browser=True",
        ),
        "lab/tree/{name}?reset&token={token}",
    ),
    "notebook": FrontEnd(
        "notebook",
        ("--JupyterNotebookApp.expose_app_in_browser=True",),
        "notebooks/{name}?token={token}",
        (
            *FrontEnd.own_complaints,
            "Cannot read properties of undefined (reading 'schema')",  # 7.6, of a plugin without settings
        ),
    ),
}


@pytest.fixture
def front_end() -> str:
    """Which front end the test looks at; parametrize it to look at several."""
    return "lab"


@pytest.fixture
def lab(tmp_path: Path, home: Path, front_end: str) -> Iterator[str]:
    """The address of a server with its own settings and the quickstart in its folder."""
    pytest.importorskip(FRONT_ENDS[front_end].module)
    folder = tmp_path / "work"
    folder.mkdir()
    shutil.copy(QUICKSTART, folder)
    with serving(folder, environment(tmp_path, home), tmp_path / "lab.log", front_end) as address:
        yield address
    assert wait_until_gone(home) == []


def environment(folder: Path, home: Path) -> dict[str, str]:
    """Return the environment of a server that finds no settings but those laid below `folder`."""
    settings = folder / "settings"
    for name, values in SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own = {
        name: str(folder / name.lower())
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    return {
        **os.environ,
        **own,
        "DISTILNB_HOME": str(home),
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@contextmanager
def serving(folder: Path, environment: dict[str, str], log: Path, front_end: str = "lab") -> Iterator[str]:
    """Run a front end's server until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", FRONT_ENDS[front_end].module, "--no-browser", "--allow-root"),
        *("--ip=127.0.0.1", f"--port={port}", "--ServerApp.port_retries=0"),
        *(f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={folder}"),
        *FRONT_ENDS[front_end].options,
    ]
    address = f"http://127.0.0.1:{port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_for(lambda: answers(address), 60, lambda: log.read_text(errors="replace")[-3000:])
            yield address
        finally:
            process.terminate()  # it ends its kernels
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=2).close()
        return True
    except OSError:
        return False


def wait_for(is_so: Callable[[], bool], timeout_s: float, tell: Callable[[], str] = str) -> None:
    """Poll until something is so; fail with what `tell` says when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, tell() or f"not within {timeout_s} s"
        time.sleep(0.1)


@dataclass
class Browser:
    """A page of a front end, with everything that it complained about or asked for elsewhere."""

    page: Any
    address: str
    front_end: str = "lab"
    complaints: list[str] = field(default_factory=list)
    asked_elsewhere: list[str] = field(default_factory=list)

    def open(self, name: str = QUICKSTART.name) -> None:
        """Open a notebook anew and wait until its kernel is ready."""
        place = FRONT_ENDS[self.front_end].page.format(name=name, token=TOKEN)
        self.page.goto(f"{self.address}/{place}")
        self.page.wait_for_function(READY, timeout=60_000)

    def run_all(self) -> None:
        """Run all cells and wait until the last has ended."""
        self.command("notebook:run-all-cells")
        self.page.wait_for_function(ALL_RAN, timeout=120_000)

    def cell(self, cell_id: str) -> Any:
        """Return a cell of the page."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self._place(cell_id))

    def run_cell(self, cell_id: str) -> None:
        """Run one cell and wait until it has ended."""
        before = self.page.evaluate(COUNT, cell_id)
        self.page.evaluate(CHOOSE, self._place(cell_id))
        self.command("notebook:run-cell")
        wait_for(lambda: self.page.evaluate(COUNT, cell_id) not in (None, before), 120)

    def _place(self, cell_id: str) -> int:
        return int(self.page.evaluate(PLACE, cell_id))

    def theme(self, name: str) -> None:
        """Choose "light" or "dark"."""
        self.command("apputils:change-theme", f"{{theme: 'JupyterLab {name.title()}'}}")
        is_light = "true" if name == "light" else "false"
        self.page.wait_for_function(
            f"() => document.body.dataset.jpThemeLight === '{is_light}'", timeout=20_000
        )

    def command(self, name: str, arguments: str = "{}") -> None:
        """Give the front end a command and do not wait for it."""
        self.page.evaluate(f"void window.jupyterapp.commands.execute('{name}', {arguments})")

    def picture(self, name: str) -> None:
        """Keep the whole notebook as a picture, where somebody wants to look at it."""
        folder = os.environ.get("DISTILNB_SCREENSHOTS")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.set_viewport_size({"width": 1280, "height": self.page.evaluate(HEIGHT) + 300})
            self.page.evaluate(TO_TOP)
            self.page.wait_for_timeout(500)  # for the page to be drawn at its new size
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))
            self.page.set_viewport_size({"width": 1280, "height": 900})


@pytest.fixture
def browser(lab: str, front_end: str) -> Iterator[Browser]:
    """Chromium on that server."""
    pytest.importorskip("playwright.sync_api")
    if chromium() is None:
        pytest.skip("there is no Chromium here")
    with browsing(lab, front_end) as one:
        yield one


def chromium() -> str | None:
    """Return where Chromium is, None where it is not installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def browsing(address: str, front_end: str = "lab", **options: Any) -> Iterator[Browser]:
    """Open Chromium on a server until the block ends; `options` are those of a page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=chromium(), args=CHROMIUM_FLAGS)
        page = launched.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        one = Browser(page, address, front_end)
        page.on("console", lambda said: note_complaint(one, said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: note_complaint(one, str(error)))
        page.on("request", lambda asked: note_request(one, asked.url))
        yield one
        launched.close()


def note_complaint(browser: Browser, text: str) -> None:
    if not text.startswith(FRONT_ENDS[browser.front_end].own_complaints):
        browser.complaints.append(text)


def note_request(browser: Browser, url: str) -> None:
    if not url.startswith(
        (browser.address, browser.address.replace("http", "ws", 1), "data:", "blob:", "about:")
    ):
        browser.asked_elsewhere.append(url)


def shown_by(browser: Browser, cell_id: str) -> str:
    """Return the text under a cell as a person sees it."""
    return str(browser.cell(cell_id).locator(".jp-OutputArea").first.inner_text())


def restart(browser: Browser) -> None:
    """Restart the kernel without the dialog that asks."""
    browser.page.evaluate(
        "async () => { await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart(); }"
    )
    browser.page.wait_for_function(READY, timeout=60_000)
