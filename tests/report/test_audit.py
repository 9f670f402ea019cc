"""The audit of a recording: its table, its kinds, and real wrong labels that it finds."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Value, concatenate_datasets
from sklearn.metrics import roc_auc_score

from hf_ltc import audit as exported
from hf_ltc.cli.demo import digits
from hf_ltc.config import RecordConfig
from hf_ltc.recording.record import record
from hf_ltc.report.audit import AMBIGUOUS, CONFLICTING, DUPLICATE, ISSUE, KINDS, OK, SHARED, audit
from hf_ltc.report.duplicates import near_duplicates
from hf_ltc.report.suspicion import conflicting, correct_share, late_votes, wrong_label_count, wrong_label_quality
from hf_ltc.trajectories.value import Trajectories
from tests.helpers import error_of
from tests.trajectories.recordings import HELD, NAMES, dataset, make


def predicted(run, seed=0):
    table = np.random.default_rng(seed).integers(0, 3, run.losses.shape).astype(np.float32)
    return dataclasses.replace(run, signals={**run.signals, "predicted": table})


@pytest.mark.parametrize("lengths", [(12,), (12, 9)], ids=str)
@pytest.mark.parametrize("ids", [False, True])
def test_the_table(lengths, ids):
    run = predicted(make(lengths=lengths, ids=ids))
    table = audit(run, dataset())
    known = {"row": Value("int64"), **({"id": Value("string")} if ids else {})}
    assert table.features == {
        **known,
        "label": ClassLabel(names=NAMES),
        "suggested_label": ClassLabel(names=NAMES),
        "label_quality": Value("float32"),
        "is_label_issue": Value("bool"),
        "near_duplicate_group": Value("int64"),
        "kind": Value("string"),
    }
    assert table["row"][:] == run.rows.tolist()
    if ids:
        assert table["id"][:] == run.ids.to_pylist()
    assert table["label"][:] == run.labels.tolist()
    assert table["suggested_label"][:] == late_votes(run).winner.tolist()
    quality = wrong_label_quality(run)
    np.testing.assert_array_equal(table["label_quality"][:], quality.astype(np.float32))
    issues = np.array(table["is_label_issue"][:])
    assert issues.sum() == wrong_label_count(run)
    assert quality[issues].max() <= quality[~issues].min()
    share, against = correct_share(run, late_votes(run)), conflicting(run)
    for row, kind in enumerate(table["kind"][:]):
        wanted = ISSUE if issues[row] else CONFLICTING if against[row] else None
        assert kind == (wanted or (AMBIGUOUS if 0.25 <= share[row] <= 0.75 else OK))
    # Without features nobody knows.
    assert table["near_duplicate_group"][:] == [None] * len(run)
    assert exported is audit


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.99])
def test_a_budget(fraction):
    run = make(lengths=(12,))
    table = audit(run, fraction=fraction)
    issues = np.array(table["is_label_issue"][:])
    assert issues.sum() == round(fraction * len(run)) == table["kind"][:].count(ISSUE)
    quality = np.array(table["label_quality"][:])
    assert quality[issues].max() <= quality[~issues].min(initial=1)
    # Without predictions nothing is suggested.
    assert table["suggested_label"][:] == [None] * len(run)
    assert table.features["suggested_label"] == ClassLabel(names=NAMES)


def test_without_names_labels_are_numbers():
    table = audit(make(lengths=(12,), recipe={}))
    assert table.features["label"] == Value("int64")


def alike(rows):
    """The dataset with the image of the first validation sample in other rows too."""
    data = dataset()
    images = data.data.column("image").to_pylist()
    for row in rows:
        images[row] = images[HELD[0]]
    image = pa.array(images, data.features.arrow_schema.field("image").type)
    table = data.data.table.set_column(0, data.features.arrow_schema.field("image"), image)
    return type(data)(table)


def test_rows_with_the_image_of_a_validation_sample():
    data = alike([0, 31, 59])
    run = make(data, lengths=(12,))
    table = audit(run, data, fraction=0.01)
    shared = {row for row, kind in zip(table["row"], table["kind"]) if kind == SHARED}
    called = {row for row, issue in zip(table["row"], table["is_label_issue"]) if issue}
    assert shared == {0, 31, 59} - called
    # Without the dataset nobody knows.
    assert SHARED not in audit(run, fraction=0.01)["kind"][:]


def test_rows_with_the_image_of_a_sample_of_another_split():
    data, other = dataset(), dataset(n=10, seed=1)
    run = make(data, lengths=(12,))
    run = dataclasses.replace(
        run,
        validation_losses=run.validation_losses[:, :10],
        validation_labels=run.validation_labels[:10],
        validation_rows=np.full(10, -1),
    )
    assert SHARED not in audit(run, data, other)["kind"][:]
    images = other.data.column("image").to_pylist()
    images[3] = data.data.column("image").to_pylist()[int(run.rows[17])]
    kind = other.features.arrow_schema.field("image")
    other = type(other)(other.data.table.set_column(0, kind, pa.array(images, kind.type)))
    table = audit(run, data, other, fraction=0.01)
    assert [i for i, each in enumerate(table["kind"]) if each == SHARED] in ([17], [])
    assert table["kind"][17] == SHARED or table["is_label_issue"][17]
    said = error_of(audit, run, data, other.select(range(9)))
    assert said.startswith("`validation` has 9 rows, and 10 validation samples were recorded")


def test_bad_input_is_named():
    run = make(lengths=(12,))
    for name in ("fraction", "similarity"):
        assert error_of(audit, run, **{name: 1.0}) == f"`{name}` is 1.0: it must be inside (0, 1)"
    for fraction in (0, 1, -0.5, 2):
        assert error_of(audit, run, fraction=fraction) == f"`fraction` is {fraction!r}: it must be inside (0, 1)"
    assert "is not the recorded one" in error_of(audit, run, dataset(seed=5))
    wide = dataclasses.replace(run, signals={"predicted": np.full(run.losses.shape, 7, np.float32)})
    assert error_of(audit, wide).startswith("the signal 'predicted' has class 7, and the dataset has 3 classes")
    broken = run.losses.copy()
    broken[4, 2] = np.nan
    assert "not finite" in error_of(audit, dataclasses.replace(run, losses=broken))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """500 digits, every tenth with a wrong label, and what two runs record of them, which hold other rows out."""
    train = digits()[0].shuffle(seed=0).select(range(500))
    true = np.array(train["label"][:])
    given = true.copy()
    given[::10] = (given[::10] + 1 + np.arange(50) % 9) % 10
    feature = train.features["label"]
    rows = train.flatten_indices().remove_columns("label").add_column("label", given, feature=feature)
    config = RecordConfig(
        model="test_resnet",
        epochs=12,
        batch_size=32,
        learning_rate=0.02,
        runs=2,
        rotate_validation=True,
        signals=["margin", "predicted"],
        output_dir=str(tmp_path_factory.mktemp("noisy") / "run"),
    )
    return record(config, rows), rows, true


def test_wrong_labels_of_real_images_are_found(noisy):
    run, rows, true = noisy
    table = audit(run, rows)
    row = np.array(table["row"][:])
    assert row.tolist() == list(range(500))
    # The samples of one run are rows of the other, and no image is there twice.
    assert SHARED not in table["kind"][:]
    wrong = np.array(table["label"][:]) != true[row]
    # Chance would give 0.5, and a tenth.
    assert roc_auc_score(wrong, 1 - np.array(table["label_quality"][:])) > 0.9
    issues = np.array(table["is_label_issue"][:])
    assert wrong[issues].mean() > 0.5 and issues[wrong].mean() > 0.5
    suggested = np.array(table["suggested_label"][:])
    assert (suggested == true[row])[wrong].mean() > 0.5
    assert set(table["kind"][:]) <= set(KINDS)


def test_copies_of_real_images_are_found(tmp_path):
    train = digits()[0].shuffle(seed=1).select(range(150))
    rows = concatenate_datasets([train, train.select(range(0, 150, 10))]).flatten_indices()
    config = RecordConfig(
        model="test_resnet",
        epochs=3,
        batch_size=32,
        learning_rate=0.02,
        features=True,
        runs=2,
        rotate_validation=True,
        output_dir=str(tmp_path / "run"),
    )
    run = record(config, rows)
    table = audit(run, rows, fraction=0.01)
    group = table.to_pandas()["near_duplicate_group"]
    assert run.rows.tolist() == list(range(165))
    for copy, original in zip(range(150, 165), range(0, 150, 10)):
        assert group[copy] == group[original] >= 0
    for each in table:
        rest = (ISSUE, SHARED)
        assert (each["kind"] == DUPLICATE) == (each["near_duplicate_group"] is not None and each["kind"] not in rest)
    found = near_duplicates(run.features.of(run.rows))
    assert group.fillna(-1).tolist() == found.tolist()
    strict = audit(run, rows, similarity=0.9999)
    assert 30 <= sum(each is not None for each in strict["near_duplicate_group"]) <= (found >= 0).sum()


def test_the_table_joins_the_dataset(noisy, tmp_path):
    run, rows, _ = noisy
    table = audit(run, rows)
    table.to_parquet(tmp_path / "audit.parquet")
    again = type(table).from_parquet(str(tmp_path / "audit.parquet"))
    assert again.features == table.features and again[:] == table[:]
    assert rows.select(table["row"][:])["label"][:] == table["label"][:]


def test_a_run_read_from_disk_epoch_by_epoch(noisy):
    run, rows, _ = noisy
    mapped = Trajectories.load(run.recipe["config"]["output_dir"], mmap=True)
    assert audit(mapped, rows)[:] == audit(run, rows)[:]
