"""A server and a client that answer as a test tells them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from aiohttp import web

from distilnb.llms.request import Answer, Reply, Request


@dataclass
class Seen:
    """What the server received."""

    url: str
    bodies: list[dict[str, object]] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def scripted_server(
    status: int, body: bytes, headers: Mapping[str, str] | None = None
) -> AsyncIterator[Seen]:
    """Answer every request in the same way."""

    async def handle(request: web.BaseRequest) -> web.Response:
        seen.bodies.append(await request.json())
        seen.headers.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response(status=status, body=body, headers=headers)

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    seen = Seen(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    try:
        yield seen
    finally:
        await runner.cleanup()


class ScriptedClient:
    """Brings one outcome after the other: an error to raise, or how many replies to send. The last one stays."""

    def __init__(self, *outcomes: Exception | int, takes_s: float = 0.0) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[Request] = []
        self.sent_at_s: list[float] = []
        self.takes_s = takes_s
        self.is_closed = False
        self.watch: Callable[[], None] = lambda: None

    async def send(self, request: Request) -> Answer:
        self.requests.append(request)
        self.sent_at_s.append(asyncio.get_running_loop().time())
        self.watch()
        await asyncio.sleep(self.takes_s)
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, Exception):
            raise outcome
        return Answer(tuple(Reply(f"reply {i}", output_tokens=10) for i in range(outcome)))

    async def close(self) -> None:
        self.is_closed = True


def ask(text: str = "hi", n: int = 1) -> Request:
    """Return a request with one message of the user."""
    return Request(({"role": "user", "content": text},), n=n)


def texts(answers: Sequence[Answer]) -> list[list[str | None]]:
    """Return the texts of answers."""
    return [[reply.text for reply in answer.replies] for answer in answers]
