"""OpenAI's image API, and every server that speaks it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from distilnb.errors import MalformedReplyError
from distilnb.llms.batches import BatchLimits
from distilnb.llms.failures import Target, quote
from distilnb.llms.openai import OpenAILLM
from distilnb.llms.parameters import Wire, names, on_the_wire
from distilnb.llms.request import Answer, Client, Reply, Request

_SENDS_BYTES = re.compile(r"gpt-image|chatgpt-image")


class OpenAIImageGeneration(OpenAILLM):
    """A model of OpenAI, or of any server that speaks OpenAI's protocol, that draws; `base_url` and keys as there.

    Its generation parameters are those of the images: `size`, `quality`, `style`, `background`, `output_format` …

    >>> OpenAIImageGeneration(model="gpt-image-1", generation_kwargs={"size": "1024x1024"}).label
    'openai:gpt-image-1'
    """

    makes: ClassVar[Literal["text", "vector", "image"]] = "image"
    max_n: ClassVar[int | None] = 1
    batch_limits: ClassVar[BatchLimits | None] = None
    takes_images: ClassVar[frozenset[str]] = frozenset()
    parameters: ClassVar[Mapping[str, Wire]] = names(
        size="size",
        quality="quality",
        style="style",
        background="background",
        output_format="output_format",
        output_compression="output_compression",
        moderation="moderation",
        response_format="response_format",
        user="user",
    )

    max_concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=300.0, gt=0)

    @property
    def tells_tokens(self) -> bool:
        """Whether usage comes with the image: that of DALL·E's models has none, and their price is one per image."""
        return not self.model.rpartition("/")[2].startswith("dall-e")

    def make_client(self) -> Client:
        """Return a client over the chosen transport."""
        if (spread := self.spread()) is not None:
            return spread
        from distilnb.llms.transport import HttpClient, SdkClient

        connection = self.connection("/images/generations", self._body_of, read_image)
        return SdkClient(connection) if self.transport == "sdk" else HttpClient(connection)

    def _body_of(self, request: Request) -> dict[str, Any]:
        given = dict(self.generation_kwargs)
        extra = given.pop("extra", {})
        # Newer models of OpenAI send bytes always, and refuse to be told so; all others send an address unless told.
        # A gateway names them with a prefix: openai/gpt-image-1.
        if not _SENDS_BYTES.match(self.model.rpartition("/")[2]):
            given.setdefault("response_format", "b64_json")
        prompt = str(request.messages[-1]["content"])
        return {"model": self.model, "prompt": prompt, **on_the_wire(given, self.parameters), **extra}


def read_image(raw: bytes, target: Target, request_id: str = "") -> Answer:
    """Return the image in the body of a good response; raises MalformedReplyError where it holds none."""
    try:
        data = json.loads(raw)
        drawn = data["data"][0]
        if not drawn.get("b64_json") and drawn.get("url"):
            raise _address_sent(target, request_id)
        base64.b64decode(drawn["b64_json"], validate=True)
        usage = data.get("usage") or {}
        tokens = (usage.get("input_tokens"), usage.get("output_tokens"))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise MalformedReplyError(
            f"{target} sent an answer that holds no image ({type(error).__name__}: {quote(str(error), target)}): "
            f"{quote(raw[:2000].decode('utf-8', 'replace'), target)!r}",
            "A proxy may stand between, or base_url= leads to a server with another protocol.",
            provider=target.provider,
            request_id=request_id,
        ) from error
    return Answer((Reply(drawn["b64_json"], "stop", target.model, *tokens),), request_id)


def _address_sent(target: Target, request_id: str) -> MalformedReplyError:
    error = MalformedReplyError(
        f"{target} sent an answer that holds no image, but the address of one.",
        "Ask for its bytes: generation_kwargs={'response_format': 'b64_json'}; or draw with a model that sends them.",
        provider=target.provider,
        request_id=request_id,
    )
    error.retryable = False  # each try is paid for, and the server does as it was told or as it always does
    return error
