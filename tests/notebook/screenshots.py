"""Remakes the pictures of docs/images: `python -m tests.notebook.screenshots [NAME …]`, or `make screenshots`.

They are taken of a real JupyterLab in Chromium, whose pipeline asks the mock model server: cells that run, light and
dark. A picture more is a `Scene` more.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from distilnb.run import runs
from tests.notebook.browsing import Browser, browsing, chromium, environment, serving, shown_by, wait_for
from tests.servers import mock_llm

FOLDER = Path(__file__).parents[2] / "docs" / "images"
WIDTH = 1040  # of the page; an output is about 140 narrower
SCALE = 1.5  # pixels of the picture for each of the page
COLOURS = 256  # of a picture: enough for text and thin lines, a third of the bytes
PLAIN = ".jp-OutputPrompt { display: none } .jp-OutputArea-output { padding: 2px 10px !important }"
PATIENCE_S = 60.0
MAX_TOTAL_BYTES = 1_500_000

# One reply in a dozen rates out of bounds, so that there are errors to look at.
JUDGE = r"{each}#### Output for Text {i}\nRating: {score}\nRationale: {words}\n\n{/each}"
SERVER: dict[str, Any] = {
    "seed": 8,
    "latency_ms": 260,
    "latency_dist": "lognormal",
    "tokens": 24,
    "tokens_sigma": 0.5,
    "max_concurrency": 14,
    "error_content_rate": 0.12,
    "error_malformed_rate": 0.02,
    "models": ("small", "medium", "large"),
    "templates": {"large": JUDGE},
}
SET_UP = """%load_ext distilnb
import distilnb as dn
import json
from importlib.resources import files

lines = (files("distilnb") / "data" / "instructions.jsonl").read_text("utf-8").splitlines()
rows = [row for row in map(json.loads, lines) if row["language"] in ("en", "zh")]  # for others a font may lack
small = dn.llm("openai:small", base_url="{url}", max_concurrency=8, price=(0.15, 0.60))
large = dn.llm("openai:large", base_url="{url}", max_concurrency=8, max_retries=0, price=(2.50, 10.0))
prefs = dn.Pipeline("prefs", llm=small).from_dicts(rows)
prefs = prefs.generate("answer", "Answer briefly.\\n\\n{{{{ instruction }}}}", k=2)
prefs = prefs.judge("ultrafeedback", aspect="instruction-following", llm=large).to_dpo(strategy="worst")"""


@dataclass(frozen=True)
class Scene:
    """A picture: the cell that makes what is seen, and what a person does before it is taken."""

    name: str
    cell: str
    prepare: Callable[[Browser, str], None] = lambda page, cell_id: None
    height: int = 0  # of what is kept of it, in pixels of the page; 0 for all


def open_first_fold(page: Browser, cell_id: str) -> None:
    """Open what was sent for the first row."""
    output(page, cell_id).locator("summary", has_text="prompt").first.click()


def until_half(page: Browser, cell_id: str) -> None:
    """Wait until the panel has something to tell in each of its columns."""
    [run] = runs()
    wait_for(lambda: run.status().step("judge").failed >= 2, PATIENCE_S, lambda: str(run.status()))
    wait_for(lambda: "failed" in shown_by(page, cell_id), PATIENCE_S)


def open_errors(page: Browser, cell_id: str) -> None:
    """Open the drawer of errors."""
    page.page.get_by_role("button", name="Errors").last.click()
    wait_for(lambda: "of judge:" in shown_by(page, cell_id), PATIENCE_S, lambda: shown_by(page, cell_id))


COMPARISON = """medium = dn.llm("openai:medium", base_url=large.base_url, price=(0.60, 2.40))
found = terse.compare("answer@1", "answer@2", llms=[small, medium], n=12)
for row, winner in zip(found.rows, [2, 2, 0, 2, 2, 1, 2, 2, 2, 2, 2, 2]):
    _ = found.vote(row, found.candidates[winner])
found"""
CHECK = """_ = prefs.sample.accept()
edited = prefs.generate("answer", "Answer in one sentence.\\n\\n{{ instruction }}", k=2)
edited.sample.check()"""


SCENES = (
    Scene(
        "preview",
        "_ = prefs.preview(3)\n_['judge']",
        open_first_fold,
    ),
    Scene(
        "graph",
        'prefs = prefs.judge("ultrafeedback", aspect="honesty", llm=large, name="judge")\nprefs',
    ),
    Scene("panel", "run = prefs.start(max_cost=2)", until_half),
    Scene("errors", "run.panel().show()", open_errors),
    Scene(
        "diff",
        "run.stop()\n_ = run.wait(60)\n"  # the server takes so many requests at once, or they are asked again
        'terse = prefs.generate("answer", "Answer in one sentence.\\n\\n{{ instruction }}", k=1)\n'
        'terse.diff("answer@1", "answer@2", n=2, judge=False)',
    ),
    Scene("comparison", COMPARISON, height=620),
    Scene("check", CHECK, height=620),
    Scene("versions", "edited['answer'].versions"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pictures that are named, or all; 1 when they are too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(scene.name for scene in SCENES))
    parser.add_argument("--folder", type=Path, default=FOLDER)
    options = parser.parse_args(arguments)
    if chromium() is None:
        sys.stdout.write("There is no Chromium here: make parts\n")
        return 1
    wanted = options.names or [scene.name for scene in SCENES]
    with tempfile.TemporaryDirectory() as folder, mock_llm(**SERVER) as server:
        os.environ["DISTILNB_HOME"] = str(Path(folder, "home"))
        try:
            take(Path(folder), server.base_url, [s for s in SCENES if s.name in wanted], options.folder)
        finally:
            for run in runs():
                run.abort()
    sizes = {path.name: path.stat().st_size for path in sorted(options.folder.glob("*.png"))}
    lines = [f"{size:>9,} {name}" for name, size in sizes.items()]
    sys.stdout.write("\n".join([*lines, f"{sum(sizes.values()):>9,} in all\n"]))
    return int(sum(sizes.values()) > MAX_TOTAL_BYTES)


def take(folder: Path, url: str, scenes: Sequence[Scene], out: Path) -> None:
    """Run the cells up to each scene and take its pictures."""
    work = folder / "work"
    work.mkdir()
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.cells.append(nbformat.v4.new_code_cell(SET_UP.format(url=url), id="set-up"))
    notebook.cells += [nbformat.v4.new_code_cell(scene.cell, id=scene.name) for scene in SCENES]
    nbformat.write(notebook, work / "pictures.ipynb")
    out.mkdir(parents=True, exist_ok=True)
    own = {**environment(folder, folder / "home"), "OPENAI_API_KEY": "none"}
    with serving(work, own, folder / "lab.log") as address, contextlib.ExitStack() as stack:
        page = stack.enter_context(
            browsing(address, viewport={"width": WIDTH, "height": 1400}, device_scale_factor=SCALE)
        )
        page.open("pictures.ipynb")
        page.command("application:toggle-left-area")
        page.page.add_style_tag(content=PLAIN)
        for name in ["set-up", *(scene.name for scene in SCENES[: 1 + SCENES.index(scenes[-1])])]:
            page.run_cell(name)
            for scene in scenes:
                if scene.name == name:
                    for theme in ("light", "dark"):
                        page.theme(theme)
                        if theme == "light":
                            scene.prepare(page, name)
                        page.page.wait_for_timeout(400)  # for the page to be drawn
                        shrink(picture(page, scene), out / f"{name}-{theme}.png")
                    page.theme("light")
        assert page.complaints == [], page.complaints
        assert page.asked_elsewhere == [], page.asked_elsewhere


def output(page: Browser, cell_id: str) -> Any:
    """Return what is shown under a cell."""
    return page.cell(cell_id).locator(".jp-Cell-outputArea").first


def picture(page: Browser, scene: Scene) -> bytes:
    """Return what is shown under a scene's cell as PNG; of a long one the beginning."""
    shown = output(page, scene.name)
    if not scene.height:
        return bytes(shown.screenshot())
    shown.evaluate("element => element.scrollIntoView({block: 'start'})")
    box = shown.bounding_box()
    box = {
        **box,
        "y": box["y"] + 2,
        "height": min(box["height"] - 2, scene.height),
    }  # without the toolbar's edge
    return bytes(page.page.screenshot(clip=box))


def shrink(picture: bytes, path: Path) -> None:
    """Write a picture with few colours."""
    from PIL import Image

    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


if __name__ == "__main__":
    raise SystemExit(main())
