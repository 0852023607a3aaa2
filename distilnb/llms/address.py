"""Addresses of model servers: one spelling, whether they are on this machine, whether anything listens."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from distilnb.errors import SpecError, UnreachableError

CONNECT_TIMEOUT_S = 1.0


def clean_url(url: str, what: str) -> str:
    """Return a server's address in one spelling: host in lower case, no default port, no slash at the end.

    Raises SpecError when it is no address of a server, or holds a password. It is then not quoted.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").lower(), parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.username is not None or parts.password is not None:
        raise SpecError(
            f"{what} holds a user name or password.", "Pass the key as api_key=, and leave it out of the URL."
        )
    if parts.scheme not in ("http", "https") or not host:
        raise SpecError(f"{what} is not the address of a server.", "Write it like http://127.0.0.1:8000/v1.")
    if parts.query or parts.fragment:
        raise SpecError(
            f"{what} has a part after '?' or '#'.",
            "Leave it out: /chat/completions is appended to the address, and a URL may hold no key.",
        )
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != (443 if parts.scheme == "https" else 80):
        shown += f":{port}"
    return f"{parts.scheme}://{shown}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Tell whether an address is on this machine."""
    host = urlsplit(url).hostname or ""
    return (
        host in ("localhost", "::1")
        or host.endswith(".localhost")
        or bool(re.fullmatch(r"127(\.\d+){3}", host))
    )


def check_listening(url: str, provider: str, fix: str) -> None:
    """Raise UnreachableError when nothing accepts a connection at the host and port of an address."""
    import socket

    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        socket.create_connection((host, port), CONNECT_TIMEOUT_S).close()
    except socket.gaierror as error:
        raise UnreachableError(
            f"There is no host {host!r}.", "Correct base_url=.", provider=provider
        ) from error
    except OSError as error:
        raise UnreachableError(f"Nothing listens at {host}:{port}.", fix, provider=provider) from error


def proxy_of(url: str) -> str | None:
    """Return the address of the proxy that the environment names for an address; None when there is none."""
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or is_loopback(url) or proxy_bypass(parts.hostname or ""):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def host_of(url: str) -> str:
    """Return host and port as they stand in an address."""
    return urlsplit(url).netloc


def origin(url: str) -> str:
    """Return scheme, host and port: what has to be equal for two addresses to be one server."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
