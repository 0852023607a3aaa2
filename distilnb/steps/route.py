"""The route: each row goes to some of the branches that follow, by lot, by condition, or as a function says."""

from __future__ import annotations

import hashlib
import inspect
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from distilnb.errors import SpecError, StepConnectionError, StepRowError, UnknownStepError, did_you_mean
from distilnb.rows import Row
from distilnb.spec.code import Code, CodeField
from distilnb.spec.columns import Columns
from distilnb.spec.digest import digest_of
from distilnb.spec.signature import Signature, check_reads, describe_function, signature_of
from distilnb.spec.step import ColumnNames, Step, StepInput, StepOutput
from distilnb.steps.condition import Condition, columns_read, test_of


def _as_branches(value: object) -> object:
    """Accept a list of steps where each is a branch of its own."""
    if isinstance(value, (list, tuple)):
        return {name: [name] for name in value}
    if isinstance(value, Mapping):
        return {name: [steps] if isinstance(steps, str) else steps for name, steps in value.items()}
    return value


class RouteRows(Step):
    """Send each row to some of the branches that follow; the row itself stays as it is.

    `branches` maps the name of a branch to the steps with which it begins (an empty list: straight on to whatever
    else follows the route); connecting a step behind the route adds a branch of its name. A row takes

    - `n` of the branches by lot (1 when left out), which `weights` (branch → number above 0) make uneven;
    - or, with `when` (branch → expression or function of columns), each branch whose condition holds, and
      `default` when none does; without a default such a row is left out, and that is counted;
    - or those that `function` names: its first parameter gets the names of all branches, further ones are columns
      (`row`: the whole row). What it draws from `random` is seeded by row and `seed`.

    A lot hangs on `seed`, the row's id and the branch's name alone: a resumed, repeated or appended run draws the
    same, and of a new branch's rows each comes from another branch, while all others stay.

    Inputs:  the columns that conditions and function name.
    Outputs: none; rows that go on are the same objects, unchanged.
    Errors:  SpecError when the fields do not fit each other; StepRowError at a row for which the function names
             no branch that there is; what FilterRows raises for a condition.
    Source:  `sample_n_steps` and `routing_batch_function` of distilabel, which route whole batches.

    >>> route = RouteRows(branches=["easy", "hard"], when={"easy": "length < 9"}, default="hard")
    >>> route.choose("load:1f:0", {"length": 3}), route.choose("load:2e:0", {"length": 30})
    (['easy'], ['hard'])
    """

    branches: Annotated[dict[str, list[str]], BeforeValidator(_as_branches)] = Field(default_factory=dict)
    n: int | None = Field(None, ge=1)
    weights: dict[str, float] = Field(default_factory=dict)
    when: dict[str, Condition] = Field(default_factory=dict)
    default: str = ""
    function: CodeField | None = None
    seed: int = 0

    def model_post_init(self, context: Any, /) -> None:
        lots = self.n is not None or self.weights
        if bool(lots) + bool(self.when) + (self.function is not None) > 1:
            raise SpecError(
                f"Route {self.name!r} is told several ways to choose branches.",
                "Give n and weights, or when and default, or a function.",
            )
        if self.default and not self.when:
            raise SpecError(
                f"Route {self.name!r} has the default {self.default!r}, but no conditions.",
                "The default is for rows that meet no condition of `when`.",
            )
        for branch, weight in self.weights.items():
            if not 0 < weight < math.inf:  # which NaN is not either
                raise SpecError(
                    f"Route {self.name!r} gives branch {branch!r} the weight {weight!r}.",
                    "Give a number above 0; leave the branch out if no row is to go there.",
                )
        super().model_post_init(context)

    @property
    def digest(self) -> str:
        """The identity of the work; a function is given the branches in their order, so that counts too."""
        return super().digest if self.function is None else digest_of([super().digest, list(self.branches)])

    @property
    def inputs(self) -> ColumnNames:
        columns: dict[str, bool] = {}
        for condition in self.when.values():
            for column, is_needed in columns_read(condition).items():
                columns[column] = is_needed or columns.get(column, False)
        if self.function is not None and self.function.is_live:
            signature = _signature(self.function.live)
            columns |= {
                **dict.fromkeys(signature.optional_columns, False),
                **dict.fromkeys(signature.columns, True),
            }
        return columns

    def check_inputs(self, upstream: Sequence[Columns]) -> None:
        if self.function is None and all(isinstance(condition, str) for condition in self.when.values()):
            super().check_inputs(upstream)
            return
        for columns in upstream:
            check_reads(self.name, self.needed(), columns)

    def process(self, rows: StepInput) -> StepOutput:  # type: ignore[override]  # a join takes several
        """Yield the rows as they are; which branches each takes, `choose` says."""
        yield rows

    # --- choosing ---

    @property
    def reads_rows(self) -> bool:
        """Whether a choice hangs on the row itself, not on its id alone."""
        return bool(self.when) or self.function is not None

    def choose(self, row_id: str, row: Row) -> list[str]:
        """Return the steps that a row goes to, in the order of the branches; none when it meets no condition."""
        chosen = self._chosen(row_id, row)
        return [step for branch, steps in self.branches.items() if branch in chosen for step in steps]

    def _chosen(self, row_id: str, row: Row) -> set[str]:
        if self.function is not None:
            return self._asked(self.function.live, row_id, row)
        if self.when:
            met = {branch for branch, condition in self.when.items() if test_of(condition)(row)}
            return met or ({self.default} if self.default else set())
        return set(sorted(self.branches, key=lambda branch: self._lot(row_id, branch))[: self.n or 1])

    def _lot(self, row_id: str, branch: str) -> float:
        """Return a number drawn from the exponential distribution: the least of them win as weights say."""
        text = f"{self.seed}\0{branch}\0{row_id}".encode("utf-8", "surrogatepass")
        drawn = int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big")
        return -math.log((drawn + 1) / 2**48) / self.weights.get(branch, 1.0)

    def _asked(self, function: Callable[..., Any], row_id: str, row: Row) -> set[str]:
        state = random.getstate()
        random.seed(f"{self.seed} {row_id}")  # `random.sample(steps, 2)` must choose alike in every process
        try:
            given = {_first_parameter(function): list(self.branches)}
            named = _signature(function).call(function, row, {}, given)
        finally:
            random.setstate(state)
        if isinstance(named, str) or not isinstance(named, Iterable):
            named = [named]
        chosen = [name for name in named if name is not None]
        for name in chosen:
            if name not in self.branches:
                raise StepRowError(
                    f"The function of route {self.name!r} names {name!r}; the branches are {list(self.branches)}.",
                    did_you_mean(str(name), self.branches),
                )
        return set(chosen)

    # --- checking ---

    def check(self) -> None:
        """Raise what is wrong with conditions and function as such."""
        for condition in (*self.when.values(), self.function):
            if isinstance(condition, Code):
                _ = condition.live  # raises when it came from a file and was not trusted

    def check_followers(self, followers: Sequence[str]) -> None:
        """Raise when branches and steps that follow do not match, or rows could not go to some of them."""
        if not followers:
            raise StepConnectionError(
                f"Route {self.name!r} has no branches.", "Let steps follow it: route >> [a, b]."
            )
        for what, names in (
            ("a weight", self.weights),
            ("a condition", self.when),
            ("the default", [self.default] if self.default else []),
        ):
            for name in names:
                self._check_branch(name, what)
        begins = [step for steps in self.branches.values() for step in steps]
        for step in begins:
            if step not in followers:
                raise UnknownStepError(
                    f"Route {self.name!r} sends rows to {step!r}; the steps that follow it are {list(followers)}.",
                    did_you_mean(
                        step, followers, "Connect it behind the route, or leave it out of `branches`."
                    ),
                )
        for step in followers:
            if step not in begins:
                raise StepConnectionError(
                    f"Step {step!r} follows route {self.name!r}, but belongs to none of its branches "
                    f"{list(self.branches)}.",
                    "Add it to `branches`.",
                )
        self._check_choice()

    def _check_branch(self, name: str, what: str) -> None:
        if name not in self.branches:
            raise UnknownStepError(
                f"Route {self.name!r} has {what} for {name!r}; its branches are {list(self.branches)}.",
                did_you_mean(name, self.branches, "Let a step of that name follow the route."),
            )

    def _check_choice(self) -> None:
        for branch, steps in self.branches.items():
            if not steps:
                raise StepConnectionError(
                    f"Nothing follows in branch {branch!r} of route {self.name!r}.",
                    "Join the branches again, for instance with combine().",
                )
            if self.weights and branch not in self.weights:
                raise SpecError(
                    f"Route {self.name!r} has no weight for branch {branch!r}; it has {self.weights}.",
                    "Give one to each branch.",
                )
            if self.when and branch not in self.when and branch != self.default:
                raise SpecError(
                    f"Route {self.name!r} has no condition for branch {branch!r}.",
                    f"Give it one, or make it the default: default={branch!r}.",
                )
        if self.n is not None and self.n > len(self.branches):
            raise SpecError(
                f"Route {self.name!r} sends each row to {self.n} branches; it has {list(self.branches)}.",
                f"Give n={len(self.branches)} at most.",
            )
        self._try_function()

    def _try_function(self) -> None:
        """Ask a function that reads no columns once: a wrong name is told before a run."""
        if self.function is None or not self.function.is_live:
            return
        signature = _signature(self.function.live)
        if signature.columns or signature.takes_row or signature.takes_rest:
            return
        try:
            self._asked(self.function.live, "", {})
        except StepRowError as error:
            raise UnknownStepError(error.what, error.fix) from None

    # --- branches ---

    def with_branch(self, branch: str, steps: Sequence[str]) -> RouteRows:
        """Return the route with one more branch; its steps also continue the branches that go straight on."""
        return self.updated(branches=_with_branch(self.branches, branch, list(steps)))

    def without_step(self, step: str, instead: Sequence[str]) -> RouteRows:
        """Return the route where other steps stand in the place of one that was dropped."""
        branches = {
            branch: [*dict.fromkeys(new for old in steps for new in (instead if old == step else [old]))]
            for branch, steps in self.branches.items()
        }
        kept = {branch: steps for branch, steps in branches.items() if steps or not self.branches[branch]}
        return self.updated(
            branches=kept,
            weights={branch: weight for branch, weight in self.weights.items() if branch in kept},
            when={branch: condition for branch, condition in self.when.items() if branch in kept},
            default=self.default if self.default in kept else "",
        )

    def label_of(self, step: str) -> str:
        """Return on what terms rows go to a step that follows, for a drawing."""
        branch = next((branch for branch, steps in self.branches.items() if step in steps), "")
        if self.function is not None:
            return f"{self.function.name}()"
        if branch in self.when:
            condition = self.when[branch]
            return condition if isinstance(condition, str) else f"{condition.name}()"
        if self.when:
            return "else" if branch == self.default else ""
        share = f"{self.n or 1} of {len(self.branches)}"
        return f"{share}, weight {self.weights[branch]:g}" if branch in self.weights else share

    def connect(self, *others: Step, routing_batch_function: object = None) -> None:
        """Let branches begin with other steps."""
        super().connect(*others, routing_batch_function=routing_batch_function)
        if routing_batch_function is None:
            branches = self.branches
            for other in others:
                branches = _with_branch(branches, other.name, [other.name])
            # Written into a frozen step as its name is: inside the `with` block that is making it.
            self.__dict__["branches"] = branches
            self.__pydantic_fields_set__.add("branches")


def _with_branch(branches: Mapping[str, list[str]], branch: str, steps: list[str]) -> dict[str, list[str]]:
    taken = {step for begins in branches.values() for step in begins}
    new = [step for step in steps if step not in taken]
    if not new:
        return dict(branches)
    if any(not begins for begins in branches.values()):
        return {name: begins or new for name, begins in branches.items()}
    return {**branches, branch: new}


@lru_cache(maxsize=128)
def _first_parameter(function: Callable[..., Any]) -> str:
    return next(iter(inspect.signature(function).parameters), "")


@lru_cache(maxsize=128)
def _signature(function: Callable[..., Any]) -> Signature:
    return signature_of(function, skip=frozenset({_first_parameter(function)}))


# --- the class form: `a >> sample_n_steps(2) >> [b, c, d]` -----------------------------------------


class Routing:
    """How rows are to be routed; each use between two `>>` makes a step `RouteRows` of its own."""

    def __init__(self, function: Callable[..., Any] | None = None, **fields: Any) -> None:
        self.function = function
        self.fields = fields

    def __call__(self, *arguments: Any, **values: Any) -> Any:
        """Return what the function itself returns, to try it in a cell."""
        if self.function is None:
            raise SpecError(
                "This routing has no function.", "Use it between steps: a >> sample_n_steps(2) >> [b, c]."
            )
        return self.function(*arguments, **values)

    def to_step(self) -> RouteRows:
        """Return a new step that routes so."""
        function = None if self.function is None else Code.of(self.function)
        return RouteRows(function=function, **self.fields)

    def __rrshift__(self, before: Step | Sequence[Step]) -> RouteRows:
        """`a >> routing`: returns the route, behind which the branches are connected."""
        route = self.to_step()
        for step in [before] if isinstance(before, Step) else before:
            step.connect(route)
        return route

    # The digest of a function that names this one asks for these two.

    @property
    def digest(self) -> str:
        """The identity of the routing."""
        return digest_of(self.dump())

    def dump(self) -> dict[str, Any]:
        """Return the JSON-ready description of the function and the fields."""
        return {"fields": self.fields, **(describe_function(self.function) if self.function else {})}


def sample_n_steps(n: int) -> Routing:
    """Return a routing that sends each row to n of the steps that follow, drawn by its id.

    It stands between steps: `a >> sample_n_steps(2) >> [b, c, d]`. Each row is routed by itself, where distilabel
    draws once for a whole batch. Raises SpecError when n is no whole number above 0, and the pipeline's check does
    when fewer steps follow.
    """
    if n < 1:
        raise SpecError(f"sample_n_steps was given {n!r}.", "Give a whole number above 0.")
    return Routing(n=n)


def routing_batch_function(function: Any = None, *, description: str = "", seed: int = 0) -> Any:
    """Make a routing of a function that returns the names of the steps to which a row goes.

    Its first parameter gets the names of the steps that follow; it may take columns besides (`row`: the whole
    row). It is called for each row, not once for a batch as in distilabel, and what it draws from `random` is
    seeded by the row's id. Returning no name leaves the row out, and that is counted.

    >>> @routing_batch_function()
    ... def by_length(steps, text):
    ...     return [steps[0] if len(text) < 9 else steps[1]]
    >>> by_length(["short", "long"], "hi")
    ['short']
    """
    if callable(function):
        return Routing(function, seed=seed)
    if function is not None and not isinstance(function, str):  # distilabel's first argument is a description
        raise SpecError(
            f"{function!r:.60} is no function.", "@routing_batch_function() stands above a function."
        )
    return lambda routed: Routing(routed, seed=seed)
