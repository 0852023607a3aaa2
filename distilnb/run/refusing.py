"""What a resume or a retry would refuse at once: whoever is asked for money first must not be asked in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilnb.engine.commands import check_may_go_on
from distilnb.engine.ordering import check_may_retry

if TYPE_CHECKING:
    from distilnb.run.handle import Run


def check_resume(run: Run) -> None:
    """Raise the RunError that `run.resume()` would at once; nothing is changed, and nobody is waited for."""
    check_may_go_on(run._reader, run._secrets)


def check_retry(run: Run, *, is_edited: bool = False) -> None:
    """Raise the RunError that any `run.retry()` would at once; one that `is_edited` may bring keys that miss."""
    check_may_retry(run._reader, run._secrets, is_edited=is_edited)
