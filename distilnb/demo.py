"""The demo: a preference dataset from the instructions that ship with distilnb, through a real background run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.resources import files
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from distilnb.engine.status import RunStatus
from distilnb.errors import ExportError, RunFailedError
from distilnb.export.distiset import CARD_FILE, Distiset
from distilnb.llms.base import LLM
from distilnb.llms.catalog import Found, as_llm, found_models
from distilnb.llms.prices import price_of
from distilnb.pipeline import Pipeline
from distilnb.pipeline.starting import wait_for_result
from distilnb.run import Run
from distilnb.view.card import status_text
from distilnb.view.display import Output, is_kernel
from distilnb.view.figures import money, plural
from distilnb.view.graph import outline
from distilnb.view.table import rows_table

NAME = "demo"
FOLDER = "distilnb-demo"
MARK = ".distilnb-demo"  # the file that says: the demo made this folder, and may replace it
REHEARSAL = "rehearsal:alpha,rehearsal:beta"
MAX_ROWS = 20  # of a run that asks a real model
MAX_COST_USD = 0.50
SHOWN = ("prompt", "chosen", "chosen_rating", "rejected", "rejected_rating")


def demo(
    llm: str | None = None, rows: int | None = None, out: str | Path | None = None, show: bool = True
) -> Distiset:
    """Make a preference dataset: two answers to each instruction, rated by a judge, as chosen and rejected.

    Without `llm` it rehearses: no key, no network, no cost, and made-up replies. With "provider:model", or two
    with a comma, it asks for at most 20 rows and 0.50 USD. The result is saved in `out` ("distilnb-demo").
    """
    folder = Path(out or FOLDER)
    _check_folder(folder)
    models = [as_llm(name.strip()) for name in (llm or REHEARSAL).split(",")]
    pipeline = build(models)
    limits = limits_for(models, rows) if llm else {"rows": rows}
    if show:
        _announce(pipeline, models, found_models(), limits)
    run = pipeline.start(**limits)
    distiset = wait_for_result(run, show=show)
    if not _n_rows(distiset):
        raise _nothing_made(run)
    save(distiset, folder)
    if show:
        _report(pipeline, distiset, run.status(), folder)
    return distiset


def build(models: Sequence[LLM]) -> Pipeline:
    """Return the demo's pipeline: each model answers once, a lone one twice; the first judges."""
    path = files("distilnb") / "data" / "instructions.jsonl"
    loaded = Pipeline(NAME, llm=models[0]).from_files(str(path))
    if len(models) == 1:
        answered = loaded.generate("answer", k=2)
    else:
        answered = loaded.generate("answer", llm=list(models))
    return answered.judge("ultrafeedback", aspect="instruction-following").to_dpo()


def limits_for(models: Sequence[LLM], rows: int | None) -> dict[str, Any]:
    """Return what bounds a run of real models; a budget needs the price of each."""
    is_priced = all(price_of(model) is not None for model in models)
    return {"rows": min(rows or MAX_ROWS, MAX_ROWS), "max_cost": MAX_COST_USD if is_priced else None}


def _check_folder(folder: Path) -> None:
    """Raise ExportError unless the folder is absent, empty, or an earlier result of the demo."""
    if not folder.exists() or (folder.is_dir() and (_is_ours(folder) or not any(folder.iterdir()))):
        return
    raise ExportError(
        f"{str(folder)!r} is there already and is no result of this demo.", "Name another folder: out='...'."
    )


def _is_ours(folder: Path) -> bool:
    return (folder / MARK).is_file()


def save(distiset: Distiset, folder: Path) -> None:
    """Save the result in `folder`, in the place of an earlier one; that stays whole until the new one is.

    Raises ExportError when the folder is another's by now, or cannot be written.
    """
    _check_folder(folder)
    try:
        if folder.is_dir() and not _is_ours(folder):  # empty; it may be the working directory, or a mount
            _write(distiset, folder)
        else:
            _swap_in(distiset, folder)
    except OSError as error:
        raise ExportError(
            f"{str(folder)!r} cannot be written: {error.strerror or error}.",
            "Name another folder: out='...'.",
        ) from error


def _swap_in(distiset: Distiset, folder: Path) -> None:
    real = folder.resolve()
    real.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{real.name}-", dir=real.parent) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        _write(distiset, new)
        card = new / CARD_FILE  # it says how to load the dataset
        card.write_text(card.read_text("utf-8").replace(str(new), str(folder)), "utf-8")
        if real.exists():
            os.rename(real, old)
        try:
            os.rename(new, real)
        except OSError:
            if old.exists():
                os.rename(old, real)
            raise


def _write(distiset: Distiset, folder: Path) -> None:
    distiset.save_to_disk(folder)
    (folder / MARK).write_text("Made by the demo of distilnb, which replaces this folder.\n", "utf-8")


def _nothing_made(run: Run) -> RunFailedError:
    """Return the error of a run of which no row came through, with the reason of the first."""
    reasons = run.errors()["reason"]
    told = f" The first of {len(reasons)} errors: {reasons.iloc[0]}" if len(reasons) else ""
    return RunFailedError(
        f"Run {run.id!r} made no preference pair.{told}",
        f"See them all: distilnb errors {run.id}",
        run_id=run.id,
    )


# --- what it tells ---------------------------------------------------------------


def _announce(
    pipeline: Pipeline, models: Sequence[LLM], found: Sequence[Found], limits: dict[str, Any]
) -> None:
    for line in announcement(models, found, limits):
        print(line)
    if is_kernel():
        _show(pipeline._repr_mimebundle_())
        previewed = pipeline.preview(2, show=True)
        _show(previewed["judge"]._repr_mimebundle_())  # all steps would fill three screens


def announcement(models: Sequence[LLM], found: Sequence[Found], limits: dict[str, Any]) -> list[str]:
    """Return what is told first: whether it rehearses, what it may spend, and what else could be asked."""
    if all(model.provider == "rehearsal" for model in models):
        could_use = [
            f"  {one.provider}: {_seen(one)}. To ask it:  make demo {one.line}"
            f'   or  dn.demo("{one.line.removeprefix("LLM=")}")'
            for one in found
        ]
        with_one = 'dn.demo("openai:gpt-4o-mini")' if is_kernel() else "make demo LLM=openai:gpt-4o-mini"
        nothing = f"  No key and no local server was found. With one:  {with_one}"
        return [
            "Rehearsed: every reply below is made up, no model is asked, nothing is paid.",
            *(could_use or [nothing]),
        ]
    budget = (
        f"at most {money(limits['max_cost'])}"
        if limits["max_cost"] is not None
        else "the price is unknown, so there is no budget"
    )
    names = ", ".join(model.label for model in models)
    return [f"Asking {names}: at most {plural(limits['rows'], 'row')}, {budget}."]


def _seen(found: Found) -> str:
    if found.models:
        return f"{plural(len(found.models), 'model')} at {found.source}"
    return f"{found.source} is set"


def _report(pipeline: Pipeline, distiset: Distiset, status: RunStatus, folder: Path) -> None:
    if not is_kernel():  # there the panel has said it
        print(f"{outline(pipeline.graph)}\n{status_text(status)}")
    print(total_line(distiset, status))
    shown = [
        {**row, "chosen": _reply(row["chosen"]), "rejected": _reply(row["rejected"])}
        for row in islice(distiset.rows(), 3)
    ]
    _show(rows_table(shown, columns=SHOWN, n_rows=_n_rows(distiset)).bundle())
    print(f'Saved in {str(folder)!r}; read it: dn.Distiset.load_from_disk("{folder}"). The run: {status.id}')


def _reply(messages: Sequence[dict[str, str]]) -> str:
    return messages[-1]["content"]


def _n_rows(distiset: Distiset) -> int:
    return sum(distiset.n_rows("default").values())


def total_line(distiset: Distiset, status: RunStatus) -> str:
    """Return rows, requests, tokens and cost of the whole run in one line."""
    asked, reused = (sum(getattr(step, name) for step in status.steps) for name in ("asked", "cached"))
    sent, received = (
        sum(getattr(step, f"{way}_tokens") for step in status.steps) for way in ("input", "output")
    )
    return " · ".join(
        [
            plural(_n_rows(distiset), "preference pair"),
            f"{plural(asked, 'request')} asked, {reused:,} reused",
            f"{sent:,} tokens in, {received:,} out",
            money(status.cost_usd, is_free=asked > 0 or reused > 0),
            *(["rehearsed"] if status.is_rehearsed else []),
        ]
    )


def _show(bundle: dict[str, str]) -> None:
    if is_kernel():
        Output().show(bundle)
    else:
        print(bundle["text/plain"])


class _Demo(ModuleType):
    """The module itself, callable: importing it must not take `dn.demo()` away from the user."""

    def __call__(
        self,
        llm: str | None = None,
        rows: int | None = None,
        out: str | Path | None = None,
        show: bool = True,
    ) -> Distiset:
        return demo(llm, rows, out, show)


sys.modules[__name__].__class__ = _Demo
