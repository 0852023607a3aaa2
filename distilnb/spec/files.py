"""The file of a pipeline: YAML or JSON that is only data, and builds only classes that are known.

Its parts are `distilnb` (version, format), `pipeline` (name, description, llm, steps, connections), `classes`
(of the user, built on trust only) and `history` (versions of prompts, outside the digest).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distilnb.errors import (
    DuplicateStepError,
    InputError,
    SourceNotFoundError,
    SpecError,
    UnsafeFileError,
    did_you_mean,
)
from distilnb.rows import dump_json, load_json, write_text
from distilnb.spec.base import Spec
from distilnb.spec.code import Code
from distilnb.spec.draft import drafting
from distilnb.spec.graph import Graph
from distilnb.spec.inline import Inline
from distilnb.spec.plain_yaml import OneLine, dump_yaml, load_yaml
from distilnb.spec.registry import KINDS, build, user_code
from distilnb.spec.step import Step
from distilnb.spec.trust import digest_in, find_named_secrets, find_secret, make_live, needs_of, source_in
from distilnb.version import __version__

FORMAT = 1
MAX_INLINE_BYTES = 256 * 1024  # rows in the program itself: more than that is a data file, not a recipe

Classes = Mapping[str, type[Spec]] | Iterable[type[Spec]]

_TOP_KEYS = ("distilnb", "pipeline", "classes", "history")
_PIPELINE_KEYS = ("name", "description", "llm", "steps", "connections")
_CODE_KEYS = frozenset({"code", "source", "digest"})


@dataclass(frozen=True)
class PipelineFile:
    """What a file says: name, description, graph, default model, and the versions of its prompts."""

    name: str
    graph: Graph = field(default_factory=Graph)
    description: str = ""
    llm: Spec | None = None
    history: Mapping[str, Any] = field(default_factory=dict)


# --- writing ------------------------------------------------------------------


def save(path: str | Path, file: PipelineFile) -> None:
    """Write a pipeline to a file: YAML, or JSON where the name ends in .json; whole or not at all."""
    path = Path(path)
    write_text(path, to_text(file, format="json" if path.suffix == ".json" else "yaml"))


def to_text(file: PipelineFile, format: Literal["yaml", "json"] = "yaml", *, quickly: bool = False) -> str:
    """Return a pipeline as text. Equal pipelines have equal text. `quickly` is for text that few people read.

    Raises UnsafeFileError when the text would hold a secret, by its look or by the name of its field.
    """
    document = _document(file)
    text = _dump_json(document) if format == "json" else dump_yaml(document, quickly=quickly)
    refuse_secrets(file, text)
    return text


def refuse_secrets(file: PipelineFile, text: str) -> None:
    """Raise UnsafeFileError when the text of a file holds a secret, by its look or by the name of its field."""
    _refuse_named_secrets(file)
    if secret := find_secret(text):
        raise UnsafeFileError(
            f"The file of pipeline {file.name!r} would hold {secret}.",
            "Take it out of prompts, rows and functions; read it from the environment where it is used.",
        )


def _refuse_named_secrets(file: PipelineFile) -> None:
    data = {step.name: step.dump() for step in file.graph.steps.values()}  # as a spec dumps: without the rows
    for place in find_named_secrets({**data, **({"llm": file.llm.dump()} if file.llm else {})}):
        raise UnsafeFileError(
            f"The file of pipeline {file.name!r} would hold the text of {place!r}, whose name is that of a secret.",
            "Leave it out and give it from the environment: most libraries read a variable of their own, such as "
            "HF_TOKEN, AWS_SECRET_ACCESS_KEY or OPENAI_API_KEY.",
        )


def to_record(file: PipelineFile) -> str:
    """Return a pipeline as the text that a run keeps: YAML, or JSON where YAML cannot hold half of a character."""
    try:
        return to_text(file, quickly=True)
    except UnsafeFileError:
        raise
    except SpecError:
        return to_text(file, format="json")


def _dump_json(document: dict[str, Any]) -> str:
    text = json.dumps(document, ensure_ascii=False, indent=2) + "\n"
    # Halves of surrogate pairs, which no UTF-8 file holds, are escaped.
    return "".join(f"\\u{ord(c):04x}" if "\ud800" <= c <= "\udfff" else c for c in text)


def _document(file: PipelineFile) -> dict[str, Any]:
    pipeline: dict[str, Any] = {"name": file.name}
    if file.description:
        pipeline["description"] = file.description
    if file.llm is not None:
        pipeline["llm"] = _write_spec(file.llm)
    pipeline["steps"] = [_write_spec(step) for step in file.graph.steps.values()]
    pipeline["connections"] = [OneLine(edge) for edge in file.graph.edges]
    document: dict[str, Any] = {"distilnb": {"version": __version__, "format": FORMAT}, "pipeline": pipeline}
    if classes := _write_classes(file):
        document["classes"] = classes
    if file.history:
        document["history"] = _plain(dict(file.history))
    return document


def _write_spec(spec: Spec) -> dict[str, Any]:
    inlines: dict[str, Inline] = {}
    codes: dict[str, Code] = {}
    _collect(spec, inlines, codes)
    written: dict[str, Any] = _write_value(spec.dump(), inlines, codes)
    return written


def _collect(value: object, inlines: dict[str, Inline], codes: dict[str, Code]) -> None:
    if isinstance(value, Inline):
        inlines[value.digest] = value
    elif isinstance(value, Code):
        codes[value.digest] = value
    else:
        for item in _parts(value):
            _collect(item, inlines, codes)


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, Spec):
        yield from (getattr(value, name) for name in type(value).model_fields)
    elif isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple)):
        yield from value


def _write_value(value: Any, inlines: Mapping[str, Inline], codes: Mapping[str, Code]) -> Any:
    if isinstance(value, list):
        return [_write_value(item, inlines, codes) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"inline", "n_rows"} and value["inline"] in inlines:
        return _write_rows(inlines[value["inline"]])
    if value.keys() == _CODE_KEYS and value["digest"] in codes:
        return _write_code(codes[value["digest"]])
    return {key: _write_value(item, inlines, codes) for key, item in value.items()}


def _write_rows(inline: Inline) -> dict[str, Any]:
    written: list[Any] = []
    n_bytes = 2
    for row in inline.rows if inline.is_here else ():
        text = dump_json(row)
        n_bytes += len(text.encode("utf-8", "surrogatepass")) + 1
        if n_bytes > MAX_INLINE_BYTES:  # as early as that: there may be millions
            return inline.dump()
        written.append(json.loads(text))
    return {"rows": written} if len(written) == inline.n_rows else inline.dump()


def _write_code(code: Code) -> dict[str, Any]:
    needs = needs_of(code.live, code.source) if code.is_live and code.source else ""
    return {**code.dump(), **({"needs": needs} if needs else {})}


def _write_classes(file: PipelineFile) -> dict[str, Any]:
    """Describe the user's classes; one without readable source must be passed along to open the file."""
    written: dict[str, Any] = {}
    for spec in (*file.graph.steps.values(), *([file.llm] if file.llm else [])):
        for key, value in user_code(spec).items():
            if key.startswith("class:"):
                source = source_in(value)
                entry = {"source": source, "digest": digest_in(value), "needs": needs_of(value, source)}
                written[key.removeprefix("class:")] = {name: text for name, text in entry.items() if text}
    return dict(sorted(written.items()))


def _plain(value: Any) -> Any:
    return json.loads(dump_json(value))


# --- reading ------------------------------------------------------------------


def load(path: str | Path, *, trust_code: bool = False, classes: Classes | None = None) -> PipelineFile:
    """Read the file of a pipeline; see `from_text`. Raises SourceNotFoundError when it is not there."""
    return from_text(read_text(path), trust_code=trust_code, classes=classes)


def read_text(path: str | Path) -> str:
    """Return the text of a pipeline file. Raises SourceNotFoundError when it is not there, SpecError for no text."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise SourceNotFoundError(
            f"The pipeline file {str(path)!r} cannot be read: {error.strerror or error}.", "Check the path."
        ) from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{str(path)!r} is no text file in UTF-8.", "Is it a pipeline file?") from error


def from_text(text: str, *, trust_code: bool = False, classes: Classes | None = None) -> PipelineFile:
    """Build a pipeline from its text, YAML or JSON.

    Only classes of the library and `classes` are built, and no module that the text names is imported. With
    `trust_code=True` functions and classes in the text are run and become live (see them first: `code_in`);
    without it functions stay dead, and a class that is not in `classes` is refused.

    Raises UnsafeFileError, or SpecError and its kinds for a text that is no such file.
    """
    pipeline, document = _read_document(text)
    known = _known_classes(document, classes, trust_code)
    codes = _live_codes(pipeline) if trust_code else {}
    with drafting(None):  # a file opened inside an open `with` block adds nothing to it
        graph = _read_graph(pipeline, known, codes)
        llm = build(_read_value(pipeline["llm"]), classes=known, codes=codes) if pipeline.get("llm") else None
    return PipelineFile(
        name=str(pipeline.get("name") or "pipeline"),
        graph=graph,
        description=str(pipeline.get("description") or ""),
        llm=llm,
        history=document.get("history") or {},
    )


def code_in(text: str) -> list[str]:
    """Return the source of every function and class that a file would run if it were trusted."""
    pipeline, document = _read_document(text)
    entries = [*(document.get("classes") or {}).values(), *_code_entries(pipeline)]
    # Each runs on its own: a comment that ends the one must not seem to hide the other.
    parts = [[str(entry.get(key) or "") for key in ("needs", "source")] for entry in entries]
    whole = [
        f"{needs}\n{source}" if needs[-1:] not in ("", "\n") else needs + source for needs, source in parts
    ]
    return [source for source in dict.fromkeys(whole) if source]


def classes_in(text: str) -> list[str]:
    """Return the names of the classes that a file carries."""
    return [str(kind) for kind in _read_document(text)[1].get("classes") or {}]


def read_data(text: str) -> dict[str, Any]:
    """Return the `pipeline` part of a file as plain data, checked in its outline; nothing is built."""
    return _read_document(text)[0]


def _read_document(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    document = _parse(text)
    _check_mapping(document, "The file", _TOP_KEYS)
    head, pipeline = document.get("distilnb"), document.get("pipeline")
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        found = head.get("format") if isinstance(head, dict) else None
        raise SpecError(
            f"The file is of format {found!r}; distilnb {__version__} reads format {FORMAT}.",
            "It begins with `distilnb: {format: 1}`; a newer file needs a newer distilnb.",
        )
    _check_mapping(pipeline, "`pipeline`", _PIPELINE_KEYS)
    assert isinstance(pipeline, dict)
    _check_outline(pipeline, document)
    return pipeline, document


def _parse(text: str) -> Any:
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError:
            pass  # YAML may begin with a brace too
        except RecursionError as error:
            raise UnsafeFileError("The file is nested too deeply.") from error
    return load_yaml(text)


def _check_mapping(value: object, what: str, keys: tuple[str, ...]) -> None:
    if not isinstance(value, dict):
        raise SpecError(
            f"{what} holds no mapping with the keys {list(keys)}.", "Is it a pipeline file of distilnb?"
        )
    if "distilabel" in value:
        raise SpecError(
            "This is a pipeline file of distilabel, not of distilnb.",
            "Write its steps with distilnb; it cannot be imported yet.",
        )
    for key in value:
        if key not in keys:
            raise UnsafeFileError(
                f"{what} holds the unknown key {key!r}; known are {list(keys)}.", did_you_mean(str(key), keys)
            )


def _check_outline(pipeline: dict[str, Any], document: dict[str, Any]) -> None:
    steps, connections = pipeline.get("steps") or [], pipeline.get("connections") or []
    if not isinstance(steps, list) or not all(isinstance(step, dict) and step.get("kind") for step in steps):
        raise SpecError(
            "`steps` must be a list of mappings, each with a `kind`.", "- {kind: KeepColumns, name: keep}"
        )
    is_list = isinstance(connections, list)
    if not is_list or not all(isinstance(edge, list) and len(edge) == 2 for edge in connections):
        raise SpecError("`connections` must be a list of pairs of step names.", "- [load, keep]")
    for key in ("classes", "history"):
        if not isinstance(document.get(key) or {}, dict):
            raise SpecError(f"`{key}` must be a mapping.")
    entries = (document.get("classes") or {}).values()
    if not all(isinstance(entry, dict) for entry in entries):
        raise SpecError("Each of `classes` must be a mapping.", "MyStep: {source: ..., digest: ...}")


def _known_classes(
    document: dict[str, Any], given: Classes | None, trust_code: bool
) -> dict[str, type[Spec]]:
    known = dict(given) if isinstance(given, Mapping) else {cls.kind(): cls for cls in given or ()}
    for kind, entry in (document.get("classes") or {}).items():
        if kind in known or kind in KINDS:  # the file cannot put its own class in the place of a known one
            continue
        if not trust_code:
            raise UnsafeFileError(
                f"The file holds a class of its own, {kind!r}, which is not run untrusted.",
                f"Pass your own: classes=[{kind}]; or read code_in(text), then open with trust_code=True.",
            )
        source, needs, digest = (str(entry.get(key) or "") for key in ("source", "needs", "digest"))
        made = make_live(str(kind), source, needs, digest)
        if not (isinstance(made, type) and issubclass(made, Spec)):
            raise SpecError(f"{kind!r} in the file is no class of steps, tasks or models.")
        known[str(kind)] = made
    return known


def _live_codes(pipeline: dict[str, Any]) -> dict[str, object]:
    return {
        str(entry["digest"]): make_live(
            str(entry["code"]), str(entry["source"]), str(entry.get("needs") or "")
        )
        for entry in _code_entries(pipeline)
    }


def _code_entries(value: object) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if _is_code(value):
            yield value
        elif not _is_rows(value):
            for item in value.values():
                yield from _code_entries(item)
    elif isinstance(value, list):
        for item in value:
            yield from _code_entries(item)


def _is_code(value: Mapping[str, Any]) -> bool:
    return value.keys() - {"needs"} == _CODE_KEYS


def _is_rows(value: Mapping[str, Any]) -> bool:
    rows = value.get("rows")
    return value.keys() == {"rows"} and isinstance(rows, list) and all(isinstance(row, dict) for row in rows)


def _read_graph(pipeline: dict[str, Any], classes: dict[str, type[Spec]], codes: dict[str, object]) -> Graph:
    steps: dict[str, Step] = {}
    for data in pipeline.get("steps") or []:
        step = build(_read_value(data), classes=classes, codes=codes)
        if not isinstance(step, Step):
            raise SpecError(f"{data['kind']!r} is no step.", "A model is the `llm` of a step.")
        if not step.name:
            raise SpecError(f"A step of kind {data['kind']!r} has no name.", "Give it one: name: ...")
        if step.name in steps:
            raise DuplicateStepError(f"Two steps are named {step.name!r}.", "Give one of them another name.")
        steps[step.name] = step
    edges = [(str(before), str(after)) for before, after in pipeline.get("connections") or []]
    return Graph(steps, tuple(dict.fromkeys(edges)))


def _read_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_read_value(item) for item in value]
    if not isinstance(value, dict):
        return value
    if _is_rows(value):
        return _read_rows(value["rows"])
    if _is_code(value):
        return {key: value[key] for key in ("code", "source", "digest")}
    return {str(key): _read_value(item) for key, item in value.items()}


def _read_rows(rows: list[Any]) -> Inline:
    try:
        return Inline.of(load_json(json.dumps(rows)))  # bytes and dates are tagged
    except InputError as error:
        raise SpecError(f"The rows in the file cannot be used: {error.what}", error.fix) from error
