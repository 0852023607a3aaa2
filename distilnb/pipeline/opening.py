"""Opening a pipeline that somebody saved: a file, or the `pipeline.yaml` of a dataset on the Hub."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from distilnb.errors import SourceNotFoundError, SpecError, UnsafeFileError
from distilnb.llms.address import is_loopback, origin
from distilnb.llms.base import LLM
from distilnb.llms.local import LocalLLM
from distilnb.llms.openai import OpenAILLM
from distilnb.pipeline.pipeline import Pipeline
from distilnb.pipeline.versions import adopt_history
from distilnb.spec.base import Spec
from distilnb.spec.files import PipelineFile, from_text, read_text
from distilnb.spec.step import Step
from distilnb.steps.sources import LoadDataFromDisk, LoadDataFromFileSystem, LoadDataFromHub
from distilnb.tasks.generation import TextGeneration

HUB = "hf://datasets/"
FILE = "pipeline.yaml"


def open_pipeline(
    path: str | Path,
    *,
    trust_code: bool = False,
    classes: Iterable[type[Spec]] | None = None,
    allow: Iterable[str | Path] = (),
) -> Pipeline:
    """Open a pipeline from a YAML or JSON file, or from `hf://datasets/<owner>/<name>`.

    Functions and classes of its author run only with `trust_code`; read the file before. `classes` are your own
    step and task classes that it names. It may read files of the working directory and ask its models where their
    providers are, or on this machine; `allow` names what else: files, folders, hosts.

    Raises SourceNotFoundError when it is not there, SpecError when it is no pipeline file, UnsafeFileError when it
    names places that are not allowed.
    """
    return pipeline_from_text(read_text(fetch(path)), trust_code=trust_code, classes=classes, allow=allow)


def pipeline_from_text(
    text: str,
    *,
    trust_code: bool = False,
    classes: Iterable[type[Spec]] | None = None,
    allow: Iterable[str | Path] = (),
) -> Pipeline:
    """Make a pipeline of the text of a file; it may do what `open_pipeline` lets a file do, which raises the same."""
    file = from_text(text, trust_code=trust_code, classes=None if classes is None else [*classes])
    if file.llm is not None and not isinstance(file.llm, LLM):
        raise SpecError(f"The default model of the file is a {file.llm.kind()}, which is no model.")
    check_places(file, allow)
    adopt_history(file)
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


# --- what an opened pipeline may touch ----------------------------------------


def check_places(file: PipelineFile, allow: Iterable[str | Path] = ()) -> None:
    """Raise UnsafeFileError naming every path, host and number of processes refused, and the `allow` for them."""
    allowed = [str(entry) for entry in ([allow] if isinstance(allow, (str, Path)) else allow)]
    # What ships with distilnb may be read: the demo's own pipeline does.
    folders = [_real(entry) for entry in (".", str(files("distilnb") / "data"), *allowed)]
    hosts = {entry.lower() for entry in allowed}
    refused: dict[str, str] = {}
    for owner, spec in _specs(file):
        for path in _paths(spec):
            if not any(path.is_relative_to(folder) for folder in folders):
                refused.setdefault(str(path), f"{owner} reads {str(path)!r}")
        for host in _hosts(spec):
            if host not in hosts:
                refused.setdefault(host, f"{owner} sends to the host {host!r}")
        for name in spec.code_fields() if isinstance(spec, LocalLLM) else ():
            if name not in allowed:
                refused.setdefault(name, f"{owner} may run code by {name}=")
        n_processes = spec.resources.get("replicas", 1) if isinstance(spec, Step) else 1
        if n_processes > (os.cpu_count() or 1) and f"replicas={n_processes}" not in allowed:
            refused.setdefault(f"replicas={n_processes}", f"{owner} starts {n_processes} processes")
    if refused:
        raise UnsafeFileError(
            f"The pipeline would leave the working directory {os.getcwd()!r}, talk to other hosts than its "
            f"providers', run code, or start more processes than there are processors: {'; '.join(refused.values())}.",
            f"If you trust it with them, open it with allow={[*allowed, *refused]}.",
        )


def _specs(file: PipelineFile) -> Iterator[tuple[str, Spec]]:
    """Yield each spec of the file, at any depth, with the words for what holds it."""
    yield from (("the default model", spec) for spec in _inside(file.llm))
    for name, step in file.graph.steps.items():
        yield from ((f"step {name!r}", spec) for spec in _inside(step))


def _inside(value: object) -> Iterator[Spec]:
    if isinstance(value, Spec):
        yield value
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _inside(item)


def _paths(spec: Spec) -> Iterator[Path]:
    """Yield what a source reads on this machine: each file or folder, of a glob the folder it starts from."""
    if isinstance(spec, LoadDataFromFileSystem):
        yield from (_real(_fixed_part(pattern)) for pattern in _texts(spec.data_files))
    elif isinstance(spec, LoadDataFromDisk):
        yield from (_real(path) for path in _texts(spec.dataset_path))
    elif isinstance(spec, LoadDataFromHub):  # takes a folder too; owner/name alone leads nowhere else
        yield from (_real(path) for path in _texts(spec.repo_id))
    elif isinstance(spec, LocalLLM):
        yield from (_real(path) for path in spec.paths())
    elif isinstance(spec, TextGeneration) and spec.images:
        yield _real(spec.image_folder)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, (str, Path)):
        yield str(value)
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def _fixed_part(pattern: str) -> str:
    """Return the folder below which all matches of a glob are; a path without wildcards is its own."""
    parts = Path(pattern).parts
    n_fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    upward = [part for part in parts[n_fixed:] if part == ".."]  # `data/*/../../x` leads out again
    return str(Path(*parts[:n_fixed], *upward))


def _real(path: str) -> Path:
    try:
        return Path(os.path.realpath(os.path.expanduser(path)))
    except ValueError:  # a NUL byte: no path at all
        return Path(path)


def _hosts(spec: Spec) -> Iterator[str]:
    """Yield the hosts to which a spec sends, but the provider's own and this machine."""
    addresses: list[str] = []
    if isinstance(spec, LLM):
        addresses = [address for address in _addresses(spec) if not _is_providers(spec, address)]
    elif isinstance(spec, LoadDataFromHub):  # {"hf": {"endpoint": ...}} would send the Hub's token there
        addresses = [text for text in _texts(spec.storage_options) if "://" in text]
    yield from (urlsplit(address).hostname or address for address in addresses if not is_loopback(address))


def _addresses(llm: LLM) -> list[str]:
    found = (*llm.endpoints, llm.endpoint, getattr(llm, "base_url", None))
    return list(dict.fromkeys(str(address) for address in found if address))


def _is_providers(llm: LLM, address: str) -> bool:
    """Whether an address is where the model would be asked if the file named none."""
    if isinstance(llm, OpenAILLM) and llm.is_openai and not llm.base_urls:
        return True
    try:
        usual = type(llm)(model=llm.model)
    except SpecError:  # a class of the user's own that needs more than a name
        return False
    return origin(address) in {origin(known) for known in _addresses(usual)}
