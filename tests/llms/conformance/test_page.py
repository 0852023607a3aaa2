from __future__ import annotations

from tests.llms.conformance.page import PAGE, write_page
from tests.llms.conformance.providers import PROVIDERS


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "out of date: make pages"


def test_the_page_shows_what_is_lacked_too() -> None:
    page = write_page()
    assert all(f"`{provider.kind}`" in page for provider in PROVIDERS)
    assert {"refused", "n times", "other servers"} <= {cell.strip() for cell in page.split("|")}
