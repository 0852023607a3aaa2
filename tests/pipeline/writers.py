"""A mock server whose models write, rate and attack, for tests of versions, comparisons and the Sample; it counts."""

from __future__ import annotations

from typing import Any

from distilnb.llms import OpenAILLM
from tests.servers import MockLLM

RATER = "{each}## Text {i}\nRating: {score}\nRationale: {words}\n\n{/each}"
HOSTILE = "<script>alert(1)</script></style><img src=x onerror=alert(1)> \x1b[31m \u202eevil {digest}"
TEMPLATES = {
    "rater": RATER,
    "judge": RATER,
    "hostile": HOSTILE,
    "first": "Feedback: It is first. [RESULT] A",
    "mute": "Who knows?",
}


def model(server: MockLLM, name: str = "writer", **options: Any) -> OpenAILLM:
    return OpenAILLM(model=name, base_url=server.base_url, **{"max_retries": 0, "price": (1, 10), **options})


def asked(server: MockLLM) -> dict[str, int]:
    """Return the requests by model since the last look."""
    seen = dict(server.stats()["by_model"])
    server.reset()
    return seen
