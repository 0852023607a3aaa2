"""The certificates to trust; and aiohttp, imported without reading them for nothing.

aiohttp reads the system's certificates when it is imported: a sixth of what the import costs, in each process of a run
that asks, also where no connection is encrypted; and connections that are have a context of ours. So the one that
aiohttp makes reads them when it is used first, by whoever does that.
"""

from __future__ import annotations

import os
import ssl
import sys
import threading
from typing import Any


def certificates() -> ssl.SSLContext:
    """Return the certificates to trust: the system's, or those that SSL_CERT_FILE or SSL_CERT_DIR names."""
    context = ssl.create_default_context()
    named = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
    if not named and not context.cert_store_stats()["x509_ca"]:  # Python on macOS comes without any
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def import_aiohttp() -> None:
    """Import aiohttp, whose context for connections that are not given one reads its certificates late."""
    with _IMPORTING:
        if "aiohttp.connector" in sys.modules:
            return
        importer, load = threading.get_ident(), ssl.SSLContext.load_default_certs

        def note(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
            if threading.get_ident() != importer or type(context) is not _LateContext.__base__:
                load(context, purpose)
                return
            context.__class__ = _LateContext
            context.purpose = purpose  # type: ignore[attr-defined]  # of the class that it has now

        ssl.SSLContext.load_default_certs = note  # type: ignore[method-assign,assignment]
        try:
            import aiohttp.connector  # noqa: F401
        finally:
            ssl.SSLContext.load_default_certs = load  # type: ignore[method-assign]


_IMPORTING = threading.Lock()


class _LateContext(ssl.SSLContext):
    """A context whose default certificates are due: it reads them before anybody connects by it, or looks at them."""

    purpose: ssl.Purpose | None

    def _catch_up(self) -> None:
        purpose, self.purpose = self.purpose, None
        if purpose is not None:
            self.load_default_certs(purpose)

    def wrap_socket(self, *arguments: Any, **options: Any) -> ssl.SSLSocket:
        self._catch_up()
        return super().wrap_socket(*arguments, **options)

    def wrap_bio(self, *arguments: Any, **options: Any) -> ssl.SSLObject:
        self._catch_up()
        return super().wrap_bio(*arguments, **options)

    def cert_store_stats(self) -> dict[str, int]:
        self._catch_up()
        return super().cert_store_stats()

    def get_ca_certs(self, *arguments: Any, **options: Any) -> Any:
        self._catch_up()
        return super().get_ca_certs(*arguments, **options)
