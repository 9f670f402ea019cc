"""Batches of any kind, and their labels: read alike, and named where they cannot be."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from datasets import Dataset

from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.utils.errors import InputError
from tests.scores.recordings import make_run


def test_reads_nothing_but_its_columns():
    run = make_run(n=10)

    class Row(dict):
        def __getitem__(self, key):
            assert key in ("loss_trajectory", "label"), key
            return super().__getitem__(key)

    row = Row(loss_trajectory=run.losses[:, 0], label=0, image=None)
    alone = dataclasses.replace(run, losses=run.losses[:, :1], labels=run.labels[:1], rows=run.rows[:1])
    assert LTCScorer.from_trajectories(run, scope="class")(row)["ltc_score"] == ltc_scores(alone, scope="class")[0]


@pytest.mark.parametrize("names", [["ant", "bee", "cat"], ["10", "20", "30"], ["False", "True"]], ids=str)
def test_labels_that_are_not_class_numbers(names):
    stored = {"ant": ["ant", "bee", "cat"], "10": [10, 20, 30], "False": [False, True]}[names[0]]
    run = make_run(n=12, classes=len(names), recipe={"dataset": {"label_column": "kind"}})
    expected = ltc_scores(run, scope="class")
    scorer = LTCScorer.from_trajectories(run, scope="class", class_names=names)
    kinds = [stored[label] for label in run.labels]
    for form in (None, "numpy", "torch", "arrow", "pandas"):
        dataset = Dataset.from_dict({"loss_trajectory": list(run.losses.T), "kind": kinds}).with_format(form)
        scored = dataset.map(scorer, batched=True).with_format("numpy")
        np.testing.assert_allclose(scored["ltc_score"][:], expected, atol=1e-6)
        row = {"loss_trajectory": run.losses[:, 1], "kind": kinds[1]}
        assert scorer(row)["ltc_score"] == pytest.approx(expected[1], abs=1e-6)
    with pytest.raises(InputError, match=r"column 'kind' has labels without a reference trajectory \('dog'\)"):
        scorer({"loss_trajectory": run.losses.T, "kind": ["dog"] + kinds[1:]})
    if names[0] == "ant":
        unnamed = LTCScorer.from_trajectories(run, scope="class")
        with pytest.raises(
            InputError, match=r"column 'kind' holds text \('ant'\), not class numbers: give class_names"
        ):
            unnamed({"loss_trajectory": run.losses.T, "kind": kinds})


@pytest.mark.parametrize("form", [list, np.array, pa.array, pd.Series])
def test_bad_batches(form):
    run = make_run(n=4)
    scorer = LTCScorer.from_trajectories(run)
    good = [row.tolist() for row in run.losses.T]

    def batch(trajectories):
        if form is pa.array:
            return pa.table({"loss_trajectory": pa.array(trajectories)})
        if form is pd.Series:
            return pd.DataFrame({"loss_trajectory": [None if t is None else np.array(t) for t in trajectories]})
        if form is np.array:
            values = np.empty(len(trajectories), dtype=object)
            values[:] = [None if t is None else np.array(t) for t in trajectories]
            return {"loss_trajectory": values}
        return {"loss_trajectory": trajectories}

    with pytest.raises(InputError, match=r"trajectory of length 7 \(row 2 of the batch\), .* of length 16"):
        scorer(batch([None, good[0], good[1][:7], good[2]]))
    bad = [None, good[0], good[1][:15] + [float("nan")], good[2]]
    with pytest.raises(InputError, match=r"1 values that are not finite at checkpoint 15 \(rows 2 of the batch\)"):
        scorer(batch(bad))
    with pytest.raises(InputError, match=r"no column 'loss_trajectory' .*'image': attach .*run\.attach\(dataset\)"):
        scorer({"image": form([1, 2])})


def test_labels_of_a_batch_are_checked():
    run = make_run(n=6, validation_labels=np.arange(12) % 4, labels=np.array([0, 1, 3, 0, 1, 3]), recipe={})
    scorer = LTCScorer.from_trajectories(run, scope="class")
    column = {"loss_trajectory": run.losses.T}
    assert len(scorer({**column, "label": [0, 1, 3, 2, 1, 3]})["ltc_score"]) == 6
    for label, shown in [(None, "None"), (-1, "-1"), (4, "4")]:
        with pytest.raises(InputError, match=rf"labels without a reference trajectory \({shown}\)"):
            scorer({**column, "label": [0, 1, 3, label, 1, 3]})
    with pytest.raises(InputError, match="no label column 'label' in the batch"):
        scorer(column)
    # A held-out row's label is nobody's business.
    assert scorer({"loss_trajectory": [None, run.losses[:, 0]], "label": [99, 0]})["ltc_score"][0] is None


def test_arrow_lists_of_any_kind():
    run = make_run(n=6)
    rows = [None, *run.losses.T.tolist(), None]
    expected = LTCScorer.from_trajectories(run)({"loss_trajectory": rows})["ltc_score"]
    flat = pa.array(run.losses.T.ravel())
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(run.losses.T))
    scorer = LTCScorer.from_trajectories(run)
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float32(), 16)):
        whole = pa.array([run.losses[:, 0].tolist(), *rows], kind)[1:]
        for values in (whole, pa.chunked_array([whole[:1], whole[1:4], whole[4:]])):
            found = scorer(pa.table({"loss_trajectory": values}))["ltc_score"].to_pylist()
            assert found == [None if score is None else pytest.approx(float(score), abs=1e-6) for score in expected]
    for values in (tensors, pa.FixedSizeListArray.from_arrays(flat, 16)):
        found = scorer(pa.table({"loss_trajectory": values}))["ltc_score"].to_numpy()
        np.testing.assert_allclose(found, ltc_scores(run), atol=1e-6)
    with pytest.raises(InputError, match="column 'loss_trajectory' holds double, not lists of numbers"):
        scorer(pa.table({"loss_trajectory": [1.0, 2.0]}))
    missing = pd.DataFrame({"loss_trajectory": [pd.NA, float("nan"), run.losses[:, 0]]})
    assert scorer(missing)["ltc_score"].isna().tolist() == [True, True, False]
    nothing = pa.table({"loss_trajectory": pa.nulls(3)})
    assert scorer(nothing)["ltc_score"].to_pylist() == [None] * 3
    assert len(scorer({"loss_trajectory": []})["ltc_score"]) == 0
