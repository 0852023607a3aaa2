"""A pipeline as data: its name, model and graph; the class form that writes it, its files, and how it looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

from distilnb.engine.standing import standing
from distilnb.errors import SpecError
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.pipeline.preview import StepView
from distilnb.pipeline.script import script_of
from distilnb.rows import write_text
from distilnb.spec.draft import Draft, drafting
from distilnb.spec.files import PipelineFile, from_text, save, to_text
from distilnb.spec.graph import Graph
from distilnb.spec.step import Step
from distilnb.view.graph import graph_bundle, outline


class Written:
    """What a pipeline is before anything is done with it: an immutable graph of named steps under a name."""

    def __init__(
        self,
        name: str = "pipeline",
        *,
        llm: LLM | str | None = None,
        description: str = "",
        graph: Graph | None = None,
        heads: Sequence[str] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        if not name:
            raise SpecError("A pipeline needs a name.", "Pipeline('prefs')")
        self.name = name
        self.description = description
        self.llm = None if llm is None else as_llm(llm)
        self._graph = graph or Graph()
        self._heads = tuple(heads) if heads is not None else tuple(self._graph.leaves())
        self.notes = tuple(notes)
        self._draft: Draft | None = None
        self._drafting: Any = None

    # --- the graph ---

    @property
    def graph(self) -> Graph:
        """The steps and the edges between them."""
        if self._draft is not None:
            return Graph(dict(self._draft.steps), tuple(self._draft.edges))
        return self._graph

    @property
    def digest(self) -> str:
        """The identity of the graph: equal digest, equal pipeline."""
        return self.graph.digest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written) and self.name == other.name and self.digest == other.digest

    def __hash__(self) -> int:
        return hash((self.name, self.digest))

    def __getitem__(self, step: str) -> StepView:
        """Return a view of one step: its prompt on a row, its preview."""
        self.graph.step(step)
        return StepView(self.name, self.graph, step)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self.graph.steps)

    def __enter__(self) -> Self:
        """Open the class form: steps made inside belong to this pipeline."""
        if self._graph.steps:
            raise SpecError(f"Pipeline {self.name!r} has steps already.", "Use a new Pipeline() in `with`.")
        self._draft = Draft()
        self._drafting = drafting(self._draft)
        self._drafting.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._drafting.__exit__(kind, error, trace)
        self._graph = self.graph
        self._draft = self._drafting = None
        self._heads = tuple(self._graph.leaves())

    def _with(self, graph: Graph, heads: Sequence[str], *, note: str = "") -> Self:
        notes = (note,) if note else ()
        return type(self)(
            self.name, llm=self.llm, description=self.description, graph=graph, heads=heads, notes=notes
        )

    # --- files ---

    def to_yaml(self) -> str:
        """Return the pipeline as text that `Pipeline.from_yaml` reads back to an equal one."""
        return to_text(self._file())

    def to_script(self) -> str:
        """Return the source of a Python script that builds an equal pipeline, and runs it when it is the program.

        Functions and classes of cells are in it by source; keys are not. Raises SpecError naming what cannot be
        written (a lambda without source, a live object), UnsafeFileError when the text would hold a secret.
        """
        return script_of(self._file())

    def save(self, path: str | Path) -> Path:
        """Write the pipeline to a file and return where it is: a script for .py, JSON for .json, else YAML."""
        path = Path(path)
        if path.suffix == ".py":
            write_text(path, self.to_script())
        else:
            save(path, self._file())
        return path

    @classmethod
    def from_yaml(
        cls, text: str, *, trust_code: bool = False, classes: Mapping[str, type[Step]] | None = None
    ) -> Self:
        """Read a pipeline from text; code of its author runs only with `trust_code`."""
        file = from_text(text, trust_code=trust_code, classes=classes)
        return cls(file.name, llm=file.llm, description=file.description, graph=file.graph)  # type: ignore[arg-type]

    def _file(self) -> PipelineFile:
        return PipelineFile(self.name, self.graph, description=self.description, llm=self.llm)

    # --- how it looks ---

    def __repr__(self) -> str:
        notes = "".join(f"\n{note}" for note in self.notes)
        stands = standing(self.name, self.graph)
        return f"{self.name}\n{outline(self.graph, standing=stands)}{notes}"

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        graph = self.graph
        columns = graph.columns() if graph.steps else None
        stands = standing(self.name, graph)
        return dict(graph_bundle(graph, columns, title=self.name, notes=self.notes, standing=stands))
