"""The search for the smallest budget whose accuracy stays within a tolerance of that of all rows.

Budgets grow by doubling until one is within; then one between the last that was not and the first that was is tried,
until they are close. A budget that is clearly behind after one model has no second. Which trials come next follows
from the results of those before, so that a search goes on where it was stopped, and several processes search alike.
"""

import math
import statistics
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student

from ...coresets.choose import coreset_size
from ..methods import FULL, RANDOM
from ..results import deviation
from ..trials import Trial
from .curve import Point, fitted

# The first budget, the largest, and how far apart the last two may be.
_START, LARGEST, _CLOSE = 0.05, 0.8, 1.5
_SMALLEST = 0.005
# How sure it has to be that a budget is within the tolerance, and how unsure that a second model is for nothing.
SURE, _HOPELESS = 0.9, 0.05

Results = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Aim:
    """What is searched for.

    Args:
        tolerance (`float`): How far a budget may be behind all rows, as a share of the test rows: 0.01 is one point.
        model (`str`): The target model.
        method (`str`): How rows are chosen.
        source (`str`): By which recording.
        baselines (`Sequence[str]`): Methods that are compared at the budget that is found.
        seeds (`Sequence[int]`): Of the models of each choice of rows.
        rows (`int`): The candidate rows.
        classes (`int`): Their classes, of each of which a budget needs a row.
    """

    tolerance: float
    model: str
    method: str
    source: str
    baselines: Sequence[str]
    seeds: Sequence[int]
    rows: int
    classes: int

    def trials(self, method: str, fraction: float | None = None) -> list[Trial]:
        size = self.rows if fraction is None else coreset_size(self.rows, fraction)
        source = None if method in (FULL, RANDOM) else self.source
        return [Trial(self.model, method, seed, size, fraction, source) for seed in self.seeds]

    def has_rows(self, fraction: float) -> bool:
        return coreset_size(self.rows, fraction) >= self.classes


def next_trials(aim: Aim, done: Results) -> list[Trial]:
    """The trials that are to be done next; none once the budget is known.

    Args:
        aim ([`Aim`]): What is searched for.
        done (`Mapping[str, Mapping]`): Results of the trials so far, by name.
    """
    for wanted in _search(aim, done):
        if left := [trial for trial in wanted if trial.name not in done]:
            return left
    return []


def recommendation(aim: Aim, done: Results) -> dict[str, Any]:
    """What a search found, as plain values.

    Args:
        aim ([`Aim`]): What was searched for.
        done (`Mapping[str, Mapping]`): Results of its trials, by name.
    """
    search = _search(aim, done)
    while True:
        try:
            next(search)
        except StopIteration as ended:
            budgets, within = ended.value
            break
    budgets = sorted(budgets, key=lambda each: each["fraction"])
    full = _told(_accuracies(aim, done, FULL, None))
    found = next((each for each in budgets if each["fraction"] == within), None)
    points = [Point(each["fraction"], each["mean"], each["n"], each["spread"]) for each in budgets]
    points.append(Point(1.0, full["mean"], full["n"], full["deviation"]))
    return {
        **{name: getattr(aim, name) for name in ("tolerance", "model", "method", "source")},
        "fraction": within,
        "rows": found and found["rows"],
        "full": {"rows": aim.rows, **full},
        "budgets": budgets,
        "baselines": [
            {"method": name, **_compared(aim, done, name, within)} for name in aim.baselines if within is not None
        ],
        "curve": fitted(points, aim.tolerance),
        "cost": {
            "models": len(done),
            "seconds": sum(map(_seconds, done.values())),
            "full_seconds": statistics.fmean(_seconds(each) for each in done.values() if each["method"] == FULL),
        },
    }


def _search(aim: Aim, done: Results) -> Generator[list[Trial], None, tuple[list[dict[str, Any]], float | None]]:
    """The search from its beginning. What it needs next is yielded, and has a result when it goes on; it returns the
    budgets as it compared them, and the one that it found.

    It decides by what came before, and never by a result that another call left.
    """
    seen: dict[str, Mapping[str, Any]] = {}

    def needed(trials: list[Trial]) -> Iterator[list[Trial]]:
        yield trials
        seen.update({trial.name: done[trial.name] for trial in trials})

    yield from needed(aim.trials(FULL))
    budgets = []
    behind: float | None = None
    within: float | None = None
    budget: float | None = _first(aim)
    while budget is not None:
        first, *others = aim.trials(aim.method, budget)
        yield from needed([first])
        compared = _compared(aim, seen, aim.method, budget)
        if compared["probability"] > _HOPELESS:
            yield from needed(others)
            compared = _compared(aim, seen, aim.method, budget)
        budgets.append(compared)
        # One model alone tells that it is behind, but never that it is not.
        if compared["probability"] >= SURE:
            within = budget
        else:
            behind = budget
        budget = _following(aim, behind, within)
    if within is not None:
        for name in aim.baselines:
            yield from needed(aim.trials(name, within))
    return budgets, within


def _first(aim: Aim) -> float:
    budget = _START
    while not aim.has_rows(budget) and budget < LARGEST:
        budget *= 2
    return budget


def _following(aim: Aim, behind: float | None, within: float | None) -> float | None:
    """The next budget, by the largest that was behind and the smallest that was within."""
    if within is None:
        assert behind is not None
        return behind * 2 if behind < LARGEST else None
    if behind is None:
        smaller = within / 2
        return smaller if smaller >= _SMALLEST and aim.has_rows(smaller) else None
    # Of two digits, as people say budgets.
    between = float(f"{math.sqrt(behind * within):.2g}")
    return between if within / behind > _CLOSE and aim.has_rows(between) else None


def _compared(aim: Aim, done: Results, method: str, fraction: float) -> dict[str, Any]:
    """How far a choice of rows is behind all rows, and how sure it is that this is within the tolerance."""
    full, found = _accuracies(aim, done, FULL, None), _accuracies(aim, done, method, fraction)
    behind = statistics.fmean(full) - statistics.fmean(found)
    spread, freedom = _spread(aim, done, fraction)
    error = spread * math.sqrt(1 / len(full) + 1 / len(found))
    sure = student.cdf((aim.tolerance - behind) / error, freedom) if error > 0 else float(behind <= aim.tolerance)
    return {
        "fraction": fraction,
        "rows": coreset_size(aim.rows, fraction),
        **_told(found),
        "behind": behind,
        "probability": float(sure),
        "spread": spread,
    }


def _spread(aim: Aim, done: Results, fraction: float) -> tuple[float, int]:
    """The deviation from seed to seed at a budget and above, where models differ less the more rows they have, and its
    degrees of freedom."""
    groups: dict[Any, list[float]] = {}
    for each in done.values():
        if each["method"] in (FULL, aim.method) and (each["fraction"] or 1.0) >= fraction:
            groups.setdefault((each["method"], each["fraction"]), []).append(each["accuracy"])
    several = [group for group in groups.values() if len(group) > 1]
    freedom = sum(len(group) - 1 for group in several)
    squares = sum((len(group) - 1) * statistics.variance(group) for group in several)
    return math.sqrt(squares / freedom), freedom


def _accuracies(aim: Aim, done: Results, method: str, fraction: float | None) -> list[float]:
    return [done[trial.name]["accuracy"] for trial in aim.trials(method, fraction) if trial.name in done]


def _told(accuracies: Sequence[float]) -> dict[str, Any]:
    return {"n": len(accuracies), "mean": statistics.fmean(accuracies), "deviation": deviation(accuracies)}


def _seconds(trial: Mapping[str, Any]) -> float:
    return float(sum(trial["seconds"].values()))
