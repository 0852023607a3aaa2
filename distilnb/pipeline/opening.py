"""Opening a pipeline that somebody saved: a file, or the `pipeline.yaml` of a dataset on the Hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from distilnb.errors import SourceNotFoundError, SpecError
from distilnb.llms.base import LLM
from distilnb.pipeline.pipeline import Pipeline
from distilnb.spec.base import Spec
from distilnb.spec.files import load

HUB = "hf://datasets/"
FILE = "pipeline.yaml"


def open_pipeline(
    path: str | Path, *, trust_code: bool = False, classes: Iterable[type[Spec]] | None = None
) -> Pipeline:
    """Open a pipeline from a YAML or JSON file, or from `hf://datasets/<owner>/<name>`.

    Functions and classes of its author run only with `trust_code`; read the file before. `classes` are your own
    step and task classes that it names.

    Raises SourceNotFoundError when it is not there, SpecError when it is no pipeline file.
    """
    file = load(fetch(path), trust_code=trust_code, classes=None if classes is None else [*classes])
    if file.llm is not None and not isinstance(file.llm, LLM):
        raise SpecError(f"The default model of the file is a {file.llm.kind()}, which is no model.")
    return Pipeline(file.name, llm=file.llm, description=file.description, graph=file.graph)


def fetch(path: str | Path) -> Path:
    """Return where a pipeline file is on this machine, downloading it from the Hub when it is there."""
    address = str(path)
    if address.startswith(HUB):
        return _download(address)
    if "://" in address:
        raise SpecError(
            f"{address!r} is an address that cannot be opened.",
            f"Give the path of a file, or {HUB}<owner>/<name> for the pipeline of a dataset on the Hub.",
        )
    return Path(path)


def _download(address: str) -> Path:
    """Fetch the pipeline file of a dataset into the Hub's own cache and return its path."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    repo_id = address.removeprefix(HUB).strip("/").removesuffix(f"/{FILE}")
    try:
        return Path(hf_hub_download(repo_id, FILE, repo_type="dataset"))
    except EntryNotFoundError as error:
        raise SourceNotFoundError(
            f"The dataset {repo_id!r} has no {FILE}.",
            "It was not pushed by distilnb, or without its pipeline.",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SourceNotFoundError(
            f"The dataset {repo_id!r} cannot be opened on the Hub: {reason}.",
            "Check its name, your access to it (HF_TOKEN) and the network.",
        ) from error
