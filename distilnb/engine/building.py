"""Steps on their way to a worker: dumped with their code by the kernel, built again in a fresh interpreter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from distilnb.errors import DuplicateStepError, StoreError
from distilnb.rows import write_text
from distilnb.spec.base import Spec
from distilnb.spec.code import pack_code, unpack_code
from distilnb.spec.graph import Graph
from distilnb.spec.parameters import changed, split_path
from distilnb.spec.registry import build, load_kind, user_code
from distilnb.spec.step import Step


def write_steps(folder: Path, graph: Graph) -> None:
    """Write the steps of a graph and the user's code that they need. Secrets are not written."""
    write_text(
        folder / "steps.json", json.dumps([step.dump() for step in graph.steps.values()], ensure_ascii=False)
    )
    code: dict[str, object] = {}
    for step in graph.steps.values():
        code.update(user_code(step))
    if code:
        path = folder / "code.pkl"
        try:
            path.write_bytes(pack_code(code))
        except OSError as error:
            raise StoreError(
                f"The file {str(path)!r} cannot be written: {error}.",
                "Free some disk space, or set DISTILNB_HOME to a folder that can be written.",
            ) from error


def read_steps(folder: Path, names: Iterable[str], secrets: Mapping[str, str]) -> dict[str, Step]:
    """Build steps again in a worker. This runs the user's code: only a worker of the run may call it."""
    code = unpack_code((folder / "code.pkl").read_bytes()) if (folder / "code.pkl").is_file() else {}
    return _build_steps(folder, set(names), code, secrets)


def read_plain_steps(folder: Path, names: Iterable[str]) -> dict[str, Step]:
    """Build those steps that hold no code of the user, for a reader; the others are left out."""
    return _build_steps(folder, set(names), {}, {}, plain_only=True)


def _build_steps(
    folder: Path,
    names: set[str],
    code: Mapping[str, Any],
    secrets: Mapping[str, str],
    *,
    plain_only: bool = False,
) -> dict[str, Step]:
    classes = {kind.removeprefix("class:"): cls for kind, cls in code.items() if kind.startswith("class:")}
    dumps = json.loads((folder / "steps.json").read_text(encoding="utf-8"))
    placed = _place(secrets, dumps, classes)
    steps: dict[str, Step] = {}
    for data in dumps:
        if data.get("name") not in names or (plain_only and _holds_code(data)):
            continue
        step = build(data, classes=classes, codes=code)
        if isinstance(step, Step):
            for keys, secret in placed.get(step.name, ()):
                change: Any = secret
                for key in reversed(keys):
                    change = {key: change}
                step = changed(step, change, step.name)
            steps[step.name] = step
    return steps


def _holds_code(data: Any) -> bool:
    from distilnb.spec.registry import KINDS

    if isinstance(data, dict):
        if "kind" in data and data["kind"] not in KINDS:
            return True
        return data.keys() == {"code", "source", "digest"} or any(
            _holds_code(value) for value in data.values()
        )
    return isinstance(data, list) and any(_holds_code(value) for value in data)


# --- secrets: never written, they travel by a pipe ------------------------------


def literal_secrets(graph: Graph) -> dict[str, str]:
    """Return the secrets given literally, by the dotted path of their field (the step's name may hold dots)."""
    found: dict[str, str] = {}
    for name, step in graph.steps.items():
        _collect_secrets(step, name, found)
    return found


def _collect_secrets(value: object, path: str, found: dict[str, str]) -> None:
    if isinstance(value, SecretStr):
        if path in found:
            raise DuplicateStepError(
                f"Two keys have the one place {path!r}.", "Give one of the steps a name without a dot."
            )
        found[path] = value.get_secret_value()
    elif isinstance(value, Spec):
        for field in type(value).model_fields:
            _collect_secrets(getattr(value, field), f"{path}.{field}", found)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            _collect_secrets(item, f"{path}.{index}", found)


def _place(
    secrets: Mapping[str, str], dumps: Iterable[Mapping[str, Any]], classes: Mapping[str, type[Spec]]
) -> dict[str, list[tuple[list[str], str]]]:
    """Return the secrets of each step with the keys that lead to their field.

    Names may hold dots, so a place is found among all steps of the run; a worker builds only its own.
    """
    placed: dict[str, list[tuple[list[str], str]]] = {}
    if not secrets:
        return placed
    keys_of = {data.get("name", ""): load_kind(data["kind"], classes).model_fields for data in dumps}
    for path, secret in secrets.items():
        name, keys = split_path(path, keys_of)
        placed.setdefault(name, []).append((keys, secret))
    return placed
