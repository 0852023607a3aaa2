"""Letting a chat model write the user's part: the text of a conversation up to the user's turn, and no more.

A model that was aligned on conversations goes on with an instruction that somebody could have given it (Magpie, arXiv
2406.08464). Its reply to that it writes as to any chat. A request for a conversation ends in a message of the role
"magpie": its content names the template of the turns or is the text before the user's own, `n_messages` says how
many messages the model is to write, the user's first. The reply is the list of them as JSON.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distilnb.errors import MalformedReplyError, ModelError, RefusedRequestError
from distilnb.llms.failures import Target, quote
from distilnb.llms.request import Answer, Client, Message, Reply, Request
from distilnb.llms.tokens import text_tokens

MAGPIE = "magpie"  # the role of the message that asks for a conversation
RAW = "raw"  # that of a message whose text goes to the model as it is

_MAX_BEGUN = 1000  # conversations that failed in the middle and may be asked for again


class TurnTemplate(NamedTuple):
    """How a model's conversations are written: a whole turn, what stands before the user's text, what ends a turn.

    What begins the whole text is added where it is made into tokens.
    """

    turn: str
    pre_query: str
    stops: tuple[str, ...]


TEMPLATES: dict[str, TurnTemplate] = {
    "llama3": TurnTemplate(
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>user<|end_header_id|>\n\n",
        ("<|eot_id|>", "<|start_header_id|>", "<|end_of_text|>"),
    ),
    "qwen2": TurnTemplate(
        "<|im_start|>{role}\n{content}<|im_end|>\n",
        "<|im_start|>user\n",
        ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
    ),
}


def n_sendings(request: Request) -> int:
    """Return how many times a model is asked for one reply: more than once where it writes a conversation."""
    asked = request.messages[-1] if request.messages else {}
    return int(asked["n_messages"]) if asked.get("role") == MAGPIE else 1


def stops_of(template: str) -> tuple[str, ...]:
    """Return the texts that end the user's turn; none are known of a text of one's own."""
    return TEMPLATES[template].stops if template in TEMPLATES else ()


def text_before_user(template: str, messages: Sequence[Message]) -> str:
    r"""Return the text after which a model writes the user's next message.

    Raises RefusedRequestError for earlier messages where the template is only the text before the user's.

    >>> text_before_user("qwen2", [{"role": "system", "content": "Be kind."}])
    '<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\n'
    """
    known = TEMPLATES.get(template)
    if known is None:
        if messages:
            raise RefusedRequestError(
                "A pre-query template of one's own has no form for the messages before it.",
                f"Leave system prompts and further turns out, or use one of {sorted(TEMPLATES)}.",
            )
        return template
    before = "".join(known.turn.format(role=one["role"], content=one["content"]) for one in messages)
    return before + known.pre_query


@dataclass
class _Conversation:
    """What a model has written so far, and what that took."""

    request: Request
    messages: list[Message] = field(default_factory=list)
    model: str = ""
    is_cut: bool = False
    tokens: list[tuple[int | None, int | None]] = field(default_factory=list)

    def paid(self) -> tuple[int, int, int, int]:
        """Return the tokens, in and out, and the requests of the turns that are there; what was not told is guessed.

        The last number is 1 where some of it is a guess, else 0.
        """
        lengths = [
            text_tokens(str(one.get("content"))) for one in (*self.request.messages[:-1], *self.messages)
        ]
        n_before, total_in, total_out = len(self.request.messages) - 1, 0, 0
        for place, (n_in, n_out) in enumerate(self.tokens):
            total_in += sum(lengths[: n_before + place]) if n_in is None else n_in
            total_out += sum(lengths[n_before + place :][:1]) if n_out is None else n_out
        return total_in, total_out, len(self.tokens), int(any(None in counts for counts in self.tokens))

    def reply(self) -> Reply:
        text = json.dumps(self.messages, ensure_ascii=False)
        n_in, n_out = (
            None if any(count is None for count in counts) else sum(filter(None, counts))
            for counts in zip(*self.tokens, strict=True)
        )
        return Reply(text, "length" if self.is_cut else "stop", self.model, n_in, n_out)


class MagpieClient:
    """Asks for chats as another client does, and for whole conversations turn by turn.

    A conversation that fails in the middle goes on where it was when it is asked for again.
    """

    def __init__(self, chat: Client, raw: Client) -> None:
        self._chat = chat
        self._raw = raw
        self._begun: OrderedDict[int, _Conversation] = OrderedDict()  # by their request

    @property
    def words(self) -> str:
        """What requests wait for, as the client of a model host tells it."""
        return str(getattr(self._chat, "words", ""))

    async def send(self, request: Request) -> Answer:
        """Send one request once; of a conversation, its turns one after the other."""
        if request.messages[-1].get("role") != MAGPIE:
            return await self._chat.send(request)
        begun = self._begun.pop(id(request), None)
        conversation = begun if begun is not None and begun.request is request else _Conversation(request)
        try:
            return await self._go_on(conversation)
        except ModelError as error:
            error.paid = conversation.paid()
            if error.retryable:
                self._begun[id(request)] = conversation
                while len(self._begun) > _MAX_BEGUN:
                    self._begun.popitem(last=False)
            raise

    async def close(self) -> None:
        """Close both clients."""
        await self._chat.close()
        if self._raw is not self._chat:
            await self._raw.close()

    async def _go_on(self, conversation: _Conversation) -> Answer:
        request = conversation.request
        *before, asked = request.messages
        request_id = ""
        while len(conversation.messages) < asked["n_messages"]:
            is_users = len(conversation.messages) % 2 == 0
            known = [*before, *conversation.messages]
            if is_users:
                text = text_before_user(asked["content"], known)
                turn = Request(({"role": RAW, "content": text},), first=request.first)
                answer = await self._raw.send(turn)
            else:
                answer = await self._chat.send(Request(tuple(known), first=request.first))
            if not answer.replies:
                raise MalformedReplyError(
                    "The model answered without any reply.", "See the server's log."
                )  # like one of a chat
            reply, request_id = answer.replies[0], answer.request_id
            conversation.tokens.append((reply.input_tokens, reply.output_tokens))
            conversation.model = reply.model or conversation.model
            conversation.is_cut |= reply.is_truncated
            written = _until_stop(reply.text or "", stops_of(asked["content"]) if is_users else ())
            if not written:  # the task tells what is missing
                break
            conversation.messages.append({"role": "user" if is_users else "assistant", "content": written})
        return Answer((conversation.reply(),), request_id)


def _until_stop(text: str, stops: Sequence[str]) -> str:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places, default=len(text))].strip()


# --- over HTTP ----------------------------------------------------------------


def completion_body(
    model: str, parameters: dict[str, Any], extra: dict[str, Any], stops: Sequence[str], request: Request
) -> dict[str, Any]:
    """Return the body of a request to complete a text; `parameters` are under the server's own names."""
    body = {"model": model, "prompt": request.messages[0]["content"], **parameters}
    own = body.get("stop") or []
    if wanted := [*([own] if isinstance(own, str) else own), *stops]:
        body["stop"] = wanted
    if request.first and isinstance(body.get("seed"), int):
        body["seed"] += request.first
    return {**body, **extra}


def read_completion(raw: bytes, target: Target, request_id: str = "") -> Answer:
    """Return the text in the body of a good response; raises MalformedReplyError where it holds none."""
    try:
        data = json.loads(raw)
        choice = data["choices"][0]
        usage = data.get("usage") or {}
        tokens = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
        reply = Reply(
            str(choice["text"]), choice.get("finish_reason") or "stop", str(data.get("model") or ""), *tokens
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise MalformedReplyError(
            f"{target} sent an answer that completes no text ({type(error).__name__}): "
            f"{quote(raw[:2000].decode('utf-8', 'replace'), target)!r}",
            "The server must have OpenAI's endpoint for completions; chats alone do not do for Magpie.",
            provider=target.provider,
            request_id=request_id,
        ) from error
    return Answer((reply,), request_id)
