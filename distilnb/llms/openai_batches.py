"""OpenAI's batches, over its protocol: a file of requests, a job, files of answers and errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilnb.errors import (
    MalformedReplyError,
    ModelError,
    NoBatchesError,
    ServerError,
    UnknownModelError,
)
from distilnb.llms.address import proxy_of
from distilnb.llms.batches import MARK, BatchLimits, Job, Outcome, Sought, read_lines
from distilnb.llms.failures import error_of, quote, request_id_of, timed_out, unreachable
from distilnb.llms.protocol import read_answer
from distilnb.llms.request import Request
from distilnb.llms.transport import CONNECT_TIMEOUT_S, Connection, as_json, certificates

if TYPE_CHECKING:
    import aiohttp

CHAT = "/v1/chat/completions"
WINDOW = "24h"  # the one that every server of the protocol has
LISTED = 100  # jobs on one page
PAGES = 20  # of the newest jobs, looked through for one
SILENCE_S = 300.0  # of a server, in the midst of a file

_GOING = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_CROWDED = frozenset({"token_limit_exceeded", "batch_limit_exceeded"})


class OpenAIBatches:
    """The jobs of one account."""

    def __init__(self, connection: Connection, limits: BatchLimits) -> None:
        self.limits = limits
        self._connection = connection
        self._target = connection.target
        self._proxy: str | None = None
        self._session: aiohttp.ClientSession | None = None

    def line(self, name: str, request: Request) -> bytes:
        """Return a request as one line of the input file."""
        body = self._connection.body_of(request)
        return as_json({"custom_id": name, "method": "POST", "url": CHAT, "body": body}, self._target)

    async def look(self) -> None:
        """Ask for the list of jobs: a wrong key, and a server without jobs, show at once."""
        try:
            await self._get("/batches", limit="1")
        except UnknownModelError as error:  # what a 404 is taken for elsewhere
            raise self._no_jobs(error) from None

    async def prepare(self, path: Path, marker: str) -> str:
        """Upload the input file and return its id."""
        import aiohttp

        with path.open("rb") as file:
            form = aiohttp.FormData()
            form.add_field("purpose", "batch")
            name = f"distilnb-{marker}.jsonl"
            form.add_field("file", file, filename=name, content_type="application/jsonl")
            return str((await self._ask("POST", "/files", data=form))["id"])

    async def create(self, path: Path, prepared: str, marker: str) -> Job:
        """Create the job of an uploaded file, with the marker in its metadata."""
        body = {
            "input_file_id": prepared,
            "endpoint": CHAT,
            "completion_window": WINDOW,
            "metadata": {MARK: marker},
        }
        return self._read_job(await self._ask("POST", "/batches", json=body))

    async def find(self, marker: str, n_requests: int, since: float, others: Collection[str]) -> Sought:
        """Look through the newest jobs for the one with the marker."""
        after: dict[str, str] = {}
        for _ in range(PAGES):
            page = await self._get("/batches", limit=str(LISTED), **after)
            listed = page.get("data") or []
            for data in listed:
                if (data.get("metadata") or {}).get(MARK) == marker:
                    return Sought(self._read_job(data))
            is_old = bool(listed) and (listed[-1].get("created_at") or 0) < since
            if not listed or not page.get("has_more") or is_old:
                break
            after = {"after": str(listed[-1]["id"])}
        return Sought()

    async def job(self, job_id: str) -> Job:
        """Return how a job stands."""
        return self._read_job(await self._get(f"/batches/{job_id}"))

    async def fetch(self, job: Job, path: Path) -> None:
        """Write the files of answers and of errors, one after the other."""
        with path.open("wb") as file:
            for name in job.files:
                async with self._asking("GET", f"/files/{name}/content") as response:
                    async for part in response.content.iter_chunked(1 << 16):
                        file.write(part)
                file.write(b"\n")

    def outcomes(self, path: Path) -> Iterator[Outcome]:
        """Yield the outcome of each request that the files name."""
        for data in read_lines(path):
            yield self._read_outcome(data)

    async def cancel(self, job_id: str) -> Job:
        """Ask for the job's end."""
        return self._read_job(await self._ask("POST", f"/batches/{job_id}/cancel"))

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    # --- the wire ---

    async def _get(self, path: str, **query: str) -> Mapping[str, Any]:
        return await self._ask("GET", path, params=query)

    async def _ask(self, method: str, path: str, **body: Any) -> Mapping[str, Any]:
        async with self._asking(method, path, **body) as response:
            raw = await response.read()
        try:
            data = json.loads(raw)
            if not isinstance(data, Mapping):
                raise ValueError("no object")
        except ValueError:
            raise self._malformed(raw.decode("utf-8", "replace")) from None
        return data

    @asynccontextmanager
    async def _asking(self, method: str, path: str, **body: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        import aiohttp

        session = self._session or self._open()
        url = self._connection.endpoint + path
        params = {**self._connection.query, **body.pop("params", {})}
        try:
            async with session.request(
                method, url, params=params, allow_redirects=False, proxy=self._proxy, **body
            ) as response:
                if not 200 <= response.status < 300:
                    raw = await response.read()
                    raise error_of(response.status, response.headers, raw, self._target)
                yield response
        except asyncio.TimeoutError as error:
            raise timed_out(self._target, self._connection.timeout_s) from error
        except aiohttp.ClientResponseError as error:  # `from None`: it carries the key
            raise unreachable(self._target, f"the response is not HTTP ({error.message})") from None
        except (aiohttp.ClientError, OSError) as error:
            raise unreachable(self._target, error) from error

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        connection = self._connection
        if connection.uses_proxies:
            self._proxy = proxy_of(connection.endpoint)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=certificates() if connection.is_encrypted else True),
            headers=dict(connection.headers),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(  # files may take long: only silence counts
                total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=max(SILENCE_S, connection.timeout_s)
            ),
        )
        return self._session

    # --- what comes back ---

    def _read_job(self, data: Mapping[str, Any]) -> Job:
        try:
            counts = data.get("request_counts") or {}
            status = str(data["status"])
            job = Job(
                str(data["id"]),
                "going" if status in _GOING else "ended",
                n_total=int(counts.get("total") or 0),
                n_done=int(counts.get("completed") or 0),
                n_failed=int(counts.get("failed") or 0),
                created_at=float(data.get("created_at") or 0),
                expires_at=float(data["expires_at"]) if data.get("expires_at") else None,
                is_cancelling=status in ("cancelling", "cancelled"),
                files=tuple(str(data[n]) for n in ("output_file_id", "error_file_id") if data.get(n)),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._malformed(json.dumps(data)) from None
        return job if status != "failed" else self._refused(job, data)

    def _refused(self, job: Job, data: Mapping[str, Any]) -> Job:
        """Return a job that did not pass its validation, with the first thing that is wrong with it."""
        errors = (data.get("errors") or {}).get("data") or [{}]
        first = dict(errors[0]) if isinstance(errors[0], Mapping) else {}
        told = json.dumps({"error": {"message": f"the job {job.id} failed", **first}}).encode()
        failure = error_of(400, {}, told, self._target)
        return replace(job, stage="refused", failure=failure, is_crowded=first.get("code") in _CROWDED)

    def _read_outcome(self, data: Mapping[str, Any]) -> Outcome:
        name = str(data.get("custom_id") or "")
        response, error = data.get("response"), data.get("error")
        if isinstance(response, Mapping):
            status = int(response.get("status_code") or 0)
            headers = {"x-request-id": str(response.get("request_id") or "")}
            raw = json.dumps(response.get("body")).encode()
            try:
                if status != 200:
                    raise error_of(status, headers, raw, self._target)
                return Outcome(name, read_answer(raw, self._target, request_id_of(headers)))
            except ModelError as failure:
                return Outcome(name, failure=failure, end="failed")
        return self._unanswered(name, error if isinstance(error, Mapping) else {})

    def _unanswered(self, name: str, error: Mapping[str, Any]) -> Outcome:
        code, words = str(error.get("code") or ""), quote(str(error.get("message") or ""), self._target)
        if code == "batch_expired":
            return Outcome(name, end="expired")
        if code == "batch_cancelled":
            return Outcome(name, end="cancelled")
        failure = ServerError(
            f"{self._target} did not do this request of the job: {words or code or 'no reason was told'}.",
            "It is asked again.",
            provider=self._target.provider,
        )
        return Outcome(name, failure=failure, end="failed")

    def _malformed(self, said: str) -> MalformedReplyError:
        return MalformedReplyError(
            f"{self._target} sent an answer about a job that is none: {quote(said, self._target)!r}.",
            "A proxy may stand between, or base_url= leads to a server with another protocol.",
            provider=self._target.provider,
        )

    def _no_jobs(self, error: ModelError) -> ModelError:
        return NoBatchesError(
            f"{self._target} takes no offline batches: {error.what}",
            "Leave offline_batch out, or set base_url= to a server that has /v1/batches.",
            provider=self._target.provider,
            status=error.status,
        )
