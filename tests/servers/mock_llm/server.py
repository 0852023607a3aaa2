"""The server: routes, keys, limits, latency and faults around the replies."""

import asyncio
import json
import math
import statistics
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from .chance import Draw
from .config import Config
from .faults import SCRIPTED_RETRY_AFTER_S, drawn_fault, scripted_fault
from .replies import CHAT, COMPLETIONS, EMBEDDINGS, Call, JsonObject, make_reply, read_call
from .stats import Stats

_NORMAL = statistics.NormalDist()
_GARBAGE = b"<html><body>Bad gateway, and yet the status is 200.</body></html>"


class Hangup(Exception):
    """The connection is to be closed without a response."""


class MockServer:
    """Answers requests; knows no socket, so that any aiohttp runner can serve it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stats = Stats()
        self._draws_faults = any(rate > 0 for _, rate in config.fault_rates())

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        path = request.path.rstrip("/").removeprefix("/v1")
        if request.method == "POST" and path in (CHAT, COMPLETIONS, EMBEDDINGS):
            return await self._generate(request, path)
        if request.method == "GET" and path.partition("/")[2].startswith("models"):
            return self._wrong_key(request) or self._list_models(path)
        if (request.method, path) == ("GET", "/stats"):
            return _json(self.stats.as_dict())
        if (request.method, path) == ("GET", "/bodies"):
            return _json(list(self.stats.bodies))
        if (request.method, path) == ("POST", "/reset"):
            self.stats.clear()
            return _json({"status": "reset"})
        if request.method == "GET" and path in ("/health", ""):
            return _json({"status": "ok"})
        return _error(404, "not_found", f"no route for {request.method} {request.path}")

    def _list_models(self, path: str) -> web.Response:
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": "mock"} for name in self.config.models
        ]
        if path == "/models":
            return _json({"object": "list", "data": data})
        wanted = path.removeprefix("/models/")
        found = [model for model in data if model["id"] == wanted]
        return _json(found[0]) if found else _unknown_model(wanted)

    async def _generate(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        raw = await request.read()
        now = time.monotonic()
        self.stats.arrive(path, now)
        # A request that is turned away here is neither an attempt at its prompt nor a duplicate.
        if refusal := self._wrong_key(request) or self._over_limit(now):
            return refusal
        try:
            call = read_call(path, raw, self.config.models[0])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return _error(400, "invalid_request_error", f"bad request: {error!r}")
        if self.config.known_models_only and call.model not in self.config.models:
            self.stats.rejected["404"] += 1
            return _unknown_model(call.model)
        if call.form:
            self.stats.by_form[call.form] += 1
        if call.form in self.config.refuses:
            self.stats.rejected["form"] += 1
            return _error(
                self.config.refuse_status, "invalid_request_error", f"{call.form} is not supported here"
            )
        self.stats.bodies.append(call.body)
        attempt = self.stats.ask(call.key, call.model)
        self.stats.enter()
        try:
            return await self._answer(request, call, attempt)
        except Hangup:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=499)
        finally:
            self.stats.leave()

    def _wrong_key(self, request: web.BaseRequest) -> web.Response | None:
        if not self.config.require_key:
            return None
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given == self.config.require_key:
            return None
        self.stats.rejected["401"] += 1
        return _invalid_key(given)

    def _over_limit(self, now: float) -> web.Response | None:
        config, stats = self.config, self.stats
        if config.max_concurrency and stats.in_flight >= config.max_concurrency:
            stats.rejected["concurrency"] += 1
            return _limited("concurrency limit reached", config.retry_after)
        if config.rpm:
            recent = stats.last_minute
            while recent and recent[0] <= now - 60:
                recent.popleft()
            if len(recent) >= config.rpm:
                stats.rejected["rpm"] += 1
                wait_s = max(0.001, recent[0] + 60 - now)
                return _limited("requests per minute exceeded", wait_s)
            recent.append(now)
        return None

    async def _answer(self, request: web.BaseRequest, call: Call, attempt: int) -> web.StreamResponse:
        draw = Draw(self.config.seed, call.key.hex(), attempt)
        # Always drawn when there are rates, so that a mark in a prompt does not move its latency.
        drawn = drawn_fault(self.config, draw) if self._draws_faults else ""
        fault = scripted_fault(call.prompt, call.model, attempt, call.turn) or drawn
        if fault:
            self.stats.injected[fault] += 1
        if fault in ("timeout", "never"):
            await self._hang(request)
        delay_s = self._delay_s(draw)
        if delay_s > 0:
            await asyncio.sleep(delay_s)
        if fault in ("500", "reset", "401", "404", "429", "garbage"):
            return _failure(fault, request, call)
        payload = make_reply(call, self.config, attempt, fault)
        if fault == "malformed":
            whole = json.dumps(payload.body).encode()
            return _response(whole[: len(whole) // 2])
        self.stats.answer(call.key, payload.usage)
        if call.body.get("stream") and call.path == CHAT:
            return await _stream(request, payload.body, call.body)
        return _json(payload.body)

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


def _failure(fault: str, request: web.BaseRequest, call: Call) -> web.Response:
    if fault == "500":
        return _error(500, "server_error", "injected failure")
    if fault == "401":
        return _invalid_key(request.headers.get("Authorization", "").removeprefix("Bearer "))
    if fault == "404":
        return _unknown_model(call.model)
    if fault == "429":
        return _limited("injected limit", SCRIPTED_RETRY_AFTER_S)
    if fault == "garbage":
        return _response(_GARBAGE)
    raise Hangup


def _invalid_key(given: str) -> web.Response:
    # As the real API does, the message quotes the key with its middle blanked out.
    shown = f"{given[:4]}{'*' * 8}{given[-4:]}" if len(given) > 12 else "*" * len(given)
    message = f"Incorrect API key provided: {shown}."
    return _error(401, "invalid_request_error", message, code="invalid_api_key")


def _unknown_model(model: str) -> web.Response:
    message = f"The model `{model}` does not exist or you do not have access to it."
    return _error(404, "invalid_request_error", message, code="model_not_found")


def _limited(message: str, wait_s: float) -> web.Response:
    # The header is in whole seconds by its standard; a fraction is sent only for waits under one,
    # where rounding up would make a short test long.
    seconds = f"{math.ceil(wait_s)}" if wait_s >= 1 else f"{wait_s:.3g}"
    headers = {"Retry-After": seconds, "retry-after-ms": str(math.ceil(wait_s * 1000))}
    return _error(429, "rate_limit_exceeded", message, headers=headers)


def _error(
    status: int,
    kind: str,
    message: str,
    *,
    code: str = "",
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return an error in the shape of OpenAI's API."""
    detail = {"message": message, "type": kind, "param": None, "code": code or kind}
    return _json({"error": detail}, status, headers)


def _json(payload: object, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return _response(json.dumps(payload).encode(), status, headers)


def _response(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
