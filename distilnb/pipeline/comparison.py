"""What `p.compare("answer@1", "answer@2", …)` returns: candidates on the same rows, votes on them, and the winner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import combinations
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from distilnb.engine.history import History, Vote, history_of
from distilnb.engine.launch import is_rehearsed
from distilnb.errors import InputError, did_you_mean
from distilnb.llms.base import LLM
from distilnb.pipeline.candidates import Candidate, find_candidate, letters
from distilnb.pipeline.judging import (
    Judge,
    Verdicts,
    by_pairs,
    by_rating,
    find_judge,
    judge_step,
    notes_on,
    with_judge,
)
from distilnb.pipeline.measure import NOT_ASKED, Measured, Quote, measure, read_first
from distilnb.pipeline.odds import win_rate
from distilnb.pipeline.scoring import (
    PairResult,
    in_words,
    pair_results,
    percent,
    points,
    telling_first,
    winner,
)
from distilnb.pipeline.timing import Timed
from distilnb.pipeline.version_list import figures_of
from distilnb.pipeline.versions import number_tasks, tasks_of
from distilnb.rows import Batch
from distilnb.spec.digest import digest_of
from distilnb.spec.graph import Graph
from distilnb.tasks.base import Task
from distilnb.view.ballot import Ballot
from distilnb.view.comparison import Cell, ComparisonData, GridRow, Tally, comparison_bundle, row_text
from distilnb.view.display import cell_number
from distilnb.view.html import Shown, page

if TYPE_CHECKING:
    import pandas as pd

TIE = "tie"
_PERSON = ""
_FAILED = "failed; why is told with the names"


class Compared(Protocol):
    """The pipeline whose step is compared."""

    name: str

    @property
    def graph(self) -> Graph:
        """Its steps."""

    def use(self, version: str, *, llm: LLM | str | None = None) -> Any:
        """Return it with another version of a prompt, asked of a model."""


class _Seen(NamedTuple):
    """The votes at one moment by row, and whether names are hidden then."""

    by_row: dict[str, list[Vote]]
    is_hidden: bool


class Comparison:
    """Candidates (a version of a prompt × a model) on the same rows. The repr shows the grid and who won how often.

    Votes are kept in DISTILNB_HOME: the same comparison made again, in another process too, has them still.
    """

    def __init__(
        self,
        pipeline: Compared,
        step: str,
        candidates: Sequence[Candidate],
        measured: Mapping[str, Measured],
        *,
        judge: Judge | None,
        verdicts: Verdicts,
        is_blind: bool,
        seed: int,
    ) -> None:
        self._pipeline = pipeline
        self._step = step
        self._candidates = {candidate.key: candidate for candidate in candidates}
        self._measured = measured
        self._judge = judge
        self._verdicts = verdicts
        self._is_blind = is_blind and judge is None
        self._has_blind_judge = is_blind and judge is not None
        self._is_revealed = False
        self._ballot_cell: int | None = None
        self._seed = seed
        self._id = digest_of({"step": step, "candidates": sorted(self._candidates)}, size_bytes=8)
        first = measured[candidates[0].key].incoming
        self._ordinals = {row_id: order[0] for row_id, order in zip(first.ids, first.orders, strict=True)}
        self._sharing = Counter(self._ordinals.values())
        reads = [name for task in tasks_of(candidates[0].graph, step) for name in task.needed()]
        self._came_in = {
            row_id: read_first(row, reads) for row_id, row in zip(first.ids, first.rows, strict=True)
        }

    # --- what was asked ---

    @property
    def candidates(self) -> list[str]:
        """The names of the candidates, in the order in which they were given."""
        return [candidate.name for candidate in self._candidates.values()]

    @property
    def rows(self) -> list[int | str]:
        """The numbers of the rows in their source; the id of a row whose number is that of others too."""
        return [self._called(row_id) for row_id in self._ordinals]

    def _called(self, row_id: str) -> int | str:
        ordinal = self._ordinals[row_id]
        return ordinal if self._sharing[ordinal] == 1 else row_id

    @property
    def asked(self) -> int:
        """Requests that were sent, those of the judge and retries of failed ones among them."""
        return sum(one.asked for one in self._measured.values()) + self._verdicts.asked

    @property
    def reused(self) -> int:
        """Requests that the reply cache answered."""
        return sum(one.reused for one in self._measured.values()) + self._verdicts.reused

    @property
    def quote(self) -> Quote:
        """What is not asked yet, where nothing was to be asked."""
        total = self._verdicts.quote
        for one in self._measured.values():
            total = total.plus(one.quote)
        return total

    # --- votes ---

    def vote(self, row: int | str, winner: str | None) -> Comparison:
        """Say who answered a row best: a candidate's name, its letter while names are hidden, or "tie" (None).

        A later vote on the row replaces it. Returns the comparison. Raises InputError for a row that is not there,
        UnknownStepError for a candidate that is not, and InputError where a judge votes.
        """
        if self._judge is not None:
            raise InputError(f"{self._judge.name} votes here.", "Compare without judge= to vote yourself.")
        row_id = self._row_id(row)
        keys = self._order(row_id)
        chosen = None if winner is None or winner.lower() == TIE else self._chosen(keys, winner)
        history = self._history()
        history.unvote(self._id, row_id, _PERSON)
        pairs = [pair for pair in combinations(sorted(keys), 2) if chosen is None or chosen in pair]
        history.vote(self._id, [Vote(row_id, *pair, chosen or "", _PERSON) for pair in pairs])
        return self

    def unvote(self, row: int | str) -> Comparison:
        """Take back the vote on a row."""
        self._history().unvote(self._id, self._row_id(row), _PERSON)
        return self

    def next(self) -> int | str | None:
        """Return the first row without a vote, as `rows` calls it; None when all have one."""
        row_id = self._open_row({vote.row_id for vote in self._votes()})
        return None if row_id is None else self._called(row_id)

    def _open_row(self, voted: Collection[str]) -> str | None:
        return next((row_id for row_id in self._ordinals if row_id not in voted), None)

    def show(self, row: int | str | None = None) -> Shown:
        """Return one row with all answers; the next one to vote on when it is left out."""
        chosen = row if row is not None else self.next()
        if chosen is None:
            chosen = self.rows[0]
        grid_row = self._grid_row(self._row_id(chosen), self._seen())
        return Shown(row_text(grid_row), page(Ballot.drawn(grid_row, "")))

    def reveal(self) -> Comparison:
        """Name the candidates although not all rows have a vote."""
        self._is_revealed = True
        return self

    @property
    def is_hidden(self) -> bool:
        """Whether names are hidden still."""
        return self._seen().is_hidden

    def _seen(self) -> _Seen:
        """Return the votes as they are now, and what they hide."""
        by_row: dict[str, list[Vote]] = {}
        for vote in self._votes():
            by_row.setdefault(vote.row_id, []).append(vote)
        is_blind = self._is_blind and not self._is_revealed
        return _Seen(by_row, is_blind and self._open_row(by_row) is not None)

    def ballot(self, *, on_use: Any = None) -> Ballot:
        """Show buttons to vote with, row by row; where none can be drawn, say how to vote by `.vote`.

        Of a judge's votes the result is shown. `on_use` gets the name of the candidate whose [Use …] is pressed.
        """
        return Ballot(
            next_row=self._next_grid_row,
            vote=self.vote,
            result=lambda: comparison_bundle(self.data()),
            names=lambda: self.candidates,
            on_use=on_use,
        )

    def leave_to_ballot(self) -> None:
        """Show nothing where this cell ends with it: a ballot with buttons shows it there."""
        self._ballot_cell = cell_number()

    def _next_grid_row(self, skipped: Sequence[str]) -> tuple[GridRow | None, int, int]:
        """Return the next row to vote on, how many have a vote, and of how many.

        Rows that were skipped come last, the one skipped first before the others. Where a judge votes there is none.
        """
        seen = self._seen()
        open_rows = [row_id for row_id in self._ordinals if row_id not in seen.by_row]
        if self._judge is not None:
            return None, len(seen.by_row), len(self._ordinals)
        again = [row_id for row_id in dict.fromkeys(reversed(skipped)) if row_id in open_rows][::-1]
        fresh = [row_id for row_id in open_rows if row_id not in again] + again
        row = self._grid_row(fresh[0], seen) if fresh else None
        return row, len(self._ordinals) - len(open_rows), len(self._ordinals)

    # --- who won ---

    @property
    def pairs(self) -> list[PairResult]:
        """Each pair of candidates: wins, losses, ties, win rate and sign test. InputError while names are hidden."""
        if self.is_hidden:
            raise InputError(
                "The names are hidden until every row has a vote.", "Vote on, or end it: .reveal()."
            )
        return pair_results(self._names_by_key(), self._votes())

    @property
    def best(self) -> str | None:
        """The candidate that won most; None without votes, where several share the place, or names are hidden."""
        seen = self._seen()
        votes = [vote for own in seen.by_row.values() for vote in own]
        return None if seen.is_hidden else winner(self._names_by_key(), votes)

    def use(self, candidate: str | None = None) -> Any:
        """Return the pipeline with that candidate's prompt and model as its step; the best one's when left out.

        A run asks nothing again that was asked for the comparison. Raises InputError where nobody has won.
        """
        name = candidate or self.best
        if name is None:
            raise InputError("Nobody has won yet.", f"Name one of {self.candidates}.")
        chosen = find_candidate(list(self._candidates.values()), name)
        return self._pipeline.use(str(chosen.version), llm=chosen.llm)

    # --- as data ---

    def to_pandas(self) -> pd.DataFrame:
        """Return a row for each row and candidate: row, row_id, candidate, its texts, failure, rating, won.

        While names are hidden `candidate` is a letter.
        """
        import pandas as pd

        records = []
        for row in self.data().rows:
            for place, (name, cell) in enumerate(zip(row.names, row.cells, strict=True)):
                won = None if row.winner is None and not row.is_tie else place == row.winner
                record = {"row": row.ordinal, "row_id": row.row_id, "candidate": name, **cell.texts}
                records.append({**record, "failure": cell.failure, "rating": cell.rating, "won": won})
        return pd.DataFrame(records)

    def data(self) -> ComparisonData:
        """Return what a view draws."""
        seen = self._seen()
        votes = [vote for own in seen.by_row.values() for vote in own]
        costs = [*(one.cost_usd for one in self._measured.values()), self._verdicts.cost_usd]
        tasks = [task for c in self._candidates.values() for task in tasks_of(c.graph, self._step)]
        return ComparisonData(
            pipeline=self._pipeline.name,
            step=self._step,
            tallies=tuple(self._tallies(votes, seen.is_hidden)),
            rows=tuple(self._grid_row(row_id, seen) for row_id in self._ordinals),
            pairs=()
            if seen.is_hidden
            else tuple(
                in_words(pair, len(self._candidates))
                for pair in telling_first(pair_results(self._names_by_key(), votes))
            ),
            notes=tuple(self._notes()),
            voter=self._judge.name if self._judge else "",
            n_voted=len(seen.by_row),
            is_hidden=seen.is_hidden,
            asked=self.asked,
            retries=sum(one.retries for one in self._measured.values()) + self._verdicts.retries,
            reused=self.reused,
            cost_usd=None if None in costs else sum(cost or 0.0 for cost in costs),
            n_missing=sum(one.n_missing for one in self._measured.values()),
            is_rehearsed=any(is_rehearsed(task) for task in tasks),
        )

    def _tallies(self, votes: Sequence[Vote], is_hidden: bool) -> list[Tally]:
        names = self._names_by_key()
        won_by, best = points(names, votes), None if is_hidden else winner(names, votes)
        found = []
        for key, candidate in self._candidates.items():
            measured = self._measured[key]
            figures = figures_of(self._pipeline.name, candidate.graph, candidate.version, measured)
            won, n = won_by[key]
            told = f"{won:g} of {n}" if n and not is_hidden else ""
            if told and len(self._candidates) == 2 and (rate := win_rate(won, n)):
                told += f" = {percent(rate)}"
            found.append(Tally(candidate.name, told, figures, candidate.name == best))
        return found

    def _notes(self) -> list[str]:
        if self._judge is None:
            return []
        candidates = list(self._candidates.values())
        return notes_on(self._judge, self._verdicts, candidates, was_blind=self._has_blind_judge)

    def _names_by_key(self) -> dict[str, str]:
        return {key: candidate.name for key, candidate in self._candidates.items()}

    def _grid_row(self, row_id: str, seen: _Seen) -> GridRow:
        keys = self._order(row_id)
        own = seen.by_row.get(row_id, [])
        wins = {key: sum(vote.winner == key for vote in own) for key in keys}
        top = max(wins.values())
        best = (
            keys.index(max(keys, key=wins.__getitem__))
            if top and list(wins.values()).count(top) == 1
            else None
        )
        return GridRow(
            ordinal=self._ordinals[row_id],
            row_id=row_id,
            came_in=self._came_in[row_id],
            cells=tuple(self._cell(key, row_id, seen.is_hidden) for key in keys),
            winner=best,
            is_tie=bool(own) and best is None,
            names=tuple(self._names(keys, seen.is_hidden)),
            called=self._called(row_id),
        )

    def _cell(self, key: str, row_id: str, is_hidden: bool) -> Cell:
        measured = self._measured[key]
        texts, failure = measured.texts.get(row_id, {}), measured.failures.get(row_id, "")
        if is_hidden:  # a reason may name the model, and a rating is a hint
            return Cell(texts, _FAILED if failure not in ("", NOT_ASKED) else failure)
        return Cell(texts, failure, measured.ratings.get(row_id))

    def _names(self, keys: Sequence[str], is_hidden: bool) -> list[str]:
        return letters(len(keys)) if is_hidden else [self._candidates[key].name for key in keys]

    def _order(self, row_id: str) -> list[str]:
        """Return the candidates in the order in which a row shows them; by chance where it is blind."""
        keys = list(self._candidates)
        if self._is_blind:
            Random(f"{self._seed}:{row_id}").shuffle(keys)
        return keys

    def _chosen(self, keys: Sequence[str], word: str) -> str:
        if self.is_hidden:
            there = letters(len(keys))
            if word.upper() not in there:
                raise InputError(
                    f"{word!r} is no answer here; there are {', '.join(there)}, or {TIE!r}.",
                    "Names are hidden until every row has a vote.",
                )
            return keys[there.index(word.upper())]
        return find_candidate(list(self._candidates.values()), word).key

    def _row_id(self, row: int | str) -> str:
        found = [row_id for row_id, ordinal in self._ordinals.items() if row in (row_id, ordinal)]
        if len(found) == 1:
            return found[0]
        if found:
            raise InputError(f"{len(found)} rows have the number {row}.", f"Name one by its id: {found}.")
        raise InputError(
            f"Row {row!r} is not compared; these are: {self.rows}.",
            did_you_mean(str(row), map(str, self.rows), "Name one of them."),
        )

    def _votes(self) -> list[Vote]:
        if self._judge is not None:
            return self._verdicts.votes
        known = self._candidates.keys()
        found = self._history().votes(self._id)
        return [
            vote
            for vote in found
            if vote.voter == _PERSON and vote.row_id in self._ordinals and {vote.one, vote.other} <= known
        ]

    def _history(self) -> History:
        return history_of(self._pipeline.name)

    def __repr__(self) -> str:
        return comparison_bundle(self.data())["text/plain"]

    def _ipython_display_(self) -> None:
        if self._ballot_cell is None or self._ballot_cell != cell_number():
            raise NotImplementedError  # how IPython is told to show it as it shows anything else

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        return dict(comparison_bundle(self.data()))


def make_comparison(
    pipeline: Compared,
    step: str,
    candidates: Sequence[Candidate],
    samples: Mapping[str, Batch],
    *,
    judge: LLM | Task | str | None,
    is_blind: bool,
    seed: int,
    ask: bool,
) -> Comparison:
    """Ask all candidates, and the judge, as far as the reply cache does not hold what they say."""
    voter = None if judge is None else find_judge(pipeline.graph, step, judge)
    measured = {}
    for candidate in candidates:
        graph = with_judge(candidate, step, voter)
        timed = Timed(pipeline.name, candidate.graph, number_tasks(pipeline.name, candidate.graph))
        judges = judge_step(voter, graph)
        measured[candidate.key] = measure(graph, step, samples, asks=ask, judges=judges, timed=timed)
    verdicts = Verdicts([])
    if voter is not None and voter.is_pairwise:
        verdicts = by_pairs(voter, candidates, step, measured, asks=ask)
    elif voter is not None:
        verdicts = by_rating(voter, measured)
    if voter is not None and ask:
        key = digest_of({"step": step, "candidates": sorted(measured)}, size_bytes=8)
        history_of(pipeline.name).vote(key, verdicts.votes)
    return Comparison(
        pipeline, step, candidates, measured, judge=voter, verdicts=verdicts, is_blind=is_blind, seed=seed
    )
