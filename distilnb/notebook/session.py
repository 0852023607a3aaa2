"""What the magics of one shell remember: the current pipeline, the current run, and the panels shown."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeGuard, TypeVar

from IPython.core.error import UsageError

from distilnb.errors import SpecError, StoreError
from distilnb.notebook.options import nearest
from distilnb.notebook.quoting import Looks
from distilnb.notebook.settings import Settings
from distilnb.notebook.words import assignments, value_of
from distilnb.view.display import Output, best_form
from distilnb.view.figures import money
from distilnb.view.panel import follow

if TYPE_CHECKING:
    from distilnb.llms.base import LLM
    from distilnb.notebook.bounds import Bound
    from distilnb.pipeline import Pipeline
    from distilnb.run import Run
    from distilnb.view.panel import RunPanel

PANEL_S = 5.0  # for a panel to draw the end of its run
ROWS = re.compile(r"(?P<first>\d+)|(?P<start>\d*):(?P<stop>\d*)")


class Target(NamedTuple):
    """What a word of a line names: a pipeline by its variable, and perhaps one of its steps."""

    variable: str
    pipeline: Pipeline
    step: str = ""


class Question(Protocol):
    """Something that costs, and waits for its user's word."""

    @property
    def is_done(self) -> bool: ...
    def show(self) -> None: ...
    def renew(self, other: Any) -> None: ...


Q = TypeVar("Q", bound=Question)


class Session:
    """The only state that changes between cells; the user's own namespace holds everything else."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell
        self.settings = Settings()
        self.variable = ""  # of the current pipeline
        self.run_id = ""  # of the current run
        self.panels: dict[str, RunPanel] = {}  # live ones, by run id
        self._shown: set[str] = set()  # runs and questions that this cell shows already
        self._questions: dict[object, Question] = {}
        self.looks = Looks()  # at rows, for the quotes of questions
        self._known: dict[
            str, object
        ] = {}  # pipelines and runs by variable, as the last cell or magic left them

    @property
    def namespace(self) -> dict[str, Any]:
        """The user's variables."""
        names: dict[str, Any] = self.shell.user_ns
        return names

    def say(self, line: str) -> None:
        """Print a line under the cell."""
        sys.stdout.write(line + "\n")

    # --- the current pipeline ---

    def pipelines(self) -> dict[str, Pipeline]:
        """Return the user's pipelines by variable."""
        from distilnb.pipeline import Pipeline

        return {name: value for name, value in self._own_variables() if isinstance(value, Pipeline)}

    def pipeline(self, variable: str | None = None) -> Target:
        """Return the pipeline of that variable, which becomes the current one; else the current one."""
        known = self.pipelines()
        if variable and variable not in known:
            raise UsageError(
                f"There is no pipeline {variable!r}; there are {list(known)}.{nearest(variable, known)}"
            )
        wanted = variable or self._latest(known)
        self._use(wanted)
        return Target(wanted, known[wanted])

    def _latest(self, known: Mapping[str, Pipeline]) -> str:
        """Return the pipeline that this cell assigned before its magic; else the current one, or the only one.

        Raises UsageError when there is none, or several of which none is current.
        """
        if not known:
            raise UsageError("There is no pipeline yet. Make one: %distil new NAME SOURCE")
        names = self._changed(known) or ([self.variable] if self.variable in known else list(known))
        if len({id(known[name]) for name in names}) > 1:
            raise UsageError(f"Which pipeline? There are {names}. Choose one: %distil use NAME")
        return names[-1]

    def _use(self, variable: str) -> None:
        """Make a variable the current one: what the cell assigned up to here came earlier."""
        self._known.update(self.pipelines())
        self.variable = variable

    def _changed(self, now: Mapping[str, object]) -> list[str]:
        """Return the variables whose value no variable had when the last cell ended, or a magic was used."""
        old = list(self._known.values())
        return [name for name, value in now.items() if not any(value is one for one in old)]

    def assign(self, variable: str, pipeline: Pipeline) -> Pipeline:
        """Give a variable a new pipeline and make it the current one."""
        self.namespace[variable] = pipeline
        self._use(variable)
        return pipeline

    def target(self, word: str | None, pipeline: str | None = None) -> Target:
        """Return what a word names: nothing (the current pipeline), `prefs`, `prefs.answer`, `answer` or `answer@2`.

        For a version of a prompt that is the pipeline which has it. Raises UsageError with the near match.
        """
        known = self.pipelines()
        if not word or word in known:
            return self.pipeline(word or pipeline)
        head, dot, tail = word.partition(".")
        found = self.pipeline(head if dot and head in known else pipeline)
        step = tail if dot and head in known else word
        steps = list(found.pipeline.graph.steps)
        name, at, _ = (step, "", "") if step in steps else step.rpartition("@")
        name = name if at else step
        if name not in steps:
            hint = nearest(name, [*steps, *known])
            raise UsageError(f"There is no step {name!r}; {found.variable} has {steps}.{hint}")
        return found._replace(step=name, pipeline=_version_of(found.pipeline, step) if at else found.pipeline)

    # --- runs ---

    def run(self, word: str | None = None) -> Run:
        """Return the run of that id or variable, or the newest of that pipeline; else the current one.

        Raises UsageError when there is none, RunNotFoundError with the near match.
        """
        from distilnb.run import Run, attach, runs

        value = self.namespace.get(word or "")
        if isinstance(value, Run):
            return self._current(value)
        if word and word not in self.pipelines():
            return self._current(attach(word))
        every = runs()
        if word:
            every = type(every)(run for run in every if _is_of(run, self.pipelines()[word].name))
        elif self.run_id:
            every = type(every)(sorted(every, key=lambda run: run.id != self.run_id))
        if not every:
            raise UsageError("There is no run yet. Start one: %distil run")
        return self._current(every[0])

    def _current(self, run: Run) -> Run:
        self.run_id = run.id
        return run

    def show_run(self, run: Run, at: Output | None = None) -> None:
        """Show the run's live panel under this cell, once, or in an output that is there (`at`).

        A run that has ended shows its card.
        """
        self._current(run)
        if run.id in self._shown and at is None:
            return
        self._shown.add(run.id)
        if run.note and at is None:
            self.say(run.note)
        if run.status().is_ended:
            (at or Output()).show(run._repr_mimebundle_())
        else:
            run.panel(
                registry=self.panels,
                form=self.settings.form(),
                before_retry=partial(self._retry_warning, run),
                before_resume=partial(self._resume_warning, run),
            ).show(at)

    def _retry_warning(self, run: Run, step: str | None = None) -> str:
        """Return what a retry may cost, where that is above the limit; "" otherwise."""
        from distilnb.notebook.bounds import most_of_retry

        return self._warning(most_of_retry(run, step))

    def _resume_warning(self, run: Run) -> str:
        """Return what the rest of a run may cost, where that is above the limit; "" otherwise."""
        from distilnb.notebook.bounds import most_of_rest

        return self._warning(most_of_rest(run))

    def _warning(self, bound: Bound) -> str:
        if self.is_cheap(bound):
            return ""
        return f"This may come to {'a cost that is not known' if bound.cost is None else money(bound.cost)}."

    def is_cheap(self, bound: Bound) -> bool:
        """Whether something may be done without a word: it asks nothing, or costs no more than `confirm_cost_over`."""
        return not bound.requests or (
            bound.cost is not None and bound.cost <= self.settings.confirm_cost_over
        )

    # --- what waits for its user's word ---

    @property
    def has_buttons(self) -> bool:
        """Whether a question shows a button here; else nobody may sit before the cell."""
        return best_form() == "widgets" and self.settings.form() != "html"

    def let_wait(self, key: object, question: Q, *, is_newer: bool = True) -> Q:
        """Show a question, or the one that an equal line asked before: a cell that is run twice asks once.

        That one has the quote of the new question then, if it `is_newer`.
        """
        known = self._questions.get(key)
        asked = known if isinstance(known, type(question)) and not known.is_done else question
        self._questions[key] = asked
        if is_newer:
            asked.renew(question)
        self.show_waiting(asked)
        return asked

    def show_waiting(self, question: Question) -> None:
        """Show a question under this cell, once."""
        if str(id(question)) not in self._shown:
            self._shown.add(str(id(question)))
            question.show()

    def replace_waiting(self, question: Question, result: object) -> None:
        """Give the variables that hold a question what came of it."""
        held = [name for name, value in self._own_variables() if value is question]
        self.namespace.update(dict.fromkeys(held, result))

    def wait_for(self, run: Run) -> None:
        """Wait until a run has ended and its panel says so; an interrupt leaves it running."""
        try:
            if best_form() == "text" and not run.status().is_ended:
                follow(run.status, sys.stdout)
            run.wait()
        except KeyboardInterrupt:
            self.say(f"{run.id} goes on; end it with %distil stop {run.id}")
            return
        self._let_panels_end()

    def _let_panels_end(self) -> None:
        """Give the panels of runs that have ended the moment they need to say so, before the cell ends."""
        from distilnb.run import attach

        for run_id, panel in list(self.panels.items()):
            if attach(run_id).status().is_ended:
                panel.wait(PANEL_S)

    def close(self) -> None:
        """Let the panels rest as static HTML."""
        for panel in list(self.panels.values()):
            panel.close()

    # --- values ---

    def models(self, text: str | None) -> LLM | str | list[LLM | str] | None:
        """Return what `--llm` means: a variable, else provider:model; several with commas."""
        found = [self._model(word) for word in (text or "").split(",") if word]
        return (found[0] if len(found) == 1 else found) or None

    def one_model(self, text: str | None, refusal: str) -> LLM | str | None:
        """Return what `--llm` means where it is one model; raises UsageError with that refusal for several."""
        found = self.models(text)
        if isinstance(found, list):
            raise UsageError(refusal)
        return found

    def _model(self, word: str) -> LLM | str:
        from distilnb.llms.base import LLM

        value = self.namespace.get(word)
        return value if isinstance(value, (LLM, str)) else word

    def value(self, word: str) -> Any:
        """Return what an argument means: a literal, a variable of a function, model or step, or text."""
        from types import FunctionType

        from distilnb.llms.base import LLM
        from distilnb.spec.step import Step
        from distilnb.steps.function import StepFactory

        return value_of(word, self.namespace, (FunctionType, type, LLM, Step, StepFactory))

    def parameters(self, words: list[str]) -> Mapping[str, Any] | None:
        """Return the `--param` words as a mapping of paths to values."""
        try:
            return assignments(words, self.namespace) or None
        except ValueError as error:
            raise UsageError(f"--param: {error}; write it like answer.llm.temperature=0.7") from error

    # --- what a cell did ---

    def before_cell(self, info: Any) -> None:
        """Begin a cell."""
        self._shown.clear()

    def after_cell(self, result: Any) -> None:
        """Find the pipeline and the run that the cell assigned last; a run that is new shows its panel."""
        if "distilnb.run" not in sys.modules:
            return  # nobody can have made any
        from distilnb.pipeline import Pipeline
        from distilnb.run import Run

        self._let_panels_end()
        now = {name: value for name, value in self._own_variables() if isinstance(value, (Pipeline, Run))}
        changed = set(self._changed(now))
        self._known = dict(now)
        for name in self._in_order(changed, result):
            value = now[name]
            if isinstance(value, Pipeline):
                self.variable = name
            elif value.status().is_ended:
                self._current(value)
            else:
                self.show_run(value)

    def _in_order(self, names: set[str], result: Any) -> list[str]:
        """Return names in the order in which the cell assigned them; those before its last magic are left out.

        What that magic used, or made, came later.
        """
        try:
            tree = ast.parse(self.shell.transform_cell(result.info.raw_cell))
        except (SyntaxError, AttributeError):
            return sorted(names)
        place: dict[str, tuple[int, int]] = {}
        last_magic = (0, 0)
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                place[node.id] = max(place.get(node.id, (0, 0)), (node.lineno, node.col_offset))
            elif _is_magic(node):
                last_magic = max(last_magic, (node.lineno, 0))
        after = [name for name in names if place.get(name, (0, 0)) > last_magic]
        return sorted(after, key=lambda name: place[name])

    def _own_variables(self) -> Iterator[tuple[str, object]]:
        """Yield the user's variables without those that IPython fills (`_`, `_12`, `In`)."""
        yield from ((name, value) for name, value in list(self.namespace.items()) if not name.startswith("_"))


def _version_of(pipeline: Pipeline, word: str) -> Pipeline:
    try:
        return pipeline.use(word)
    except SpecError as error:  # no such version, or one of another kind of task
        raise UsageError(" ".join(str(error).split())) from error


def _is_of(run: Run, pipeline: str) -> bool:
    try:
        return run.status().pipeline == pipeline
    except StoreError:  # a damaged run is nobody's newest one
        return False


def _is_magic(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether a node is what IPython makes of a line or a cell of ours."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    first = node.args[0] if node.args else None
    is_ours = isinstance(first, ast.Constant) and first.value == "distil"
    return is_ours and node.func.attr in ("run_line_magic", "run_cell_magic")
