"""The one door to optional packages: it names the extra to install when one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distilnb.errors import MissingPackageError


@contextmanager
def optional(extra: str, *, what: str = "This") -> Iterator[None]:
    """Turn an ImportError of an optional package into one that names the extra.

    >>> from distilnb.optional import optional
    >>> with optional("lab", what="The panel"):
    ...     import a_package_nobody_has
    Traceback (most recent call last):
    ...
    distilnb.errors.MissingPackageError: The panel needs the package 'a_package_nobody_has', which is not installed.
    pip install 'distilnb[lab]'
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or extra).split(".")[0]
        raise MissingPackageError(
            f"{what} needs the package {package!r}, which is not installed.",
            f"pip install 'distilnb[{extra}]'",
        ) from error
