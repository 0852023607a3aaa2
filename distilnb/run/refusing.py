"""What a resume or a retry would refuse at once: whoever is asked for money first must not be asked in vain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distilnb.engine.commands import check_found_keys, check_may_go_on
from distilnb.engine.ordering import check_may_retry

if TYPE_CHECKING:
    from distilnb.run.handle import Run


def check_resume(run: Run) -> None:
    """Raise the RunError or MissingKeyError that `run.resume()` would; nothing is changed, and nobody is waited for."""
    check_may_go_on(run._reader, run._secrets)
    check_found_keys(run._reader, run._secrets)


def check_retry(run: Run, *, is_edited: bool = False) -> None:
    """Raise the RunError or MissingKeyError that any `run.retry()` would; one that `is_edited` may bring keys."""
    check_may_retry(run._reader, run._secrets, is_edited=is_edited)
    check_found_keys(run._reader, run._secrets)
