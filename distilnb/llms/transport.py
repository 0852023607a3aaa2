"""Two ways to send a request of OpenAI's protocol, aiohttp and OpenAI's SDK, with the same answers and errors."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import orjson

from distilnb.errors import MalformedReplyError, RefusedRequestError
from distilnb.llms.address import proxy_of
from distilnb.llms.failures import Target, error_of, request_id_of, timed_out, unreachable
from distilnb.llms.request import Answer, Request

if TYPE_CHECKING:
    import ssl

    import aiohttp
    import openai
    import yarl

CONNECT_TIMEOUT_S = 30.0

# What the SDK takes from the environment by itself, and would send to whatever host this is.
_SDK_HEADERS = ("Authorization", "OpenAI-Organization", "OpenAI-Project")


class Posted(NamedTuple):
    """The body of a good response, and the server's name for the request ("" without one)."""

    raw: bytes
    request_id: str


Reader: TypeAlias = "Callable[[bytes, Target, str], Answer]"


@dataclass(frozen=True)
class Connection:
    """What both transports need to know; requests are posted to `path` below `endpoint`, and `read` reads answers."""

    endpoint: str
    headers: Mapping[str, str]
    timeout_s: float
    uses_proxies: bool  # those that the environment names; never for this machine itself
    target: Target
    body_of: Callable[[Request], dict[str, Any]]
    path: str
    read: Reader
    query: Mapping[str, str] = field(default_factory=dict)  # what follows the path of each request

    @property
    def is_encrypted(self) -> bool:
        """Whether certificates are checked."""
        return self.endpoint.startswith("https:")


class HttpClient:
    """One pooled aiohttp session.

    What may be slow at 1,000 requests a second is done by hand: no cookies, no decompression unless the
    server compressed unasked, JSON on bytes, the environment's proxy read once. The pool has no limit of its
    own, because the gate has one.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._url: yarl.URL | str = connection.endpoint + connection.path
        self._proxy: str | None = None
        self._session: aiohttp.ClientSession | None = None

    async def send(self, request: Request) -> Answer:
        """Send one request once."""
        connection = self._connection
        posted = await self.post(connection.body_of(request))
        return connection.read(posted.raw, connection.target, posted.request_id)

    async def post(self, fields: Mapping[str, Any]) -> Posted:
        """Post one body once; raises ModelError for a response that is not good."""
        import aiohttp

        connection = self._connection
        session = self._session or self._open()
        # As a payload, or aiohttp would look for the one that fits its type.
        body = aiohttp.BytesPayload(as_json(fields, connection.target))
        posting = session.post(self._url, data=body, allow_redirects=False, proxy=self._proxy)
        try:
            async with posting as response:
                raw = await response.read()
                status, headers = response.status, response.headers
        except asyncio.TimeoutError as error:  # before 3.11 it is no TimeoutError
            raise timed_out(connection.target, connection.timeout_s) from error
        except aiohttp.ClientResponseError as error:
            # `from None`: it carries the request's headers, and with them the key.
            raise unreachable(connection.target, f"the response is not HTTP ({error.message})") from None
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(connection.target, error) from error
        if headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
            raw = _decompress(raw, connection.target)
        if status != 200:
            raise error_of(status, headers, raw, connection.target)
        return Posted(raw, request_id_of(headers))

    async def close(self) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp
        import yarl

        connection = self._connection
        self._url = yarl.URL(str(self._url)).with_query(connection.query)
        if connection.uses_proxies:  # not aiohttp's `trust_env`: that asks two threads before each request
            self._proxy = proxy_of(connection.endpoint)
        headers = {**connection.headers, "Content-Type": "application/json", "Accept-Encoding": "identity"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=certificates() if connection.is_encrypted else True),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=connection.timeout_s, sock_connect=CONNECT_TIMEOUT_S),
            auto_decompress=False,
        )
        return self._session


class SdkClient:
    """OpenAI's own client, its retries off; its response is read as bytes, like the other transport's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client: openai.AsyncOpenAI | None = None

    async def send(self, request: Request) -> Answer:
        """Send one request once."""
        connection = self._connection
        posted = await self.post(connection.body_of(request))
        return connection.read(posted.raw, connection.target, posted.request_id)

    async def post(self, fields: Mapping[str, Any]) -> Posted:
        """Post one body once; raises ModelError for a response that is not good."""
        import httpx
        import openai

        target = self._connection.target
        client = self._client or self._open()
        as_json(fields, target)  # the SDK's own error would not say what is wrong
        unset = {name: openai.Omit() for name in _SDK_HEADERS if name not in self._connection.headers}
        try:
            # Not by the method of an endpoint: those drop, refuse or turn into numbers what other servers say.
            response = await client.post(
                self._connection.path,
                cast_to=httpx.Response,
                body=dict(fields),
                options={"headers": unset},
            )
        # `from None` below: the SDK's errors carry the request's headers, and with them the key.
        except openai.APITimeoutError:
            raise timed_out(target, self._connection.timeout_s) from None
        except openai.APIConnectionError as error:
            raise unreachable(target, error.__cause__ or error) from None
        except openai.APIStatusError as error:
            refused = error.response
            raise error_of(refused.status_code, refused.headers, refused.content, target) from None
        return Posted(response.content, request_id_of(response.headers))

    async def close(self) -> None:
        """Close the client and its connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    def _open(self) -> openai.AsyncOpenAI:
        import openai

        connection = self._connection
        self._client = openai.AsyncOpenAI(
            # Never None: the SDK would then read the environment's key.
            api_key="given-in-the-headers",
            base_url=connection.endpoint,
            default_headers=connection.headers,
            default_query=connection.query,
            timeout=connection.timeout_s,
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                verify=certificates() if connection.is_encrypted else True,
                trust_env=connection.uses_proxies,
                follow_redirects=False,
                timeout=connection.timeout_s,
            ),
        )
        return self._client


def certificates() -> ssl.SSLContext:
    """Return the certificates to trust: the system's, or those that SSL_CERT_FILE or SSL_CERT_DIR names."""
    import os
    import ssl

    context = ssl.create_default_context()
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    if not named and not context.cert_store_stats()["x509_ca"]:  # Python on macOS comes without any
        import certifi

        context.load_verify_locations(certifi.where())
    return context


_JSON = json.JSONEncoder(separators=(",", ":"))
_AS_STDLIB = (
    orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
)


def as_json(body: Mapping[str, Any], target: Target) -> bytes:
    """Return a body as JSON; raises RefusedRequestError where it has no such form."""
    try:
        fast = orjson.dumps(body, option=_AS_STDLIB)
    except (
        TypeError
    ):  # half of a surrogate pair, a long integer, or what has no JSON form: the other tells it
        fast = b"null"
    if b"null" not in fast:  # which it makes of NaN; a server should refuse that, not overlook it
        return fast
    try:
        return _JSON.encode(body).encode()
    except (TypeError, ValueError) as error:
        raise RefusedRequestError(
            f"The request to {target} cannot be written as JSON: {error}.",
            "Use text, numbers, lists and dicts in messages and generation parameters.",
            provider=target.provider,
        ) from error


def _decompress(raw: bytes, target: Target) -> bytes:
    """Undo gzip or deflate, which a proxy may apply though nobody asked for it."""
    try:
        return zlib.decompress(raw, wbits=zlib.MAX_WBITS | 32)  # 32: tells the two apart by the header
    except zlib.error as error:
        raise MalformedReplyError(
            f"{target} sent a body whose compression cannot be undone: {error}.",
            "A proxy may stand between; it should not compress what asks for 'identity'.",
            provider=target.provider,
        ) from error
