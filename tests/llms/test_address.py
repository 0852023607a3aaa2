from __future__ import annotations

import socket

import pytest

from distilnb.errors import SpecError, UnreachableError
from distilnb.llms.address import check_listening, clean_url, is_loopback, origin


@pytest.mark.parametrize(
    "given, clean",
    [
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        (" HTTPS://API.Example.com:443/V1/ ", "https://api.example.com/V1"),
        ("http://localhost:80", "http://localhost"),
        ("http://[::1]:8000/v1/", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_has_one_spelling(given: str, clean: str) -> None:
    assert clean_url(given, "base_url") == clean


@pytest.mark.parametrize(
    "wrong",
    ["", "localhost:8000", "ftp://host/v1", "http://", "http://host:99999/v1", "http://h/v1?key=secret-word"],
)
def test_what_is_no_address_is_refused(wrong: str) -> None:
    with pytest.raises(SpecError) as caught:
        clean_url(wrong, "base_url")
    assert "secret-word" not in str(caught.value)


def test_a_password_in_an_address_is_refused_and_not_quoted() -> None:
    with pytest.raises(SpecError, match="holds a user name or password") as caught:
        clean_url("https://me:hunter2@host/v1", "base_url")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url, here",
    [
        ("http://127.0.0.1:1/v1", True),
        ("http://127.8.9.1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:80/v1", True),
        ("http://127.0.0.1.evil.com/v1", False),
        ("http://localhost.evil.com", False),
        ("https://api.openai.com/v1", False),
    ],
)
def test_loopback_is_told_by_the_whole_host(url: str, here: bool) -> None:
    assert is_loopback(url) is here


def test_two_addresses_of_one_server_have_one_origin() -> None:
    assert origin("https://h:8/v1") == origin("https://h:8/v2") != origin("http://h:8/v1")


def test_a_port_where_nothing_listens_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        check_listening(f"http://127.0.0.1:{port}/v1", "openai", "Start it.")
    with pytest.raises(UnreachableError) as caught:
        check_listening(f"http://127.0.0.1:{port}/v1", "openai", "Start it.")
    assert str(caught.value) == f"Nothing listens at 127.0.0.1:{port}.\nStart it."
    assert caught.value.provider == "openai"


def test_a_host_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> socket.socket:
        raise socket.gaierror("no such name")

    monkeypatch.setattr(socket, "create_connection", fail)
    with pytest.raises(UnreachableError, match=r"There is no host 'nowhere\.example'"):
        check_listening("http://nowhere.example/v1", "openai", "")
