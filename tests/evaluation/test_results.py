"""Means, deviations, transfer and cost, against the same numbers computed by hand."""

import json

import numpy as np
import pytest

from hf_ltc.evaluation.methods import METHODS
from hf_ltc.evaluation.results import Evaluation, card_rows, deviation, summarize, transfer
from hf_ltc.recipe import Identity
from hf_ltc.utils.errors import InputError

IMAGES = Identity()
SOURCES = {
    "resnet18": {"model": "resnet18", "runs": 2, "seconds": 60.0, "digest": "a", "hardware": None},
    "other": {"model": "vit_tiny", "runs": 1, "seconds": None, "digest": "b", "hardware": None},
}
SETTINGS = {
    "config": {"balance": "class", "batch_size": 32, "epochs": 30, "schedule": "one-cycle", "augment": True,
               "pretrained": False},
    "iterations": 500,
    "test_rows": 1000,
    "versions": {"torch": "2.9"},
    "hardware": {"devices": ["cpu"], "cpus": 2, "processes": 1, "mixed_precision": "no"},
}  # fmt: skip
TRAINED = {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 5e-4}


def trial(model, method, source, fraction, seed, accuracy, training=10.0):
    return {
        "model": model,
        "method": method,
        "source": source,
        "fraction": fraction,
        "seed": seed,
        "rows": round(500 * (fraction or 1)),
        "accuracy": accuracy,
        "steps": 500,
        "training": TRAINED,
        "device": "cpu",
        "seconds": {"choosing": 0.5, "training": training},
    }


def evaluation(seeds=3, sources=SOURCES, models=("resnet18", "vit_tiny"), fractions=(0.1, 0.3), seed=0):
    random = np.random.default_rng(seed)
    trials = []
    for number in range(seeds):
        for model in models:
            trials.append(trial(model, "full", None, None, number, 0.9 + 0.01 * random.random(), training=20.0))
            for fraction in fractions:
                drawn = 0.5 + fraction + 0.05 * random.random(1 + 2 * len(sources))
                trials.append(trial(model, "random", None, fraction, number, drawn[0]))
                for place, source in enumerate(sources):
                    trials.append(trial(model, "ltc", source, fraction, number, drawn[1 + 2 * place]))
                    trials.append(trial(model, "aum", source, fraction, number, drawn[2 + 2 * place]))
    methods = [
        {
            "method": method,
            "source": source,
            "seconds": 0.25,
            "reliability": {"one": 0.5, "mean": 2 / 3, "runs": 2, "pairs": [0.5]} if source == "resnet18" else None,
            "mean_loss": -0.7,
            "aum": None,
        }
        for source in sources
        for method in ("ltc", "aum")
    ]
    return Evaluation(SETTINGS, dict(sources), methods, trials)


def test_means_deviations_and_seeds():
    found = evaluation()
    assert len(found.rows) == 2 * (1 + 2 * (1 + 2 * 2))
    for row in found.rows:
        keys = ("model", "method", "source", "fraction")
        own = [c for c in found.trials if all(c[key] == row[key] for key in keys)]
        values = [c["accuracy"] for c in sorted(own, key=lambda c: c["seed"])]
        assert row["accuracy"] == values and row["seeds"] == [0, 1, 2] and row["n"] == 3
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["deviation"] == pytest.approx(np.std(values, ddof=1))
        assert row["rows"] == own[0]["rows"]


def test_it_is_shown_as_its_means():
    head, first, *_ = repr(evaluation(seeds=1)).splitlines()
    assert head == "Evaluation of 22 models, test accuracy"
    assert first.startswith("  resnet18, full, 500 rows: 9") and first.endswith("% (n = 1)")


def test_one_seed_has_no_deviation():
    assert deviation([0.5]) is None and deviation([]) is None and deviation([0.5, 0.5]) == 0
    assert all(row["deviation"] is None and row["n"] == 1 for row in evaluation(seeds=1).rows)


def test_the_seeds_are_in_order_however_the_trials_come():
    found = evaluation()
    again = summarize(found.trials[::-1], found.sources, found.methods)
    assert {row["method"] for row in again} == {"full", "random", "ltc", "aum"}
    assert all(row["seeds"] == [0, 1, 2] for row in again)


def test_cost_is_in_shares_of_training_on_all_rows():
    found = evaluation()
    row = {(r["model"], r["method"], r["source"], r["fraction"]): r for r in found.rows}
    # Recording 60 s, scoring 0.25, choosing 0.5, training 10, of 20 on all rows.
    assert row["resnet18", "ltc", "resnet18", 0.1]["cost"] == pytest.approx((60 + 0.25 + 0.5 + 10) / 20)
    assert row["resnet18", "ltc", "resnet18", 0.1]["training_share"] == pytest.approx(0.5)
    assert row["resnet18", "random", None, 0.1]["cost"] == pytest.approx(10.5 / 20)
    # How long a recording took may be unknown.
    assert row["resnet18", "ltc", "other", 0.1]["cost"] is None
    without = summarize([c for c in found.trials if c["method"] != "full"], found.sources, found.methods)
    assert all(r["cost"] is None and r["training_share"] is None for r in without)


def test_seconds_of_one_device_are_no_shares_of_those_of_another():
    found = evaluation()
    trials = [
        {**c, "device": "gpu"} if (c["model"], c["method"], c["seed"]) == ("resnet18", "ltc", 1) else c
        for c in found.trials
    ]
    for row, before in zip(summarize(trials, found.sources, found.methods), found.rows):
        mixed = (row["model"], row["method"]) == ("resnet18", "ltc")
        wanted = (None, None) if mixed else (before["cost"], before["training_share"])
        assert (row["cost"], row["training_share"]) == wanted
    alike = summarize([{**c, "device": "gpu"} for c in found.trials], found.sources, found.methods)
    assert alike == found.rows


def test_a_recording_of_another_device_has_no_cost():
    found = evaluation()
    for hardware, known in (({"device": "cpu"}, True), ({"device": "gpu"}, False), ({"card": "mine"}, True)):
        sources = {name: {**each, "hardware": hardware} for name, each in found.sources.items()}
        for row, before in zip(summarize(found.trials, sources, found.methods), found.rows):
            assert row["training_share"] == before["training_share"] and row["seconds"] == before["seconds"]
            assert row["cost"] == (before["cost"] if known or row["source"] is None else None)


def test_scores_whose_seconds_are_not_known_have_no_cost():
    found = evaluation()
    for row in summarize(found.trials, found.sources, [each for each in found.methods if each["method"] != "ltc"]):
        assert (row["cost"] is None) == (row["method"] == "ltc" or row["source"] == "other")


def test_a_model_is_its_own_source_under_another_name_too():
    found = evaluation(models=("resnet18", "vit_tiny"))
    architectures = {"resnet18": "resnet18.a1_in1k", "other": "vit_tiny_patch16_224"}
    assert transfer(found.trials, architectures) == [
        {**each, "source_model": architectures[each["source"]]} for each in found.transfer
    ]


def test_the_loss_of_transfer_is_against_the_own_choice_seed_by_seed():
    found = evaluation()
    reached = {
        (c["method"], c["source"], c["model"], c["fraction"], c["seed"]): c["accuracy"]
        for c in found.trials
        if c["source"]
    }
    own = {"resnet18": "resnet18", "vit_tiny": "other"}
    assert len(found.transfer) == 2 * 2 * 2 * 2
    for each in found.transfer:
        at = each["model"], each["fraction"]
        losses = [
            reached[each["method"], own[each["model"]], *at, seed] - reached[each["method"], each["source"], *at, seed]
            for seed in range(3)
        ]
        assert each["loss"] == pytest.approx(np.mean(losses))
        assert each["loss_deviation"] == pytest.approx(np.std(losses, ddof=1))
        assert each["own"] == own[each["model"]]
        assert each["source_model"] == SOURCES[each["source"]]["model"]
        assert (each["loss"] == 0) == (each["source"] == each["own"])


def test_transfer_to_a_model_that_no_recording_is_of():
    found = evaluation(models=("resnet18", "vgg11_bn"))
    for each in found.transfer:
        assert (each["own"] is None) == (each["loss"] is None) == (each["model"] == "vgg11_bn")
    one = {"resnet18": SOURCES["resnet18"]}
    assert evaluation(models=("vgg11_bn",), sources=one).transfer == []
    assert len(evaluation(models=("vgg11_bn", "resnet18"), sources=one).transfer) == 2 * 2 * 2
    # Of two recordings of one architecture the first is the own one.
    trials = [trial("resnet18", "ltc", name, 0.1, 0, value) for name, value in (("a", 0.5), ("b", 0.75))]
    found = transfer(trials, {"a": "resnet18", "b": "resnet18"})
    assert [(each["own"], each["loss"]) for each in found] == [("a", 0), ("a", -0.25)]


def test_results_are_plain_json_and_come_back(tmp_path):
    found = evaluation()
    (tmp_path / "results.json").write_text(json.dumps(found.to_dict(), allow_nan=False))
    assert Evaluation.load(tmp_path / "results.json") == found


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format": 9, "sources": {}, "methods": [], "cells": []}'])
def test_a_file_that_holds_no_results_is_named(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        Evaluation.load(path)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match="none"):
        Evaluation.load(tmp_path / "none.json")


def test_the_rows_of_a_card_are_of_its_scorer_random_and_full():
    found = evaluation()
    rows = card_rows(found, "a", METHODS["ltc"].variant, "class", 0, 25)
    names = ["full data", "coreset by ltc, 30%", "random subset, 30%", "coreset by ltc, 10%", "random subset, 10%"]
    assert [row["rows"] for row in rows] == names * 2
    assert [row["model"] for row in rows] == ["resnet18"] * 5 + ["vit_tiny"] * 5
    assert [row["number"] for row in rows[:5]] == [500, 150, 150, 50, 50]
    place = ("resnet18", "ltc", "resnet18", 0.1)
    wanted = [c["accuracy"] for c in found.trials if (c["model"], c["method"], c["source"], c["fraction"]) == place]
    assert rows[3]["accuracy"] == wanted and rows[3]["protocol"] == "500 steps, last one"
    assert len(card_rows(found, "b", "aum", "class", 0, 25)) == 10


def test_results_of_another_number_of_typical_rows_are_refused():
    found = evaluation()
    for each in (*found.trials, *found.methods):
        each["method"] = each["method"].replace("ltc", "typical-ltc")
    # They do not say how many: it was a tenth then.
    with pytest.raises(InputError, match=r"has typical-ltc with `typical` 0\.1, and the coresets pushed have 25"):
        card_rows(found, "a", METHODS["ltc"].variant, "class", 25, 25)
    for each in found.methods:
        each["typical"] = 25
    assert len(card_rows(found, "a", METHODS["ltc"].variant, "class", 25, 25)) == 10


@pytest.mark.parametrize(
    "digest, scorer, balance, said",
    [
        ("c", "aum", "class", "of other recordings"),
        ("a", "el2n", "class", "no results of el2n, but of ltc, aum"),
        ("a", METHODS["levels-losses-class"].variant, "class", "no results of levels-losses-class"),
        ("a", "loss", "class", "no results of loss, but of ltc, aum"),
        ("a", "aum", "none", "of `balance` class, the coresets pushed are of none"),
    ],
)
def test_results_of_something_else_are_refused(digest, scorer, balance, said):
    with pytest.raises(InputError, match=said):
        card_rows(evaluation(), digest, scorer, balance, 0, 25)
