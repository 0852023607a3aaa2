"""OpenAI's embeddings API, and every server that speaks it (vLLM, Ollama, llama.cpp, LM Studio, gateways)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import orjson
from pydantic import Field

from distilnb.errors import MalformedReplyError
from distilnb.llms.batches import BatchLimits
from distilnb.llms.failures import Target, quote
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.parameters import Wire, names
from distilnb.llms.request import Answer, Client, Reply, Request
from distilnb.vectors import pack_vector, unpack_vector

if TYPE_CHECKING:
    from distilnb.llms.calling import Caller
    from distilnb.llms.limits import Gate


class OpenAIEmbeddings(OpenAILLM):
    """An embedding model of OpenAI, or of any server that speaks OpenAI's protocol; `base_url` and keys as there.

    Texts of up to `batch_size` rows go out in one request; `max_concurrency` and `rpm` count requests. `dimensions`
    shortens the vectors of models that can; a reply of another length is the row's failure.

    >>> OpenAIEmbeddings(model="text-embedding-3-small", dimensions=256).label
    'openai:text-embedding-3-small'
    """

    makes: ClassVar[Literal["text", "vector", "image"]] = "vector"
    parameters: ClassVar[Mapping[str, Wire]] = names(user="user")
    batch_limits: ClassVar[BatchLimits | None] = None
    not_in_digest: ClassVar[frozenset[str]] = OpenAILLM.not_in_digest | {"batch_size"}

    dimensions: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=128, ge=1, le=2048)
    max_concurrency: int = Field(default=8, ge=1)

    @property
    def texts_per_request(self) -> int:
        """How many rows' texts share one request."""
        return self.batch_size

    def identity(self) -> dict[str, Any]:
        """Return what the vectors depend on."""
        return {**super().identity(), "dimensions": self.dimensions}

    def make_client(self) -> Client:
        """Return a client over the chosen transport."""
        if (spread := self.spread()) is not None:
            return spread
        from distilnb.llms.transport import HttpClient, SdkClient

        connection = self.connection("/embeddings", self._body_of, read_vectors)
        return SdkClient(connection) if self.transport == "sdk" else HttpClient(connection)

    def make_caller(self, gate: Gate) -> Caller:
        """Return what gathers texts into requests."""
        from distilnb.llms.gathering import GatheringCaller

        return GatheringCaller(
            self.make_client(), gate, max_retries=self.max_retries, texts_per_request=self.texts_per_request
        )

    def _body_of(self, request: Request) -> dict[str, Any]:
        given = dict(self.generation_kwargs)
        extra = given.pop("extra", {})
        shortened = {} if self.dimensions is None else {"dimensions": self.dimensions}
        texts = [str(message["content"]) for message in request.messages]
        # As text a vector is a third as long. A server that does not know the field sends numbers.
        return {
            "model": self.model,
            "input": texts,
            "encoding_format": "base64",
            **shortened,
            **given,
            **extra,
        }


def read_vectors(raw: bytes, target: Target, request_id: str = "") -> Answer:
    """Return the vectors in the body of a good response, in the order of the texts.

    Raises MalformedReplyError when it is not what the protocol says.
    """
    try:
        data = _parse(raw)
        entries = data["data"]
        if sorted(entry["index"] for entry in entries) != list(range(len(entries))):
            raise ValueError("the vectors' indices are not 0, 1, 2 …")
        texts = [_text_of(entry["embedding"]) for entry in sorted(entries, key=lambda entry: entry["index"])]
        usage = data.get("usage") or {}
        tokens = usage.get("prompt_tokens", usage.get("total_tokens"))
        model = str(data.get("model") or target.model)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise MalformedReplyError(
            f"{target} sent an answer that holds no embeddings ({type(error).__name__}: "
            f"{quote(str(error), target)}): {quote(raw[:2000].decode('utf-8', 'replace'), target)!r}",
            "A proxy may stand between, or base_url= leads to a server with another protocol.",
            provider=target.provider,
            request_id=request_id,
        ) from error
    return Answer(vector_replies(texts, model, tokens), request_id)


def vector_replies(texts: Sequence[str], model: str, tokens: int | None) -> tuple[Reply, ...]:
    """Return a reply for each packed vector; the tokens of the request are shared out evenly."""
    from distilnb.llms.protocol import share_out

    shares = share_out(tokens, len(texts)) if texts else []
    return tuple(Reply(text, "stop", model, share, 0) for text, share in zip(texts, shares, strict=True))


def _parse(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except ValueError:  # NaN, which the standard library reads
        return json.loads(raw)


def _text_of(embedding: object) -> str:
    if isinstance(embedding, str):
        unpack_vector(embedding)
        return embedding
    if isinstance(embedding, list) and embedding:
        return pack_vector(embedding)
    raise TypeError(f"an embedding is a {type(embedding).__name__}")
