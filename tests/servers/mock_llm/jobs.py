"""Offline batches in the words of OpenAI (and of whoever speaks its protocol) and of Anthropic, told when to end."""

import dataclasses
import itertools
import json
import re
import time
from collections import Counter
from datetime import datetime, timezone
from typing import Any

from aiohttp import web

from .config import Config
from .faults import FAILURES, Failure, scripted_fault
from .protocols.anthropic import Anthropic
from .protocols.frontend import FrontEnd, Invalid, refuse_unknown
from .protocols.openai import OpenAI
from .replies import Call, JsonObject, Written, write_reply
from .stats import Stats

DAY_S = 86_400
_CREATE_FIELDS = frozenset(
    {"input_file_id", "endpoint", "completion_window", "metadata", "output_expires_after"}
)
_LINE_FIELDS = frozenset({"custom_id", "method", "url", "body"})
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ENDS = ("completed", "expired", "cancelled", "failed")


class Refused(Exception):
    """A request about files or jobs is turned away, with a failure in the protocol's words."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


@dataclasses.dataclass
class MockJob:
    """One job, of either protocol."""

    id: str
    front_end: FrontEnd
    requests: list[tuple[str, JsonObject]]
    metadata: JsonObject
    input_file: str = ""
    created_at: float = dataclasses.field(default_factory=time.time)
    status: str = (
        "in_progress"  # or validating, finalizing, cancelling, completed, expired, cancelled, failed
    )
    n_done: int = 0  # as it is told before the end
    results: list[JsonObject] = dataclasses.field(default_factory=list)
    output_file: str = ""
    error_file: str = ""
    errors: list[JsonObject] = dataclasses.field(default_factory=list)
    is_cancelled: bool = False

    @property
    def is_over(self) -> bool:
        return self.status in _ENDS


class Jobs:
    """All files and jobs of a server. What a test orders comes to `order`, what it asks is in `told`."""

    def __init__(self, config: Config, stats: Stats) -> None:
        self._config = config
        self._stats = stats
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.jobs: dict[str, MockJob] = {}
        self.files: dict[str, bytes] = {}
        self.armed: Counter[str] = Counter()  # what is to happen to the next creations
        self.calls: Counter[str] = Counter()
        self._numbers = itertools.count(1)

    # --- the test's side ---

    def told(self) -> JsonObject:
        """Return what there is, for a test."""
        return {
            "jobs": [
                {
                    "id": job.id,
                    "protocol": job.front_end.name,
                    "status": job.status,
                    "n": len(job.requests),
                    "metadata": job.metadata,
                    "names": [name for name, _ in job.requests],
                }
                for job in self.jobs.values()
            ],
            "n_files": len(self.files),
            "calls": dict(self.calls),
        }

    def order(self, body: JsonObject) -> JsonObject:
        """Do what a test orders: {"arm": {...}}, {"progress": n}, {"end": how, "done": n}, one "id" or all."""
        self.armed.update(body.get("arm") or {})
        chosen = [job for job in self.jobs.values() if not job.is_over and body.get("id") in (None, job.id)]
        for job in chosen:
            if "progress" in body:
                job.n_done = int(body["progress"])
            if "end" in body:
                self._end(job, body["end"], body.get("done"))
        return {"n": len(chosen)}

    # --- the client's side ---

    def route(self, front_end: FrontEnd, method: str, path: str) -> tuple[str, str] | None:
        """Return what is asked for, and of which file or job; None when it is none of these."""
        if isinstance(front_end, Anthropic):
            prefix, steps = "/v1/messages/batches", {"": "job", "results": "results", "cancel": "cancel"}
            names = {"POST": "create", "GET": "list"}
        elif isinstance(front_end, OpenAI) and front_end.has_jobs:
            prefix, steps = "/batches", {"": "job", "cancel": "cancel"}
            names = {"POST": "create", "GET": "list"}
            path = path.removeprefix(front_end.prefix)
            if path.startswith("/files"):
                prefix, steps, names = "/files", {"": "file", "content": "content"}, {"POST": "upload"}
        else:
            return None
        if not (path == prefix or path.startswith(prefix + "/")):
            return None
        name, _, step = path.removeprefix(prefix).strip("/").partition("/")
        if not name:
            return (names[method], "") if method in names else None
        return (steps[step], name) if step in steps else None

    async def answer(
        self, front_end: FrontEnd, what: str, name: str, request: web.BaseRequest
    ) -> JsonObject | bytes:
        """Return the body of a good answer; raise Refused."""
        self.calls[what] += 1
        if what == "upload":
            return await self._upload(request)
        if what in ("content", "file"):
            if name not in self.files:
                raise Refused(Failure("route", f"No such File object: {name}"))
            return self.files[name] if what == "content" else self._tell_file(name)
        if what == "create":
            return await self._create(front_end, request)
        if what == "list":
            return self._list(front_end, request)
        job = self.jobs.get(name)
        if job is None or job.front_end is not front_end:
            raise Refused(Failure("404", f"No batch found with id '{name}'", model=name))
        if what == "cancel" and not job.is_over:
            job.is_cancelled, job.status = True, "cancelling"
            if not self._config.hold_jobs:
                self._end(job, "cancelled", 0)
        if what == "results":
            if not job.is_over:
                raise Refused(Failure("404", "not ended", model=name))
            return _as_lines(job.results)
        return self._tell(job)

    def takes_creation(self) -> str:
        """Return what is armed for the creation that was just answered, and use it up."""
        for what in ("lose", "hang"):
            if self.armed[what] > 0:
                self.armed[what] -= 1
                return what
        return ""

    # --- files ---

    async def _upload(self, request: web.BaseRequest) -> JsonObject:
        fields: dict[str, bytes] = {}
        reader = await request.multipart()
        while (part := await reader.next()) is not None:
            pieces = []
            while piece := await part.read_chunk(1 << 16):  # `read` has a limit, for servers in the open
                pieces.append(piece)
            fields[part.name or ""] = b"".join(pieces)
        if fields.get("purpose") != b"batch" or "file" not in fields:
            raise Refused(Failure("400", "purpose must be 'batch', with a file"))
        name = f"file-{next(self._numbers):06}"
        self.files[name] = fields["file"]
        return self._tell_file(name)

    def _tell_file(self, name: str) -> JsonObject:
        return {
            "id": name,
            "object": "file",
            "bytes": len(self.files[name]),
            "created_at": int(time.time()),
            "filename": f"{name}.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    # --- jobs ---

    async def _create(self, front_end: FrontEnd, request: web.BaseRequest) -> JsonObject:
        if self.armed["busy"] > 0:
            self.armed["busy"] -= 1
            raise Refused(Failure("500"))
        raw = b"".join([part async for part in request.content.iter_chunked(1 << 16)])
        try:
            body = json.loads(raw)
            if isinstance(front_end, Anthropic):
                job = self._of_anthropic(front_end, body)
            else:
                job = self._of_openai(front_end, body)
        except (Invalid, ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(Failure("400", str(error))) from error
        self.jobs[job.id] = job
        if self.armed["crowded"] > 0:
            self.armed["crowded"] -= 1
            message = "Enqueued token limit reached for mock-model. Limit: 90,000 enqueued tokens."
            job.errors = [{"code": "token_limit_exceeded", "message": message, "line": None, "param": None}]
        if job.errors:
            job.status = "failed"
        elif not self._config.hold_jobs:
            self._end(job, "completed", None)
        return self._tell(job)

    def _of_openai(self, front_end: FrontEnd, body: JsonObject) -> MockJob:
        refuse_unknown(body, _CREATE_FIELDS)
        if body["completion_window"] != "24h":
            raise Invalid("completion_window must be '24h'")
        metadata = body.get("metadata") or {}
        if any(len(key) > 64 or len(value) > 512 for key, value in metadata.items()) or len(metadata) > 16:
            raise Invalid("metadata is too large")
        lines = self.files[body["input_file_id"]].splitlines()
        job = MockJob(f"batch_{next(self._numbers):06}", front_end, [], metadata, body["input_file_id"])
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            problem = self._problem(front_end, json.loads(line), body["endpoint"], seen)
            if problem:
                job.errors.append(
                    {"code": "invalid_request", "message": problem, "line": number, "param": None}
                )
            data = json.loads(line)
            job.requests.append((data.get("custom_id", ""), data.get("body", {})))
        if len(lines) > self._config.job_max_requests:
            message = f"The batch has {len(lines)} requests, more than {self._config.job_max_requests}"
            job.errors.append({"code": "too_many_tasks", "message": message, "line": None, "param": None})
        if not lines:
            job.errors.append(
                {"code": "empty_file", "message": "The file is empty.", "line": None, "param": None}
            )
        return job

    def _problem(self, front_end: FrontEnd, data: JsonObject, endpoint: str, seen: set[str]) -> str:
        name = data.get("custom_id")
        if set(data) != _LINE_FIELDS or data["method"] != "POST" or data["url"] != endpoint:
            return "a line needs custom_id, method POST, the url of the job's endpoint, and a body"
        if not name or name in seen:
            return "custom_id must be unique"
        seen.add(name)
        if self._config.known_models_only and data["body"].get("model") not in self._config.models:
            return f"The provided model '{data['body'].get('model')}' is not supported by the Batch API."
        return ""

    def _of_anthropic(self, front_end: FrontEnd, body: JsonObject) -> MockJob:
        refuse_unknown(body, {"requests"})
        job = MockJob(f"msgbatch_{next(self._numbers):06}", front_end, [], {})
        for number, one in enumerate(body["requests"]):
            refuse_unknown(one, {"custom_id", "params"}, f"requests.{number}.")
            if not _NAME.fullmatch(one["custom_id"]):
                raise Invalid(f"requests.{number}.custom_id: String should match pattern '{_NAME.pattern}'")
            job.requests.append((one["custom_id"], one["params"]))
        names = [name for name, _ in job.requests]
        if len(set(names)) != len(names) or not names:
            raise Invalid("requests: custom_id must be unique")
        if len(names) > self._config.job_max_requests:
            raise Invalid(f"requests: at most {self._config.job_max_requests} items")
        return job

    def _end(self, job: MockJob, how: str, n_done: int | None) -> None:
        """End a job; so many of its requests are answered first, all when None."""
        n_done = len(job.requests) if n_done is None else n_done
        is_anthropic = isinstance(job.front_end, Anthropic)
        for number, (name, body) in enumerate(job.requests):
            if number < n_done:
                job.results.append(self._result(job.front_end, name, body))
            elif is_anthropic:
                kind = "expired" if how == "expired" else "canceled"
                job.results.append({"custom_id": name, "result": {"type": kind}})
            else:
                code = "batch_expired" if how == "expired" else "batch_cancelled"
                error = {"code": code, "message": f"This request was not executed: the batch was {how}."}
                job.results.append({"id": f"r_{name}", "custom_id": name, "response": None, "error": error})
        job.results.reverse()  # no order is promised
        job.status = how
        if not is_anthropic:
            good = [r for r in job.results if (r["response"] or {}).get("status_code") == 200]
            bad = [r for r in job.results if r not in good] if len(good) < len(job.results) else []
            for kind, lines in (("output", good), ("error", bad)):
                if lines:
                    setattr(job, f"{kind}_file", f"file-{kind}-{job.id}")
                    self.files[f"file-{kind}-{job.id}"] = _as_lines(lines)

    def _result(self, front_end: FrontEnd, name: str, body: JsonObject) -> JsonObject:
        status, answer = self._asked(front_end, body)
        if isinstance(front_end, Anthropic):
            if status == 200:
                return {"custom_id": name, "result": {"type": "succeeded", "message": answer}}
            return {"custom_id": name, "result": {"type": "errored", "error": answer}}
        response = {"status_code": status, "request_id": f"req_{name}", "body": answer}
        return {"id": f"batch_req_{name}", "custom_id": name, "response": response, "error": None}

    def _asked(self, front_end: FrontEnd, body: JsonObject) -> tuple[int, Any]:
        path = "/v1/messages" if isinstance(front_end, Anthropic) else "/chat/completions"
        try:
            call: Call = front_end.read("chat", path, body, self._config)
        except (Invalid, ValueError, KeyError, TypeError, AttributeError) as error:
            status, told, _ = front_end.fail(Failure("400", str(error)))
            return status, told
        if call.form and call.form in self._config.refuses:
            status, told, _ = front_end.fail(Failure("400", f"{call.form} is not supported here"))
            return status, told
        attempt = self._stats.ask(call.key, call.model)
        fault = scripted_fault(call.prompt, call.model, attempt, call.turn)
        if fault in FAILURES:
            status, told, _ = front_end.fail(Failure(fault, model=call.model))
            return status, told
        written: Written = write_reply(call, self._config, attempt, fault)
        self._stats.answer(call.key, written.prompt_tokens, written.completion_tokens)
        return 200, front_end.word(call, written, self._config)

    # --- words ---

    def _list(self, front_end: FrontEnd, request: web.BaseRequest) -> JsonObject:
        limit = int(request.query.get("limit", 20))
        after = request.query.get("after") or request.query.get("after_id")
        newest = [job for job in reversed(self.jobs.values()) if job.front_end is front_end]
        ids = [job.id for job in newest]
        start = ids.index(after) + 1 if after else 0
        page = newest[start : start + limit]
        told = {
            "data": [self._tell(job) for job in page],
            "has_more": len(newest) > start + limit,
            "first_id": page[0].id if page else None,
            "last_id": page[-1].id if page else None,
        }
        return told if isinstance(front_end, Anthropic) else {"object": "list", **told}

    def _tell(self, job: MockJob) -> JsonObject:
        return self._tell_anthropic(job) if isinstance(job.front_end, Anthropic) else self._tell_openai(job)

    def _tell_openai(self, job: MockJob) -> JsonObject:
        good = sum((r.get("response") or {}).get("status_code") == 200 for r in job.results)
        created = int(job.created_at)
        return {
            "id": job.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "errors": {"object": "list", "data": job.errors} if job.errors else None,
            "input_file_id": job.input_file,
            "completion_window": "24h",
            "status": job.status,
            "output_file_id": job.output_file or None,
            "error_file_id": job.error_file or None,
            "created_at": created,
            "in_progress_at": created,
            "expires_at": created + DAY_S,
            "completed_at": created if job.status == "completed" else None,
            "failed_at": created if job.status == "failed" else None,
            "expired_at": created if job.status == "expired" else None,
            "cancelled_at": created if job.status == "cancelled" else None,
            "request_counts": {
                "total": len(job.requests) if job.status != "failed" else 0,
                "completed": good if job.is_over else job.n_done,
                "failed": len(job.results) - good,
            },
            "metadata": job.metadata or None,
        }

    def _tell_anthropic(self, job: MockJob) -> JsonObject:
        kinds = Counter(result["result"]["type"] for result in job.results)
        names = {"succeeded": "succeeded", "errored": "errored", "canceled": "canceled", "expired": "expired"}
        counts = {name: kinds[kind] for name, kind in names.items()}
        status = "ended" if job.is_over else "canceling" if job.is_cancelled else "in_progress"
        return {
            "id": job.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": {"processing": 0 if job.is_over else len(job.requests), **counts},
            "created_at": _moment(job.created_at),
            "expires_at": _moment(job.created_at + DAY_S),
            "ended_at": _moment(time.time()) if job.is_over else None,
            "archived_at": None,
            "cancel_initiated_at": _moment(time.time()) if job.is_cancelled else None,
            "results_url": f"{self.address}/anthropic/v1/messages/batches/{job.id}/results"
            if job.is_over
            else None,
        }

    address = ""  # of the server; set with each request


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, timezone.utc).isoformat().replace("+00:00", "Z")


def _as_lines(results: list[JsonObject]) -> bytes:
    return b"".join(json.dumps(result).encode() + b"\n" for result in results)
