"""The run: the user's handle on a background execution, in the kernel that started it or in any other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from distilnb.engine.editing import EditedPipeline, edit_steps
from distilnb.engine.launch import start_runner
from distilnb.engine.orders import RetryOrder, read_orders, write_order
from distilnb.engine.quarantine import ERROR_COLUMNS, RowChoice, choose_errors
from distilnb.engine.reading import RunReader
from distilnb.engine.rundir import RunDir, all_run_dirs, find_run_dir
from distilnb.engine.status import RunStatus
from distilnb.engine.versions import read_versions
from distilnb.errors import RunError, RunFailedError, RunNotFinishedError, StoreError
from distilnb.export.distiset import Distiset
from distilnb.export.info import RunInfo, count_edited, count_failures
from distilnb.rows import Batch, Row
from distilnb.spec.files import PipelineFile, load, read_data
from distilnb.spec.registry import KINDS
from distilnb.spec.step import stand_in
from distilnb.view.card import run_card, status_line, status_text
from distilnb.view.figures import plural
from distilnb.view.panel import RunPanel

if TYPE_CHECKING:
    import pandas as pd

    from distilnb.review.argilla import Pushed

_FIRST_POLL_S = 0.005  # a short run must not wait for a long poll
_SLOWEST_POLL_S = 0.25
_LOCK_POLL_S = 0.01  # to look at the lock costs a hundredth of a status
_TAKES_ORDERS = ("starting", "running")  # of a run whose runner carries out what it is told
RESUME_PATIENCE_S = 30.0  # for a stopping run to let go


class Run:
    """A background execution of a pipeline.

    It lives in processes of its own: the kernel may restart, and `dn.attach(run.id)` finds it again.
    """

    def __init__(self, run_dir: RunDir, *, secrets: Mapping[str, str] | None = None, note: str = "") -> None:
        self._dir = run_dir
        self._reader = RunReader(run_dir)
        self._secrets = dict(secrets or {})  # literal keys, for a resume from this kernel
        self.note = note

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
                self._await_exit()
                return status
            left = _SLOWEST_POLL_S if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return status
            self._sleep_while_it_runs(min(pause, left))
            pause = min(pause * 1.3, _SLOWEST_POLL_S)

    def _sleep_while_it_runs(self, pause_s: float) -> None:
        """Sleep for so long, but not past the moment at which the runner lets its lock go."""
        deadline = time.monotonic() + pause_s
        was_locked = False
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(_LOCK_POLL_S, left))
            is_locked = self._dir.is_locked()
            if was_locked and not is_locked:
                return
            was_locked = is_locked

    def _await_exit(self, patience_s: float = 5.0) -> None:
        """Give an ended runner a moment to let its lock and its workers go."""
        deadline = time.monotonic() + patience_s
        while self._dir.is_locked() and time.monotonic() < deadline:
            time.sleep(_FIRST_POLL_S)

    def __await__(self) -> Generator[Any, None, Distiset]:
        return self._result_when_done().__await__()

    async def _result_when_done(self) -> Distiset:
        while not self.status().is_ended:
            await asyncio.sleep(_SLOWEST_POLL_S / 5)
        return self.distiset()

    # --- control ---

    def stop(self) -> RunStatus:
        """Stop gracefully: what is in flight ends, everything finished is kept, the run can be resumed."""
        return self._command("stop")

    def abort(self) -> RunStatus:
        """Stop at once; what is in flight is asked again when the run is resumed."""
        return self._command("abort")

    def resume(self, *, secrets: Mapping[str, str] | None = None) -> Run:
        """Go on with a run that stopped, failed or was lost; finished rows are not done again.

        `secrets` gives the keys again that were given literally ({"answer.llm.api_key": "..."}): they are never
        written down.
        """
        self._secrets.update(secrets or {})
        self._check_secrets("resume")
        state = self.status().state
        if state == "finished" and not self._has_waiting_order():
            raise RunError(f"Run {self.id!r} is finished.", "Start the pipeline again for new rows.")
        if state in ("starting", "running"):
            return self
        return self._go_on()

    def _check_secrets(self, verb: str) -> None:
        places = [*self._reader.plan.options["secrets"]]
        places += [place for version in read_versions(self._dir) for place in version.secrets]
        missing = [path for path in places if path not in self._secrets]
        if missing:
            raise RunError(
                f"Run {self.id!r} was started with keys that are not stored: {missing}.",
                f"Give them again: run.{verb}(secrets={{{missing[0]!r}: '...'}}).",
            )

    def _has_waiting_order(self) -> bool:
        """Whether a retry was ordered that no runner has taken up: it was killed before."""
        known = self._reader.orders()
        return any(order.name not in known for order in read_orders(self._dir))

    def _go_on(self) -> Run:
        """Start a runner for a run that has ended, or is about to."""
        self._await_exit(RESUME_PATIENCE_S)  # it may be stopping still
        if self._dir.is_locked():
            raise RunError(
                f"Run {self.id!r} is still stopping: what is in flight ends first.",
                "Try again in a moment, or stop it at once with run.abort().",
            )
        start_runner(self._dir, self._secrets)
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

        Raises RunError when there is nothing to retry, or when `using` differs upstream.
        """
        self._secrets.update(secrets or {})
        chosen = choose_errors(self._reader.errors(), self._reader.plan, step=step, rows=rows)
        steps = sorted({error["step"] for error in chosen})
        versions: dict[str, int] = {}
        if using is not None:
            held = self._secrets if self.status().state in _TAKES_ORDERS else None
            versions, keys = edit_steps(
                self._dir, self._reader.plan, using, steps, parameters=parameters, held_keys=held
            )
            self._secrets.update(keys)
        self._check_secrets("retry")
        self._carry_out(write_order(self._dir, [error["id"] for error in chosen], versions))
        n_rows = len({(error["step"], error["row_id"]) for error in chosen})
        self.note = (
            f"{plural(n_rows, 'row')} of {', '.join(steps)} {'is' if n_rows == 1 else 'are'} done again"
        )
        return self

    def _carry_out(self, order: RetryOrder) -> None:
        """See that a runner takes an order up: the living one, else a new one."""
        if self.status().state in _TAKES_ORDERS:
            self._dir.command("retry")
            while self.status().state in _TAKES_ORDERS and order.name not in self._reader.orders():
                time.sleep(_FIRST_POLL_S)
        if order.name not in self._reader.orders():
            self._go_on()

    def _command(self, name: str) -> RunStatus:
        status = self.status()
        if not status.is_ended:
            self._dir.command(name)
        return status

    # --- what it made ---

    def rows(self, step: str) -> pd.DataFrame:
        """Return the finished rows of a step as a DataFrame, while the run goes on too.

        The index is the row id.
        """
        return frame_of(self._reader.rows(step))

    def errors(self) -> pd.DataFrame:
        """Return the rows in quarantine, and what is partial about rows that went on.

        Columns: row_id, row (the ordinal in the source), step, kind, reason, prompt (as it was sent), reply (raw),
        traceback, attempts (requests sent), is_partial; state, which is "open" for a row in quarantine, "retried"
        when it was done again (a failure that came of it has a line of its own), "mended" when it passed the step
        then, "kept" for what is partial; version, of the step that failed; mended_by, the version that passed.
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
        if status.state == "failed":
            return RunFailedError(f"Run {self.id!r} failed. {status.error}", "", run_id=self.id)
        reason = f" ({status.reason})" if status.reason else ""
        fix = (
            "Wait for it with run.wait()."
            if status.state in ("starting", "running", "stopping")
            else "Go on with run.resume()."
        )
        return RunNotFinishedError(
            f"Run {self.id!r} is {status.state}{reason}.",
            f"{fix} run.distiset(partial=True) gives what is finished.",
            run_id=self.id,
        )

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
            raise ReviewError(f"There is no review tool {to!r}; there is 'argilla'.")
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
        path = self._dir.path / "pipeline.yaml"
        steps = read_data(path.read_text(encoding="utf-8"))["steps"]
        unknown = {str(step["kind"]) for step in steps} - KINDS.keys()
        return load(path, classes={kind: stand_in(kind) for kind in unknown})

    def panel(self, *, registry: MutableMapping[str, RunPanel] | None = None) -> RunPanel:
        """Return the live panel of the run; panels of one `registry` move instead of being shown twice."""
        return RunPanel(
            self.status,
            self._graph_svg,
            on_stop=self._stop_from_panel,
            attach_line=f"run {self.id} started · attach from anywhere: %distil attach {self.id}",
            registry=registry,
        )

    def _stop_from_panel(self) -> None:
        self.stop()

    def _graph_svg(self, status: RunStatus) -> str:
        from distilnb.view.graph import draw_svg

        return draw_svg(self.pipeline_file().graph, status=status)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        status = self.status()
        bundle: dict[str, str] = dict(run_card(status, self._graph_svg(status)))
        return bundle

    def __repr__(self) -> str:
        text = status_text(self.status())
        return f"{self.note}\n{text}" if self.note else text

    def line(self) -> str:
        """Return the status in one line."""
        return status_line(self.status())


def frame_of(batch: Batch) -> pd.DataFrame:
    """Return rows as a DataFrame whose index is the row id."""
    import pandas as pd

    index = pd.Index(batch.ids, name="row_id")
    try:
        return pd.DataFrame(batch.rows, index=index)
    except UnicodeEncodeError:  # half of a surrogate pair, which the text type of pandas 3 cannot hold
        return pd.DataFrame(batch.rows, index=index, dtype=object)


class RunList(list[Run]):
    """Runs, newest first, with a readable form."""

    def __repr__(self) -> str:
        return "\n".join(run.line() for run in self) or "no runs"


def runs() -> RunList:
    """Return all runs of this user, newest first."""
    return RunList(_readable_runs())


def _readable_runs() -> Iterator[Run]:
    for run_dir in all_run_dirs():
        try:
            yield Run(run_dir)
        except StoreError:  # a run of another version of distilnb
            continue


def attach(run_id: str) -> Run:
    """Return the handle of a run by its id, from any process; raises RunNotFoundError with the near match."""
    return Run(find_run_dir(run_id))
