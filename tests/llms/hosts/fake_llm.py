"""The model of the fake engine."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from distilnb.llms.local import LocalLLM


class FakeLLM(LocalLLM):
    provider: ClassVar[str] = "fake"
    token_variable: ClassVar[str] = ""
    engine: ClassVar[str] = "tests.llms.hosts.fake_engine:FakeEngine"
    package: ClassVar[str] = "json"
    engine_fields: ClassVar[tuple[str, ...]] = ("load_s", "load_dies", "load_raises", "batch_size")
    forces: ClassVar[Any] = {}

    model: str = "parrot"
    max_concurrency: int = Field(default=8, ge=1)
    batch_size: int = 4
    load_s: float = 0.0
    load_dies: str = ""
    load_raises: str = ""
