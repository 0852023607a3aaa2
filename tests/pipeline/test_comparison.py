"""Comparing: exactly what must be asked is asked, votes are kept, and what they tell is told as it is.

The mock server counts every request, so the numbers are its word, not ours.
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from typing import Any

import pytest

from distilnb import Pipeline
from distilnb.engine.history import Vote
from distilnb.errors import InputError, SpecError, UnknownStepError, UnknownVersionError
from distilnb.llms import LLMPool, OpenAILLM
from distilnb.pipeline.comparison import Comparison
from distilnb.pipeline.odds import sign_test
from distilnb.pipeline.scoring import pair_results, winner
from distilnb.tasks import PrometheusEval, UltraFeedback
from distilnb.view.figures import money_each
from tests.llms.conformance.test_images import PNG
from tests.pipeline.test_odds import SCIPY
from tests.pipeline.writers import HOSTILE, asked, model
from tests.servers import MockLLM


def two_versions(server: MockLLM, n: int = 12) -> Pipeline:
    """Return load → answer, whose prompt is the second of two versions; nothing was asked."""
    rows = [{"instruction": f"Say {i}."} for i in range(n)]
    p = Pipeline("prefs", llm=model(server)).from_dicts(rows)
    assert p.generate("answer", "{{ instruction }}")["answer"].version == 1
    edited = p.generate("answer", "Terse: {{ instruction }}")
    assert edited["answer"].version == 2
    return edited


def compared(server: MockLLM, n: int = 8, **options: Any) -> Comparison:
    return two_versions(server).compare("answer@1", "answer@2", n=n, **options)


# --- what is asked ----------------------------------------------------------------------------------------------


def test_it_asks_versions_times_models_times_rows_less_what_is_cached(server: MockLLM) -> None:
    p = two_versions(server)
    p.preview(3)  # answer@2 on three rows, by writer
    asked(server)
    models = [model(server), model(server, "other")]
    quoted = p.compare("answer@1", "answer@2", llms=models, n=8, ask=False)
    assert asked(server) == {}
    assert quoted.quote.requests == 2 * 2 * 8 - 3
    assert (quoted.quote.cost_usd or 0) > 0
    found = p.compare("answer@1", "answer@2", llms=models, n=8)
    assert asked(server) == {"writer": 13, "other": 16}
    assert (found.asked, found.reused) == (29, 3)
    assert found.candidates == [f"answer@{n} × {who}" for n in (1, 2) for who in ("writer", "other")]
    assert p.compare("answer@1", "answer@2", llms=models, n=8).asked == 0
    assert asked(server) == {}


def test_a_run_of_the_winner_asks_nothing_that_was_compared(server: MockLLM) -> None:
    p = two_versions(server, 8)
    found = p.compare("answer@1", "answer@2", llms=[model(server, "other")], n=8)
    asked(server)
    chosen = found.use("answer@1 × other")
    assert chosen["answer"].version == 1
    chosen.run(show=False)
    assert asked(server) == {}
    assert sorted(chosen.graph.steps) == ["answer", "load"]


def test_several_models_behind_one_prompt_become_the_one_that_won(server: MockLLM) -> None:
    p = Pipeline("both").from_dicts([{"instruction": "Hi."}])
    both = p.generate("answer", "{{ instruction }}", llm=[model(server, "a"), model(server, "b")])
    found = both.compare("answer", n=1)
    assert found.candidates == ["answer@1 × a", "answer@1 × b"]
    chosen = found.use("b")
    assert list(chosen.graph.steps) == ["load", "answer"]
    assert chosen["answer"].step.llm.model == "b"  # type: ignore[attr-defined]
    assert chosen.preview(1).asked == 0


def test_a_judge_of_pairs_sees_each_pair_in_both_orders(server: MockLLM) -> None:
    quoted = compared(server, judge=model(server, "first"), ask=False)
    assert quoted.quote.requests == 2 * 8 + 2 * 8
    found = compared(server, judge=model(server, "first"))
    assert asked(server) == {"writer": 16, "first": 16}
    [pair] = found.pairs
    assert (pair.wins, pair.losses, pair.ties) == (0, 0, 8)  # it takes the first one, whoever that is
    assert found.best is None
    assert "in 8 pairs the judge chose by the place of the answer" in repr(found)
    assert compared(server, judge=model(server, "first")).asked == 0
    assert asked(server) == {}


def test_a_judge_that_says_nothing_of_use_has_no_vote(server: MockLLM) -> None:
    found = compared(server, 2, judge=model(server, "mute"))
    assert "of 2 pairs the judge said nothing that can be used" in repr(found)
    assert found.pairs[0].rate is None


def test_it_says_that_a_judge_sees_no_names_where_blind_was_asked_for(server: MockLLM) -> None:
    told = "a judge is never told names"
    assert told in repr(compared(server, 2, judge=model(server, "first"), blind=True))
    assert told not in repr(compared(server, 2, judge=model(server, "first")))


def test_a_judge_step_of_the_pipeline_votes_by_its_ratings(server: MockLLM) -> None:
    p = two_versions(server).judge(llm=model(server, "rater"))
    p.preview(5)
    asked(server)
    found = p.compare("answer@1", "answer@2", n=5, judge="judge")
    assert asked(server) == {"writer": 5, "rater": 5}
    ratings = found.to_pandas().pivot_table(index="row", columns="candidate", values="rating")
    one, other = found.candidates
    [pair] = found.pairs
    assert pair.wins == int((ratings[one] > ratings[other]).sum())
    assert pair.losses == int((ratings[one] < ratings[other]).sum())
    assert pair.p == sign_test(pair.wins, pair.losses)
    assert p.use("answer@1").preview(5).asked == 0  # the judge's replies are those of the pipeline


def test_a_task_that_rates_or_compares_votes_too(server: MockLLM) -> None:
    rating = compared(server, 3, judge=UltraFeedback(llm=model(server, "rater"), aspect="honesty"))
    assert asked(server) == {"writer": 6, "rater": 6}
    assert sum(rating.pairs[0][2:5]) == 3
    pairwise = PrometheusEval(mode="relative", rubric="honesty", llm=model(server, "first"))
    assert compared(server, 3, judge=pairwise).pairs[0].ties == 3
    assert asked(server) == {"first": 6}


def test_who_cannot_judge_is_told(server: MockLLM) -> None:
    p = two_versions(server)
    with pytest.raises(SpecError, match="which are no ratings"):
        p.compare("answer@1", "answer@2", judge=p["answer"].step)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="Step 'load' does not rate"):
        p.compare("answer@1", "answer@2", judge="load")


# --- votes ------------------------------------------------------------------------------------------------------


def test_votes_count_and_the_winner_becomes_the_step(server: MockLLM) -> None:
    found = compared(server)
    for row in found.rows[:6]:
        found.vote(row, "answer@2")
    found.vote(found.rows[6], "tie").vote(found.rows[7], "answer@1 × writer")
    [pair] = found.pairs
    assert (pair.wins, pair.losses, pair.ties) == (1, 6, 1)
    assert pair.p == sign_test(6, 1) == 0.125
    assert pair.rate is not None
    assert pair.rate.value == 1.5 / 8
    assert found.best == "answer@2 × writer"
    assert found.use()["answer"].version == 2
    assert "6.5 of 8 = 81 %" in repr(found)
    assert "1 won, 6 lost, 1 tied" in repr(found)
    assert "no clear difference" in repr(found)
    assert found.next() is None


def test_a_later_vote_replaces_an_earlier_one_and_can_be_taken_back(server: MockLLM) -> None:
    found = compared(server, 2)
    row = found.rows[0]
    found.vote(row, "answer@1").vote(row, "answer@2")
    assert found.pairs[0][2:5] == (0, 1, 0)
    found.unvote(row)
    assert found.pairs[0][2:5] == (0, 0, 0)
    assert found.next() == row


@pytest.mark.parametrize("is_blind", [True, False])
def test_without_buttons_a_ballot_says_how_to_vote_and_that_works(
    server: MockLLM, is_blind: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(server, 2, blind=is_blind)
    assert not found.ballot().show()
    told = re.search(r"vote with \.vote\((\d+), '(.+?)'\)", capsys.readouterr().out)
    assert told is not None
    assert told[2] == ("A" if is_blind else "answer@1 × writer")
    assert found.vote(int(told[1]), told[2]).next() == found.rows[1]


def test_votes_are_there_after_a_restart(server: MockLLM) -> None:
    found = compared(server, 4)
    for row in found.rows[:3]:
        found.vote(row, "answer@2")
    program = f"""
from distilnb import Pipeline
from distilnb.llms import OpenAILLM
llm = OpenAILLM(model="writer", base_url={server.base_url!r}, max_retries=0)
rows = [{{"instruction": f"Say {{i}}."}} for i in range(12)]
p = Pipeline("prefs", llm=llm).from_dicts(rows).generate("answer", "Terse: {{{{ instruction }}}}")
found = p.compare("answer@1", "answer@2", n=4)
print(found.pairs[0].losses, found.next() == found.rows[3], found.asked)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == ["3", "True", "0"]


def test_blind_names_are_hidden_until_all_rows_have_a_vote(server: MockLLM) -> None:
    found = compared(server, blind=True, seed=3)
    assert set(found.to_pandas()["candidate"]) == {"A", "B"}
    for text in (repr(found), found._repr_mimebundle_()["text/html"], repr(found.show())):
        assert "answer@" not in text
    with pytest.raises(InputError, match="Names are hidden"):
        found.vote(found.rows[0], "answer@1 × writer")
    with pytest.raises(InputError, match="until every row has a vote"):
        _ = found.pairs
    frame = found.to_pandas().set_index(["row", "candidate"])["generations"]
    first = dict(
        zip(
            found.rows,
            [row["generations"][0] for row in two_versions(server).use("answer@1").preview(8).rows],
            strict=True,
        )
    )
    places = {row: "A" if frame[row, "A"] == text else "B" for row, text in first.items()}
    assert set(places.values()) == {"A", "B"}  # the order changes from row to row
    for row, letter in places.items():
        assert found.is_hidden
        assert found.best is None
        found.vote(row, letter)
    assert not found.is_hidden
    assert found.pairs[0][:5] == ("answer@1 × writer", "answer@2 × writer", 8, 0, 0)
    assert "sign test p = 0.0078" in repr(found)
    assert "no clear difference" not in repr(found)
    assert found.best == "answer@1 × writer"
    again = compared(server, blind=True, seed=3)
    assert again.pairs[0].wins == 8
    hidden = compared(server, 9, blind=True, seed=3)
    assert hidden.is_hidden
    assert not hidden.reveal().is_hidden


def test_there_are_letters_for_more_candidates_than_the_alphabet_has(server: MockLLM) -> None:
    llms = [model(server, f"writer-{number}") for number in range(27)]
    found = two_versions(server).compare("answer", llms=llms, n=1, blind=True)
    assert "    Z: " in repr(found)
    assert "    AA: " in repr(found)
    found.vote(found.rows[0], "AA")
    assert found.best is not None
    assert sum(pair.wins + pair.losses for pair in found.pairs) == 26


def test_of_several_candidates_a_vote_is_for_the_best(server: MockLLM) -> None:
    p = two_versions(server)
    found = p.compare("answer@1", "answer@2", llms=[model(server), model(server, "other")], n=6)
    for row in found.rows:
        found.vote(row, "answer@2 × other")
    wins = {(pair.one, pair.other): (pair.wins, pair.losses, pair.ties) for pair in found.pairs}
    assert wins["answer@2 × writer", "answer@2 × other"] == (0, 6, 0)
    assert wins["answer@1 × writer", "answer@2 × writer"] == (0, 0, 0)  # nothing was said of these
    clear = next(pair for pair in found.pairs if pair.losses)
    assert clear.p == sign_test(0, 6) == 0.03125
    assert clear.adjusted_p == 6 * clear.p  # six pairs were looked at
    assert "of several pairs 0.19: no clear difference" in repr(found)
    assert found.best == "answer@2 × other"


@pytest.mark.parametrize("wins, n, p, low, high", SCIPY)
def test_win_rate_and_p_of_votes_are_scipys(wins: int, n: int, p: float, low: float, high: float) -> None:
    votes = [Vote(f"row {i}", "a", "b", "a" if i < wins else "b", "") for i in range(n)]
    [pair] = pair_results({"a": "one", "b": "other"}, votes)
    assert pair.p == pytest.approx(p, rel=1e-12)
    assert pair.rate == pytest.approx((wins / n, low, high), abs=1e-12)
    assert winner({"a": "one", "b": "other"}, votes) == ("one" if 2 * wins > n else "other")


def test_wrong_votes_are_told(server: MockLLM) -> None:
    found = compared(server, 2)
    with pytest.raises(InputError, match="Row 99 is not compared"):
        found.vote(99, "answer@1")
    with pytest.raises(UnknownStepError, match="Did you mean 'answer@1 × writer'"):
        found.vote(found.rows[0], "answer@1 × writr")
    with pytest.raises(InputError, match="Nobody has won yet"):
        found.use()
    judged = compared(server, 2, judge=model(server, "first"))
    with pytest.raises(InputError, match="votes here"):
        judged.vote(judged.rows[0], "answer@1")


def test_too_few_candidates_are_told(server: MockLLM) -> None:
    p = two_versions(server)
    with pytest.raises(InputError, match="nothing to compare it with"):
        p.compare("answer@1")
    with pytest.raises(UnknownVersionError):
        p.compare("answer@1", "answer@8")
    with pytest.raises(InputError, match="Versions of one step are compared"):
        p.judge(llm=model(server, "rater")).compare("answer@1", "judge@1")


# --- how it looks -----------------------------------------------------------------------------------------------


def test_hostile_answers_are_shown_and_not_obeyed(server: MockLLM) -> None:
    p = Pipeline("hostile", llm=model(server, "hostile")).from_dicts([{"x": HOSTILE}])
    p.generate("answer", "{{ x }}").preview(1)
    found = p.generate("answer", "two {{ x }}").compare("answer@1", "answer@2")
    assert "evil" in repr(found)
    for bundle in (found._repr_mimebundle_(), found.show().bundle()):
        assert "<script" not in bundle["text/html"]
        assert "<img" not in bundle["text/html"]
        for text in bundle.values():
            assert not {"\x1b", "\u202e"} & set(text)


def test_a_large_comparison_is_a_small_output(server: MockLLM) -> None:
    rows = [{"x": f"{i} " + "word " * 5_000} for i in range(30)]
    p = Pipeline("large", llm="rehearsal").from_dicts(rows).generate("answer", "{{ x }}")
    assert p["answer"].version == 1
    edited = p.generate("answer", "More {{ x }}")
    found = edited.compare("answer@1", "answer@2", llms=["rehearsal:a", "rehearsal:b"], n=30)
    assert len(found._repr_mimebundle_()["text/html"].encode()) < 20_000


# --- the ballot -------------------------------------------------------------------------------------------------


def test_a_ballot_votes_by_buttons_and_ends_as_static_html(server: MockLLM) -> None:
    pytest.importorskip("ipywidgets")
    found = compared(server, 3, blind=True)
    used: list[str] = []
    ballot = found.ballot(on_use=used.append)
    ballot._form = "widgets"
    ballot.show()
    assert list(ballot.buttons) == ["A is best", "B is best", "Tie", "Skip", "End"]
    first = found.next()
    ballot.buttons["Skip"].click()
    assert f"row {first} " not in ballot._text.value
    ballot.buttons["A is best"].click()
    ballot.buttons["Tie"].click()
    assert found.next() == first  # what was skipped comes last
    assert f"row {first} " in ballot._text.value
    ballot.buttons["B is best"].click()
    assert found.next() is None
    assert list(ballot.buttons) == [*(f"Use {name}" for name in found.candidates), "Done"]
    ballot.buttons[f"Use {found.candidates[1]}"].click()
    assert used == [found.candidates[1]]
    assert sum(found.pairs[0][2:5]) == 3
    ballot.buttons["Done"].click()
    assert ballot.buttons == {}


def test_a_button_whose_vote_fails_says_so_and_can_be_pressed_again(server: MockLLM) -> None:
    pytest.importorskip("ipywidgets")
    found = compared(server, 2)
    ballot = found.ballot()
    ballot._form = "widgets"
    ballot.show()
    ballot._vote = lambda row, name: (_ for _ in ()).throw(InputError("The disk is full."))
    button = ballot.buttons["Tie"]
    button.click()
    assert "The disk is full." in ballot._said.value
    assert not button.disabled
    ballot.close()


def test_without_widgets_the_next_row_is_shown_as_text(
    server: MockLLM, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compared(server, 2)
    found.ballot().show()
    told = capsys.readouterr().out
    assert told.startswith("0 of 2 rows have a vote")
    assert "answer@1 × writer:" in told


# --- what the figures are of, and what is shown ------------------------------------------------------------------


def test_figures_are_by_the_row_and_the_same_in_both_tables(server: MockLLM) -> None:
    p = two_versions(server)
    found = p.compare("answer@1", "answer@2", n=4)
    p.preview(4)
    head = "tokens in/out per row  cost per row  median latency"
    compared, listed = repr(found).splitlines(), repr(p["answer"].versions).splitlines()
    assert head in compared[1]
    assert head in listed[1]
    of_second = [next(line for line in told if "answer@2" in line) for told in (compared[1:], listed)]
    assert len({re.search(r"\d+/\d+ +\$[\d.]+ ", line)[0] for line in of_second}) == 1  # type: ignore[index]
    figures = p["answer"].versions[1].figures
    assert figures.n_rows == 4
    assert figures.cost_usd is not None
    assert f" {money_each(figures.cost_usd / 4)} " in of_second[0]


def test_of_many_pairs_those_that_tell_most_are_shown_and_the_rest_counted(server: MockLLM) -> None:
    llms = [model(server, f"writer-{number}") for number in range(27)]
    found = two_versions(server).compare("answer", llms=llms, n=6)
    for row in found.rows:
        found.vote(row, "answer@2 × writer-26")
    for row in found.rows[:2]:
        found.vote(row, "tie")
    for text in found._repr_mimebundle_().values():
        assert text.count(" vs ") == 10
        assert "… and 341 more pairs, in .pairs" in text
    assert len(found.pairs) == 351
    shown = [line for line in repr(found).splitlines() if " vs " in line]
    assert all("answer@2 × writer-26" in line for line in shown)


def test_more_candidates_than_there_is_room_for_are_counted(server: MockLLM) -> None:
    llms = [f"rehearsal:{number}" for number in range(300)]
    found = two_versions(server).compare("answer", llms=llms, n=1)
    found.vote(found.rows[0], "answer@2 × 299")
    for text in found._repr_mimebundle_().values():
        assert "… and 270 more candidates, in .candidates" in text
        assert "★ answer@2 × 299" in text
        assert len(text.encode()) < 20_000


def test_it_says_that_the_model_of_a_judge_step_is_compared(server: MockLLM) -> None:
    told = "the judge is one of the models compared"
    p = two_versions(server).judge(llm=model(server, "rater"))
    models = [model(server), model(server, "rater")]
    assert told in repr(p.compare("answer", llms=models, n=1, judge="judge"))
    assert told not in repr(p.compare("answer@1", "answer@2", n=1, judge="judge"))
    several = LLMPool(llms=[model(server, "other"), model(server, "rater")])
    assert told in repr(p.compare("answer", llms=[model(server), several], n=1, judge=model(server, "rater")))


def test_why_a_row_failed_is_hidden_with_the_names(server: MockLLM) -> None:
    p = Pipeline("prefs").from_dicts([{"x": "one"}, {"x": "[[500]]"}])
    llms = [model(server), model(server, "other")]
    found = p.generate("answer", "{{ x }}", llm=llms[0]).compare("answer", llms=llms, blind=True)
    why = set(found.to_pandas()["failure"])
    assert why == {"", "failed; why is told with the names"}
    named = found.reveal()
    assert "500" in repr(named)
    assert why.isdisjoint(set(named.to_pandas()["failure"]) - {""})


def test_equal_answers_are_a_tie_that_no_judge_is_paid_for(server: MockLLM) -> None:
    p = two_versions(server)
    quoted = p.use("answer@1").compare("answer@1", "answer@2", llms=[model(server, "mute")], n=4)
    assert quoted.asked == 8
    asked(server)
    judged = p.compare(
        "answer@1", "answer@2", llms=[model(server, "mute")], n=4, judge=model(server, "first")
    )
    assert asked(server) == {}
    assert judged.quote.requests == 0
    assert judged.pairs[0][2:5] == (0, 0, 4)
    assert "in 4 pairs both answers are the same: ties, without asking" in repr(judged)
    both = [model(server, "mute"), model(server)]
    mixed = p.compare("answer@1", "answer@2", llms=both, n=2, judge=model(server, "first"))
    assert asked(server) == {"writer": 4, "first": 2 * 2 * 5}  # of six pairs a row one is alike
    assert sum(sum(pair[2:5]) for pair in mixed.pairs) == 12


def test_rows_that_share_a_number_go_by_their_ids(server: MockLLM) -> None:
    p = Pipeline("prefs", llm=model(server)).from_dicts([{"x": ["a", "b", "c"]}]).expand("x")
    p["load"]
    found = p.generate("answer", "{{ x }}").compare("answer", llms=[model(server), model(server, "o")])
    assert len(set(found.rows)) == 3
    with pytest.raises(InputError, match="3 rows have the number 0"):
        found.vote(0, "tie")
    while (row := found.next()) is not None:
        found.vote(row, "tie")
    assert found.pairs[0].ties == 3


def test_skipped_rows_come_back_in_turn_also_where_they_share_a_number(server: MockLLM) -> None:
    pytest.importorskip("ipywidgets")
    p = Pipeline("prefs", llm=model(server)).from_dicts([{"x": ["a", "b", "c"]}]).expand("x")
    found = p.generate("answer", "{{ x }}").compare("answer", llms=[model(server), model(server, "o")])
    ballot = found.ballot()
    ballot._form = "widgets"
    ballot.show()
    seen = []
    for _ in range(6):
        assert ballot._row is not None
        seen.append(ballot._row.row_id)
        ballot.buttons["Skip"].click()
    ballot.close()
    assert len(set(seen[:3])) == 3
    assert seen[3:] == seen[:3]


def test_of_a_judges_votes_a_ballot_offers_only_who_can_be_used(server: MockLLM) -> None:
    pytest.importorskip("ipywidgets")
    used: list[str] = []
    found = compared(
        server, 2, judge=model(server, "mute")
    )  # no vote: a person is not asked for one in its place
    ballot = found.ballot(on_use=used.append)
    ballot._form = "widgets"
    ballot.show()
    assert list(ballot.buttons) == [*(f"Use {name}" for name in found.candidates), "Done"]
    assert list(ballot._box.children) == [ballot._keys, ballot._said]  # the result is static, beside them
    ballot.buttons[f"Use {found.candidates[0]}"].click()
    assert used == [found.candidates[0]]
    ballot.close()


def test_retries_are_told_apart_from_what_was_asked(server: MockLLM) -> None:
    patient = model(server, max_retries=3)
    p = Pipeline("prefs", llm=patient).from_dicts([{"x": "[[500x2]] one"}, {"x": "two"}])
    first = p.generate("answer", "{{ x }}")
    assert first["answer"].version == 1
    second = p.generate("answer", "{{ x }} again")
    found = second.diff("answer@1", "answer@2")
    assert (found.asked, found.reused) == (asked(server)["writer"], 0)
    n = found.asked
    assert n > 4
    assert f"asked {n} ({n - 4} of them retries), reused 0" in repr(found)
    third = p.generate("answer", "{{ x }} a third time")
    told = repr(third.compare("answer@1", "answer"))
    assert re.search(r"asked 4 \(2 of them retries\), reused 2", told), told
    fourth = p.generate("answer", "{{ x }} and a fourth")
    assert "asked 4 (2 of them retries), reused 0" in repr(fourth.sample.check())


def test_the_grid_says_what_came_in_by_what_the_prompt_reads_first(server: MockLLM) -> None:
    rows = [{"id": number, "topic": "x" * 300, "instruction": f"Say {number}."} for number in range(2)]
    p = Pipeline("prefs", llm=model(server)).from_dicts(rows).generate("answer", "{{ instruction }}", k=2)
    found = p.compare("answer", llms=[model(server), model(server, "other")], n=2)
    for text in found._repr_mimebundle_().values():
        for row in found.rows:
            assert f"instruction: Say {row}. · id: {row}" in text
    html = found._repr_mimebundle_()["text/html"]
    assert html.count("generations[1]") == 4  # two texts in a cell are told apart
    p.sample.accept()
    checked = p.generate("answer", "Terse: {{ instruction }}", k=2).sample.check()
    for text in checked._repr_mimebundle_().values():
        assert "· instruction: Say " in text
        assert text.count("generations[1]") == 2


def test_versions_mark_in_html_what_they_changed(server: MockLLM) -> None:
    listed = two_versions(server)["answer"].versions._repr_mimebundle_()
    assert "<ins>Terse: </ins>" in listed["text/html"]
    assert "{+" not in listed["text/html"]
    assert "{+Terse: +}" in listed["text/plain"]


def by_the_token(column: Any = None, *, text: str = "", images: str | None = None) -> float:
    """Return what a comparison of five rows would cost where each token that is sent costs one dollar."""
    llm = OpenAILLM(model="gpt-4o", api_key="k", base_url="http://127.0.0.1:9/v1", price=(1e6, 0.0))
    given = [{"i": i, **({"photo": column} if images else {})} for i in range(5)]
    p = (
        Pipeline("tokens", llm=llm)
        .from_dicts(given)
        .generate("look", f"What is {{{{ i }}}}? {text}", images=images)
    )
    quoted = p.compare("look", llms=["rehearsal:a", llm], n=5, ask=False).quote
    assert quoted.cost_usd is not None
    return quoted.cost_usd


def test_images_and_other_scripts_are_quoted_as_what_they_come_to() -> None:
    none = by_the_token()
    assert by_the_token(base64.b64encode(PNG).decode(), images="photo") - none == pytest.approx(
        5 * 255, rel=0.1
    )
    assert by_the_token(text="word" * 100) - none == pytest.approx(5 * 100, rel=0.01)
    assert by_the_token(text="\u6c29" * 100) - none > 5 * 50
