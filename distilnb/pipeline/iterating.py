"""A pipeline whose prompts have versions: going back, comparing, and the pinned rows that all of it is seen on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import Self

from distilnb.engine.sample import pinned_sample
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.pipeline.candidates import make_candidates, with_model
from distilnb.pipeline.preview import StepView
from distilnb.pipeline.versions import (
    adopt_history,
    history_in_file,
    read_reference,
    version_names,
    with_version,
)
from distilnb.pipeline.written import Written
from distilnb.rows import Batch
from distilnb.spec.check import check_flow
from distilnb.spec.files import PipelineFile, from_text
from distilnb.spec.step import GeneratorStep, Step
from distilnb.tasks.base import Task

if TYPE_CHECKING:
    from distilnb.pipeline.comparison import Comparison
    from distilnb.pipeline.difference import Diff
    from distilnb.pipeline.sampled import PinnedSample


class Iterating(Written):
    """A pipeline as its prompts are worked on. `answer@2` names the second version of the prompt of `answer`."""

    def __getitem__(self, step: str) -> StepView:
        """Return a view of one step, or of a version of it (`p["answer@1"]`): its prompt on a row, its preview."""
        reference = read_reference(step, self.graph)
        graph = self.graph
        if reference.number is not None:
            graph = with_version(self.name, graph, reference)
        return StepView(self.name, graph, reference.step)

    def _ipython_key_completions_(self) -> list[str]:
        return [*super()._ipython_key_completions_(), *version_names(self.name, self.graph)]

    def _file(self) -> PipelineFile:
        return replace(super()._file(), history=history_in_file(self.name, self.graph))

    @classmethod
    def from_yaml(
        cls, text: str, *, trust_code: bool = False, classes: Mapping[str, type[Step]] | None = None
    ) -> Self:
        """Read a pipeline and the versions of its prompts from text; its author's code runs only with `trust_code`."""
        file = from_text(text, trust_code=trust_code, classes=classes)
        adopt_history(file)
        return cls(file.name, llm=file.llm, description=file.description, graph=file.graph)  # type: ignore[arg-type]

    def use(self, version: str, *, llm: LLM | str | None = None) -> Self:
        """Return the pipeline whose step has the prompt of that version again: `p.use("answer@1")`.

        Columns and, unless `llm` is another one, the model of the step stay, so that what was asked before is not asked
        again. Raises UnknownVersionError naming the versions that there are.
        """
        reference = read_reference(version, self.graph)
        graph, heads = with_version(self.name, self.graph, reference), tuple(self._heads)
        if llm is not None:
            graph, heads = with_model(graph, heads, reference.step, as_llm(llm))
        check_flow(graph)
        number = f"the prompt of {reference}" if reference.number else "its prompt"
        asks = f", asked of {as_llm(llm).label}" if llm is not None else ""
        return self._with(
            graph, heads, note="" if graph == self.graph else f"{reference.step} has {number} now{asks}."
        )

    def diff(
        self,
        left: str,
        right: str | None = None,
        *,
        n: int | None = None,
        ask: bool = True,
        judge: bool = True,
    ) -> Diff:
        """Show two versions of a prompt on the same pinned rows: `p.diff("answer@1", "answer@3")`.

        Without `right` the current prompt is compared with. What was not answered yet is asked, of the step and of
        the judges behind it (`judge=False`: of the step alone); with `ask=False` nothing is, and the result's `quote`
        tells what it would take. Raises InputError for versions of two steps.
        """
        from distilnb.pipeline.difference import make_diff, read_pair

        graph = self.graph
        pair = read_pair(self.name, graph, left, right)
        return make_diff(self.name, graph, pair, self._sample_rows(n), ask=ask, judge=judge)

    def compare(
        self,
        *versions: str,
        llms: Sequence[LLM | str] | None = None,
        n: int | None = None,
        judge: LLM | Task | str | None = None,
        blind: bool = False,
        seed: int = 0,
        ask: bool = True,
    ) -> Comparison:
        """Ask several versions of a prompt, of several models, on the same n pinned rows (by default the Sample).

        `p.compare("answer@1", "answer@2", llms=["openai:gpt-4o-mini", local], n=40, judge="openai:gpt-4o")`.
        Without `llms` each version is asked of the models that the step has. `judge` votes: a model (which sees each
        pair of answers twice, the second time in the other order), the name of a judge step of this pipeline, or any
        task that rates or compares `generations`. Without one people vote (`.vote(row, winner)`, `.ballot()`); with
        `blind` the answers to each row are in an order drawn by `seed`, and nobody is named until all rows have a vote.

        What was not answered yet is asked; with `ask=False` nothing is, and the result's `quote` tells what it would
        take. Raises InputError for versions of several steps, or fewer than two candidates.
        """
        from distilnb.pipeline.comparison import make_comparison

        step, candidates = make_candidates(self.name, self.graph, versions, llms)
        return make_comparison(
            self, step, candidates, self._sample_rows(n), judge=judge, is_blind=blind, seed=seed, ask=ask
        )

    @property
    def sample(self) -> PinnedSample:
        """The pinned rows: `.add(17)`, `.drop(17)`, `.check()` re-runs them and reports what got worse, `.accept()`."""
        from distilnb.pipeline.sampled import PinnedSample

        return PinnedSample(self.name, self.graph)

    def _sample_rows(self, n: int | None) -> dict[str, Batch]:
        """Return the first n pinned rows of each source; all that are pinned when it is left out."""
        return {
            name: pinned_sample(self.name, source, n)
            for name, source in self.graph.steps.items()
            if isinstance(source, GeneratorStep)
        }
