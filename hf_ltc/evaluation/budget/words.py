"""What a search for a budget found, for a reader."""

from collections.abc import Mapping
from typing import Any

from ..methods import RANDOM
from ..results import percent
from .search import SURE

Found = Mapping[str, Any]


def headline(found: Found) -> str:
    """One sentence: the budget, or that there is none.

    Args:
        found (`Mapping`): As [`recommendation`] gives it.
    """
    allowed, full = points(found["tolerance"]), found["full"]
    best = budget_found(found)
    if best is None:
        last = found["budgets"][-1]
        said = f"at {percent(last['fraction'])} {found['model']} is {behind(last)}"
        how = (
            "stays behind" if last["behind"] > found["tolerance"] else "may be within that, but seeds differ too much"
        )
        fix = "keep all rows, or allow more" if last["behind"] > found["tolerance"] else "give more `seeds`"
        return f"No budget that was tried is surely within {allowed} of all rows: {said}, which {how}. Advice: {fix}."
    return (
        f"Keep {percent(best['fraction'])} of the rows ({best['rows']:,} of {full['rows']:,}): {found['model']} "
        f"reaches {100 * best['mean']:.1f}% on them and {100 * full['mean']:.1f}% on all rows ({behind(best)}); it is "
        f"{best['probability']:.0%} sure that this is within {allowed}."
    )


def details(found: Found) -> list[str]:
    """Sentences on what it is compared with, on the curve, and on the cost."""
    best = budget_found(found)
    said = []
    if best is not None and (tried := len(found["budgets"])) > 1:
        said.append(
            f"This certainty is for one comparison. {tried} budgets were tried, so it is easier to find a lucky one: "
            "use more seeds to be more certain."
        )
    for each in found["baselines"]:
        assert best is not None
        rows = "random rows" if each["method"] == RANDOM else f"rows by {each['method']}"
        text = f"The same number of {rows} reaches {100 * each['mean']:.1f}% ({behind(each)})"
        if each["probability"] >= SURE:
            text += f": {rows} are within {points(found['tolerance'])} too, so any of them will do at this budget"
        elif (ahead := f"{100 * (best['mean'] - each['mean']):.1f}") > "0.0":
            text += f": {found['method']} is {ahead} points better"
        said.append(f"{text}.")
    said.append(_of_curve(found))
    cost = found["cost"]
    said.append(
        f"The search trained {cost['models']} models in {cost['seconds']:,.0f} s, "
        f"{cost['seconds'] / cost['full_seconds']:.1f} times the time of one model on all rows."
    )
    return said


def table(found: Found) -> list[list[str]]:
    """A table of the budgets that were tried, the first row its head."""
    rows = [["rows kept", "number", "accuracy in %", "seeds", "behind, in points", "within"]]
    for each in [*found["budgets"], {"fraction": 1.0, "behind": None, **found["full"]}]:
        spread = "" if each["deviation"] is None else f" ± {100 * each['deviation']:.1f}"
        compared = (
            ["–", "–"] if each["behind"] is None else [f"{100 * each['behind']:.1f}", f"{each['probability']:.0%}"]
        )
        rows.append(
            [
                percent(each["fraction"]),
                f"{each['rows']:,}",
                f"{100 * each['mean']:.1f}{spread}",
                str(each["n"]),
                *compared,
            ]
        )
    return rows


def budget_found(found: Found) -> dict[str, Any] | None:
    """The budget that was found, among those that were tried."""
    return next((each for each in found["budgets"] if each["fraction"] == found["fraction"]), None)


def points(share: float) -> str:
    """A difference of accuracies."""
    number = f"{round(100 * share, 3):g}"
    return f"{number} point{'' if number == '1' else 's'}"


def behind(each: Mapping[str, Any]) -> str:
    """How far a choice of rows is behind all rows."""
    return f"{100 * abs(each['behind']):.1f} points {'ahead' if each['behind'] < 0 else 'behind'}"


def _of_curve(found: Found) -> str:
    curve = found["curve"]
    if curve is None:
        return "No curve was fitted: that takes four budgets, and more than differences by chance."
    lowest = found["budgets"][0]["fraction"]
    low, crossing, high = (
        "less than " * (each < lowest) + percent(float(f"{max(each, lowest):.2g}"))
        for each in sorted([*curve["interval"], curve["fraction"]])
    )
    at = "nowhere below all rows" if curve["fraction"] >= 1 else f"at {crossing}"
    return (
        f"Fitted curve: error in % = {100 * curve['limit']:.1f} + {100 * curve['scale']:.2g} / share^"
        f"{curve['power']:.2f}. It is {points(found['tolerance'])} above that of all rows {at} (90% interval: {low} "
        f"to {high})."
    )
