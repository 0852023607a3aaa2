from __future__ import annotations

from tests.llms.conformance.page import PAGE, write_page
from tests.llms.conformance.providers import BEHAVIOURS, PROVIDERS, REASONS
from tests.llms.conformance.record import what_is_stale


def test_the_page_is_what_the_code_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "out of date: make pages"


def test_the_page_shows_what_is_lacked_too() -> None:
    page = write_page()
    assert all(f"`{provider.kind}`" in page for provider in PROVIDERS)
    assert {"refused", "n times", "other servers"} <= {cell.strip() for cell in page.split("|")}


def test_what_the_page_says_of_real_engines_was_seen_on_them() -> None:
    write_page()  # imports the suite
    assert list(what_is_stale()) == [], "make test-engines"


def test_each_reason_for_leaving_a_test_out_is_used() -> None:
    write_page()
    assert {reason for found in BEHAVIOURS.values() for reason in found.unreal.values()} == set(REASONS)
