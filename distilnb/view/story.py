"""One row's way through a run, as text and as HTML: `run.why(17)`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from distilnb.engine.story import Chapter, Question, State, Story
from distilnb.rows import Row
from distilnb.view.figures import money, plural, tokens
from distilnb.view.html import Bundle, escape, fold, marked, muted, page
from distilnb.view.looks import FAILED_ROW, PARTIAL_ROW, Look
from distilnb.view.preview import messages_text
from distilnb.view.text import one_line, value_text, visible

SHORT = 160  # characters of a value on its line
LONG = 4_000  # characters of a prompt or reply, opened
_LEFT_OUT = Look("–", "left out", "idle")
_LOOKS: Mapping[State, Look] = {
    "done": Look("✓", "done", "ok"),
    "waiting": Look("○", "has not come here yet", "idle"),
    "elsewhere": Look("↷", "was routed elsewhere", "idle"),
    "lost": Look("·", "did not come this far", "idle"),
}


class Fact(NamedTuple):
    """A line of a chapter: what it is about, and the text, which is folded where it is long."""

    title: str
    text: str
    is_long: bool = False
    look: Look | None = None


class RowStory:
    """The story of a row; `story` has it as data."""

    def __init__(self, story: Story) -> None:
        self.story = story

    def __repr__(self) -> str:
        told = [_heading(self.story)]
        for chapter in self.story.chapters:
            told.append(f"\n{chapter_line(chapter)} · {_look(chapter)}")
            for fact in facts(chapter):
                if fact.is_long:
                    text = visible(fact.text[:LONG]) + "…" * (len(fact.text) > LONG)
                    told.append(f"  {fact.title}:\n" + "\n".join(f"    {line}" for line in text.splitlines()))
                else:
                    told.append(f"  {fact.title}: {one_line(fact.text, SHORT)}")
        return "\n".join(told)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> Bundle:
        parts = [f"<div><b>{escape(_heading(self.story))}</b></div>"]
        for chapter in self.story.chapters:
            lead = f"<b>{escape(chapter_line(chapter))}</b> {marked(_look(chapter))}"
            parts.append(
                f'<div style="margin-top:8px">{lead}</div>' + "".join(map(_fact_html, facts(chapter)))
            )
        return {"text/plain": repr(self), "text/html": page(*parts)}


def _heading(story: Story) -> str:
    number = "" if story.ordinal is None else f"row {story.ordinal} · "
    return one_line(f"{story.run_id} · {number}{story.row_id}", 200)


def chapter_line(chapter: Chapter) -> str:
    """Return which steps a chapter is about, by which version, and what it cost."""
    told = [visible(" → ".join(chapter.steps))]
    told += [f"version {chapter.version}"] if chapter.version > 1 else []
    if chapter.questions:
        replies = [reply for question in chapter.questions for reply in question.replies]
        sent = sum(reply.input_tokens or 0 for reply in replies)
        received = sum(reply.output_tokens or 0 for reply in replies)
        told.append(f"{tokens(sent)} tokens in, {tokens(received)} out")
        costs = [question.cost_usd for question in chapter.questions]
        told.append(
            money(None if None in costs else sum(cost or 0.0 for cost in costs), is_free=bool(replies))
        )
    if chapter.state == "done" and len(chapter.made) > 1:
        told.append(plural(len(chapter.made), "row"))
    return " · ".join(told)


def _look(chapter: Chapter) -> Look:
    if chapter.state != "done":
        return _LOOKS[chapter.state]
    if any(not failure["is_partial"] and failure["state"] != "mended" for failure in chapter.failures):
        return FAILED_ROW
    if chapter.failures:
        return PARTIAL_ROW
    return _LOOKS["done"] if chapter.made or not chapter.left_out else _LEFT_OUT


def facts(chapter: Chapter) -> Iterator[Fact]:
    """Yield what there is to tell: questions with their replies, failures, rows left out, columns made or changed."""
    n_rows = len({question.row_id for question in chapter.questions})
    for question in chapter.questions:
        yield from _of_question(question, is_one=n_rows == 1)
    for failure in chapter.failures:
        look = PARTIAL_ROW if failure["is_partial"] else FAILED_ROW
        state = "" if failure["state"] == "open" else f" ({failure['state']})"
        yield Fact(f"{failure['kind']}{state}", str(failure["reason"]), look=look)
        for name in ("prompt", "reply", "traceback"):
            if failure[name] and not (name != "traceback" and any(q.messages for q in chapter.questions)):
                yield Fact(name, str(failure[name]), is_long=True)
    for row_id, reason in chapter.left_out.items():
        yield Fact(f"left out {row_id}", reason, look=_LEFT_OUT)
    for row_id, row in chapter.made.items():
        lead = f"{row_id} " if len(chapter.made) > 1 else ""
        for name, value in _new_in(row, chapter.came_in).items():
            text = value_text(value)
            yield Fact(f"{lead}{name}", text, is_long=len(text) > SHORT or "\n" in text)


def _of_question(question: Question, *, is_one: bool) -> Iterator[Fact]:
    lead = "" if is_one else f"{question.row_id} "
    if not question.messages:
        yield Fact(f"{lead}prompt", "cannot be told: the task, or its model, is code of the user")
        return
    again = f" (asked anew {question.attempt} ×)" if question.attempt else ""
    if question.why:
        yield Fact(f"{lead}answered by the backup {question.model}", question.why, look=PARTIAL_ROW)
    inner = ", for an answer to build on" if question.is_inner else ""
    yield Fact(
        f"{lead}prompt to {question.model}{inner}{again}", messages_text(question.messages), is_long=True
    )
    if not question.replies:
        yield Fact(f"{lead}reply", "none is in the reply cache")
    for number, reply in enumerate(question.replies):
        place = f"[{number}]" if len(question.replies) > 1 else ""
        by = f" by {reply.model}" if reply.model else ""
        cut = " · cut off at the token limit" if reply.is_truncated else ""
        text = "(no text)" if reply.text is None else reply.text
        yield Fact(f"{lead}raw reply{place}{by}{cut}", text, is_long=True)


def _new_in(row: Row, before: Mapping[str, Row]) -> Row:
    """Return the columns that are new or other than in every row that came in."""
    return {
        name: value
        for name, value in row.items()
        if not any(name in one and one[name] == value for one in before.values())
    }


def _fact_html(fact: Fact) -> str:
    if fact.is_long:
        return f"<div>{fold(one_line(f'{fact.title}: {fact.text}', 110), fact.text, LONG)}</div>"
    sign = f"{marked(fact.look._replace(word=''))} " if fact.look else ""
    return f"<div>{sign}{muted(fact.title)} {escape(one_line(fact.text, SHORT))}</div>"
