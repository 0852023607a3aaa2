"""The server: routes, keys, limits, latency and faults around the replies, for every protocol."""

import asyncio
import contextlib
import json
import math
import statistics
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from .chance import Draw
from .config import Config
from .faults import FAILURES, SCRIPTED_RETRY_AFTER_S, SLOW_S, Failure, drawn_fault, scripted_fault
from .jobs import Jobs, Refused
from .protocols import FRONT_ENDS, FrontEnd
from .protocols.frontend import Invalid
from .replies import Call, JsonObject, Vectors, Written, draw_picture, embed, write_reply
from .stats import Stats

_NORMAL = statistics.NormalDist()
_GARBAGE = b"<html><body>Bad gateway, and yet the status is 200.</body></html>"
_OPENAI = FRONT_ENDS["v1"]
_WRONG = (Invalid, ValueError, KeyError, TypeError, AttributeError)


class Hangup(Exception):
    """The connection is to be closed without a response."""


class MockServer:
    """Answers requests; knows no socket, so that any aiohttp runner can serve it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stats = Stats()
        self.seen: deque[JsonObject] = deque(maxlen=config.record)
        self.jobs = Jobs(config, self.stats)
        self._draws_faults = any(rate > 0 for _, rate in config.fault_rates())

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        front_end, path = _front_end_of(request.path.rstrip("/"))
        target = f"{path}?{request.query_string}" if request.query_string else path
        if (asked := self.jobs.route(front_end, request.method, path)) is not None:
            return await self._about_jobs(front_end, *asked, request)
        endpoint = front_end.endpoint(request.method, target)
        if endpoint == "models":
            return self._wrong_key(front_end, request) or _respond(*front_end.models(path, self.config))
        if endpoint:
            return await self._generate(front_end, endpoint, path, request)
        if front_end is _OPENAI and path == "/jobs":
            order = json.loads(await request.read()) if request.method == "POST" else None
            return _respond(200, self.jobs.told() if order is None else self.jobs.order(order))
        if front_end is _OPENAI and (own := self._about_itself(request.method, path)) is not None:
            return _respond(200, own)
        return _fail(front_end, Failure("route", f"no route for {request.method} {request.path}"))

    def _about_itself(self, method: str, path: str) -> Any:
        if (method, path) == ("GET", "/stats"):
            return self.stats.as_dict()
        if (method, path) == ("GET", "/bodies"):
            return list(self.stats.bodies)
        if (method, path) == ("GET", "/seen"):
            return {"requests": list(self.seen)}
        if (method, path) == ("POST", "/reset"):
            self.stats.clear()
            self.seen.clear()
            self.jobs.clear()
            return {"status": "reset"}
        return {"status": "ok"} if method == "GET" and path in ("/health", "") else None

    async def _generate(
        self, front_end: FrontEnd, endpoint: str, path: str, request: web.BaseRequest
    ) -> web.StreamResponse:
        raw = await request.read()
        now = time.monotonic()
        # OpenAI's own endpoints are counted without the prefix that all of them share.
        self.stats.arrive(path if front_end is _OPENAI else f"/{front_end.name}{path}", now)
        if self.config.record:
            self._note(request, raw)
        # A request that is turned away here is neither an attempt at its prompt nor a duplicate.
        if refusal := self._wrong_key(front_end, request) or self._over_limit(front_end, now):
            return refusal
        try:
            call = front_end.read(endpoint, path, json.loads(raw), self.config)
        except _WRONG as error:
            message = str(error) if isinstance(error, Invalid) else f"bad request: {error!r}"
            return _fail(front_end, Failure("400", message))
        if self.config.known_models_only and call.model not in self.config.models:
            self.stats.rejected["404"] += 1
            return _fail(front_end, Failure("404", model=call.model))
        if call.form:
            self.stats.by_form[call.form] += 1
        if call.form in self.config.refuses:
            self.stats.rejected["form"] += 1
            _, refused, headers = front_end.fail(Failure("400", f"{call.form} is not supported here"))
            return _respond(self.config.refuse_status, refused, headers)
        self.stats.bodies.append(call.body)
        attempt = self.stats.ask(call.key, call.model)
        self.stats.enter()
        try:
            return await self._answer(front_end, request, call, attempt)
        except Hangup:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=499)
        finally:
            self.stats.leave()

    async def _about_jobs(
        self, front_end: FrontEnd, what: str, name: str, request: web.BaseRequest
    ) -> web.StreamResponse:
        """Answer what is asked about offline jobs and their files."""
        self.stats.by_path[f"jobs/{what}"] += 1
        if refusal := self._wrong_key(front_end, request):
            await request.read()
            return refusal
        self.jobs.address = f"{request.scheme}://{request.host}"
        try:
            told = await self.jobs.answer(front_end, what, name, request)
        except Refused as refused:
            return _fail(front_end, refused.failure)
        lost = self.jobs.takes_creation() if what == "create" else ""
        if lost and request.transport is not None:
            if lost == "hang":
                with contextlib.suppress(Hangup):
                    await self._hang(request)
            request.transport.abort()
            return web.Response(status=499)
        return web.Response(body=told) if isinstance(told, bytes) else _respond(200, told)

    def _note(self, request: web.BaseRequest, raw: bytes) -> None:
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.seen.append({"path": request.path_qs, "headers": headers, "body": body})

    def _wrong_key(self, front_end: FrontEnd, request: web.BaseRequest) -> web.Response | None:
        if not self.config.require_key:
            return None
        given = front_end.key_in(request.headers)
        if given == self.config.require_key:
            return None
        self.stats.rejected["401"] += 1
        return _fail(front_end, Failure("401", key=given))

    def _over_limit(self, front_end: FrontEnd, now: float) -> web.Response | None:
        config, stats = self.config, self.stats
        if config.max_concurrency and stats.in_flight >= config.max_concurrency:
            stats.rejected["concurrency"] += 1
            return _fail(front_end, Failure("429", "concurrency limit reached", wait_s=config.retry_after))
        if config.rpm:
            recent = stats.last_minute
            while recent and recent[0] <= now - 60:
                recent.popleft()
            if len(recent) >= config.rpm:
                stats.rejected["rpm"] += 1
                wait_s = max(0.001, recent[0] + 60 - now)
                return _fail(front_end, Failure("429", "requests per minute exceeded", wait_s=wait_s))
            recent.append(now)
        return None

    async def _answer(
        self, front_end: FrontEnd, request: web.BaseRequest, call: Call, attempt: int
    ) -> web.StreamResponse:
        draw = Draw(self.config.seed, call.key.hex(), attempt)
        # Always drawn when there are rates, so that a mark in a prompt does not move its latency.
        drawn = drawn_fault(self.config, draw) if self._draws_faults else ""
        fault = scripted_fault(call.prompt, call.model, attempt, call.turn) or drawn
        if fault:
            self.stats.injected[fault] += 1
        if fault in ("timeout", "never"):
            await self._hang(request)
        delay_s = self._delay_s(draw) + (SLOW_S if fault == "slow" else 0.0)
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        if fault in FAILURES:
            key = front_end.key_in(request.headers)
            wait_s = SCRIPTED_RETRY_AFTER_S if fault == "429" else 0.0
            return _fail(front_end, Failure(fault, model=call.model, key=key, wait_s=wait_s))
        if fault == "garbage":
            return _response(_GARBAGE)
        if fault == "reset":
            raise Hangup
        written: Written | Vectors
        if call.path == "/images/generations":
            self.stats.answer(call.key, 0, 0)
            picture = front_end.word_picture(call, draw_picture(call, attempt), self.config)
            if isinstance(picture, bytes):
                return web.Response(body=picture, content_type="image/png")
            return _respond(200, picture, front_end.answer_headers(call.key.hex()))
        if call.path == "/embeddings":
            written = embed(call, self.config)
            self.stats.answer(call.key, written.tokens, 0)
        else:
            written = write_reply(call, self.config, attempt, fault)
        body = front_end.word(call, written, self.config)
        if fault == "malformed":
            whole = json.dumps(body).encode()
            return _response(whole[: len(whole) // 2])
        if isinstance(written, Written):
            self.stats.answer(call.key, written.prompt_tokens, written.completion_tokens)
        if call.streams:
            return await _stream(request, body, call.body)
        return _respond(200, body, front_end.answer_headers(call.key.hex()))

    async def _hang(self, request: web.BaseRequest) -> None:
        """Keep a client waiting until it goes away, `timeout_s` at most, then hang up."""
        end = time.monotonic() + self.config.timeout_s
        # aiohttp tells a handler of a lost connection only by cancelling it, which would also end
        # the answers that must run to their end; so the connection is looked at instead.
        while request.transport is not None and time.monotonic() < end:
            await asyncio.sleep(0.02)
        raise Hangup

    def _delay_s(self, draw: Draw) -> float:
        config = self.config
        delay_ms = config.latency_ms + config.ms_per_token * config.tokens
        if config.latency_dist == "lognormal" and delay_ms > 0:
            unit = min(max(draw.unit(), 1e-9), 1 - 1e-9)
            delay_ms *= math.exp(config.latency_sigma * _NORMAL.inv_cdf(unit))
        return delay_ms / 1000


async def serve(config: Config, host: str = "127.0.0.1", port: int = 0) -> tuple[web.ServerRunner, int]:
    """Start a server in the running loop; return its runner and the port it listens on.

    Stop it with ``await runner.cleanup()``. Port 0 takes a free port.
    """
    server = web.Server(MockServer(config).handle, access_log=None, keepalive_timeout=config.keep_alive_s)
    # Requests may be sleeping through a long latency when the server stops: they are not waited for.
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=4096).start()
    return runner, int(runner.addresses[0][1])


def _front_end_of(path: str) -> tuple[FrontEnd, str]:
    """Return who speaks at a path, and the path below that; OpenAI's protocol where nobody else does."""
    name, _, rest = path[1:].partition("/")
    front_end = FRONT_ENDS.get(name)
    return (front_end, f"/{rest}" if rest else "") if front_end is not None else (_OPENAI, path)


async def _stream(request: web.BaseRequest, payload: JsonObject, body: JsonObject) -> web.StreamResponse:
    """Send a finished chat completion as server-sent events, a word each."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    head = {key: payload[key] for key in ("id", "created", "model")}

    async def send(choices: list[JsonObject], **extra: Any) -> None:
        event = {**head, "object": "chat.completion.chunk", "choices": choices, **extra}
        await response.write(f"data: {json.dumps(event)}\n\n".encode())

    for choice in payload["choices"]:
        for delta in _deltas(choice["message"]):
            await send([{"index": choice["index"], "delta": delta, "finish_reason": None}])
        end = {"index": choice["index"], "delta": {}, "finish_reason": choice["finish_reason"]}
        await send([end])
    if (body.get("stream_options") or {}).get("include_usage") and "usage" in payload:
        await send([], usage=payload["usage"])
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def _deltas(message: JsonObject) -> list[JsonObject]:
    """Return the pieces in which a message is streamed."""
    first: JsonObject = {"role": "assistant"}
    if calls := message.get("tool_calls"):
        return [{**first, "tool_calls": [{"index": 0, **calls[0]}]}]
    if not message["content"]:
        return [{**first, "content": message["content"]}]
    words = message["content"].split(" ")
    return [first, {"content": words[0]}, *({"content": " " + word} for word in words[1:])]


def _fail(front_end: FrontEnd, failure: Failure) -> web.Response:
    return _respond(*front_end.fail(failure))


def _respond(status: int, payload: Any, headers: Mapping[str, str] | None = None) -> web.Response:
    if isinstance(payload, str):
        return web.Response(text=payload, status=status, headers=headers)
    return _response(json.dumps(payload).encode(), status, headers)


def _response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
