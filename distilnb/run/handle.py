"""The run: the user's handle on a background execution, in the kernel that started it or in any other."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Callable, Generator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from distilnb.engine.commands import await_exit, change_limits, end_now, go_on, leave_command
from distilnb.engine.editing import EditedPipeline
from distilnb.engine.events import Event
from distilnb.engine.ordering import order_retry
from distilnb.engine.quarantine import ERROR_COLUMNS, RowChoice
from distilnb.engine.reading import RunReader
from distilnb.engine.rundir import RunDir, find_run_dir
from distilnb.engine.status import RunStatus
from distilnb.engine.window import check_journal
from distilnb.errors import RunError, RunFailedError, RunNotFinishedError, StoreError
from distilnb.export.distiset import Distiset
from distilnb.export.frames import chosen_rows, frame_of
from distilnb.export.info import RunInfo, count_edited, count_failures
from distilnb.rows import Row
from distilnb.run.picture import RunPicture
from distilnb.spec.files import PipelineFile
from distilnb.spec.graph import Graph
from distilnb.view.actions import run_actions
from distilnb.view.card import run_card, status_line, status_text
from distilnb.view.display import Form
from distilnb.view.figures import plural
from distilnb.view.glance import panes_of, trouble_html
from distilnb.view.panel import RunPanel, line_bundle

if TYPE_CHECKING:
    import pandas as pd

    from distilnb.review.argilla import Pushed
    from distilnb.view.story import RowStory

_FIRST_POLL_S = 0.005  # a short run must not wait for a long poll
_SLOWEST_POLL_S = 0.25
EXIT_PATIENCE_S = 5.0  # for an ended runner to let its lock and its workers go


class Run:
    """A background execution of a pipeline.

    It lives in processes of its own: the kernel may restart, and `dn.attach(run.id)` finds it again.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        secrets: Mapping[str, str] | None = None,
        note: str = "",
        graph: Graph | None = None,
    ) -> None:
        self._dir = run_dir
        self._reader = RunReader(run_dir)
        self._secrets = dict(secrets or {})  # literal keys, for a resume from this kernel
        self.note = note
        self._picture = RunPicture(self._reader, graph)
        self._panel: weakref.ref[RunPanel] | None = None  # the last one

    @property
    def id(self) -> str:
        """The id of the run: the pipeline's name and four hexadecimal digits."""
        return self._dir.run_id

    @property
    def path(self) -> str:
        """The run directory."""
        return str(self._dir.path)

    def __reduce__(self) -> tuple[object, ...]:
        """Travel by id: the keys that this kernel was given stay here."""
        return (attach, (self.id,))

    # --- how it stands ---

    def status(self) -> RunStatus:
        """Return how the run stands: its state, and the counts, tokens and cost of each step."""
        return self._reader.status()

    def wait(
        self, timeout: float | None = None, *, on_status: Callable[[RunStatus], None] | None = None
    ) -> RunStatus:
        """Wait until the run has ended and return its status; it may have failed.

        `timeout` is in seconds; when it is over, the status is returned as it is then. Ctrl-C ends the waiting,
        not the run.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = _FIRST_POLL_S
        while True:
            status = self.status()
            if on_status:
                on_status(status)
            if status.is_ended:
                await_exit(self._dir, EXIT_PATIENCE_S)
                self._reader.let_go()
                return status
            left = _SLOWEST_POLL_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return status
            self._dir.sleep_while_locked(min(pause, left))
            pause = min(pause * 1.3, _SLOWEST_POLL_S)

    def __await__(self) -> Generator[Any, None, Distiset]:
        return self._result_when_done().__await__()

    async def _result_when_done(self) -> Distiset:
        while not self.status().is_ended:
            await asyncio.sleep(_SLOWEST_POLL_S / 5)
        return self.distiset()

    # --- control ---

    def pause(self) -> RunStatus:
        """Start nothing new until `resume`: what is in flight ends and is kept, and the workers stay.

        A run that is paused for an hour stops; it can be resumed then too.
        """
        return self._command("pause")

    def stop(self) -> RunStatus:
        """Stop gracefully: what is in flight ends, everything finished is kept, the run can be resumed.

        A second `stop` changes nothing; `abort` ends it at once.
        """
        return self._command("stop")

    def abort(self, *, cancel_jobs: bool = False) -> RunStatus:
        """Stop at once, in any phase; what is in flight is asked again when the run is resumed.

        `cancel_jobs` cancels its offline jobs too, but those that others wait for (`note` tells). Raises RunError.
        """
        self.note = end_now(self._reader, self._secrets, cancel_jobs=cancel_jobs) or self.note
        return self.status()

    def adjust(
        self,
        step: str | None = None,
        *,
        max_concurrency: int | None = None,
        rpm: int | None = None,
        tpm: int | None = None,
        max_cost: float | None = None,
        max_tokens: int | None = None,
        max_time: float | None = None,
    ) -> RunStatus:
        """Change limits while the run goes on, or of an ended run for its next resume; they are kept.

        `max_concurrency` (requests in flight), `rpm` and `tpm` (per minute) are those of the model of `step`, or of
        all models when no step is named; steps that ask an equal model share its limits. `max_cost` (USD),
        `max_tokens` and `max_time` (seconds of running) are the run's, over its whole life. What is left out
        stays; float("inf") lifts a limit. They are in force within a second; what is in flight ends as it would.

            run.adjust(max_concurrency=8)
            run.adjust("judge", rpm=500)
            run.adjust(max_cost=5)

        Raises UnknownStepError with the near match, InputError for a step that asks no model or a value that makes
        no sense, UnknownPriceError for `max_cost` with a model whose price is unknown, RunError for a finished run.
        """
        of_models = {"max_concurrency": max_concurrency, "rpm": rpm, "tpm": tpm}
        of_run = {"max_cost": max_cost, "max_tokens": max_tokens, "max_time": max_time}
        change_limits(self._reader, step, {**of_models, **of_run})
        return self.status()

    def resume(self, *, secrets: Mapping[str, str] | None = None) -> Run:
        """Go on with a run that is paused, stopped, failed or was lost; finished rows are not done again.

        Raises RunError for a run that is finished, and for one that a limit stopped which was not raised since
        (`adjust`). `secrets` gives the keys again that were given literally ({"answer.llm.api_key": "..."}): they
        are never written down.
        """
        self._secrets.update(secrets or {})
        go_on(self._reader, self._secrets)
        return self

    def retry(
        self,
        step: str | None = None,
        rows: RowChoice | None = None,
        using: EditedPipeline | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        secrets: Mapping[str, str] | None = None,
    ) -> Run:
        """Do failed rows again: all, those of a step, or `rows` by id or by ordinal (`errors()` has both).

        A row that a model answered in vain is asked anew; its good replies are kept. What followed from the
        failure is made good: partners at a join meet, a global step below runs again. Of a run that has ended, a
        new runner does it (and whatever else was left to do); `wait()` as after a start.

        `using` is an edited pipeline: the failed rows are done by its version of the failed step, and by the run's
        own steps after it. Upstream of a failed step it must equal the run's pipeline. `parameters` are those that
        the run was started with; `secrets` are as in `resume`.

        A paused run does them when it goes on. What failed but went on (`on_error="null"`, or a join with
        how="left" or "outer" that went on without it: "kept" in `errors()`) cannot be taken back.

        Raises RunError when there is nothing to retry, or when `using` differs upstream.
        """
        self._secrets.update(secrets or {})
        chosen = order_retry(
            self._reader, self._secrets, step=step, rows=rows, using=using, parameters=parameters
        )
        steps = sorted({error["step"] for error in chosen})
        n_rows = len({(error["step"], error["row_id"]) for error in chosen})
        self.note = (
            f"{plural(n_rows, 'row')} of {', '.join(steps)} {'is' if n_rows == 1 else 'are'} done again"
        )
        return self

    def _command(self, name: str) -> RunStatus:
        status = self.status()
        leave_command(self._reader, status, name)
        return status

    # --- what happened ---

    def events(self, after: int = 0) -> list[Event]:
        """Return what happened to the run, oldest first: one frozen object per change of state, never per row.

        `after` leaves out the events up to that `id`, for whoever asks again and again. The classes are in
        `distilnb.engine.events`.

            for event in run.events():
                print(event.at, event.kind, event)
        """
        return self._reader.events(after)

    def logs(self, n: int = 50) -> str:
        """Return the last n lines that each process of the run wrote: the runner, then the workers.

        What steps print is in the log of the worker that ran them.
        """
        told = [f"== {who} ==\n{self._dir.log_tail(who, n)}".rstrip() for who in self._dir.logs()]
        return "\n\n".join(told)

    # --- what it made ---

    def rows(self, step: str, rows: RowChoice | None = None) -> pd.DataFrame:
        """Return the finished rows of a step, all or those of `rows` (ordinals or ids), while the run goes on too.

        The index is the row id. Raises InputError when none is made of such a row yet.
        """
        return frame_of(chosen_rows(self._reader.rows(step), rows))

    def why(self, row: int | str) -> RowStory:
        """Return the story of a row: what came in at each step, what was asked and answered, what was made of it.

        `row` is its ordinal in the source or its id. It costs nothing: replies are read from the reply cache. Raises
        InputError when no finished row is called so.
        """
        from distilnb.view.story import RowStory

        return RowStory(self._reader.story(row))

    def errors(self) -> pd.DataFrame:
        """Return the rows in quarantine, and what is partial about rows that went on.

        Columns: row_id, row (the ordinal in the source), step, kind, reason, prompt (as it was sent), reply (raw),
        traceback, attempts (requests sent), is_partial; state, which is "open" for a row in quarantine, "retried"
        when it was done again (a failure that came of it has a line of its own), "mended" when it passed the step
        then, "kept" for what went on nevertheless; version, of the step that failed; mended_by, the version that
        passed.
        """
        import pandas as pd

        errors = pd.DataFrame(self._reader.errors(with_texts=True), columns=ERROR_COLUMNS)
        return errors.astype({"is_partial": bool, "row": "Int64", "mended_by": "Int64"})

    def versions(self) -> pd.DataFrame:
        """Return the steps that `retry(using=...)` has edited, and which rows each version has made.

        Columns: step, version (from 2 on; 1 is the run's own), digest, at (seconds since the epoch), rows (how
        many), row_ids. Every other row was made by version 1.
        """
        import pandas as pd

        found = [{**version, "rows": len(version["row_ids"])} for version in self._reader.versions()]
        return pd.DataFrame(found, columns=["step", "version", "digest", "at", "rows", "row_ids"])

    def distiset(self, *, partial: bool = False) -> Distiset:
        """Return the result: one subset per leaf.

        Raises RunNotFinishedError while the run goes on, or when it stopped, unless `partial`; RunFailedError when
        it failed.
        """
        status = self.status()
        if status.state != "finished" and not partial:
            raise self._unfinished(status)
        leaves = {leaf: self.rows_of_leaf(leaf) for leaf in self._reader.plan.leaves}
        text = (self._dir.path / "pipeline.yaml").read_text(encoding="utf-8")
        file = self.pipeline_file()
        known = file.graph.columns()
        info = RunInfo.of(
            status,
            description=file.description,
            failures=count_failures(self._reader.errors()),
            edited=count_edited(self._reader.versions()),
        )
        columns = {leaf: known[leaf].names for leaf in leaves}
        return Distiset.from_rows(leaves, pipeline_text=text, info=info, columns=columns)

    def rows_of_leaf(self, leaf: str) -> list[Row]:
        """Return the finished rows of a leaf in their order."""
        return self._reader.rows(leaf).rows

    def to_pandas(self, *, partial: bool = False) -> pd.DataFrame:
        """Return the rows of the only leaf as a DataFrame; with several leaves use `distiset`."""
        leaves = list(self._reader.plan.leaves)
        if len(leaves) > 1:
            raise RunError(
                f"The run has several leaves: {leaves}.", "Use run.distiset()[leaf], or run.rows(leaf)."
            )
        status = self.status()
        if status.state != "finished" and not partial:
            raise self._unfinished(status)
        return self.rows(leaves[0]).reset_index(drop=True)

    def _unfinished(self, status: RunStatus) -> RunError:
        rest = "run.distiset(partial=True) gives what is finished."
        if status.state == "failed":
            what, fix = f"Run {self.id!r} failed. {status.error}", f"Mend the cause and run.resume(); {rest}"
            return RunFailedError(what, fix, run_id=self.id)
        reason = f" ({status.reason})" if status.reason else ""
        is_going = status.state in ("starting", "running", "stopping")
        fix = "Wait for it with run.wait()." if is_going else "Go on with run.resume()."
        what = f"Run {self.id!r} is {status.state}{reason}."
        return RunNotFinishedError(what, f"{fix} {rest}", run_id=self.id)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, partial: bool = False, **options: Any
    ) -> str:
        """Push the result to the Hugging Face Hub and return its address: `distiset(partial=…).push_to_hub(…)`."""
        return self.distiset(partial=partial).push_to_hub(repo_id, private, **options)

    # --- review ---

    def review(
        self,
        to: str = "argilla",
        *,
        dataset: str,
        workspace: str,
        step: str | None = None,
        api_url: str | None = None,
        api_key: str | None = None,
        on_exists: str = "error",
        create_workspace: bool = False,
    ) -> Pushed:
        """Send the rows to a review tool; preferences and plain generations are recognised by their columns.

        `step` names the rows to send, the leaf when it is left out. `on_exists` is "error", "append" or "replace".
        Raises ReviewError.
        """
        from distilnb.errors import ReviewError
        from distilnb.review.argilla import push_review
        from distilnb.review.plan import plan_review

        if to != "argilla":
            raise ReviewError(f"There is no review tool {to!r}.", "There is 'argilla'.")
        name = step or next(iter(self._reader.plan.leaves))
        batch = self._reader.rows(name)
        plan = plan_review(batch.rows, batch.ids, run_id=self.id, step=name)
        return push_review(
            plan,
            dataset=dataset,
            workspace=workspace,
            api_url=api_url,
            api_key=api_key,
            on_exists=on_exists,  # type: ignore[arg-type]  # checked by push_review
            create_workspace=create_workspace,
        )

    def to_argilla(self, *, dataset: str, workspace: str, **options: Any) -> Pushed:
        """Send the rows to Argilla: `review(to="argilla", ...)`."""
        return self.review("argilla", dataset=dataset, workspace=workspace, **options)

    # --- how it looks ---

    def pipeline_file(self) -> PipelineFile:
        """Return the pipeline as it was started; classes of the user stand in it by name only."""
        return self._reader.pipeline_file()

    def panel(
        self,
        *,
        registry: MutableMapping[str, RunPanel] | None = None,
        form: Form | None = None,
        before_retry: Callable[[str | None], str] = lambda step: "",
        before_resume: Callable[[], str] = str,
    ) -> RunPanel:
        """Return the live panel of the run; panels of one `registry` move instead of being shown twice.

        `form` is "widgets", "html" or "text", else the best here; what `before_retry` (of a step, or all) and
        `before_resume` say is to be confirmed by a second press.
        """
        panel = RunPanel(
            self.status,
            self._picture,
            attach_line=f"run {self.id} started · attach from anywhere: %distil attach {self.id}",
            actions=run_actions(self, lambda: before_retry(None), before_resume),
            panes=panes_of(self._reader, self.logs, lambda step: self.retry(step).note, before_retry),
            registry=registry,
            form=form,
            below=lambda status: trouble_html(self._reader, status),
        )
        self._panel = weakref.ref(panel)
        return panel

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        status = self.status()
        panel = self._panel() if self._panel else None
        if panel is not None and panel.is_live:  # a card of this moment would only stand in the way
            return dict(
                line_bundle(f"{self.id} · its panel is live; %distil attach {self.id} brings it here")
            )
        below = trouble_html(self._reader, status) if status.is_ended else ""
        bundle: dict[str, str] = dict(run_card(status, self._picture(status), below=below))
        return bundle

    def __repr__(self) -> str:
        text = status_text(self.status())
        return f"{self.note}\n{text}" if self.note else text

    def line(self) -> str:
        """Return the status in one line; of a damaged run, what is damaged."""
        try:
            return status_line(self.status())
        except StoreError as error:  # in a list it must not hide the others
            return f"{self.id} · {error.what}"


def attach(run_id: str) -> Run:
    """Return the handle of a run by its id, from any process.

    Raises RunNotFoundError with the near match, StoreError when the run's journal is damaged.
    """
    run_dir = find_run_dir(run_id)
    check_journal(run_dir)
    return Run(run_dir)
