"""A pipeline whose prompts have versions: going back, comparing, and the pinned rows that all of it is seen on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import Self

from distilnb.engine.sample import pinned_sample
from distilnb.pipeline.preview import StepView
from distilnb.pipeline.versions import read_reference, version_names, with_version
from distilnb.pipeline.written import Written
from distilnb.rows import Batch
from distilnb.spec.check import check_flow
from distilnb.spec.step import GeneratorStep

if TYPE_CHECKING:
    from distilnb.pipeline.difference import Diff


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

    def use(self, version: str) -> Self:
        """Return the pipeline whose step has the prompt of that version again: `p.use("answer@1")`.

        The model and the columns of the step stay, so that what was asked before is not asked again.
        Raises UnknownVersionError naming those that there are.
        """
        reference = read_reference(version, self.graph)
        graph = with_version(self.name, self.graph, reference)
        check_flow(graph)
        note = "" if graph == self.graph else f"{reference.step} has the prompt of {reference} again."
        return self._with(graph, self._heads, note=note)

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

    def _sample_rows(self, n: int | None) -> dict[str, Batch]:
        """Return the first n pinned rows of each source; all that are pinned when it is left out."""
        return {
            name: pinned_sample(self.name, source, n)
            for name, source in self.graph.steps.items()
            if isinstance(source, GeneratorStep)
        }
