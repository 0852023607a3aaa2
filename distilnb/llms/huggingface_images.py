"""Hugging Face: models that draw, of its inference service or an endpoint of one's own."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from distilnb.errors import MalformedReplyError, StepRowError
from distilnb.llms.failures import Target, quote
from distilnb.llms.huggingface import InferenceEndpointsLLM
from distilnb.llms.images import image_of
from distilnb.llms.parameters import Wire, names, on_the_wire
from distilnb.llms.request import Answer, Client, Reply, Request


class InferenceEndpointsImageGeneration(InferenceEndpointsLLM):
    """A model at Hugging Face that draws (HF_TOKEN); where it is, is said as of InferenceEndpointsLLM.

    >>> InferenceEndpointsImageGeneration(model_id="black-forest-labs/FLUX.1-schnell").label
    'huggingface:black-forest-labs/FLUX.1-schnell'
    """

    url: ClassVar[str] = "https://router.huggingface.co/hf-inference"
    makes: ClassVar[Literal["text", "vector", "image"]] = "image"
    max_n: ClassVar[int | None] = 1
    takes_images: ClassVar[frozenset[str]] = frozenset()
    parameters: ClassVar[Mapping[str, Wire]] = names(
        width="parameters.width",
        height="parameters.height",
        negative_prompt="parameters.negative_prompt",
        guidance_scale="parameters.guidance_scale",
        num_inference_steps="parameters.num_inference_steps",
        seed="parameters.seed",
    )

    max_concurrency: int = Field(default=8, ge=1)
    timeout: float = Field(default=300.0, gt=0)

    @property
    def tells_tokens(self) -> bool:
        """Whether usage comes with the image, which it never does: the answer is the file."""
        return False

    @property
    def endpoint(self) -> str:
        """The address that the model's name, or nothing, follows: an endpoint has one model."""
        return self.server.removesuffix("/v1")

    def make_client(self) -> Client:
        """Return a client; that of an endpoint looks its address up before the first request."""
        if self.endpoint_name and not self.base_url:
            return super().make_client()
        if (spread := self.spread()) is not None:
            return spread
        from distilnb.llms.transport import HttpClient, SdkClient

        path = f"/models/{self.model}" if self.names_model else ""
        connection = self.connection(path, self._body_of, read_picture)
        return SdkClient(connection) if self.transport == "sdk" else HttpClient(connection)

    @property
    def names_model(self) -> bool:
        """Whether the address holds the model's name: that of an endpoint does not."""
        return not self.endpoint_name and "/" in self.model

    def _body_of(self, request: Request) -> dict[str, Any]:
        given = dict(self.generation_kwargs)
        extra = given.pop("extra", {})
        if isinstance(given.get("seed"), int):
            given["seed"] += request.first
        prompt = str(request.messages[-1]["content"])
        return {"inputs": prompt, **on_the_wire(given, self.parameters), **extra}


def read_picture(raw: bytes, target: Target, request_id: str = "") -> Answer:
    """Return the image that the body of a good response is; raises MalformedReplyError where it is none."""
    try:
        image_of(raw, "image")
    except StepRowError as error:
        raise MalformedReplyError(
            f"{target} sent no image: {quote(raw[:300].decode('utf-8', 'replace'), target)!r}",
            "The model may draw nothing: choose one for text-to-image.",
            provider=target.provider,
            request_id=request_id,
        ) from error
    return Answer((Reply(base64.b64encode(raw).decode("ascii"), "stop", target.model),), request_id)
