"""How many typical rows a coreset begins with, and that all ways to a coreset agree on it."""

import dataclasses

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features

from hf_ltc.config import EvaluateConfig
from hf_ltc.coresets.order import coreset_order
from hf_ltc.coresets.select import rank_coreset, select_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.evaluation.methods import DEFAULT_METHOD, chosen_rows, members_of
from hf_ltc.recipe import Identity
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.scores.typical_rows import usual_by_column, usual_typical
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import LTCWarning
from tests.scores.recordings import make_run

IMAGES = {"image_column": "image", "label_column": "label"}


def labeled(labels):
    return Dataset.from_dict({"label": labels}, features=Features({"label": ClassLabel(num_classes=3)}))


def rising(**options):
    """A recording whose validation losses rise in the end."""
    run = make_run(**options)
    held = run.validation_losses.copy()
    held[-1] += 3
    return dataclasses.replace(run, validation_losses=held)


@pytest.mark.parametrize(
    "lengths, dataset, config, typical",
    [
        ((16,), {"image_column": "image"}, {}, 25),
        ((15,), {"image_column": "image"}, {}, 0),
        ((6, 20), {"features": {"x": {"_type": "Image"}}}, {}, 0),
        ((20, 20), {"features": {"x": {"_type": "Image"}}}, {}, 25),
        # A text, whatever else is there; every fifth epoch of thirty; and rows of which nothing is known.
        ((6,), {"text_column": "text", "image_column": "image"}, {}, 0.1),
        ((7,), {"image_column": "image"}, {"epochs": 30}, 25),
        ((16,), {}, {}, 0.1),
        ((15,), {}, {}, 0),
        ((40,), {"classes": 0}, {}, 0),
    ],
)
def test_coresets_begin_with_typical_rows_but_after_few_epochs_of_images(lengths, dataset, config, typical):
    run = make_run(n=30, lengths=lengths, recipe={"dataset": {"label_column": "label", **dataset}, "config": config})
    if config:
        run = dataclasses.replace(run, epochs=np.arange(7) * 5)
    assert usual_typical(run) == typical
    made = LTCScorer.from_trajectories(run)({"loss_trajectory": run.losses.T.tolist()})
    assert list(made) == ["ltc_score", *(["ltc_typicality"] if typical else [])]
    value = Trajectories(**{each.name: getattr(run, each.name) for each in dataclasses.fields(run)})
    scored = value.score(labeled([i // 2 % 3 for i in range(60)]))
    assert ("ltc_typicality" in scored.column_names) == bool(typical)
    # Asked for, they are there.
    assert "ltc_typicality" in value.score(labeled([i // 2 % 3 for i in range(60)]), typical=0.1).column_names


@pytest.mark.parametrize(
    "lengths, dataset, typical",
    [
        ((16,), IMAGES, 1),
        # Shorter ones too, which begin with none otherwise; one of several runs is enough.
        ((6,), IMAGES, 1),
        ((20, 20), {"features": {"x": {"_type": "Image"}}}, 1),
        ((16,), {"text_column": "text", "image_column": "image"}, 0.1),
        ((16,), {}, 0.1),
        ((6,), {}, 0),
        ((16,), {**IMAGES, "classes": 0}, 0),
    ],
)
def test_all_images_are_ranked_by_typicality_where_the_validation_loss_rises(lengths, dataset, typical):
    run = rising(n=30, lengths=lengths, recipe={"dataset": dataset})
    assert usual_typical(run) == typical


@pytest.mark.parametrize("lengths", [(16,), (8,), (16, 17)])
def test_all_ways_rank_by_typicality_alone(lengths):
    labels = np.repeat([0, 1, 2], [80, 30, 10])[np.random.default_rng(3).permutation(120)]
    run = rising(n=120, lengths=lengths, labels=labels, rows=np.arange(120), recipe={"dataset": IMAGES})
    value = Trajectories(**{each.name: getattr(run, each.name) for each in dataclasses.fields(run)})
    expected = coreset_order(ltc_typicality(value), labels).tolist()
    plain = labeled(labels)
    with pytest.warns(LTCWarning, match=r"The mean validation loss rose from .* ranked by typicality alone"):
        scored = value.score(plain)
    mapped = value.attach(plain).map(LTCScorer.from_trajectories(value), batched=True, batch_size=7)
    # In another order, too, and without anything that tells that they are images.
    bare = scored.remove_columns(["ltc_rank", "loss_trajectory"])
    for ranked in (scored, rank_coreset(mapped), rank_coreset(bare)):
        assert read_column(ranked, "ltc_rank").to_pylist() == expected
    order = np.random.default_rng(1).permutation(120)
    shuffled = rank_coreset(bare.select(order))
    # Ties go by position, and there are none.
    assert read_column(shuffled, "ltc_rank").to_pylist() == np.array(expected)[order].tolist()
    with pytest.warns(LTCWarning, match="The mean validation loss rose"):
        alone = value.score(plain, typical=0)
    assert read_column(alone, "ltc_rank").to_pylist() != expected
    assert read_column(rank_coreset(alone), "ltc_rank").to_pylist() == expected
    for size in (1, 12, 50):
        kept = np.flatnonzero(np.array(expected) < size)
        assert read_column(select_coreset(bare, size=size), "label").to_pylist() == labels[kept].tolist()
        np.testing.assert_array_equal(chosen_rows(DEFAULT_METHOD, value, size), kept)
    assert members_of(EvaluateConfig(), [value]) == [DEFAULT_METHOD]


@pytest.mark.parametrize(
    "known, scored, recorded, usual",
    [
        (0, 0, None, 0.1),
        (98, 100, None, 0.1),
        # Huge losses have no odds.
        (99, 100, None, 1),
        (10, 100, Identity(image_column="image"), 25),
        (100, 100, Identity(image_column="image"), 1),
    ],
)
def test_a_scored_dataset_says_it_by_the_rows_with_a_typicality(known, scored, recorded, usual):
    assert usual_by_column(known, scored, recorded) == usual
