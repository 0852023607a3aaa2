"""Start a real Argilla server on SQLite: ``python serve.py --home FOLDER``, in the venv of argilla-server.

Its REST API, database, migrations and web pages are Argilla's own. Two of its neighbours are replaced: the
search engine by `memsearch.py` beside this file, Redis by fakeredis (unless ARGILLA_REDIS_URL is set).
"""

import argparse
import contextlib
import importlib
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

PASSWORD = "12345678"
API_KEY = "argilla.apikey"


def main() -> None:
    """Serve until SIGINT or SIGTERM, or with --with-stdin until standard input ends."""
    parser = argparse.ArgumentParser(description="A real Argilla server for tests.")
    parser.add_argument("--home", required=True, help="folder of the database; made when missing")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free port; it is printed on start")
    parser.add_argument("--with-stdin", action="store_true", help="stop when standard input ends")
    args = parser.parse_args()
    if args.with_stdin:
        threading.Thread(target=stop_at_end, daemon=True).start()
    # Argilla and its parts log to both streams; a reader of standard output gets the one line it waits for.
    announce = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    set_environment(args.home)
    # Bound and listening before the server is ready: nobody can take the port, and no connection is refused.
    listener = socket.create_server(("127.0.0.1", args.port))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    run(listener, lambda: announce.write(f"argilla listening on {url}\n"))


def stop_at_end() -> None:
    """Wait for the end of standard input (however the parent ends, its end of the pipe closes), then stop."""
    # os.read, not sys.stdin: a thread that waits in sys.stdin holds its lock, which breaks the exit.
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os._exit(1)


def set_environment(home: str) -> None:
    """Tell Argilla where to live and to stay offline; it reads its settings when it is imported."""
    os.environ.update(
        ARGILLA_HOME_PATH=home,
        ARGILLA_SEARCH_ENGINE="memory",
        ARGILLA_ENABLE_TELEMETRY="0",
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_OFFLINE="1",
    )
    # Without one Argilla draws a key per process, and a login would not outlive a restart.
    os.environ.setdefault("ARGILLA_AUTH_SECRET_KEY", "for-tests-only-0123456789abcdef")
    if "ARGILLA_REDIS_URL" not in os.environ:
        import fakeredis  # type: ignore[import-not-found]
        import redis  # type: ignore[import-not-found]

        redis.from_url = lambda _url, **options: fakeredis.FakeRedis(**options)


def run(listener: socket.socket, ready: Callable[[], object]) -> None:
    """Migrate the database and serve; call `ready` once requests are answered."""
    # Argilla's own command line does not start with click >= 8.2, so its parts are called from here.
    import alembic.config  # type: ignore[import-not-found]
    import uvicorn  # type: ignore[import-not-found]
    from argilla_server import app  # type: ignore[import-not-found]
    from argilla_server.database import ALEMBIC_CONFIG_FILE  # type: ignore[import-not-found]

    importlib.import_module("memsearch")  # registers the engine
    alembic.config.main(argv=["-c", ALEMBIC_CONFIG_FILE, "upgrade", "head"])
    inner = app.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(application: Any) -> AsyncIterator[None]:
        await make_owner()
        await fill_indexes()
        async with inner(application):
            ready()
            yield

    app.router.lifespan_context = lifespan
    config = uvicorn.Config(app, access_log=False, timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])


async def make_owner() -> None:
    """Make the first user and workspace, both named argilla, where they are missing."""
    from argilla_server.cli.database.users.create_default import (  # type: ignore[import-not-found]
        _create_default,
    )

    await _create_default(API_KEY, PASSWORD, quiet=True)


async def fill_indexes() -> None:
    """Index what the database holds: the indexes of an earlier process ended with it."""
    from argilla_server.cli.search_engine.reindex import Reindexer  # type: ignore[import-not-found]
    from argilla_server.database import AsyncSessionLocal
    from argilla_server.search_engine import SearchEngine  # type: ignore[import-not-found]

    async with SearchEngine.get_by_name("memory") as engine, AsyncSessionLocal() as session:
        async for dataset in Reindexer.reindex_datasets(session, engine):
            async for _ in Reindexer.reindex_dataset_records(session, engine, dataset):
                pass


if __name__ == "__main__":
    main()
