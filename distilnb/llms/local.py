"""What all models have in common that run on this machine, in a process of their own (docs/architecture/hosts.md)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from distilnb.errors import MissingPackageError, SpecError, UnsupportedParameterError
from distilnb.llms.base import GENERATION_PARAMETERS, LLM
from distilnb.llms.keys import Found, find_key, forget_keys
from distilnb.llms.parameters import unify_parameters
from distilnb.llms.request import Client
from distilnb.llms.shape import ReplyShape, ShapeKind
from distilnb.llms.structured import plain_output, shape_of
from distilnb.llms.weights import check_path, content_digest, full_path, is_path, size_bytes
from distilnb.spec.base import dump_value

if TYPE_CHECKING:
    from distilnb.llms.hosts.starting import HostSpec

# Arguments of the libraries may name classes to import.
_RUN_CODE = ("trust_remote_code", "model_kwargs", "extra_kwargs", "mlx_model_config", "tokenizer_config")

_PATHS_BESIDE = ("tokenizer", "adapter_path")  # the fields that may name files beside the model's own

GRAMMAR = "grammar"  # the way in which engines force a shape: tokens that would leave it are not chosen


class LocalLLM(LLM):
    """A model in a process of its own, its host, which all previews, runs and tasks on this machine share.

    The host is started by the first request and leaves `keep_alive` seconds after the last one, or on
    `dn.unload()`. `gpus` says where it loads the model: how many GPUs (0: none), or which by their numbers; None
    leaves the choice: those with the most free memory, the CPU where there is none. `timeout` counts from when the
    model is loaded. `structured_output` holds every reply to a shape: {"format": "json" or "regex", "schema": …}.
    A reply without `max_new_tokens` ends after 1024.
    """

    is_local: ClassVar[bool] = True
    token_variable: ClassVar[str] = "HF_TOKEN"  # the Hub's, for models that it does not give to everybody
    engine: ClassVar[str] = ""  # "module:Class" of what the host loads the model with
    package: ClassVar[str] = ""  # that the engine imports
    extra_name: ClassVar[str] = ""  # of distilnb, that installs it
    refused: ClassVar[frozenset[str]] = frozenset()  # of the unified parameters: what the engine lacks
    own_parameters: ClassVar[frozenset[str]] = frozenset()  # beside the unified ones
    engine_fields: ClassVar[
        tuple[str, ...]
    ] = ()  # the fields that make another host: what is loaded, and how
    reply_fields: ClassVar[
        tuple[str, ...]
    ] = ()  # of these, the ones on which replies depend, beside the model
    other_names: ClassVar[Mapping[str, str]] = {
        "token": "api_key"
    }  # of fields, as pipelines of 1.x have them
    forces: ClassVar[Mapping[ShapeKind, tuple[str, ...]]] = {
        "json": (GRAMMAR,),
        "regex": (GRAMMAR,),
        "choice": (GRAMMAR,),
    }
    not_in_digest: ClassVar[frozenset[str]] = LLM.not_in_digest | {"keep_alive"}

    timeout: float = Field(default=600.0, gt=0)
    keep_alive: float = Field(default=300.0, ge=0)  # seconds
    gpus: int | list[int] | None = None
    structured_output: dict[str, Any] | None = None

    def __init__(self, **values: Any) -> None:
        for theirs, ours in self.other_names.items():
            if theirs in values:
                values.setdefault(ours, values.pop(theirs))
        if isinstance(values.get("generation_kwargs"), Mapping):
            known = GENERATION_PARAMETERS | self.own_parameters
            values["generation_kwargs"] = unify_parameters(
                type(self).__name__, values["generation_kwargs"], known
            )
        if "structured_output" in values:
            values["structured_output"] = plain_output(values["structured_output"])
        super().__init__(**values)
        for name in ("model_kwargs", "extra_kwargs"):
            if "trust_remote_code" in (getattr(self, name, None) or {}):
                raise SpecError(f"{name} holds trust_remote_code.", "Give it as trust_remote_code=.")

    @property
    def label(self) -> str:
        """The short name in tables: the library, and the model without its folder."""
        return f"{self.provider}:{Path(self.model).name if is_path(self.model) else self.model}"

    @property
    def reply_shape(self) -> ReplyShape | None:
        """The shape that `structured_output` asks of every reply."""
        return shape_of(self.structured_output) if self.structured_output else None

    def key(self) -> str:
        """Return the Hub's token, "" when there is none; models on this disk and public ones need none."""
        if self.api_key is not None:
            return self.api_key.get_secret_value().strip()
        return super().key()

    @classmethod
    def find_own_key(cls) -> tuple[str, Found] | None:
        """Return where the Hub's token is found, with the name of its variable."""
        found = find_key(cls.token_variable) if cls.token_variable else None
        return (cls.token_variable, found) if found else None

    def check(self) -> None:
        """Raise what would keep the model from loading: no package, no file, a parameter that the engine lacks."""
        forget_keys()
        if find_spec(self.package) is None:
            raise MissingPackageError(
                f"{type(self).__name__} needs the package {self.package!r}, which is not installed.",
                f"pip install 'distilnb[{self.extra_name}]'",
            )
        for path in self.paths():
            check_path(path, self.provider)
        self.check_parameters()

    def check_parameters(self) -> None:
        """Raise UnsupportedParameterError for a generation parameter that the engine lacks."""
        for name in sorted(self.refused & self.generation_kwargs.keys()):
            raise UnsupportedParameterError(
                f"{type(self).__name__} has no parameter {name!r}.",
                f"Leave it out; it knows {sorted(GENERATION_PARAMETERS - self.refused | self.own_parameters)}.",
                provider=self.provider,
            )

    def paths(self) -> list[str]:
        """Return the files and folders of this machine that the model is read from."""
        named = [self.model, *(getattr(self, name, None) for name in _PATHS_BESIDE)]
        return [name for name in named if name and is_path(name)]

    def code_fields(self) -> list[str]:
        """Return the names of those fields that make the library import code, or may: files cannot set them."""
        return [name for name in _RUN_CODE if getattr(self, name, None)]

    def identity(self) -> dict[str, Any]:
        """Return what the replies depend on: the content of the model's files, wherever they lie, or its name."""
        settings = self.engine_settings()
        of_model = settings.get("files") or self.model
        chosen = {name: settings[name] for name in self.reply_fields if settings.get(name) is not None}
        files_of = settings.get("files_of", {})
        chosen |= {name: files_of[name] for name in chosen if name in files_of}
        parameters = dump_value(self.generation_kwargs)
        if self.structured_output is not None:
            parameters["structured_output"] = dump_value(self.structured_output)
        return {"provider": self.provider, "model": of_model, **chosen, "parameters": parameters}

    def engine_settings(self) -> dict[str, Any]:
        """Return what the host loads, as JSON-ready data: equal settings share a host."""
        settings = {name: dump_value(getattr(self, name)) for name in self.engine_fields}
        settings |= {"model": self.model, "gpus": self.gpus}
        if is_path(self.model):
            path = full_path(self.model)
            settings |= {
                "model": path,
                "files": content_digest(path),
                "size_bytes": size_bytes(path),
            }
        named = {name: settings.get(name) for name in _PATHS_BESIDE}
        beside = {name: path for name, path in named.items() if path and is_path(path)}
        if beside:
            paths = {name: full_path(path) for name, path in beside.items()}
            # A host that has loaded what lay there before is another one.
            settings |= {**paths, "files_of": {name: content_digest(path) for name, path in paths.items()}}
        return settings

    def host(self) -> HostSpec:
        """Return what the model's host is started with."""
        from distilnb.llms.hosts.starting import HostSpec

        key = self.key()
        return HostSpec(
            self.engine, self.label, self.engine_settings(), {self.token_variable: key} if key else {}
        )

    def make_client(self) -> Client:
        """Return a client of the model's host, which is started by the first request."""
        from distilnb.llms.hosts.client import HostClient

        client = HostClient(
            self.host(),
            provider=self.provider,
            model=self.label.partition(":")[2],
            parameters=dump_value(self.generation_kwargs),
            timeout_s=self.timeout,
            keep_alive_s=self.keep_alive,
        )
        if not self.pre_query_template:
            return client
        from distilnb.llms.magpie import MagpieClient

        return MagpieClient(client, client)
