"""From a name ("openai:gpt-4o-mini", "ollama:llama3.2", "rehearsal") to a model; and which are there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

from pydantic import SecretStr

from distilnb.errors import MissingKeyError, UnknownKindError, did_you_mean
from distilnb.llms.base import GENERATION_PARAMETERS, LLM
from distilnb.llms.openai import LOCAL_SERVERS, OpenAILLM
from distilnb.llms.parameters import OTHER_NAMES, unknown_parameter
from distilnb.spec.registry import EMBEDDINGS, IMAGE_MODELS, LLMS, build, load_kind

# Provider → the name of its class in the registry. A provider is called as its module; local servers speak
# OpenAI's protocol.
PROVIDERS: Mapping[str, str] = {
    **{path.partition(":")[0].rpartition(".")[2]: kind for kind, path in LLMS.items()},
    **dict.fromkeys(LOCAL_SERVERS, "OpenAILLM"),
}

# The same for models that make vectors; those on this machine are called as their library.
EMBEDDING_PROVIDERS: Mapping[str, str] = {
    **{
        path.partition(":")[0].rpartition(".")[2].removesuffix("_embeddings").replace("_", "-"): kind
        for kind, path in EMBEDDINGS.items()
    },
    "vllm_engine": "vLLMEmbeddings",
    **dict.fromkeys(LOCAL_SERVERS, "OpenAIEmbeddings"),
}

# And for those that draw.
IMAGE_PROVIDERS: Mapping[str, str] = {
    path.partition(":")[0].rpartition(".")[2].removesuffix("_images"): kind
    for kind, path in IMAGE_MODELS.items()
}

# The model that is proposed where a key is set and nothing else is known.
_PROPOSED: Mapping[type[LLM], str] = {OpenAILLM: "openai:gpt-4o-mini"}
_CONNECT_TIMEOUT_S = 0.2
_ANSWER_TIMEOUT_S = 1.0
_MAX_ANSWER_BYTES = 1_000_000


def llm(
    name: str,
    *,
    base_url: str | None = None,
    api_key: str | SecretStr | None = None,
    max_concurrency: int | None = None,
    rpm: int | None = None,
    tpm: int | None = None,
    **generation: Any,
) -> LLM:
    """Return the model of that name: "provider:model", or "rehearsal".

    Other keywords are generation parameters (`temperature=0.7`) or fields of the model's class
    (`timeout=30`).

    Raises UnknownKindError for a provider that is not known, UnknownParameterError with the near match for a
    keyword that is neither.

    `base_urls=` in place of `base_url=` spreads requests over several servers that hold the same model.

    >>> llm("openai:gpt-4o-mini", temperature=0.7, rpm=500).generation_kwargs
    {'temperature': 0.7}
    """
    limits = {"max_concurrency": max_concurrency, "rpm": rpm, "tpm": tpm}
    return _model(PROVIDERS, name, {**limits, "base_url": base_url, "api_key": api_key}, generation)


def embeddings(name: str, **fields: Any) -> LLM:
    """Return the embedding model of that name: "provider:model", or "rehearsal"; `fields` are those of its class.

    Raises what `llm` raises.

    >>> embeddings("openai:text-embedding-3-small", dimensions=256).dimensions
    256
    """
    own: dict[str, Any] = {key: fields.pop(key) for key in ("base_url", "api_key") if key in fields}
    return _model(EMBEDDING_PROVIDERS, name, own, fields)


def _model(
    providers: Mapping[str, str], name: str, own: Mapping[str, Any], keywords: Mapping[str, Any]
) -> LLM:
    provider, model = _split(name, providers)
    cls = _class_of(provider, providers)
    fields = dict(own)
    if model:
        fields["model"] = model
    if isinstance(fields.get("api_key"), str):
        fields["api_key"] = SecretStr(fields["api_key"])
    if not keywords.get("base_urls"):
        fields["base_url"] = fields.get("base_url") or LOCAL_SERVERS.get(provider)
    given = {key: value for key, value in fields.items() if value is not None}
    return cls(**given, **_sort_keywords(cls, keywords))


def as_llm(value: object) -> LLM:
    """Return the model that a field or an argument stands for: a model, its name, or what `dump` made of one.

    Raises UnknownKindError for anything else.
    """
    if isinstance(value, LLM):
        return value
    if isinstance(value, str):
        return llm(value)
    if isinstance(value, Mapping) and "kind" in value:
        value = build(value)
        if isinstance(value, LLM):
            return value
    raise UnknownKindError(
        f"A value of type {type(value).__name__!r} stands where a model belongs.",
        "Give its name ('openai:gpt-4o-mini'), or a model (dn.llm(...), OpenAILLM(...)).",
    )


def as_embeddings(value: object) -> LLM:
    """Return the embedding model that a field or an argument stands for; raises UnknownKindError for anything else."""
    found = embeddings(value) if isinstance(value, str) else as_llm(value)
    if found.makes != "vector":
        raise UnknownKindError(
            f"{found.label} ({found.kind()}) writes {found.makes}, and no vectors.",
            "Give a model that makes vectors ('openai:text-embedding-3-small', SentenceTransformerEmbeddings(...)).",
        )
    return found


def as_image_model(value: object) -> LLM:
    """Return the model that draws and for which a field stands; raises UnknownKindError for anything else."""
    found = _model(IMAGE_PROVIDERS, value, {}, {}) if isinstance(value, str) else as_llm(value)
    if found.makes != "image":
        raise UnknownKindError(
            f"{found.label} ({found.kind()}) makes {found.makes}s, and no images.",
            "Give a model that draws ('openai:gpt-image-1', OpenAIImageGeneration(...)).",
        )
    return found


def _split(name: str, providers: Mapping[str, str]) -> tuple[str, str]:
    provider, colon, model = name.partition(":")
    provider = provider.strip().lower()
    model = model.strip()
    if provider == "rehearsal" or (provider in providers and model):
        return provider, model
    if provider in providers:
        raise UnknownKindError(f"{name!r} names a provider and no model.", f"Write '{provider}:MODEL'.")
    if not colon:
        raise UnknownKindError(
            f"{name!r} names no provider; there are {sorted(providers)}.",
            did_you_mean(provider, providers, f"Write 'provider:model', for instance 'openai:{name}'."),
        )
    raise UnknownKindError(
        f"There is no provider {provider!r}; there are {sorted(providers)}.",
        did_you_mean(
            provider,
            providers,
            f"If its server speaks OpenAI's protocol: llm('openai:{model}', base_url='https://…').",
        ),
    )


def _class_of(provider: str, providers: Mapping[str, str]) -> type[LLM]:
    cls = load_kind(providers[provider])
    assert issubclass(cls, LLM)
    return cls


def _sort_keywords(cls: type[LLM], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return keywords as fields of the class, generation parameters in their own dict."""
    fields: dict[str, Any] = {}
    generation: dict[str, Any] = {}
    for name, value in keywords.items():
        if name in cls.model_fields:
            fields[name] = value
        elif name in GENERATION_PARAMETERS or name in OTHER_NAMES:
            generation[name] = value
        else:
            own = {"base_url", "max_concurrency", "rpm", "tpm"}
            raise unknown_parameter(cls.kind(), name, GENERATION_PARAMETERS | cls.model_fields.keys() | own)
    if generation or "generation_kwargs" in fields:
        fields["generation_kwargs"] = {**fields.get("generation_kwargs", {}), **generation}
    return fields


# --- what is there ------------------------------------------------------------


class Found(NamedTuple):
    """A provider that can be used here, and how: `line` is what a command or a cell takes."""

    provider: str
    source: str  # the name of the variable that holds a key, or the address of the server
    models: tuple[str, ...]  # as the server lists them; empty where only a key was seen
    line: str


def found_models() -> list[Found]:
    """Return the providers whose key is set, and the local servers that answer.

    Nothing but 127.0.0.1 is asked, and no key is shown.
    """
    found = []
    for cls, proposed in _PROPOSED.items():
        with suppress(MissingKeyError):  # Colab holds it, and does not let this notebook read it
            if named := cls.find_own_key():
                found.append(Found(cls.provider, named[0], (), f"LLM={proposed}"))
    for name, (url, models) in list_local_models().items():
        if models:
            found.append(Found(name, url, models, f"LLM={name}:{models[0]}"))
    return found


class Served(NamedTuple):
    """A local server: its address, and the models that it lists; none where it does not answer."""

    url: str
    models: tuple[str, ...]


def list_local_models() -> dict[str, Served]:
    """Return what each local server offers, by its name; all are asked at once."""
    with ThreadPoolExecutor(len(LOCAL_SERVERS)) as pool:
        listed = list(pool.map(_list_models, LOCAL_SERVERS.values()))
    return {
        name: Served(url, models) for (name, url), models in zip(LOCAL_SERVERS.items(), listed, strict=True)
    }


def proposed_model(cls: type[LLM]) -> str:
    """Return the model that is proposed for a class where nothing else is known; "" when there is none."""
    return _PROPOSED.get(cls, "")


def _list_models(url: str) -> tuple[str, ...]:
    """Return the names of the models that a server on this machine offers; none when it does not answer."""
    import http.client
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=_CONNECT_TIMEOUT_S)
    try:
        connection.connect()
        connection.sock.settimeout(_ANSWER_TIMEOUT_S)
        connection.request("GET", f"{parts.path}/models")
        listed = json.loads(connection.getresponse().read(_MAX_ANSWER_BYTES))["data"]
        return tuple(str(model["id"]) for model in listed)
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return ()  # nothing listens there, or something else does
    finally:
        connection.close()
