"""Features of recorded rows: by row number, as columns, on a map, and in another run directory."""

import dataclasses
import sys

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, LargeList, List, Value

from hf_ltc.data.columns import read_column
from hf_ltc.trajectories.combine import place_rows
from hf_ltc.trajectories.features import FEATURES, RowFeatures, projected, write_features
from hf_ltc.trajectories.value import Trajectories
from tests.helpers import error_of
from tests.trajectories.recordings import HELD, ROWS, dataset, make, rotated

SIZE = 5


def number(rows):
    """Features that tell which row they are of."""
    return (np.asarray(rows)[:, None] * 10 + np.arange(SIZE)).astype(np.float16)


def with_features(run, folder, split=False):
    folder.mkdir(exist_ok=True)
    samples = -np.arange(1, len(run.validation_rows) + 1) if split else run.validation_rows
    write_features(folder, {"train": number(run.rows), "validation": number(samples)}, "mine")
    held = np.full(len(samples), -1) if split else run.validation_rows
    found = RowFeatures.find(folder, "mine", run.rows, held)
    return dataclasses.replace(run, features=found, validation_rows=held)


def test_they_are_found_by_row_number(tmp_path):
    run = with_features(make(), tmp_path)
    assert run.features.size == SIZE
    for rows in (run.rows, np.array([HELD[1], 3, 3, HELD[0]]), np.arange(ROWS)[::-1], np.array([], int)):
        np.testing.assert_array_equal(run.features.of(rows), number(rows))
    np.testing.assert_array_equal(run.features.validation, number(HELD))
    said = error_of(run.features.of, np.array([3, ROWS, 99]))
    assert said.startswith(f"rows {ROWS}, 99 have no features in '{tmp_path / FEATURES}'")


def test_they_stay_with_parts_of_a_recording(tmp_path):
    run = with_features(make(lengths=(5, 4)), tmp_path)
    parts = [run.take_rows(run.rows[5:9]), run.truncate(3), run.every(2), *run.runs]
    for part in [*parts, Trajectories.average(run.runs)]:
        np.testing.assert_array_equal(part.features.of(part.rows), number(part.rows))
    other = make(seed=1)
    np.testing.assert_array_equal(Trajectories.average([other, run]).features.of(run.rows), number(run.rows))
    # Under other numbers nobody would find them.
    assert place_rows(run, np.arange(3), np.array([4, 8, 2])).features is None


def test_a_file_of_another_run_or_damaged_is_named(tmp_path):
    run = make()
    with_features(run, tmp_path)
    path = tmp_path / FEATURES
    for name, rows in (("other", run.rows), ("mine", run.rows[1:])):
        said = error_of(RowFeatures.find, tmp_path, name, rows, HELD)
        assert said.startswith(f"cannot read '{path}' (it is of run mine, this is run {name}")
    path.write_bytes(path.read_bytes()[:20])
    assert error_of(RowFeatures.find, tmp_path, "mine", run.rows, HELD).startswith(f"cannot read '{path}' (truncated")
    path.unlink()
    assert RowFeatures.find(tmp_path, "mine", run.rows, HELD) is None


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("lengths", [(5,), (5, 4)], ids=str)
def test_saved_with_the_recording_and_loaded_again(tmp_path, lengths, split):
    run = with_features(make(lengths=lengths), tmp_path / "from", split)
    for number_, part in enumerate((run, run.take_rows(run.rows[3:11]))):
        part.save(tmp_path / f"run-{number_}")
        again = Trajectories.load(tmp_path / f"run-{number_}")
        np.testing.assert_array_equal(again.features.of(part.rows), number(part.rows))
        np.testing.assert_array_equal(again.features.validation, run.features.validation)
        assert len(list((tmp_path / f"run-{number_}").rglob(FEATURES))) == 1


def test_attached_to_the_recorded_dataset(tmp_path):
    run, data = with_features(make(), tmp_path), dataset()
    attached = run.attach(data, features=True, projection="pca")
    assert attached.features["features"] == List(Value("float32"), length=SIZE)
    np.testing.assert_array_equal(np.array(attached["features"][:]), number(np.arange(ROWS)))
    for name in ("projection_x", "projection_y"):
        assert attached.features[name] == Value("float32")
        assert read_column(attached, name).null_count == 0
    # All numbers of a row grow with its number, and so does its place on the map, one way or the other.
    steps = np.diff(attached["projection_x"][:])
    assert (steps > 0).all() or (steps < 0).all()
    attached.remove_columns("image").to_parquet(tmp_path / "rows.parquet")
    again = Dataset.from_parquet(str(tmp_path / "rows.parquet"))
    assert again["features"][:] == attached["features"][:]
    assert "features" not in run.attach(data, projection="pca").column_names
    assert "projection_x" not in run.attach(data, features=True).column_names


def test_joined_by_id_rows_held_out_have_none(tmp_path):
    run, data = with_features(make(ids=True), tmp_path), dataset().shuffle(seed=3)
    attached = run.attach(data, features=True, projection="pca")
    assert attached.features["features"] == LargeList(Value("float32"))
    rows = np.random.default_rng(3).permutation(ROWS)
    rows = np.asarray(data._indices.column(0)) if data._indices is not None else rows
    for row, values, x in zip(rows, attached["features"], attached["projection_x"]):
        assert (values is None) == (x is None) == (row in HELD)
        assert values is None or values == number([row])[0].tolist()
    attached.remove_columns("image").to_parquet(tmp_path / "rows.parquet")
    assert Dataset.from_parquet(str(tmp_path / "rows.parquet"))["features"][:] == attached["features"][:]


@pytest.mark.parametrize("split", [False, True])
def test_as_columns_of_the_trajectories(tmp_path, split):
    run = with_features(make(), tmp_path, split)
    made = run.to_dataset(features=True, projection="pca")
    np.testing.assert_array_equal(np.array(made["train"]["features"][:]), number(run.rows))
    np.testing.assert_array_equal(np.array(made["validation"]["features"][:]), run.features.validation)
    assert {"projection_x", "projection_y"} <= set(made["train"].column_names) & set(made["validation"].column_names)
    assert "features" not in run.to_dataset()["train"].column_names
    again = Trajectories.from_dataset(made)
    np.testing.assert_array_equal(again.losses, run.losses)


def test_where_validation_samples_rotate(tmp_path):
    runs = rotated()
    run = Trajectories.average([with_features(runs[0], tmp_path), *runs[1:]])
    assert len(run.rows) == ROWS
    np.testing.assert_array_equal(run.features.of(run.rows), number(np.arange(ROWS)))
    run.save(tmp_path / "run")
    again = Trajectories.load(tmp_path / "run")
    np.testing.assert_array_equal(again.features.of(again.rows), number(np.arange(ROWS)))


def test_a_map_by_pca():
    draw = np.random.default_rng(0)
    flat = draw.normal(size=(40_000, 2)) * [9, 3]
    turned = np.linalg.qr(draw.normal(size=(6, 6)))[0][:2]
    found = projected((flat @ turned).astype(np.float16))
    assert found.dtype == np.float32 and found.shape == (40_000, 2)
    # But for signs and rounding the two directions in which the rows differ.
    for column in range(2):
        assert abs(np.corrcoef(found[:, column], flat[:, column])[0, 1]) > 0.999
    np.testing.assert_array_equal(found, projected((flat @ turned).astype(np.float16)))
    # What has one number has no second direction.
    line = projected(flat[:50, :1].astype(np.float16))
    assert line[:, 1].tolist() == [0] * 50


def test_bad_input_is_named(tmp_path, monkeypatch):
    plain, run = make(), with_features(make(), tmp_path)
    for asked in ({"features": True}, {"projection": "pca"}):
        said = error_of(plain.attach, dataset(), **asked)
        assert said == error_of(plain.to_dataset, **asked)
        assert said.startswith("the features of the rows were not recorded: give `RecordConfig.features`")
    assert error_of(run.to_dataset, projection="tsne") == "`projection` is 'tsne': it must be one of pca, umap"
    assert error_of(projected, number([1, 2])).startswith("`projection` 'pca' of 2 rows: it takes three or more")
    monkeypatch.setitem(sys.modules, "umap", None)
    said = error_of(run.to_dataset, projection="umap")
    assert said == "`projection` 'umap' needs a package: pip install umap-learn, or give 'pca'"


def test_columns_of_arrow_are_float32(tmp_path):
    run = with_features(make(), tmp_path)
    kind = run.attach(dataset(), features=True).data.schema.field("features").type
    assert kind == pa.list_(pa.float32(), SIZE)
