"""One model on several servers: a request goes to the one with the least to do; one that fails is left out a while."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

from distilnb.errors import (
    MalformedReplyError,
    ModelError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    UnreachableError,
)
from distilnb.llms.request import Answer, Client, Request

OUT_S = (
    2.0,
    60.0,
)  # how long a server is left out; the first doubles with each time in a row, up to the second
REFUSED_S = 1.0  # after a refusal (HTTP 429) that names no time
SOON_S = 1.0  # servers that are out and back within this time are as good as each other
FAILURES_IN_A_ROW = 3  # of a server that can be reached: answers with an error, or none in time


class SpreadClient:
    """Sends each request to one of several servers that hold the same model.

    A server that cannot be reached, or that refuses for now, does not cost the row a try as long as another one is
    in turn: the request goes there at once. One that is out is tried again by a single request, and by all others
    once that was answered.
    """

    def __init__(self, clients: Sequence[Client]) -> None:
        self._servers = [_Server(client) for client in clients]
        self._n_turns = 0

    async def send(self, request: Request) -> Answer:
        """Send a request to the server that is in turn and has the least to do."""
        tried: list[_Server] = []
        while True:
            server = self._choose(tried)
            tried.append(server)
            try:
                return await server.send(request)
            except (UnreachableError, RateLimitError):
                if not any(one.is_in for one in self._servers if one not in tried):
                    raise

    async def close(self) -> None:
        """Close the connections to all servers."""
        await asyncio.gather(*(server.client.close() for server in self._servers))

    def _choose(self, tried: Sequence[_Server]) -> _Server:
        """Return who has the least to do, of those in turn; where several have, who was chosen longest ago.

        Not who was sent the fewest: one that was out for an hour would be sent nothing but requests.
        """
        left = [server for server in self._servers if server not in tried] or self._servers
        in_turn = [server for server in left if server.is_in]
        if not in_turn:  # those that will be first, and not all requests to one of them
            first_s = min(server.until_s for server in left)
            in_turn = [server for server in left if server.until_s <= first_s + SOON_S]
        self._n_turns += 1
        chosen = min(in_turn, key=lambda server: (server.n_in_flight, server.turn))
        chosen.turn = self._n_turns
        return chosen


class _Server:
    """One of the servers, and how it stands."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.n_in_flight = 0
        self.turn = 0  # when it was chosen last
        self.until_s = 0.0  # when it is tried again; 0: it is in turn
        self._n_failed = 0
        self._out_s = OUT_S[0]

    @property
    def is_in(self) -> bool:
        """Whether a request may go there: one at a time where it was out."""
        if not self.until_s:
            return True
        return monotonic() >= self.until_s and not self.n_in_flight

    async def send(self, request: Request) -> Answer:
        """Send, and note what that tells of the server."""
        self.n_in_flight += 1
        until_s = self.until_s
        try:
            answer = await self.client.send(request)
        except ModelError as error:
            self._note(error)
            raise
        finally:
            self.n_in_flight -= 1
        # An answer to what was sent before the server went out does not tell that it is back.
        if self.until_s == until_s:
            self.until_s, self._out_s = 0.0, OUT_S[0]
        self._n_failed = 0
        return answer

    def _note(self, error: ModelError) -> None:
        if isinstance(error, RateLimitError):
            self.until_s = monotonic() + (error.retry_after_s or REFUSED_S)
            return
        if isinstance(error, (ServerError, RequestTimeoutError, MalformedReplyError)):
            self._n_failed += 1
        if isinstance(error, UnreachableError) or self._n_failed >= FAILURES_IN_A_ROW:
            self.until_s = monotonic() + self._out_s
            self._out_s = min(OUT_S[1], 2 * self._out_s)
