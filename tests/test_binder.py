"""Binder's recipe, followed in an empty environment: it installs, and the quickstart runs there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = ("binder", "distilnb", "notebooks", "requirements", "pyproject.toml", "README.md", "LICENSE")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_binder_installs_and_runs_the_quickstart(tmp_path: Path) -> None:
    checkout, environment = tmp_path / "checkout", tmp_path / "venv"
    checkout.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, checkout / part)
    venv.create(environment, with_pip=True)
    env = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_", "LANG"))}
    env |= {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "DISTILNB_HOME": str(tmp_path / "home"),
        "JUPYTER_DATA_DIR": str(tmp_path / "jupyter"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
    }
    run(["bash", "binder/postBuild"], checkout, env)
    run(
        ["jupyter", "execute", "--timeout=120", "--output=done.ipynb", "notebooks/quickstart.ipynb"],
        checkout,
        env,
    )
    done = json.loads((checkout / "notebooks" / "done.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in done["cells"] if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in cells)
    assert "rehearsed" in json.dumps(done)


def run(command: list[str], folder: Path, env: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_binders_packages_are_those_that_are_pinned() -> None:
    recipe = (ROOT / "binder" / "postBuild").read_text(encoding="utf-8")
    assert "--require-hashes -r requirements/lab.txt" in recipe
    assert os.access(ROOT / "binder" / "postBuild", os.X_OK)


def test_binder_opens_on_the_tour() -> None:
    started = subprocess.run(
        [ROOT / "binder" / "start", "echo", "lab"], capture_output=True, text=True, check=True
    ).stdout
    assert started.startswith("lab --ServerApp.default_url=/lab/tree/")
    assert (ROOT / started.strip().partition("/lab/tree/")[2]).is_file()
