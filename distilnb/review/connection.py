"""A connection to an Argilla server: checked with one try, quiet, every failure in one sentence."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from distilnb.errors import DistilnbError, ReviewError
from distilnb.optional import optional

CHECK_TIMEOUT_S = 5.0


@contextmanager
def connected(
    api_url: str | None = None, api_key: str | None = None, headers: Mapping[str, str] | None = None
) -> Iterator[Any]:
    """Yield a client of Argilla's SDK.

    Without arguments ARGILLA_API_URL and ARGILLA_API_KEY say where and who. Everything that the SDK raises
    inside comes out as ReviewError. Raises MissingPackageError without the extra "argilla".
    """
    with optional("argilla", what="Review in Argilla"), _silent():
        import argilla as rg
        import requests as _  # noqa: F401  the SDK needs it and does not say so
    url, key = _address(api_url), api_key or os.environ.get("ARGILLA_API_KEY", "")
    if not key:
        raise ReviewError("No API key for Argilla is set.", "Set ARGILLA_API_KEY, or pass api_key=.")
    _check_server(url, key, headers or {})
    with explained(url), _silent():
        default = rg.Argilla._default_client
        client = rg.Argilla(api_url=url, api_key=key, retries=1, headers=dict(headers or {}))
        try:
            yield client
        finally:
            rg.Argilla._default_client = default  # a client of the user's own stays the default one
            client.http_client.close()


def _address(api_url: str | None) -> str:
    url = (api_url or os.environ.get("ARGILLA_API_URL", "")).strip().rstrip("/")
    if not url:
        raise ReviewError(
            "No Argilla server is named.", "Set ARGILLA_API_URL, or pass api_url='http://localhost:6900'."
        )
    if urlsplit(url).scheme not in ("http", "https"):
        raise ReviewError(f"The address {url!r} lacks http:// or https://.", f"Perhaps 'http://{url}'.")
    return url


def _check_server(url: str, key: str, headers: Mapping[str, str]) -> None:
    """Ask who we are, once: a wrong address or key is told in seconds, not after the SDK's retries."""
    import httpx

    try:
        answer = httpx.get(
            f"{url}/api/v1/me",
            headers={**headers, "X-Argilla-Api-Key": key},
            timeout=CHECK_TIMEOUT_S,
            follow_redirects=True,
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ReviewError(
            f"No Argilla server answers at {url} ({_reason(error)}).",
            "Start it, or check the address in api_url.",
        ) from error
    if answer.status_code in (401, 403):
        raise ReviewError(
            f"Argilla at {url} refused the API key.",
            "Copy it from the server's page 'My settings' and set it again.",
        )
    if answer.status_code >= 500:
        raise ReviewError(
            f"Argilla at {url} failed with status {answer.status_code}.", "Look at its log; try again later."
        )
    try:
        is_argilla = answer.status_code == 200 and "username" in answer.json()
    except ValueError:
        is_argilla = False
    if not is_argilla:
        raise ReviewError(
            f"What answers at {url} is no Argilla 2 server.",
            "Give the server's own address, without the path of a page.",
        )


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn what Argilla's SDK raises into ReviewError."""
    import httpx
    from argilla._exceptions import ArgillaError

    try:
        yield
    except DistilnbError:
        raise
    except httpx.HTTPError as error:
        raise ReviewError(
            f"The connection to Argilla at {url} broke ({_reason(error)}).", "Check the server and try again."
        ) from error
    except ArgillaError as error:
        raise explain(error, url) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # pydantic's, and slips of the SDK
        raise ReviewError(f"Argilla's client could not do it: {_first_line(error)}") from error


def explain(error: BaseException, url: str) -> ReviewError:
    """Return the error to show for one of the SDK's; SettingsError tells its reason only in its cause."""
    status = getattr(error, "status_code", None)
    cause = error.__cause__
    if status is None and cause is not None:
        return explain(cause, url)
    detail = server_detail(error)
    if status == 401 or type(error).__name__ == "ArgillaCredentialsError":
        return ReviewError(f"Argilla at {url} refused the API key.", "Pass the right one as api_key=.")
    if status == 403:
        return ReviewError(
            f"Your role in Argilla does not allow this: {detail}", "Ask an owner or admin, or use their key."
        )
    if status == 404:
        return ReviewError(
            f"Argilla does not find it: {detail}", "Was it deleted meanwhile? Check the names."
        )
    if status == 409:
        return ReviewError(
            f"It exists in Argilla already: {detail}", "Choose another name, or on_exists='append'."
        )
    if status == 422:
        return ReviewError(f"Argilla refused the content: {detail}", "Mend what it names and send again.")
    if status is not None and status >= 500:
        return ReviewError(f"Argilla at {url} failed: {detail}", "Look at its log; try again later.")
    return ReviewError(f"Argilla refused: {detail}", "Check names, roles and the dataset's settings.")


def server_detail(error: BaseException) -> str:
    """Return the server's own words, out of the JSON in which the SDK leaves them."""
    text = str(error)
    _, _, details = text.partition("Details: ")
    try:
        detail = json.loads(details)["detail"]
    except (ValueError, KeyError, TypeError):
        return _first_line(error)
    return _shortest(detail)[:400]


def _shortest(detail: Any) -> str:
    if isinstance(detail, dict):
        for key in ("message", "detail", "errors", "msg", "params"):
            if detail.get(key):
                return _shortest(detail[key])
        return str(detail.get("code") or detail)
    if isinstance(detail, list):
        return "; ".join(_shortest(item) for item in detail[:3])
    return str(detail)


def _reason(error: BaseException) -> str:
    return {"ConnectTimeout": "no answer in time", "ReadTimeout": "no answer in time"}.get(
        type(error).__name__, _first_line(error)
    )


def _first_line(error: BaseException) -> str:
    problems = getattr(error, "errors", None)
    if callable(problems):  # pydantic's report tells its reason in the second line
        return "; ".join(str(problem["msg"]) for problem in problems())[:300]
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


# --- quiet --------------------------------------------------------------------


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the SDK from printing warnings, and from giving the root logger a handler."""
    root, sdk = logging.getLogger(), logging.getLogger("argilla.sdk")
    handler, level = logging.NullHandler(), sdk.level
    root.addHandler(handler)
    sdk.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.removeHandler(handler)
        sdk.setLevel(level)


@contextmanager
def without_bars() -> Iterator[None]:
    """Let the SDK send records without drawing progress bars."""
    from argilla.records import _dataset_records as module

    drawn = module.tqdm
    module.tqdm = lambda iterable, **_: iterable
    try:
        yield
    finally:
        module.tqdm = drawn


# --- finding ------------------------------------------------------------------


def find_workspace(client: Any, name: str | None, *, create: bool = False) -> Any:
    """Return a workspace; without a name the only one. Raises ReviewError naming those that exist."""
    import argilla as rg

    known = {workspace.name: workspace for workspace in client.workspaces}
    if name in known:
        return known[name]
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name is not None and create:
        return rg.Workspace(name=name, client=client).create()
    what = "No workspace is named" if name is None else f"There is no workspace {name!r}"
    raise ReviewError(
        f"{what}; you have {sorted(known)}.", "Pass workspace=, and create_workspace=True for a new one."
    )


def find_dataset(workspace: Any, name: str) -> Any:
    """Return the dataset of that name in a workspace, or None."""
    return next((dataset for dataset in workspace.datasets if dataset.name == name), None)
