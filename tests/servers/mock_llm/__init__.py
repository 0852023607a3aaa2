"""A mock of OpenAI's HTTP API, deterministic, with faults on request (README.md beside this file)."""

from .config import Config
from .server import MockServer, serve

__all__ = ["Config", "MockServer", "serve"]
