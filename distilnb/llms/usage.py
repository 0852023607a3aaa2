"""What requests take: the tokens that their provider has told, else about as many as their texts come to.

A guess is made where a server tells no usage, and is called one wherever it is shown. It is rather too high than too
low, so that a budget ends a run early and never late.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from distilnb.llms.groups import requests_for, requests_that_brought
from distilnb.llms.images import has_parts, images_in, shown
from distilnb.llms.magpie import n_sendings
from distilnb.llms.request import Message, Reply, Request
from distilnb.llms.tokens import text_tokens

if TYPE_CHECKING:
    from distilnb.llms.base import LLM
    from distilnb.llms.parts import Ask

TOKENS_OF_ROLES = 8  # what a chat adds to its texts


class Usage(NamedTuple):
    """What some requests of one model took. `n_guessed` of their replies came without a count of tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    n_requests: int = 0
    n_images: int = 0  # drawn
    n_guessed: int = 0

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens

    def plus(self, other: Usage) -> Usage:
        """Return what both took."""
        return Usage(*map(sum, zip(self, other, strict=True)))


def usage_of(llm: LLM, request: Request, replies: Sequence[Reply], n_requests: int = 0) -> Usage:
    """Return what replies of one model to one request took; `n_requests` where it is known how many brought them."""
    if not replies:
        return Usage()
    n_input = n_output = n_guessed = 0
    has_output = llm.makes != "vector"
    for reply in replies:
        if reply.input_tokens is None or (has_output and reply.output_tokens is None):
            n_guessed += 1
        n_input += reply.input_tokens or 0
        n_output += reply.output_tokens or 0
    n_requests = n_requests or requests_for(llm, request, len(replies))
    n_turns = n_sendings(request)
    if llm.makes == "image":  # nobody can tell the tokens of a picture by its bytes
        return Usage(n_input, n_output, n_requests, len(replies), n_guessed)
    if not n_guessed:
        return Usage(n_input, n_output, n_requests * n_turns)
    guesses = [text_tokens(r.text or "") for r in replies if r.output_tokens is None and llm.makes == "text"]
    if all(reply.input_tokens is None for reply in replies):
        if n_turns > 1:
            each = -(-sum(guesses) // (n_turns * len(replies)))
            n_input = conversation_tokens(llm, request, each)[0] * len(replies)
        else:
            n_input = prompt_tokens(llm, request) * n_requests
    return Usage(n_input, n_output + sum(guesses), n_requests * n_turns, 0, n_guessed)


def usages_of(replies: Iterable[Reply], brought_by: Iterable[Ask[LLM]]) -> list[tuple[LLM, Usage]]:
    """Return what the replies of each request took, and whose they are. A reply that was asked again stands twice."""
    groups: dict[tuple[int, int], list[tuple[Reply, Ask[LLM]]]] = {}
    for reply, ask in zip(replies, brought_by, strict=True):
        groups.setdefault((id(ask.llm), id(ask.request)), []).append((reply, ask))
    found = []
    for pairs in groups.values():
        llm, request = pairs[0][1].llm, pairs[0][1].request
        places = {id(ask): ask for _, ask in pairs}
        n_requests = requests_that_brought(places.values()) + len(pairs) - len(places)
        found.append((llm, usage_of(llm, request, [reply for reply, _ in pairs], n_requests)))
    return found


def prompt_tokens(llm: LLM, request: Request) -> int:
    """Return how many tokens the messages of a request come to at most, each time that it is sent."""
    tokens = sum(text_tokens(shown(message.get("content"))) for message in request.messages)
    return TOKENS_OF_ROLES + tokens + image_tokens(llm, request.messages)


def image_tokens(llm: LLM, messages: Sequence[Message]) -> int:
    """Return about how many tokens the images in messages are counted as, by the provider's own rule if it is known."""
    if not has_parts(messages):
        return 0
    return sum(llm.image_tokens(image) for image in images_in(messages))


def conversation_tokens(llm: LLM, request: Request, each: int) -> tuple[int, int]:
    """Return the tokens, in and out, of a conversation that the model writes itself, with so many for each message.

    Every message is a request of its own, and all that stand before it are sent with it.
    """
    n = n_sendings(request)
    before = prompt_tokens(llm, replace(request, messages=request.messages[:-1]))
    return n * before + each * n * (n - 1) // 2, each * n
