"""Which fault a request meets: one written into its prompt, or one drawn by the configured rates."""

import re
from typing import NamedTuple

from .chance import Draw
from .config import Config

# [[500]] · [[500x2]]: the first two times · [[500@judge]]: only when the model `judge` is asked,
# for a prompt that several steps of a pipeline quote.
_MARK = re.compile(
    r"\[\[(400|401|404|429|500|busy|quota|filter|context|never|slow|reset|"
    r"empty|null|garbage|half|length|filtered|wrong|fenced|loose)(?:x(\d+))?(?:@([\w.:/-]+))?\]\]"
)
_ENDLESS = float("inf")
_TIMES = {"429": 2.0}

# Told with a [[429]]: short, so that a test of retries is short.
SCRIPTED_RETRY_AFTER_S = 0.05
SLOW_S = 0.05  # what a [[slow]] takes

# The faults that are an error of the provider's, each in its protocol's words.
FAILURES = frozenset({"400", "401", "404", "429", "500", "busy", "quota", "filter", "context"})


class Failure(NamedTuple):
    """What went wrong, for a protocol to put into its words."""

    kind: str  # one of FAILURES, or "route"
    message: str = ""
    model: str = ""
    key: str = ""  # what was given instead of the right one
    wait_s: float = 0.0


def scripted_fault(prompt: str, model: str, attempt: int, turn: int = 0) -> str:
    """Return the name of the fault that `prompt` asks for by a mark, or the empty text.

    `wrong` counts the replies that the conversation quotes (`turn`), the others how often it was sent.

    >>> scripted_fault("Hi [[500x2]]", "mock-model", 1), scripted_fault("Hi [[500x2]]", "mock-model", 2)
    ('500', '')
    """
    if "[[" not in prompt:
        return ""
    for name, times, only in _MARK.findall(prompt):
        limit = float(times) if times else _TIMES.get(name, _ENDLESS)
        if (turn if name == "wrong" else attempt) < limit and only in ("", model):
            return str(name)
    return ""


def drawn_fault(config: Config, draw: Draw) -> str:
    """Return the name of the fault that chance gives a request, or the empty text."""
    point = draw.unit()
    for name, rate in config.fault_rates():
        if point < rate:
            return name
        point -= rate
    return ""
