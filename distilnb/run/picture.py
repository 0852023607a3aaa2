"""The graph of a run, with how each step stands."""

from __future__ import annotations

from functools import cached_property

from distilnb.engine.reading import RunReader
from distilnb.engine.status import RunStatus
from distilnb.spec.graph import Graph


class RunPicture:
    """Draws a run's graph; a panel does some times a second, so what never changes is read once."""

    def __init__(self, reader: RunReader, graph: Graph | None = None) -> None:
        self._reader = reader
        self._given = graph  # by who has started the run: its file may hold a thousand rows

    @cached_property
    def _graph(self) -> Graph:
        return self._given or self._reader.pipeline_file().graph

    def __call__(self, status: RunStatus) -> str:
        """Return the graph as SVG."""
        from distilnb.view.graph import draw_svg

        return draw_svg(self._graph, status=status, use_dot=False)
