"""Anthropic's message batches, through its SDK: a job of messages, and a file of their results.

A job has no metadata here, so its requests carry the marker in their names. These are told only when the job has
ended: one whose creation was not recorded is known for sure no sooner.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distilnb.errors import MalformedReplyError, ModelError, NoBatchesError, UnknownModelError
from distilnb.llms.batches import BatchLimits, Job, Outcome, Sought, read_lines
from distilnb.llms.failures import error_of, quote
from distilnb.llms.request import Answer, Request

if TYPE_CHECKING:
    import anthropic

    from distilnb.llms.sdk import SdkClient

LISTED = 100
PAGES = 20
SENDING_S = 600.0  # for the one request that brings all of a job's
FETCHING_S = 3600.0

# What stands in a result that failed, and the status that a message would have failed with.
_STATUS: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicBatches:
    """The jobs of one workspace.

    `body_of` makes the parameters of a message, `read` an answer of one; `open_client` gives the SDK's client.
    """

    def __init__(
        self,
        sdk: SdkClient,
        limits: BatchLimits,
        open_client: Callable[[], anthropic.AsyncAnthropic],
        body_of: Callable[[Request], dict[str, Any]],
        read: Callable[[Mapping[str, Any], str], Answer],
    ) -> None:
        self.limits = limits
        self._sdk = sdk
        self._target = sdk.target
        self._open = open_client
        self._body_of = body_of
        self._read = read

    def line(self, name: str, request: Request) -> bytes:
        """Return a request as an item of the job."""
        return json.dumps({"custom_id": name, "params": self._body_of(request)}, ensure_ascii=False).encode(
            "utf-8", "surrogatepass"
        )

    async def look(self) -> None:
        """Ask for the list of jobs: a wrong key, and a server without jobs, show at once."""
        try:
            await self._list(limit=1)
        except UnknownModelError as error:
            raise NoBatchesError(
                f"{self._target} takes no offline batches: {error.what}",
                "Leave offline_batch out, or set base_url= to a server that has /v1/messages/batches.",
                provider=self._target.provider,
                status=error.status,
            ) from None

    async def prepare(self, path: Path, marker: str) -> str:
        """Nothing goes ahead of the job."""
        return ""

    async def create(self, path: Path, prepared: str, marker: str) -> Job:
        """Hand all messages over in one request."""
        requests = list(read_lines(path))
        data = await self._within(
            SENDING_S,
            lambda client: client.messages.batches.with_raw_response.create(
                requests=requests,
                timeout=SENDING_S,
            ),
        )
        return self._read_job(data)

    async def find(self, marker: str, n_requests: int, since: float, others: Collection[str]) -> Sought:
        """Look at the jobs of the same size: an ended one tells whose it is, one that goes on may be ours."""
        after: dict[str, str] = {}
        is_unsure = False
        for _ in range(PAGES):
            page = await self._list(limit=LISTED, **after)
            listed = [self._read_job(data) for data in page.get("data") or []]
            for job in listed:
                if job.created_at < since or job.n_total != n_requests or job.id in others:
                    continue
                if job.stage != "ended":
                    is_unsure = True
                elif await self._is_marked(job, marker):
                    return Sought(job)
            is_old = bool(listed) and listed[-1].created_at < since
            if not listed or not page.get("has_more") or is_old:
                break
            after = {"after_id": listed[-1].id}
        return Sought(is_unsure=is_unsure)

    async def job(self, job_id: str) -> Job:
        """Return how a job stands."""
        return self._read_job(
            await self._within(
                self._sdk.timeout_s, lambda client: client.messages.batches.with_raw_response.retrieve(job_id)
            )
        )

    async def fetch(self, job: Job, path: Path) -> None:
        """Write the results."""
        with path.open("wb") as file:
            await self._read_results(job, lambda line: file.write(line + b"\n") > 0)

    def outcomes(self, path: Path) -> Iterator[Outcome]:
        """Yield the outcome of each request."""
        for data in read_lines(path):
            yield self._read_outcome(data)

    async def cancel(self, job_id: str) -> Job:
        """Ask for the job's end."""
        return self._read_job(
            await self._within(
                self._sdk.timeout_s, lambda client: client.messages.batches.with_raw_response.cancel(job_id)
            )
        )

    async def close(self) -> None:
        """Close the SDK's client."""
        await self._sdk.close()

    # --- the wire ---

    async def _list(self, **query: Any) -> Mapping[str, Any]:
        return await self._within(
            self._sdk.timeout_s, lambda client: client.messages.batches.with_raw_response.list(**query)
        )

    async def _within(
        self, limit_s: float, ask: Callable[[anthropic.AsyncAnthropic], Awaitable[Any]]
    ) -> Mapping[str, Any]:
        try:
            answered = await asyncio.wait_for(ask(self._open()), limit_s)
            data = json.loads(answered.http_response.content)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - an SDK may raise anything; its errors carry the key
            raise self._sdk.error_from(error) from None
        if not isinstance(data, Mapping):
            raise self._malformed(data)
        return data

    async def _read_results(self, job: Job, take: Callable[[bytes], bool]) -> None:
        """Give the lines of the results to `take`, until it wants no more."""

        async def read() -> None:
            async for result in await self._open().messages.batches.results(job.id):
                if not take(result.to_json(indent=None).encode("utf-8", "surrogatepass")):
                    return

        try:
            await asyncio.wait_for(read(), FETCHING_S)
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            raise self._sdk.error_from(error) from None

    async def _is_marked(self, job: Job, marker: str) -> bool:
        names: list[str] = []

        def first(line: bytes) -> bool:
            names.append(str(json.loads(line).get("custom_id") or ""))
            return False

        await self._read_results(job, first)
        return bool(names) and names[0].startswith(f"{marker}-")

    # --- what comes back ---

    def _read_job(self, data: Mapping[str, Any]) -> Job:
        try:
            counts = data["request_counts"]
            status = data["processing_status"]
            return Job(
                str(data["id"]),
                "ended" if status == "ended" else "going",
                n_total=sum(counts.values()),
                n_done=int(counts.get("succeeded") or 0),
                n_failed=sum(int(counts.get(name) or 0) for name in ("errored", "canceled", "expired")),
                created_at=_seconds(data["created_at"]),
                expires_at=_seconds(data["expires_at"]),
                is_cancelling=bool(data.get("cancel_initiated_at")),
                files=("results",),
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._malformed(data) from None

    def _read_outcome(self, data: Mapping[str, Any]) -> Outcome:
        name, result = str(data.get("custom_id") or ""), data.get("result") or {}
        kind = result.get("type")
        if kind in ("expired", "canceled"):
            return Outcome(name, end="expired" if kind == "expired" else "cancelled")
        try:
            if kind == "succeeded":
                return Outcome(name, self._read(result["message"], ""))
            told = result.get("error") or {}
            detail = told.get("error", told)
            status = _STATUS.get(str(detail.get("type")), 500)
            body = json.dumps({"error": detail}).encode()
            raise error_of(status, {"request-id": str(told.get("request_id") or "")}, body, self._target)
        except (KeyError, TypeError, ValueError, AttributeError):
            return Outcome(name, failure=self._malformed(data), end="failed")
        except ModelError as failure:
            return Outcome(name, failure=failure, end="failed")

    def _malformed(self, data: Any) -> MalformedReplyError:
        return MalformedReplyError(
            f"{self._target} sent an answer about a job that is none: {quote(json.dumps(data), self._target)!r}.",
            "A proxy may stand between, or base_url= leads to a server with another protocol.",
            provider=self._target.provider,
        )


def _seconds(told: str) -> float:
    return datetime.fromisoformat(told.replace("Z", "+00:00")).timestamp()
