"""`dn.unload()`: local models give their memory back now."""

from __future__ import annotations

from distilnb.errors import SpecError
from distilnb.llms.base import LLM
from distilnb.llms.catalog import as_llm
from distilnb.llms.local import LocalLLM


def unload(model: LLM | str | None = None) -> list[str]:
    """Give back the memory of all local models, or of one; wait until it is free, and return whose it was.

    A preview or a run that is at work with one goes on: the next request loads it again. Raises SpecError for a
    model that is no local one.

    >>> unload()
    []
    """
    from distilnb.llms.hosts.starting import unload_hosts

    if model is None:
        return unload_hosts()
    wanted = as_llm(model)
    if not isinstance(wanted, LocalLLM):
        raise SpecError(
            f"{wanted.label} is not held by a process of this machine's distilnb.",
            "Name a local model: 'transformers:…', 'gguf:…', 'vllm_engine:…', 'mlx:…'.",
        )
    return unload_hosts(wanted.host().place())
