"""Which certificates are trusted, and that aiohttp's are read when they are used, not when it is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from distilnb.llms.certificates import certificates

IMPORT = """
import ssl
loaded = []
load = ssl.SSLContext.load_default_certs
ssl.SSLContext.load_default_certs = lambda context, *purpose: (loaded.append(context), load(context, *purpose))
from distilnb.llms.certificates import import_aiohttp
import_aiohttp()
assert not loaded
from aiohttp import connector
contexts = [one for one in vars(connector).values() if isinstance(one, ssl.SSLContext)]
[context] = [one for one in contexts if one.verify_mode is ssl.CERT_REQUIRED]
"""


def test_certificates_are_the_systems_or_those_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import certifi

    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    assert certificates().cert_store_stats()["x509_ca"] > 0


@pytest.mark.parametrize(
    "use",
    [
        "context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname='localhost')",
        "context.wrap_socket(__import__('socket').socket(), server_hostname='localhost')",
        "assert context.cert_store_stats()['x509_ca'] > 0",
        "assert context.get_ca_certs()",
    ],
)
def test_the_context_of_aiohttp_reads_its_certificates_once_it_is_used(
    monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    import certifi

    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    after = f"{use}\n{use}\nassert loaded == [context]\nssl.create_default_context()\nassert len(loaded) == 2"
    subprocess.run([sys.executable, "-c", f"{IMPORT}\n{after}"], check=True, timeout=120)


def test_who_has_imported_aiohttp_before_keeps_what_it_has() -> None:
    program = IMPORT.replace("from distilnb", "import aiohttp\nfrom distilnb", 1).replace(
        "assert not loaded", "assert loaded"
    )
    subprocess.run(
        [sys.executable, "-c", f"{program}\nassert type(context) is ssl.SSLContext"], check=True, timeout=120
    )
