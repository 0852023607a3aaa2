"""What can be asked from here: installed providers, keys that are found, servers that answer, models by name."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from typing import Literal, NamedTuple

from distilnb.errors import MissingKeyError
from distilnb.llms import catalog
from distilnb.llms.base import LLM
from distilnb.llms.keys import forget_keys, how_to_give
from distilnb.llms.openai import HOW_TO_START, LOCAL_SERVERS
from distilnb.spec.registry import load_kind

State = Literal["ready", "no key", "not running", "not installed"]

_LISTED_AS = {"vertexai": "google"}
KEPT_S = 60  # for completion: how long what was found is believed
_NO_CHAT = re.compile(r"audio|embed|image|live|moderation|realtime|search|transcribe|tts|whisper|^ft:|-$")


class Offer(NamedTuple):
    """One provider, and whether it can be used here.

    `source` says where its key is from (`env:OPENAI_API_KEY`, never the key) or where its server is. `models` are
    those that the server lists; a remote provider is not asked. `fix` is what makes it ready.
    """

    provider: str
    state: State
    source: str
    models: tuple[str, ...]
    line: str  # what a cell takes
    fix: str = ""


def offers() -> list[Offer]:
    """Return every provider, those that are ready first.

    Only servers on this machine are asked, all at once and not for long.
    """
    forget_keys()
    served = catalog.list_local_models()
    found = [_offer(name, served) for name in catalog.PROVIDERS]
    return sorted(found, key=lambda offer: (_RANK[offer.state], offer.provider))


_RANK: dict[State, int] = {"ready": 0, "no key": 1, "not running": 2, "not installed": 3}


def _offer(name: str, served: Mapping[str, catalog.Served]) -> Offer:
    if name in served:
        url, models = served[name]
        if models:
            return Offer(name, "ready", url, models, _line(f"{name}:{models[0]}"))
        return Offer(name, "not running", url, (), _line(f"{name}:MODEL"), HOW_TO_START.get(name, ""))
    cls = load_kind(catalog.PROVIDERS[name])
    assert issubclass(cls, LLM)
    line = _line(catalog.proposed_model(cls) or (name if name == "rehearsal" else f"{name}:MODEL"))
    return _offer_of(cls, name, line)


def other_offers() -> list[Offer]:
    """Return every provider of models that make vectors, and of those that draw, the ready ones of each first.

    Servers on this machine are among `offers`.
    """
    kinds = (
        (
            "vectors",
            catalog.EMBEDDING_PROVIDERS,
            "openai:text-embedding-3-small",
            'p.embed("text", model="{}")',
        ),
        ("images", catalog.IMAGE_PROVIDERS, "openai:gpt-image-1", 'ImageGeneration(llm="{}")'),
    )
    offers = []
    for what, providers, openais, line in kinds:
        found = []
        for name in providers.keys() - LOCAL_SERVERS.keys():
            cls = load_kind(providers[name])
            assert issubclass(cls, LLM)
            model = {"openai": openais, "rehearsal": name}.get(name, f"{name}:MODEL")
            found.append(_offer_of(cls, f"{name} ({what})", line.format(model)))
        offers += sorted(found, key=lambda offer: (_RANK[offer.state], offer.provider))
    return offers


def _offer_of(cls: type[LLM], name: str, line: str) -> Offer:
    extra = str(getattr(cls, "extra_name", ""))
    if extra and not is_installed(extra):
        return Offer(name, "not installed", "", (), line, f"pip install 'distilnb[{extra}]'")
    if not cls.key_variable:
        return Offer(name, "ready", "", (), line)
    try:
        found = cls.find_own_key()
    except MissingKeyError as error:
        return Offer(name, "no key", "", (), line, error.fix)
    if found is None:
        return Offer(name, "no key", "", (), line, how_to_give(cls.key_variable))
    variable, key = found
    return Offer(name, "ready", f"{key.place}:{variable}", (), line)


def _line(name: str) -> str:
    return f"dn.llm({name!r})".replace("'", '"')


def is_installed(extra: str) -> bool:
    """Whether the packages of one of distilnb's extras are here; True where that cannot be told."""
    try:
        required = metadata.requires("distilnb") or []
    except metadata.PackageNotFoundError:  # run from its sources
        return True
    wanted = re.compile(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]")
    names = [re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in required if wanted.search(one)]
    return all(_has(name) for name in names)


def _has(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


# --- names, for completion ------------------------------------------------------


def model_names() -> list[str]:
    """Return what may stand as `provider:model`: with models where they are known, else up to the colon.

    What was found is believed for a minute.
    """
    return list(_names_at(int(time.monotonic() // KEPT_S)))


def forget_names() -> None:
    """Look anew at the next completion."""
    _names_at.cache_clear()


@lru_cache(maxsize=1)
def _names_at(minute: int) -> tuple[str, ...]:
    names = []
    for offer in offers():
        names.append(offer.provider if offer.provider == "rehearsal" else f"{offer.provider}:")
        if offer.state == "ready":
            models = offer.models or priced_models(offer.provider)
            names += [f"{offer.provider}:{model}" for model in models]
    return tuple(names)


@lru_cache(maxsize=32)
def priced_models(provider: str) -> tuple[str, ...]:
    """Return the chat models of a provider that the installed price list knows."""
    from genai_prices.data_snapshot import get_snapshot

    for known in get_snapshot().providers:
        if known.id == _LISTED_AS.get(provider, provider):
            return tuple(model.id for model in known.models if not _NO_CHAT.search(model.id))
    return ()
