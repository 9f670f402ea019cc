"""Trajectories as a value, on disk, and on their way back to the dataset they were recorded on."""

import dataclasses
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.config import RecordConfig
from hf_ltc.coresets.order import coreset_order
from hf_ltc.coresets.select import in_coreset, rank_coreset, select_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.data.identity import dataset_identity
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.trajectories import run_dir, tables
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError

ROWS, CLASSES = 60, 3
NAMES = ["ant", "bee", "cat"]
HELD = np.arange(4, ROWS, 6)
FLAT = 7


def images(n=ROWS, seed=0):
    """Bytes that differ and that no decoder takes."""
    return [{"bytes": b"no image %d %d" % (seed, row), "path": None} for row in range(n)]


def dataset(n=ROWS, seed=0, text=False):
    """Rows with an image that cannot be decoded, a class, and an id that is not the row number."""
    label = Value("string") if text else ClassLabel(names=NAMES)
    labels = np.arange(n) * 7 // 3 % CLASSES
    features = Features({"image": Image(), "label": label, "key": Value("string")})
    columns = {
        "image": images(n, seed),
        "label": [NAMES[c] for c in labels] if text else labels,
        "key": [f"k{(row * 7) % n:03d}" for row in range(n)],
    }
    return Dataset(pa.table(columns, schema=features.arrow_schema))


def labels_of(data):
    stored = read_column(data, "label").to_pylist()
    return np.array([NAMES.index(label) if isinstance(label, str) else label for label in stored])


def make(data=None, lengths=(5,), ids=False, signals=("margin",), seed=0, **changes):
    """What a run would have recorded of a dataset, of which some rows are held out and one is flat."""
    data = dataset() if data is None else data
    labels = labels_of(data)
    kept = np.setdiff1d(np.arange(len(data)), HELD)
    random = np.random.default_rng(seed)
    count = sum(lengths)
    table = random.gamma(2.0, 1.0, (count, len(data))).astype(np.float32)
    table[:, FLAT] = 1.5
    recorded = {**dataset_identity(data, "label"), "names": NAMES, "id_column": "key" if ids else None}
    values = {
        "losses": table[:, kept],
        "validation_losses": table[:, HELD],
        "labels": labels[kept],
        "validation_labels": labels[HELD],
        "rows": kept,
        "validation_rows": HELD,
        "epochs": np.concatenate([np.arange(length) for length in lengths]),
        "lengths": tuple(lengths),
        "signals": {name: random.normal(size=(count, len(kept))).astype(np.float32) for name in signals},
        "ids": read_column(data, "key").combine_chunks().take(pa.array(kept)) if ids else None,
        "recipe": {"dataset": recorded, "seconds": {"training": 1.5}},
    }
    return Trajectories(**{**values, **changes})


def assert_equal(one, other, recipe=True):
    for name in ("losses", "validation_losses", "labels", "validation_labels", "rows", "validation_rows", "epochs"):
        mine, theirs = np.asarray(getattr(one, name)), np.asarray(getattr(other, name))
        assert mine.dtype == theirs.dtype, name
        np.testing.assert_array_equal(mine, theirs, err_msg=name)
    assert one.lengths == other.lengths
    assert one.loss_name == other.loss_name
    assert one.signals.keys() == other.signals.keys()
    for name in one.signals:
        np.testing.assert_array_equal(np.asarray(one.signals[name]), np.asarray(other.signals[name]), err_msg=name)
    assert (one.ids is None) == (other.ids is None)
    if one.ids is not None:
        assert one.ids.to_pylist() == other.ids.to_pylist()
    if recipe:
        assert recipe_of(one) == recipe_of(other)


def recipe_of(run):
    """The recipe without what saving adds."""
    return {key: value for key, value in run.recipe.items() if key not in ("format", "run", "epochs")}


def change(path, **values):
    """Rewrites some fields of a recipe."""
    recipe = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in recipe.items() if value is not None}))


def refused(error):
    message = str(error.value)
    assert "\n" not in message
    return message


# A value


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"losses": np.zeros((5, 3), np.float32)}, r"losses has shape \(5, 3\), not \(5, 50\)"),
        ({"losses": np.zeros((4, 50), np.float32)}, r"losses has shape \(4, 50\), not \(5, 50\)"),
        ({"validation_losses": np.zeros((5, 2), np.float32)}, r"validation_losses has shape \(5, 2\)"),
        ({"signals": {"margin": np.zeros((5, 2), np.float32)}}, r"margin has shape \(5, 2\)"),
        ({"lengths": (2, 2)}, r"lengths \(2, 2\) .* sum to 5 checkpoints"),
        ({"lengths": (5, 0)}, r"lengths \(5, 0\) must be 1 or more each"),
        ({"labels": np.zeros(3, np.int64)}, "labels has 3 values for 50 samples"),
        ({"validation_rows": np.zeros(3, np.int64)}, "validation_rows has 3 values for 10 samples"),
        ({"ids": pa.array(["a"])}, "ids has 1 values for 50 samples"),
        ({"rows": np.arange(50)[::-1]}, "rows must be increasing"),
        ({"rows": np.zeros(50, np.int64)}, "rows must be increasing"),
        ({"loss_name": "loss"}, "loss_name is 'loss': it must be training_loss or evaluation_loss"),
        ({"signals": {"training_loss": np.zeros((5, 50), np.float32)}}, "loss_name is 'training_loss'"),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(InputError, match=message) as error:
        dataclasses.replace(make(), **changes)
    refused(error)


def test_it_is_frozen_and_as_long_as_its_rows():
    run = make()
    assert len(run) == ROWS - len(HELD)
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.lengths = (1,)


def test_runs_are_the_runs_it_was_averaged_from():
    each = [make(lengths=(length,), seed=length, recipe={"seed": length}) for length in (4, 6, 3)]
    together = Trajectories.average(each)
    assert together.lengths == (4, 6, 3)
    for one, other in zip(each, together.runs, strict=True):
        assert_equal(one, other)


def test_average_of_one_run_is_that_run():
    run = make()
    assert_equal(run, Trajectories.average([run]))


def test_average_of_averages_is_the_average_of_all():
    each = [make(seed=seed, recipe={"seed": seed}) for seed in range(3)]
    nested = Trajectories.average([Trajectories.average(each[:2]), each[2]])
    assert_equal(nested, Trajectories.average(each), recipe=False)
    assert nested.recipe["runs"] == [{"seed": 0}, {"seed": 1}, {"seed": 2}]


def test_the_score_of_the_average_is_the_mean_of_the_scores():
    each = [make(seed=seed) for seed in range(3)]
    mean = np.mean([ltc_scores(run) for run in each], axis=0)
    np.testing.assert_allclose(ltc_scores(Trajectories.average(each)), mean, atol=1e-6)


def test_average_joins_the_rows_that_all_recorded():
    run = make(ids=True)
    one, two = run.take_rows(run.rows[::2]), run.take_rows(run.rows[::3])
    together = Trajectories.average([one, two])
    assert together.rows.tolist() == run.rows[::6].tolist()
    np.testing.assert_array_equal(together.losses, np.tile(run.losses[:, ::6], (2, 1)))
    np.testing.assert_array_equal(together.signals["margin"], np.tile(run.signals["margin"][:, ::6], (2, 1)))
    assert together.labels.tolist() == run.labels[::6].tolist()
    assert together.ids.to_pylist() == run.ids.to_pylist()[::6]


def test_average_keeps_the_signals_that_all_have():
    together = Trajectories.average([make(signals=("margin", "el2n")), make(signals=("el2n", "correct"))])
    assert list(together.signals) == ["el2n"]


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda: make(dataset(seed=1)), r"run 1 .* different datasets \(content differ\)"),
        (lambda: make(labels=(make().labels + 1) % CLASSES), r"different datasets \(labels differ\)"),
        (lambda: make(validation_rows=HELD + 1), "different validation samples"),
        (lambda: make(validation_labels=np.zeros(len(HELD), np.int64)), "different validation samples"),
        (lambda: make(loss_name="evaluation_loss"), "one holds training_loss, the other evaluation_loss"),
        (lambda: make(ids=True), r"different datasets \(ids differ\)"),
    ],
)
def test_average_refuses_runs_of_something_else(other, message):
    with pytest.raises(InputError, match=message) as error:
        Trajectories.average([make(), other()])
    refused(error)


def test_average_refuses_rows_whose_ids_differ():
    run = make(ids=True)
    with pytest.raises(InputError, match="ids differ"):
        Trajectories.average([run, dataclasses.replace(run, ids=run.ids.take(pa.array(np.arange(50)[::-1])))])


def test_average_refuses_another_validation_split_of_the_same_labels():
    elsewhere = {"validation_rows": np.full(len(HELD), -1)}
    runs = [make(**elsewhere, recipe={"validation": {"content": {"image": digest}}}) for digest in "ab"]
    assert Trajectories.average([runs[0], runs[0]]).lengths == (5, 5)
    with pytest.raises(InputError, match="different validation samples"):
        Trajectories.average(runs)


def test_average_refuses_nothing_and_runs_without_a_common_row():
    with pytest.raises(InputError, match=r"average\(\[\]\)"):
        Trajectories.average([])
    run = make()
    with pytest.raises(InputError, match="no row in common"):
        Trajectories.average([run.take_rows(run.rows[:3]), run.take_rows(run.rows[5:])])


def test_take_rows_takes_them_in_row_order():
    run = make(ids=True)
    taken = run.take_rows(np.array([9, 2, 5, 9]))
    where = [run.rows.tolist().index(row) for row in (2, 5, 9)]
    assert taken.rows.tolist() == [2, 5, 9]
    np.testing.assert_array_equal(taken.losses, run.losses[:, where])
    np.testing.assert_array_equal(taken.signals["margin"], run.signals["margin"][:, where])
    assert taken.labels.tolist() == run.labels[where].tolist()
    assert taken.ids.to_pylist() == [run.ids[i].as_py() for i in where]
    np.testing.assert_array_equal(taken.validation_losses, run.validation_losses)
    assert_equal(run.take_rows(run.rows), run)


@pytest.mark.parametrize("rows", [[2, HELD[0]], [ROWS], [-1]])
def test_take_rows_refuses_rows_that_were_not_recorded(rows):
    with pytest.raises(InputError, match=f"rows {rows[-1]} were not recorded"):
        make().take_rows(np.array(rows))


@given(
    epochs=st.lists(st.integers(2, 30), min_size=1, max_size=3),
    initial=st.booleans(),
    k=st.integers(1, 12),
    last=st.integers(0, 30),
)
@settings(max_examples=60, deadline=None)
def test_laws_of_truncate_and_every(epochs, initial, k, last):
    recorded = [list(range(0 if initial else 1, count + 1)) for count in epochs]
    lengths = tuple(map(len, recorded))
    size = sum(lengths)
    run = Trajectories(
        losses=np.arange(2 * size, dtype=np.float32).reshape(size, 2),
        validation_losses=np.arange(size, dtype=np.float32)[:, None],
        labels=np.zeros(2, np.int64),
        validation_labels=np.zeros(1, np.int64),
        rows=np.arange(2),
        validation_rows=np.array([5]),
        epochs=np.concatenate(recorded),
        lengths=lengths,
        signals={"margin": -np.arange(2 * size, dtype=np.float32).reshape(size, 2)},
    )
    assert_equal(run.every(1), run)
    assert_equal(run.truncate(max(epochs)), run)
    thinned = run.every(k)
    assert_equal(thinned.every(k), thinned)
    for count, one in zip(epochs, thinned.runs, strict=True):
        if len(one.epochs) > 2:
            config = RecordConfig(epochs=count, record_every=k, initial_losses=initial)
            assert one.epochs.tolist() == config.recorded_epochs()
    if last < run.epochs.min():
        with pytest.raises(InputError, match=rf"truncate\({last}\) leaves nothing"):
            run.truncate(last)
        return
    cut = run.truncate(last)
    assert_equal(cut.truncate(last), cut)
    assert cut.epochs.tolist() == [epoch for epoch in run.epochs if epoch <= last]
    assert len(cut.lengths) == len(lengths)
    # Each checkpoint keeps its losses, whichever run it is of.
    np.testing.assert_array_equal(cut.losses[:, 0], run.losses[run.epochs <= last, 0])
    np.testing.assert_array_equal(cut.signals["margin"], -cut.losses)
    np.testing.assert_array_equal(cut.validation_losses[:, 0] * 2, cut.losses[:, 0])


@pytest.mark.parametrize("k", [0, -2])
def test_every_refuses_less_than_one(k):
    with pytest.raises(InputError, match=rf"every\({k}\): it must be 1 or more"):
        make().every(k)


# On disk


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
@pytest.mark.parametrize("ids", [False, True])
def test_saved_is_loaded(tmp_path, lengths, ids, mmap):
    run = make(lengths=lengths, ids=ids, signals=("margin", "el2n"))
    run.save(tmp_path / "run")
    loaded = Trajectories.load(tmp_path / "run", mmap=mmap)
    assert isinstance(loaded.losses, run_dir.EpochTable if mmap else np.ndarray)
    assert_equal(loaded, run)
    np.testing.assert_array_equal(ltc_scores(loaded), ltc_scores(run))
    assert_equal(loaded.truncate(2), run.truncate(2))
    assert_equal(loaded.take_rows(run.rows[3:9]), run.take_rows(run.rows[3:9]))
    assert list(tmp_path.rglob("*.tmp")) == []


def test_saved_again_is_the_same(tmp_path):
    Trajectories.average([make(recipe={"seed": 0}), make(seed=1, recipe={"seed": 1})]).save(tmp_path / "one")
    loaded = Trajectories.load(tmp_path / "one", mmap=True)
    loaded.save(tmp_path / "two")
    again = Trajectories.load(tmp_path / "two")
    assert_equal(loaded, again)
    assert [recipe_of(run)["seed"] for run in again.runs] == [0, 1]


@pytest.mark.parametrize("name", ["training_loss", "evaluation_loss"])
def test_saved_losses_keep_their_name(tmp_path, name):
    make(loss_name=name).save(tmp_path / "run")
    assert Trajectories.load(tmp_path / "run").loss_name == name
    other = {"training_loss": "evaluation", "evaluation_loss": "training"}[name]
    with pytest.raises(
        InputError, match=f"has no {other} losses, it has {name}: record with `RecordConfig.losses` {other}"
    ):
        Trajectories.load(tmp_path / "run", losses=other)


@pytest.mark.parametrize("mmap", [False, True])
def test_either_kind_of_losses_is_loaded_where_both_were_recorded(tmp_path, mmap):
    run = make()
    run = dataclasses.replace(run, signals={"evaluation_loss": run.losses + 1})
    run.save(tmp_path / "run")
    assert_equal(Trajectories.load(tmp_path / "run", mmap=mmap), run)
    assert_equal(Trajectories.load(tmp_path / "run", losses="training", mmap=mmap), run)
    turned = dataclasses.replace(
        run, losses=run.signals["evaluation_loss"], signals={"training_loss": run.losses}, loss_name="evaluation_loss"
    )
    loaded = Trajectories.load(tmp_path / "run", losses="evaluation", mmap=mmap)
    assert_equal(loaded, turned)
    loaded.save(tmp_path / "again")
    assert_equal(Trajectories.load(tmp_path / "again", losses="training"), run)
    with pytest.raises(InputError, match="`losses` is 'both': it must be training or evaluation"):
        Trajectories.load(tmp_path / "run", losses="both")


def test_a_folder_that_holds_something_is_not_saved_into(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        make().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.fixture
def saved(tmp_path):
    make(ids=True).save(tmp_path / "run")
    return tmp_path / "run"


def unfinish(folder, planned=range(9)):
    change(folder / files.RECIPE, epochs=None, planned_epochs=list(planned))


@pytest.mark.parametrize("mmap", [False, True])
def test_what_an_unfinished_run_has_published_is_loaded(saved, mmap):
    unfinish(saved)
    assert_equal(Trajectories.load(saved, mmap=mmap), make(ids=True), recipe=False)
    run_dir.epoch_path(saved, 4).unlink()
    assert_equal(Trajectories.load(saved, mmap=mmap), make(ids=True).truncate(3), recipe=False)


def test_an_unfinished_run_without_an_epoch_is_refused(saved):
    unfinish(saved)
    shutil.rmtree(saved / run_dir.TRAJECTORIES)
    with pytest.raises(InputError, match=r"no epoch in .* is recorded yet: run the same hf-ltc record command again"):
        Trajectories.load(saved)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("epoch", [0, 2, 4])
def test_a_missing_epoch_is_named(saved, finished, epoch):
    if not finished:
        unfinish(saved)
    run_dir.epoch_path(saved, epoch).unlink()
    if not finished and epoch == 4:
        assert len(Trajectories.load(saved).epochs) == 4
        return
    with pytest.raises(InputError, match=f"no file '.*epoch-0000{epoch}.safetensors', though the run recorded") as e:
        Trajectories.load(saved)
    refused(e)


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
@pytest.mark.parametrize("mmap", [False, True])
def test_a_truncated_epoch_is_named(saved, keep, mmap):
    file = run_dir.epoch_path(saved, 2)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"cannot read '.*epoch-00002.safetensors' .truncated") as error:
        Trajectories.load(saved, mmap=mmap)
    refused(error)


def test_an_epoch_of_another_run_is_named(saved, tmp_path):
    make(seed=1).save(tmp_path / "other")
    shutil.copy(run_dir.epoch_path(tmp_path / "other", 2), run_dir.epoch_path(saved, 2))
    with pytest.raises(
        InputError, match=r"epoch-00002.safetensors' is epoch 2 of run .*, not epoch 2 of run"
    ) as error:
        Trajectories.load(saved)
    refused(error)


def test_an_epoch_under_another_name_is_named(saved):
    shutil.copy(run_dir.epoch_path(saved, 1), run_dir.epoch_path(saved, 2))
    with pytest.raises(InputError, match=r"epoch-00002.safetensors' is epoch 1 of run .*, not epoch 2 of run"):
        Trajectories.load(saved)


def test_an_epoch_that_is_not_of_the_run_is_named(saved):
    shutil.copy(run_dir.epoch_path(saved, 4), run_dir.epoch_path(saved, 5))
    with pytest.raises(InputError, match=r"epoch-00005.safetensors' is of no epoch that this run records"):
        Trajectories.load(saved)


@pytest.mark.parametrize("mmap", [False, True])
def test_an_epoch_of_another_length_is_named(saved, mmap):
    recipe = json.loads((saved / files.RECIPE).read_text())
    arrays = files.read_arrays(run_dir.epoch_path(saved, 3))
    arrays["training_loss"] = arrays["training_loss"][:-1]
    files.write_arrays(run_dir.epoch_path(saved, 3), arrays, {"run": recipe["run"], "epoch": "3"})
    with pytest.raises(InputError, match=r"epoch-00003.*training_loss is float32\[49\], not float32\[50\]"):
        np.asarray(Trajectories.load(saved, mmap=mmap).losses)


@pytest.mark.parametrize("mmap", [False, True])
def test_an_epoch_without_the_losses_is_named(saved, mmap):
    recipe = json.loads((saved / files.RECIPE).read_text())
    arrays = files.read_arrays(run_dir.epoch_path(saved, 3), ["validation_loss", "margin"])
    files.write_arrays(run_dir.epoch_path(saved, 3), arrays, {"run": recipe["run"], "epoch": "3"})
    with pytest.raises(InputError, match=r"epoch-00003.*it has no training_loss, only"):
        np.asarray(Trajectories.load(saved, mmap=mmap).losses)


@pytest.mark.parametrize("name", [files.RECIPE, run_dir.ROWS])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match=f"cannot read '.*{name}' .No such file") as error:
        Trajectories.load(saved)
    refused(error)


@pytest.mark.parametrize("name", [files.RECIPE, run_dir.ROWS, "ids.parquet"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00"])
def test_a_damaged_file_is_named(saved, name, content):
    (saved / name).write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read '.*{name}'") as error:
        Trajectories.load(saved)
    refused(error)


def test_another_format_is_refused(saved):
    change(saved / files.RECIPE, format=99)
    with pytest.raises(
        InputError, match=r"recipe.json' has format 99, this version reads 1: load it with the version"
    ):
        Trajectories.load(saved)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_run_directory(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=f"no run directory '.*{name}': make one with hf-ltc record") as error:
        Trajectories.load(tmp_path / name)
    refused(error)


@pytest.fixture
def seeds(tmp_path):
    """Two finished runs, and one that was stopped."""
    for seed in range(3):
        make(seed=seed, recipe={**make().recipe, "seed": seed}).save(tmp_path / "runs" / f"seed-{seed}")
    unfinish(tmp_path / "runs" / "seed-2")
    return tmp_path / "runs"


@pytest.mark.parametrize("mmap", [False, True])
def test_of_several_seeds_the_finished_ones_are_loaded(seeds, mmap):
    loaded = Trajectories.load(seeds, mmap=mmap)
    assert_equal(loaded, Trajectories.average([make(seed=0), make(seed=1)]), recipe=False)
    assert [recipe["seed"] for recipe in loaded.recipe["runs"]] == [0, 1]


def test_a_seed_that_has_hardly_begun_is_left_out(seeds):
    shutil.rmtree(seeds / "seed-2")
    (seeds / "seed-2").mkdir()
    assert Trajectories.load(seeds).lengths == (5, 5)


def test_the_recipe_of_all_seeds_counts_if_it_is_of_as_many(seeds):
    files.write_json(seeds / files.RECIPE, {"reliability": {"one": 0.5}, "seeds": [0, 1]})
    assert Trajectories.load(seeds).recipe["reliability"] == {"one": 0.5}
    change(seeds / "seed-2" / files.RECIPE, epochs=list(range(5)))
    assert "reliability" not in Trajectories.load(seeds).recipe


def test_no_seed_is_finished(seeds):
    for seed in range(3):
        unfinish(seeds / f"seed-{seed}")
    with pytest.raises(InputError, match=r"no run in .* is finished yet"):
        Trajectories.load(seeds)


# Back to the dataset


def assert_attached(attached, run, rows):
    """The trajectory of each row, by the numbers its rows had when they were recorded; null where there is none."""
    found = read_column(attached, "loss_trajectory").to_pylist()
    place = {row: i for i, row in enumerate(run.rows.tolist())}
    table = np.asarray(run.losses)
    assert len(found) == len(rows)
    for row, values in zip(rows, found):
        assert values == (table[:, place[row]].tolist() if row in place else None), row


@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
def test_attach_gives_every_row_its_losses(lengths):
    data = dataset()
    run = make(data, lengths)
    attached = run.attach(data, ["margin"])
    assert attached.column_names == ["image", "label", "key", "loss_trajectory", "margin_trajectory"]
    for column in ("loss_trajectory", "margin_trajectory"):
        assert attached.features[column] == List(Value("float32"))
        nulls = np.flatnonzero(read_column(attached, column).is_null())
        assert nulls.tolist() == HELD.tolist()
    assert_attached(attached, run, range(ROWS))
    margins = dataclasses.replace(run, losses=run.signals["margin"], signals={})
    assert_attached(
        attached.rename_columns({"loss_trajectory": "x", "margin_trajectory": "loss_trajectory"}), margins, range(ROWS)
    )


def test_attach_of_a_mapped_run_is_the_same(saved):
    data = dataset()
    attached = Trajectories.load(saved, mmap=True).attach(data)
    assert read_column(attached, "loss_trajectory") == read_column(
        make(data, ids=True).attach(data), "loss_trajectory"
    )


@pytest.mark.parametrize("rows", [1, 7, 8, 59, 60])
def test_attach_in_blocks_of_any_number_of_rows(monkeypatch, rows):
    monkeypatch.setattr(tables, "_CHUNK", rows)
    run = make()
    attached = run.attach(dataset())
    assert_attached(attached, run, range(ROWS))
    assert attached.data.column("loss_trajectory").num_chunks == -(-ROWS // rows)


def test_attach_twice_replaces_the_column():
    data = dataset()
    attached = make(data, seed=1).attach(make(data).attach(data))
    assert attached.column_names == ["image", "label", "key", "loss_trajectory"]
    assert_attached(attached, make(data, seed=1), range(ROWS))


@pytest.mark.parametrize("recorded", [("margin", "el2n"), ()], ids=str)
def test_a_signal_that_was_not_recorded_is_named(recorded):
    with pytest.raises(InputError, match="the signal 'correct' was not recorded") as error:
        make(signals=recorded).attach(dataset(), ["correct"])
    assert (", ".join(recorded) or "none") in refused(error)


def relabelled():
    data = dataset()
    return data.remove_columns("label").add_column(
        "label", (labels_of(data) + 1) % CLASSES, feature=data.features["label"]
    )


OTHERS = {
    "shuffled": (lambda: dataset().shuffle(seed=0), r"another order \(shuffled\?\)"),
    "filtered": (lambda: dataset().select(range(50)), r"has 50 rows, the recorded one had 60 \(filtered"),
    "longer": (lambda: dataset(61), "has 61 rows, the recorded one had 60 .another split or version"),
    "relabelled": (relabelled, r"other labels than in the recorded dataset, on the same rows \(relabelled\?\)"),
    "other images": (lambda: dataset(seed=1), "'image' differs on the rows compared, though the labels agree"),
    "without labels": (lambda: dataset().remove_columns("label"), "no such column"),
    "without images": (lambda: dataset().remove_columns("image"), "none of the recorded columns 'image'"),
}


@pytest.mark.parametrize("verb", ["attach", "score"])
@pytest.mark.parametrize("other", OTHERS)
def test_another_dataset_is_refused_saying_in_what(other, verb):
    build, message = OTHERS[other]
    with pytest.raises(InputError, match=message) as error:
        getattr(make(), verb)(build())
    refused(error)


@pytest.mark.parametrize("verb", ["attach", "score"])
def test_only_one_split_is_attached_to(verb):
    with pytest.raises(InputError, match=r"`dataset` is a DatasetDict, not a datasets.Dataset: give one of"):
        getattr(make(), verb)(DatasetDict(train=dataset()))
    with pytest.raises(InputError, match=r"`dataset` is an IterableDataset, not a datasets.Dataset"):
        getattr(make(), verb)(dataset().to_iterable_dataset())


def test_without_an_identity_the_number_of_rows_has_to_do():
    run = make(recipe={})
    assert_attached(run.attach(dataset()), run, range(ROWS))
    with pytest.raises(InputError, match="the dataset has 30 rows, but row 59 was recorded"):
        run.attach(dataset().select(range(30)))


ORDERS = {
    "as it was": lambda data: data,
    "shuffled": lambda data: data.shuffle(seed=3),
    "filtered": lambda data: data.filter(lambda key: key > "k020", input_columns="key"),
    "a part": lambda data: data.select([9, 3, int(HELD[0]), 30]),
    "one row": lambda data: data.select([9]),
    "reversed": lambda data: data.select(range(ROWS)[::-1]).flatten_indices(),
    "other images": lambda data: data.remove_columns("image").add_column("image", list("x" * len(data))),
}


@pytest.mark.parametrize("order", ORDERS)
def test_with_ids_any_order_and_part_is_attached_to(order):
    data = dataset()
    run = make(data, ids=True)
    number = {key: row for row, key in enumerate(data["key"])}
    changed = ORDERS[order](data)
    assert_attached(run.attach(changed), run, [number[key] for key in changed["key"]])


def test_rows_that_no_one_recorded_get_null_by_id():
    data = dataset()
    run = make(data, ids=True).take_rows(np.array([0, 1, 2]))
    assert_attached(run.attach(data), run, range(ROWS))


def with_keys(keys, kind="string"):
    return dataset().remove_columns("key").add_column("key", pa.array(keys, kind))


BAD_IDS = {
    "twice": (lambda: with_keys(["k001"] * 2 + dataset()["key"][2:]), "'key' has ids that occur twice or are null"),
    "null": (lambda: with_keys([None] + dataset()["key"][1:]), "'key' has ids that occur twice or are null"),
    "unknown": (lambda: with_keys([f"x{i}" for i in range(ROWS)]), "no id of column 'key' was recorded"),
    "another type": (lambda: with_keys(range(ROWS), "int64"), "'key' holds int64, the recorded ids are string"),
    "no column": (lambda: dataset().remove_columns("key"), "no column 'key' in the dataset: it has 'image', 'label'"),
}


@pytest.mark.parametrize("bad", BAD_IDS)
def test_bad_ids_are_refused(bad):
    build, message = BAD_IDS[bad]
    with pytest.raises(InputError, match=message) as error:
        make(ids=True).attach(build())
    refused(error)


def test_labels_are_compared_by_id():
    wrong = relabelled()
    with pytest.raises(
        InputError, match=r"50 rows have another label in column 'label' .*\(rows 0, 1, 2, 3, 5, ...\)"
    ):
        make(ids=True).attach(wrong)


def test_the_id_column_may_have_another_name():
    data = dataset().rename_column("key", "uid").shuffle(seed=0)
    run = make(ids=True)
    with pytest.raises(InputError, match="no column 'key'"):
        run.attach(data)
    number = {key: row for row, key in enumerate(dataset()["key"])}
    assert_attached(run.attach(data, id_column="uid"), run, [number[key] for key in data["uid"]])
    assert "ltc_rank" in run.score(data, id_column="uid").column_names


def test_ids_without_the_name_of_their_column_are_not_taken_for_row_numbers():
    run = make(ids=True, recipe={})
    with pytest.raises(InputError, match=r"rows were recorded by id: .* attach\(..., id_column=...\)"):
        run.attach(dataset())
    assert_attached(run.attach(dataset(), id_column="key"), run, range(ROWS))


def test_without_ids_an_id_column_is_of_no_use():
    with pytest.raises(
        InputError, match=r"no ids were recorded to join column 'key' with: record with `RecordConfig.id_column`"
    ):
        make().attach(dataset(), id_column="key")


# Scores at their rows

VARIANTS = [{}, {"preset": "cld"}, {"of": "levels", "scope": "class"}]


def assert_scored(scored, run, rows, balance="class", **family):
    """Scores and ranks are what the plain functions give, at the rows they were recorded of."""
    scores = ltc_scores(run, **family)
    place = {row: i for i, row in enumerate(run.rows.tolist())}
    where = [place.get(row, -1) for row in rows]
    wanted = [None if i < 0 or np.isnan(scores[i]) else float(scores[i]) for i in where]
    assert read_column(scored, "ltc_score").to_pylist() == wanted
    present = [i for i in where if i >= 0]
    order = coreset_order(scores[present], run.labels[present], balance=balance)
    ranks = iter(order.tolist())
    assert read_column(scored, "ltc_rank").to_pylist() == [None if i < 0 else next(ranks) for i in where]


@pytest.mark.parametrize("balance", ["class", "proportional", "none"])
@pytest.mark.parametrize("family", VARIANTS, ids=str)
@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
def test_score_puts_scores_and_ranks_at_their_rows(lengths, family, balance):
    data = dataset()
    run = make(data, lengths)
    scored = run.score(data, balance=balance, **family)
    assert scored.column_names == ["image", "label", "key", "loss_trajectory", "ltc_score", "ltc_rank"]
    assert scored.features["ltc_score"] == Value("float32")
    assert scored.features["ltc_rank"] == Value("int32")
    assert_attached(scored, run, range(ROWS))
    assert_scored(scored, run, range(ROWS), balance, **family)
    assert read_column(scored, "ltc_score")[FLAT].as_py() is None
    ranks = read_column(scored, "ltc_rank").to_pylist()
    assert sorted(rank for rank in ranks if rank is not None) == list(range(len(run)))


@pytest.mark.parametrize("family", VARIANTS, ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_score_with_ids_on_any_order_and_part(order, family):
    data = dataset()
    run = make(data, ids=True)
    number = {key: row for row, key in enumerate(data["key"])}
    changed = ORDERS[order](data)
    assert_scored(run.score(changed, **family), run, [number[key] for key in changed["key"]], **family)


def buffers(data):
    """Where the encoded images are in memory."""
    (images,) = data.data.column("image").chunks
    return [buffer.address for buffer in images.buffers() if buffer is not None]


@pytest.mark.parametrize("order", ["as it was", "shuffled", "a part"])
def test_no_image_is_decoded_and_no_row_rewritten(order):
    data = ORDERS[order](dataset())
    run = make(ids=order != "as it was")
    before = buffers(data)
    scored = run.score(data)
    assert buffers(scored) == before
    assert buffers(run.attach(data, ["margin"])) == before
    with pytest.raises(Exception, match="cannot identify image file"):
        scored[0]


FORMATS = {
    "none": lambda data: data,
    "numpy": lambda data: data.with_format("numpy"),
    "torch, some columns": lambda data: data.with_format("torch", columns=["label"]),
    "arrow": lambda data: data.with_format("arrow"),
    "transform": lambda data: data.with_transform(lambda batch: {"nothing": [0] * len(batch["key"])}),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("ids", [False, True])
def test_the_format_of_the_dataset_is_kept(format, ids):
    data = FORMATS[format](dataset().shuffle(seed=0) if ids else dataset())
    run = make(ids=ids)
    number = {key: row for row, key in enumerate(dataset()["key"])}
    before = data.format
    scored = run.score(data)
    assert_scored(scored, run, [number[key] for key in read_column(data, "key").to_pylist()])
    after = scored.format
    assert (after["type"], after["format_kwargs"]) == (before["type"], before["format_kwargs"])
    assert after["columns"] == [*before["columns"], "loss_trajectory", "ltc_score", "ltc_rank"]
    assert data.format == before


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("family", VARIANTS, ids=str)
def test_labels_may_be_text(family, ids):
    data = dataset(text=True)
    run = make(data, ids=ids)
    rows = np.arange(ROWS)
    if ids:
        rows = np.random.default_rng(0).permutation(ROWS)[:40]
        data = data.select(rows)
    scored = run.score(data, **family)
    assert_scored(scored, run, rows, **family)
    mapped = run.attach(data).map(LTCScorer.from_trajectories(run, **family), batched=True, input_columns=None)
    np.testing.assert_allclose(
        np.array(read_column(mapped, "ltc_score").to_pylist(), dtype=float),
        np.array(read_column(scored, "ltc_score").to_pylist(), dtype=float),
        atol=1e-6,
    )


@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
@pytest.mark.parametrize("family", VARIANTS, ids=str)
def test_step_by_step_is_the_shortcut(lengths, family):
    data = dataset()
    run = make(data, lengths)
    scored = run.attach(data).map(LTCScorer.from_trajectories(run, **family), batched=True)
    scored = rank_coreset(scored, balance="class")
    coreset = scored.filter(in_coreset, fn_kwargs={"size": 20}, input_columns="ltc_rank", batched=True)
    at_once = select_coreset(run.score(data, **family), size=20)
    assert len(coreset) == 20
    for column in ("key", "label", "image", "loss_trajectory", "ltc_rank"):
        assert read_column(coreset, column).to_pylist() == read_column(at_once, column).to_pylist(), column
    scores = [np.array(read_column(each, "ltc_score").to_pylist(), dtype=float) for each in (coreset, at_once)]
    np.testing.assert_allclose(*scores, atol=1e-6)


def test_score_names_bad_losses():
    run = make()
    losses = run.losses.copy()
    losses[2, 5] = np.nan
    with pytest.raises(InputError, match="epoch 2"):
        dataclasses.replace(run, losses=losses).score(dataset())


# As columns


@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
@pytest.mark.parametrize("ids", [False, True])
def test_columns_and_back(tmp_path, lengths, ids):
    run = make(lengths=lengths, ids=ids, signals=("margin", "evaluation_loss"))
    columns = run.to_dataset()
    assert columns["train"].column_names == [
        "row",
        "label",
        "loss_trajectory",
        "margin_trajectory",
        "evaluation_loss_trajectory",
        *(["id"] if ids else []),
    ]
    assert columns["train"].features["label"] == ClassLabel(names=NAMES)
    assert columns["train"][3]["loss_trajectory"] == run.losses[:, 3].tolist()
    assert columns["validation"]["row"][:] == HELD.tolist()
    layout = {"epochs": run.epochs, "lengths": run.lengths, "recipe": run.recipe}
    assert_equal(Trajectories.from_dataset(columns, **layout), run)
    # Whatever the order of the rows, and however they are stored.
    columns["train"] = columns["train"].shuffle(seed=0)
    assert_equal(Trajectories.from_dataset(columns, **layout), run)
    columns.save_to_disk(str(tmp_path / "saved"))
    assert_equal(Trajectories.from_dataset(DatasetDict.load_from_disk(str(tmp_path / "saved")), **layout), run)


def test_columns_of_a_mapped_run(saved):
    mapped = Trajectories.load(saved, mmap=True)
    assert_equal(Trajectories.from_dataset(mapped.to_dataset(), recipe=mapped.recipe), mapped)


def test_without_a_recipe_labels_are_numbers_and_epochs_count_from_0():
    run = make(recipe={})
    columns = run.to_dataset()
    assert columns["train"].features["label"] == Value("int64")
    again = Trajectories.from_dataset(columns)
    assert_equal(again, run)
    assert again.lengths == (5,)


@pytest.mark.parametrize("lengths", [(5,), (4, 3)], ids=str)
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("name", ["training_loss", "evaluation_loss"])
def test_parquet_and_back(tmp_path, lengths, ids, name):
    run = make(lengths=lengths, ids=ids, loss_name=name)
    run.to_parquet(tmp_path / "parquet")
    assert sorted(path.name for path in (tmp_path / "parquet").iterdir()) == [
        "recipe.json",
        "train.parquet",
        "validation.parquet",
    ]
    again = Trajectories.from_parquet(tmp_path / "parquet")
    assert_equal(again, run)
    assert again.recipe == run.recipe


def test_parquet_is_not_written_into_a_folder_that_holds_something(tmp_path):
    make().to_parquet(tmp_path / "parquet")
    with pytest.raises(InputError, match="holds other files"):
        make().to_parquet(tmp_path / "parquet")


@pytest.mark.parametrize("name", ["train.parquet", "validation.parquet", "recipe.json"])
@pytest.mark.parametrize("content", [None, b"nothing"])
def test_a_parquet_folder_with_a_missing_or_damaged_file(tmp_path, name, content):
    make().to_parquet(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"cannot read '.*{name}'") as error:
        Trajectories.from_parquet(tmp_path)
    refused(error)


def columns_with(**changed):
    columns = make().to_dataset()
    for split, change in changed.items():
        columns[split] = change(columns[split])
    return columns


BAD_COLUMNS = {
    "no split": (lambda: DatasetDict(train=dataset()), "no split 'validation' among train"),
    "no row": (lambda: columns_with(train=lambda d: d.remove_columns("row")), "no column 'row'"),
    "no losses": (
        lambda: columns_with(validation=lambda d: d.remove_columns("loss_trajectory")),
        "no column 'loss_trajectory'",
    ),
    "a row twice": (lambda: columns_with(train=lambda d: d.select([0, 5, 2, 5])), "has the row 6 twice"),
    "no rows": (lambda: columns_with(train=lambda d: d.select([])), "of different lengths .*, or no rows"),
    "held-out rows": (
        lambda: DatasetDict(
            train=make().attach(dataset()).add_column("row", list(range(ROWS))),
            validation=make().to_dataset()["train"],
        ),
        "'loss_trajectory' has 10 rows without a trajectory",
    ),
    "other lengths": (
        lambda: columns_with(
            train=lambda d: Dataset.from_dict(
                {"row": [0, 1], "label": [0, 1], "loss_trajectory": [[1.0] * 4, [1.0] * 6]},
            )
        ),
        r"trajectories of different lengths \(4, 6\)",
    ),
    "labels of text": (
        lambda: columns_with(
            train=lambda d: d.remove_columns("label").add_column("label", ["a"] * len(d)),
        ),
        "'label' holds string with 0 nulls: it must hold integers",
    ),
}


@pytest.mark.parametrize("bad", BAD_COLUMNS)
def test_bad_columns_are_refused(bad):
    build, message = BAD_COLUMNS[bad]
    with pytest.raises(InputError, match=message) as error:
        Trajectories.from_dataset(build())
    refused(error)
