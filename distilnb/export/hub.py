"""Pushing to the Hugging Face Hub: the data, then card and pipeline; every failure in one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from distilnb.errors import DistilnbError, ExportError

if TYPE_CHECKING:
    from datasets import DatasetDict

_TOKEN = re.compile(r"\b(?:hf|api)_[A-Za-z0-9_]{6,}")
_KEEP = "The rows are safe here meanwhile: ds.save_to_disk(path)."


class Pushed(NamedTuple):
    """Where a dataset went."""

    repo_id: str
    url: str


def push(
    repo_id: str,
    subsets: Mapping[str, DatasetDict],
    make_files: Callable[[str, Mapping[str, Any]], Mapping[str, str]],
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    **options: Any,
) -> Pushed:
    """Push each subset as a configuration, then in one commit the files that `make_files` makes.

    `make_files` gets the full name of the repository and the header that the card has by then. `options` go
    to `DatasetDict.push_to_hub` (max_shard_size, num_proc, revision …). Raises ExportError.
    """
    if options.get("create_pr"):
        raise ExportError(
            "create_pr would make a pull request for each subset.", "Push to a branch: revision='draft'."
        )
    message = commit_message or "Upload by distilnb"
    with explained(repo_id, token):
        from huggingface_hub import CommitOperationAdd, DatasetCard, HfApi

        api = HfApi(token=token)
        address = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        full_id = address.repo_id
        for name, splits in subsets.items():
            splits.push_to_hub(full_id, config_name=name, token=token, commit_message=message, **options)
        revision = options.get("revision")
        path = api.hf_hub_download(full_id, "README.md", repo_type="dataset", revision=revision)
        with open(path, encoding="utf-8") as card:
            loaded: Any = DatasetCard(card.read(), ignore_metadata_errors=True)
            header = loaded.data.to_dict()
        files = make_files(full_id, header)
        operations = [
            CommitOperationAdd(name, text.encode("utf-8", "replace")) for name, text in files.items()
        ]
        api.create_commit(full_id, operations, commit_message=message, repo_type="dataset", revision=revision)
    return Pushed(full_id, str(address))


@contextmanager
def explained(repo_id: str, token: str | None) -> Iterator[None]:
    """Turn what the Hub's client raises into ExportError: one sentence, and what to do; never the token."""
    from huggingface_hub.errors import HfHubHTTPError

    transport: Any = next(
        base for base in HfHubHTTPError.__mro__ if base.__module__.split(".")[0] != "huggingface_hub"
    )
    try:
        yield
    except DistilnbError:
        raise
    except (OSError, ValueError, RuntimeError, transport) as error:
        raise explain(error, repo_id, has_token=_has_token(token)) from _without_traceback(error)


def explain(error: BaseException, repo_id: str, *, has_token: bool) -> ExportError:
    """Return the error to show for what the Hub's client raised."""
    names = {cls.__name__ for cls in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    no_token = ExportError(
        "No Hugging Face token is set, so nothing can be pushed.",
        "Log in with huggingface_hub.login(), set HF_TOKEN, or pass token=.",
    )
    if "LocalTokenNotFoundError" in names or (status == 401 and not has_token):
        return no_token
    if "OfflineModeIsEnabled" in names:
        return ExportError("HF_HUB_OFFLINE is set, so nothing is sent.", f"Unset it and start again. {_KEEP}")
    if "HFValidationError" in names:
        return ExportError(f"{repo_id!r} cannot be the name of a repository.", "For instance: 'me/prefs'.")
    if status is not None:
        return _explain_status(int(status), repo_id, error)
    if names & {"TransportError", "ConnectionError", "TimeoutError", "Timeout", "RequestException"}:
        return ExportError(
            f"The Hub at {_endpoint()} cannot be reached.",
            f"Check the network, the proxy and HF_ENDPOINT. {_KEEP}",
        )
    return ExportError(f"Pushing to {repo_id!r} failed: {_first_line(error)}", _KEEP)


def _explain_status(status: int, repo_id: str, error: BaseException) -> ExportError:
    known = {
        401: (
            "The Hub refused the token.",
            "It may be old: huggingface_hub.login(), or pass another token=.",
        ),
        403: (
            f"The token may not write to {repo_id!r}.",
            "Use a token with write permission for that user or organisation.",
        ),
        404: (
            f"The Hub knows no {repo_id!r}, or the token may not see it.",
            "Check user or organisation, name and revision.",
        ),
        412: (f"{repo_id!r} was changed by somebody else meanwhile.", "Push again."),
        429: ("The Hub asks for fewer requests.", f"Wait some minutes and push again. {_KEEP}"),
    }
    if status in known:
        return ExportError(*known[status])
    if status >= 500:
        return ExportError(f"The Hub failed with status {status}.", f"Push again later. {_KEEP}")
    return ExportError(
        f"The Hub refused the push to {repo_id!r} with status {status}: {_first_line(error)}", _KEEP
    )


def _has_token(token: str | None) -> bool:
    from huggingface_hub import get_token

    return bool(token or get_token())


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _first_line(error: BaseException) -> str:
    text = str(getattr(error, "server_message", None) or error).strip() or type(error).__name__
    return _TOKEN.sub("[token]", text.splitlines()[0])[:300]


def _without_traceback(error: BaseException) -> BaseException | None:
    """Return the cause to keep: none where its text holds a token, since a cause is printed too."""
    return None if _TOKEN.search(str(error)) else error
