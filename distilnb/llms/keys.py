"""Where API keys come from: the environment, Colab's secrets, the system's keyring. They are found, never stored.

A key that is found in the environment travels with it. One from Colab or the keyring only this process can find: it
goes to the workers of a run as a literal one does, by a pipe, and what is written down is its source.
"""

from __future__ import annotations

import contextlib
import os
import sys
from functools import lru_cache
from typing import Literal, NamedTuple

from distilnb.errors import MissingKeyError

SERVICE = (
    "distilnb"  # the keyring's word for whose keys they are; the variable's name is its word for the user
)

Place = Literal["env", "colab", "keyring"]


class Found(NamedTuple):
    """A key and the place that it was found in."""

    value: str
    place: Place

    def __repr__(self) -> str:
        return f"Found(***, {self.place!r})"


def find_key(variable: str) -> Found | None:
    """Return the key that a variable names, in this order: environment, Colab's secrets, keyring; None without one.

    Raises MissingKeyError where Colab holds it and this notebook may not read it.
    """
    value = os.environ.get(variable, "").strip()
    return Found(value, "env") if value else _find_elsewhere(variable)


def forget_keys() -> None:
    """Look anew in Colab's secrets and in the keyring: what was not there may be there now."""
    _find_elsewhere.cache_clear()


@lru_cache(maxsize=64)  # each request's model asks for its key, and both places are slow
def _find_elsewhere(variable: str) -> Found | None:
    for place, value in (("colab", _from_colab(variable)), ("keyring", _from_keyring(variable))):
        if value:
            return Found(value.strip(), place)  # type: ignore[arg-type]  # the words of the line above
    return None


def _from_colab(variable: str) -> str:
    if "google.colab" not in sys.modules:  # a kernel of Colab's has imported it
        return ""
    from google.colab import userdata

    try:
        return userdata.get(variable) or ""
    except userdata.SecretNotFoundError:
        return ""
    except userdata.NotebookAccessError as error:
        raise MissingKeyError(
            f"Colab holds a secret {variable}, which this notebook may not read.",
            "Grant it access: the key symbol at the left, the switch beside the secret's name.",
        ) from error
    except Exception:  # noqa: BLE001 - no answer from the browser, in words that differ by version; no key then
        return ""


def _from_keyring(variable: str) -> str:
    try:
        import keyring
    except ImportError:
        return ""
    # Whatever a backend raises (it is locked, it is none): there is no key there for us.
    with contextlib.suppress(Exception):
        return keyring.get_password(SERVICE, variable) or ""
    return ""


def how_to_give(variable: str) -> str:
    """Return what to do for a key that is missing."""
    told = f"Set the environment variable {variable}"
    if "google.colab" in sys.modules:
        told += f", add a secret {variable} in Colab (the key symbol at the left)"
    elif "keyring" in sys.modules:
        told += f", store it in the keyring (keyring set {SERVICE} {variable})"
    return f"{told}, or pass api_key=."
