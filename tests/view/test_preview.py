from __future__ import annotations

from dataclasses import replace

import pytest

from distilnb.view.preview import Failure, PreviewData, RowUse, StepPreview, preview_bundle, step_header
from tests.view.samples import HOSTILE, check_html

PROMPT = [
    {"role": "system", "content": "Be terse."},
    {"role": "user", "content": "Name three uses of beeswax."},
]
ANSWER = StepPreview(
    name="answer",
    kind="TextGeneration",
    rows_in=2,
    rows_out=2,
    columns_made=["generation"],
    rows=[
        {"instruction": "Name one.", "generation": "Candles"},
        {"instruction": "Why?", "generation": "So."},
    ],
    ordinals=[17, 4],
    asked=10,
    cost_usd=0.00094,
    seconds=1.4,
    prompts={17: PROMPT, 4: PROMPT},
    replies={17: ["Candles"], 4: ["So."]},
    version=1,
    after=["load"],
    reads=["instruction"],
)
JUDGE = StepPreview(
    name="judge",
    kind="UltraFeedback",
    rows_in=2,
    rows_out=1,
    columns_made=["rating"],
    rows=[{"instruction": "Why?", "generation": "So.", "rating": None}],
    ordinals=[4],
    failures=[Failure(17, "rating 7 is outside 1..5", PROMPT, "Rating: 7")],
    partial={4: "no rating"},
    reused=2,
    is_rehearsed=True,
)


def test_the_header_says_what_was_read_made_asked_and_paid() -> None:
    assert step_header(ANSWER) == (
        "answer@1 after load · reads instruction · makes generation · 2 → 2 rows · asked 10, reused 0 · 1.4 s, $0.0009"
    )
    assert step_header(JUDGE) == (
        "judge · makes rating · 2 → 1 row · asked 0, reused 2 · 0 s, $0 · 1 row failed · 1 row partial · rehearsed"
    )


def test_a_step_that_asks_nobody_is_free() -> None:
    assert (
        step_header(StepPreview("keep", "KeepColumns", 5, 5, [], [], [])) == "keep · 5 → 5 rows · 0 s, free"
    )


def test_the_text_form() -> None:
    assert preview_bundle(PreviewData("prefs", (ANSWER, JUDGE), 2))["text/plain"] == (
        "prefs · preview of 2 rows · asked 10, reused 2 · $0.0009\n"
        "\n"
        f"{step_header(ANSWER)}\n"
        "  row  instruction  generation\n"
        "   17  Name one.    Candles\n"
        "    4  Why?         So.\n"
        "\n"
        f"{step_header(JUDGE)}\n"
        "  row  rating\n"
        "✕  17  failed: rating 7 is outside 1..5\n"
        "◐   4  None\n"
        "       partial: no rating"
    )


def test_a_failed_row_shows_reason_prompt_and_reply_before_the_others() -> None:
    html = preview_bundle(PreviewData("prefs", (JUDGE,), 2))["text/html"]
    told = check_html(html)
    assert (
        told.index("rating 7 is outside 1..5")
        < told.index("Be terse.")
        < told.index("Rating: 7")
        < told.index("no rating")
    )
    assert html.count("<summary>prompt</summary>") == 1
    assert "rehearsed" in told


def test_rows_that_one_row_became_share_its_prompt() -> None:
    step = replace(ANSWER, rows=ANSWER.rows[:1] * 3, ordinals=[17, 17, 17], rows_out=3)
    assert (
        preview_bundle(PreviewData("prefs", (step,), 1))["text/html"].count("<summary>prompt</summary>") == 1
    )


def test_an_unknown_price_is_said() -> None:
    data = PreviewData("prefs", (replace(ANSWER, cost_usd=None),), 2)
    assert preview_bundle(data)["text/plain"].startswith(
        "prefs · preview of 2 rows · asked 10, reused 0 · price unknown\n"
    )


def test_columns_can_be_chosen() -> None:
    text = preview_bundle(PreviewData("prefs", (ANSWER,), 2), columns={"answer": ["generation"]})[
        "text/plain"
    ]
    assert "instruction" not in text.split("\n", 3)[3]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_stays_text_wherever_it_stands(text: str) -> None:
    messages = [
        {"role": text, "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}, {"type": text}]},
    ]
    step = StepPreview(
        name=text, kind=text, rows_in=1, rows_out=1, columns_made=[text], rows=[{text: text}], ordinals=[1],
        failures=[Failure(2, text, messages, text)], partial={1: text}, prompts={1: messages}, replies={1: [text]},
        after=[text], reads=[text],
    )  # fmt: skip
    bundle = preview_bundle(PreviewData(text, (step,), 1))
    check_html(bundle["text/html"])
    assert "\x1b" not in bundle["text/plain"]


def test_a_step_is_small_however_long_the_texts() -> None:
    text = "<&" * 500_000
    messages = [{"role": "user", "content": text}]
    many = range(12)
    step = StepPreview(
        name="answer", kind="TextGeneration", rows_in=12, rows_out=12, columns_made=["a"],
        rows=[{"a": text} for _ in many], ordinals=list(many), prompts=dict.fromkeys(many, messages),
        replies={i: [text, text] for i in many},
    )  # fmt: skip
    html = preview_bundle(PreviewData("prefs", (step,), 12))["text/html"]
    check_html(html)
    assert len(html.encode()) < 20_000
    assert "cut to keep the notebook small" in html


def test_each_row_says_whether_it_was_asked_or_reused_and_what_that_saved() -> None:
    uses = {17: RowUse(2, 0, 0.0007, 0.0), 4: RowUse(0, 2, 0.0, 0.88)}
    step = replace(ANSWER, asked=1, reused=1, saved_usd=0.88, uses=uses)
    assert "asked 1, reused 1, saved $0.88" in step_header(step)
    bundle = preview_bundle(PreviewData("prefs", (step, replace(JUDGE, saved_usd=0.12)), 2))
    assert bundle["text/plain"].startswith("prefs · preview of 2 rows · asked 1, reused 3, saved $1.00 ·")
    told = check_html(bundle["text/html"])
    assert told.index("asked $0.0007") < told.index("reused, saved $0.88")
    mixed = replace(step, uses={17: RowUse(1, 2, None, None)})
    assert (
        "1 of 3 replies asked, the others reused"
        in preview_bundle(PreviewData("p", (mixed,), 2))["text/html"]
    )


def test_what_does_not_fit_a_page_is_behind_a_triangle_failed_rows_first() -> None:
    rows = [{"a": f"text {n}"} for n in range(25)]
    step = StepPreview(
        "map", "MapRows", 26, 25, ["a"], rows, list(range(25)), failures=[Failure(25, "broke")]
    )
    html = preview_bundle(PreviewData("p", (step,), 26))["text/html"]
    told = check_html(html)
    assert html.count('<details class="dnb-page">') == 2
    assert (
        told.index("broke") < told.index("text 8") < told.index("rows 11 to 20 of 26") < told.index("text 9")
    )
    assert told.index("rows 21 to 26 of 26") < told.index("text 24")
