"""How the hub is served: HTTP on a thread, a handle for tests, a command."""

import argparse
import contextlib
import dataclasses
import json
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .routes import Answer, Request, answer
from .store import Files, HubError, Store

TOKEN = "hf_tests_only"


@dataclasses.dataclass(frozen=True)
class FakeHub:
    """A hub that is being served: where it is, and what it holds."""

    url: str
    token: str
    env: Mapping[str, str]
    _store: "Store"

    def files(self, repo_id: str, kind: str = "dataset") -> Files:
        """Return the files on the main branch of a repository, by path."""
        with self._store.lock:
            repo = self._store.repos[kind, repo_id]
            return dict(repo.commits[repo.branches["main"]])

    def requests(self) -> list[str]:
        """Return what was asked so far, as ``METHOD /path``, in order of arrival."""
        with self._store.lock:
            return list(self._store.log)


@contextlib.contextmanager
def fake_hub(*, token: str = TOKEN, require_token: bool = False) -> Iterator[FakeHub]:
    """Serve a hub from a thread of this process for the length of a with block.

    `env` holds what a process needs to talk to it and to nothing else: HF_ENDPOINT, HF_TOKEN, HF_HOME (a
    folder that goes with the hub), and switches for xet, telemetry and progress bars. huggingface_hub reads
    them when it is imported: they are for a subprocess.
    With `require_token` every request without `token` is refused (401).
    """
    store = Store(token=token if require_token else "")
    with tempfile.TemporaryDirectory(prefix="fake-hub-") as home, _Server(store) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        env = {
            "HF_ENDPOINT": server.url,
            "HF_TOKEN": token,
            "HF_HOME": home,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        try:
            yield FakeHub(server.url, token, env, store)
        finally:
            server.shutdown()
            server.hang_up()
            thread.join()


def main() -> None:
    """Serve a hub until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(description="A Hugging Face Hub on loopback, in memory.")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port; it is printed on start")
    parser.add_argument("--require-token", default="", metavar="TOKEN", help="refuse any other token (401)")
    args = parser.parse_args()
    with _Server(Store(token=args.require_token), args.port) as server:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        sys.stdout.write(f"fake-hub listening on {server.url}\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
        server.hang_up()


class _Handler(BaseHTTPRequestHandler):
    """Speaks HTTP; everything else is in the routes."""

    protocol_version = "HTTP/1.1"
    server: "_Server"

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        store = self.server.store
        headers = {name.title(): value for name, value in self.headers.items()}
        request = Request(self.command, self.server.url, parse_qs(parts.query), headers, self._read_body())
        try:
            with store.lock:
                store.log.append(f"{self.command} {unquote(parts.path)}")
                reply = answer(store, request, parts.path)
        except HubError as error:
            codes = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            headers = {name: text for name, text in codes.items() if text}
            reply = Answer({"error": str(error)}, error.status, headers)
        self._send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, reply: Answer) -> None:
        is_json = not isinstance(reply.content, bytes)
        content = json.dumps(reply.content).encode() if is_json else reply.content
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(content)))
        if is_json:
            self.send_header("Content-Type", "application/json")
        for name, text in reply.headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    """A threaded server that can close the connections that its clients keep open."""

    daemon_threads = False  # so that server_close waits for the threads

    def __init__(self, store: Store, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.store = store
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._open: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away in the middle of an answer is no error of the hub.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """Close every connection, which ends the thread that reads from it."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
