"""The smallest budget within a tolerance: the search by accuracies that are known, the curve, and the words."""

import numpy as np
import pytest

from hf_ltc.evaluation.budget import words
from hf_ltc.evaluation.budget.curve import Point, fitted
from hf_ltc.evaluation.budget.search import Aim, next_trials, recommendation
from hf_ltc.evaluation.methods import FULL, RANDOM

AIM = Aim(
    tolerance=0.01,
    model="net",
    method="ltc",
    source="run",
    baselines=[RANDOM],
    seeds=range(3),
    rows=10_000,
    classes=10,
)


def power(fraction):
    """One point of accuracy is lost at 25% of the rows."""
    return 0.9 - 0.005 * (fraction ** -np.log2(np.sqrt(3)) - 1)


def result(trial, accuracy, spread=0.002):
    # Seeds 0, 1, 2 are below, above, and at the mean.
    own = accuracy(trial.method, trial.fraction or 1.0) + spread * (0, -1, 1)[trial.seed % 3]
    return {"method": trial.method, "fraction": trial.fraction, "accuracy": own, "seconds": {"training": 2.0}}


def searched(accuracy, aim=AIM, done=None, spread=0.002):
    """What the search finds where a method has these accuracies, and the trials that it asked for, in order."""
    done, asked = dict(done or {}), []
    while trials := next_trials(aim, done):
        asked += trials
        done |= {trial.name: result(trial, accuracy, spread) for trial in trials}
    return recommendation(aim, done), asked


def by_power(method, fraction):
    return power(fraction) - (0.03 if method == RANDOM else 0)


def test_budgets_grow_until_one_is_within_and_the_last_two_are_close():
    found, asked = searched(by_power)
    tried = [(trial.method, trial.fraction, trial.seed) for trial in asked]
    assert tried[:3] == [(FULL, None, 0), (FULL, None, 1), (FULL, None, 2)]
    # Budgets that one model shows to be behind have no second.
    assert tried[3:6] == [("ltc", 0.05, 0), ("ltc", 0.1, 0), ("ltc", 0.2, 0)]
    assert [fraction for _, fraction, seed in tried[5:-3] if seed == 0] == [0.2, 0.4, 0.28]
    assert tried[-3:] == [(RANDOM, found["fraction"], seed) for seed in range(3)]
    assert found["fraction"] == 0.4 and found["rows"] == 4_000
    assert [each["fraction"] for each in found["budgets"]] == [0.05, 0.1, 0.2, 0.28, 0.4]
    # Right at the tolerance nobody is sure.
    sure = {each["fraction"]: each["probability"] for each in found["budgets"]}
    assert sure[0.4] > 0.9 > sure[0.28] > 0.5 > sure[0.2]
    assert found["cost"] == {"models": len(asked), "seconds": 2.0 * len(asked), "full_seconds": 2.0}


def test_the_budget_is_the_smallest_that_is_within():
    found, _ = searched(lambda method, fraction: 0.9 if fraction >= 0.27 else 0.7)
    assert found["fraction"] == 0.28
    assert [each["n"] for each in found["budgets"]] == [1, 1, 1, 3, 3]
    # All of the first ones are: it goes down, to what has a row of each class.
    found, asked = searched(lambda method, fraction: 0.9)
    assert [each["fraction"] for each in found["budgets"]] == [0.00625, 0.0125, 0.025, 0.05]
    assert found["fraction"] == 0.00625 and found["rows"] == 62
    few = Aim(**{**vars(AIM), "rows": 1_000, "classes": 100})
    found, asked = searched(lambda method, fraction: 0.9, few)
    assert [each["fraction"] for each in found["budgets"]] == [0.1] and asked[3].rows == 100


def test_without_a_budget_it_says_so_and_no_baseline_is_trained():
    found, asked = searched(lambda method, fraction: 0.9 if fraction == 1 else 0.88)
    assert found["fraction"] is found["rows"] is None and found["baselines"] == []
    assert [each["fraction"] for each in found["budgets"]] == [0.05, 0.1, 0.2, 0.4, 0.8]
    assert RANDOM not in {trial.method for trial in asked}
    said = words.headline(found)
    assert said.startswith(
        "No budget that was tried is surely within 1 point of all rows: at 80% net is 2.0 points behi"
    )
    assert said.endswith("which stays behind. Advice: keep all rows, or allow more.")
    # Seeds that differ by more than the tolerance tell nothing.
    found, _ = searched(lambda method, fraction: 0.9, spread=0.02)
    assert found["fraction"] is None
    assert words.headline(found).endswith("but seeds differ too much. Advice: give more `seeds`.")


def test_a_search_goes_on_where_it_was_stopped_whatever_else_is_there():
    whole, asked = searched(by_power)
    for count in (1, 4, 8, len(asked)):
        done = {trial.name: result(trial, by_power) for trial in asked[:count]}
        again, left = searched(by_power, done=done)
        assert again == whole and left == asked[count:]
    # A result of another call, at a budget larger than those the search has seen, changes nothing that it decides.
    other = Aim(**{**vars(AIM), "seeds": range(3)}).trials("ltc", 0.8)
    done = {trial.name: result(trial, lambda *_: 0.2, spread=0.2) for trial in other}
    assert searched(by_power, done=done)[1] == asked


def test_more_seeds_make_it_surer():
    found, _ = searched(by_power, Aim(**{**vars(AIM), "seeds": range(12)}))
    assert found["fraction"] == 0.28 and found["budgets"][-1]["n"] == 12


def test_the_words_name_budget_chance_and_cost():
    found, _ = searched(by_power)
    assert words.headline(found) == (
        "Keep 40% of the rows (4,000 of 10,000): net reaches 89.5% on them and 90.0% on all rows (0.5 points behind); "
        f"it is {found['budgets'][-1]['probability']:.0%} sure that this is within 1 point."
    )
    _, chance, curve, cost = words.details(found)
    assert chance == "The same number of random rows reaches 86.5% (3.5 points behind): ltc is 3.0 points better."
    assert curve.startswith("Fitted curve: error in % = ") and "above that of all rows at 2" in curve
    models = found["cost"]["models"]
    assert cost.startswith(
        f"The search trained {models} models in {2 * models} s, {models:.1f} times the time of one model "
    )
    head, *rows = words.table(found)
    assert len(head) == 6 and [row[0] for row in rows] == ["5%", "10%", "20%", "28%", "40%", "100%"]
    assert rows[0][2:4] == [f"{100 * power(0.05):.1f}", "1"] and rows[-1][4:] == ["–", "–"]
    # Chance is as good.
    found, _ = searched(lambda method, fraction: power(fraction))
    assert "random rows are within 1 point too, so any of them will do at this budget." in words.details(found)[1]


def test_the_curve_is_a_power_law_with_an_interval():
    fractions = [0.05, 0.1, 0.2, 0.4, 1.0]
    points = [Point(each, 1 - (0.05 + 0.04 * each**-0.6), 3, 0.002) for each in fractions]
    found = fitted(points, 0.01)
    assert found["limit"] == pytest.approx(0.05, abs=1e-3) and found["power"] == pytest.approx(0.6, abs=0.02)
    # 0.05 + 0.04 x^-0.6 = 0.09 + 0.01
    crossing = (0.04 / 0.05) ** (1 / 0.6)
    low, high = found["interval"]
    assert found["fraction"] == pytest.approx(crossing, abs=0.01) and low < crossing < high
    narrow = fitted([Point(each.fraction, each.accuracy, 3, 0.0005) for each in points], 0.01)["interval"]
    assert narrow[1] - narrow[0] < (high - low) / 2
    assert fitted(points[-3:], 0.01) is None


def test_no_curve_is_fitted_to_differences_by_chance():
    level = [
        Point(fraction, 0.9 + 0.001 * (-1) ** i, 3, 0.003) for i, fraction in enumerate((0.05, 0.1, 0.2, 0.4, 1.0))
    ]
    assert fitted(level, 0.01) is None


def test_a_crossing_below_the_budgets_that_were_tried_is_not_said_as_a_number():
    easy = {"limit": 0.0, "scale": 0.02, "power": 0.2, "fraction": 0.003, "interval": [1e-5, 0.07]}
    found, _ = searched(by_power)
    said = " ".join(words.details(found | {"curve": easy}))
    assert "at less than 5% (90% interval: less than 5% to 7%)" in said


def test_it_says_that_several_budgets_were_tried():
    found, _ = searched(by_power)
    assert "5 budgets were tried" in words.details(found)[0]
