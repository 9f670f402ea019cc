"""An audit put to use: what is dropped and relabelled, the list of it, and that it can all be undone."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_from_disk

from hf_ltc import apply_audit as exported
from hf_ltc.cli.demo import digits
from hf_ltc.cli.main import main
from hf_ltc.data.columns import read_column
from hf_ltc.data.labels import class_names, read_labels
from hf_ltc.report.apply import apply_audit, undo_audit
from hf_ltc.report.audit import CONFLICTING, DUPLICATE, ISSUE, KINDS, audit
from tests.helpers import error_of
from tests.report.test_audit import predicted
from tests.trajectories.recordings import NAMES, ROWS, dataset, labels_of, make


def same(one, other):
    """Whether two datasets have the same rows, columns and features, as stored."""
    assert one.features == other.features and one.column_names == other.column_names
    for name in one.column_names:
        assert read_column(one, name).to_pylist() == read_column(other, name).to_pylist(), name
    return True


def audited(data=None, **changes):
    data = dataset() if data is None else data
    run = predicted(make(data, lengths=(12,), **changes))
    return run, data, audit(run, data, fraction=0.3)


def marked(table, kinds):
    """The rows of an audit of some kinds."""
    return table.to_pandas()[lambda frame: frame.kind.isin(kinds)]


@pytest.mark.parametrize("kinds", [(ISSUE,), (ISSUE, CONFLICTING), KINDS[:-1]], ids=str)
def test_rows_are_dropped_and_put_back(kinds):
    run, data, table = audited()
    applied = exported(run, data, table, "drop", kinds=kinds)
    found = marked(table, kinds)
    assert len(found) > 5
    assert applied.changes["row"][:] == found.row.tolist()
    assert applied.changes["old_label"][:] == found.label.tolist()
    assert applied.changes["new_label"][:] == [None] * len(found)
    assert applied.changes["reason"][:] == found.kind.tolist()
    assert applied.changes.features["old_label"] == ClassLabel(names=NAMES)
    left = np.setdiff1d(np.arange(ROWS), found.row)
    assert same(applied.dataset, data.select(left))
    assert same(undo_audit(applied.dataset, applied.changes, data), data)
    assert same(undo_audit(applied.dataset, applied.changes.shuffle(seed=0), data), data)


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("order", ["as it was", "shuffled"])
def test_rows_are_relabelled_and_get_their_labels_back(text, order):
    data = dataset(text=text)
    run, _, table = audited(data, ids=order == "shuffled")
    if order == "shuffled":
        data = data.shuffle(seed=3)
    before = read_labels(data, "label", NAMES)
    applied = apply_audit(run, data, table, "relabel")
    after = read_labels(applied.dataset, "label", NAMES)
    found = marked(table, [ISSUE])
    suggested = {row.id if "id" in table.column_names else row.row: row for row in found.itertuples()}
    for place, key in enumerate(data["key"] if order == "shuffled" else range(ROWS)):
        wanted = suggested[key].suggested_label if key in suggested else before[place]
        assert after[place] == wanted
    rows = np.flatnonzero(after != before)
    assert 3 < len(rows) < len(found)
    assert applied.changes["row"][:] == rows.tolist()
    assert applied.changes["old_label"][:] == before[rows].tolist()
    assert applied.changes["new_label"][:] == after[rows].tolist()
    assert set(applied.changes["reason"]) == {ISSUE}
    column = {} if not text else {"label_column": "label"}
    assert same(undo_audit(applied.dataset, applied.changes, **column), data)
    # Some of the changes may be taken back.
    some = undo_audit(applied.dataset, applied.changes.select([2, 0]), **column)
    np.testing.assert_array_equal(np.flatnonzero(read_labels(some, "label", NAMES) != after), sorted(rows[[0, 2]]))
    # Only the labels differ.
    assert same(applied.dataset.remove_columns("label"), data.remove_columns("label"))


def test_a_dataset_whose_classes_are_in_another_order():
    run, recorded, table = audited(ids=True)
    names = [NAMES[2], NAMES[0], NAMES[1], "dog"]
    numbers = [names.index(NAMES[label]) for label in labels_of(recorded)]
    data = recorded.remove_columns("label").add_column("label", numbers, feature=ClassLabel(names=names))
    assert read_labels(data, "label", NAMES).tolist() == labels_of(recorded).tolist()
    applied, wanted = (apply_audit(run, each, table, "relabel") for each in (data, recorded))
    assert len(applied.changes) > 3 and applied.dataset.features == data.features
    assert read_labels(applied.dataset, "label", NAMES).tolist() == labels_of(wanted.dataset).tolist()
    assert same(undo_audit(applied.dataset, applied.changes), data)
    # A class that it has no number for.
    pair = data.filter(lambda label: label < 2, input_columns="label")
    numbers = [1 - label for label in pair["label"]]
    pair = pair.remove_columns("label").add_column("label", numbers, feature=ClassLabel(names=[NAMES[0], NAMES[2]]))
    there = table.filter(lambda key: key in set(pair["key"]), input_columns="id")
    said = error_of(apply_audit, run, pair, there, "relabel")
    assert said.startswith("column 'label' has no class 'bee', a label to be given: cast it to a ClassLabel that has")


def test_changes_of_other_dropped_rows_are_refused():
    run, data, table = audited()
    applied = apply_audit(run, data, table, "drop")
    rows, labels = np.array(applied.changes["row"][:]), labels_of(data)
    # Another row of the same class; and of a dataset with copies one that differs by its id alone.
    place = next(row for row in range(ROWS) if row not in rows and labels[row] == labels[rows[0]])
    copied = data.add_column("copy", np.arange(ROWS)).select([*range(ROWS), 0])
    copied = copied.remove_columns("copy").add_column("copy", np.arange(ROWS + 1))
    other, one, copy = (applied.changes.to_pandas() for _ in range(3))
    other.loc[0, "row"] = place
    one, copy = one[:1].assign(row=0, old_label=labels[0]), copy[:1].assign(row=ROWS, old_label=labels[0])
    one, copy, other = (
        Dataset.from_pandas(each, features=applied.changes.features, preserve_index=False)
        for each in (one, copy, other)
    )
    without = copied.select(range(ROWS))
    assert same(undo_audit(without, copy, copied), copied)
    for kept, changes, source in ((applied.dataset, other, data), (without, one, copied)):
        said = error_of(undo_audit, kept, changes, source)
        assert said.startswith("`changes` is of another dataset: `dataset` has not the rows of `source` that it left")
    # Labels that these rows do not have.
    wrong = applied.changes.map(
        lambda row: {"old_label": (row["old_label"] + 1) % 3}, features=applied.changes.features
    )
    assert "has not the rows" in error_of(undo_audit, applied.dataset, wrong, data)


def test_images_in_files_are_compared_with_those_that_were_saved(tmp_path):
    rows = digits()[0].select(range(20)).cast_column("image", Image(decode=False))
    folder = tmp_path / "files"
    folder.mkdir()
    for number, value in enumerate(rows["image"][:]):
        (folder / f"{number:02d}.png").write_bytes(value["bytes"])
    paths = [str(folder / f"{number:02d}.png") for number in range(20)]
    label = rows.features["label"]
    data = Dataset.from_dict(
        {"image": paths, "label": rows["label"][:]}, features=Features({"image": Image(), "label": label})
    )
    data.select(range(1, 20)).save_to_disk(tmp_path / "kept")
    features = Features({"row": Value("int64"), "old_label": label, "new_label": label, "reason": Value("string")})
    made = {"row": [0], "old_label": data["label"][:1], "new_label": [None], "reason": [ISSUE]}
    changes = Dataset.from_dict(made, features=features)
    whole = undo_audit(load_from_disk(tmp_path / "kept"), changes, data)
    assert whole["label"][:] == data["label"][:] and whole[0]["image"] == data[0]["image"]


def test_labels_of_integers_and_booleans_keep_their_type():
    data = dataset()
    for kind, names in (("int32", ["3", "7", "9"]), ("bool", ["False", "True"])):
        numbers = labels_of(data) % len(names)
        values = [int(names[n]) if kind == "int32" else bool(n) for n in numbers]
        other = data.remove_columns("label").add_column("label", values).cast_column("label", Value(kind))
        run = make(lengths=(12,))
        run = dataclasses.replace(run, labels=numbers[run.rows], validation_labels=numbers[run.validation_rows])
        run = predicted(dataclasses.replace(run, recipe={"dataset": {"label_column": "label", "names": names}}))
        run.signals["predicted"][:] %= len(names)
        applied = apply_audit(run, other, audit(run, fraction=0.5), "relabel")
        assert applied.dataset.features == other.features and len(applied.changes) > 3
        assert class_names(applied.dataset, "label") == names
        assert same(undo_audit(applied.dataset, applied.changes, label_column="label"), other)


def test_of_near_duplicates_one_stays():
    run, data, _ = audited()
    kinds = ["ok", DUPLICATE, DUPLICATE, ISSUE, DUPLICATE, DUPLICATE]
    groups = [None, 0, 0, 1, 1, 1]
    made = {
        "row": run.rows[:6],
        "label": run.labels[:6],
        "suggested_label": [None] * 6,
        "label_quality": [0.9, 0.5, 0.5, 0.1, 0.3, 0.7],
        "near_duplicate_group": groups,
        "kind": kinds,
    }
    table = Dataset.from_dict(made)
    rows = run.rows.tolist()
    # The one whose label is most probably right, and of equals the first.
    for asked, dropped in (([DUPLICATE], [2, 4]), ([DUPLICATE, ISSUE], [2, 3, 4]), ([ISSUE], [3])):
        assert apply_audit(run, data, table, "drop", kinds=asked).changes["row"][:] == [rows[i] for i in dropped]


def test_nothing_to_change_is_no_change():
    run, data, table = audited()
    for how in ("drop", "relabel"):
        applied = apply_audit(run, data, table.select([]), how)
        assert len(applied.changes) == 0 and same(applied.dataset, data)
        assert same(undo_audit(applied.dataset, applied.changes), data)


def test_bad_input_is_named():
    run, data, table = audited()
    assert error_of(apply_audit, run, data, table, "mend") == "`how` is 'mend': it must be one of drop, relabel"
    for kinds in ("label issue", ["ok"], []):
        assert error_of(apply_audit, run, data, table, "drop", kinds=kinds).startswith(
            f"`kinds` is {kinds!r}: it must"
        )
    plain = audit(make(lengths=(12,)))
    assert error_of(apply_audit, run, data, plain, "relabel").startswith("no label is suggested: record with")
    other = table.remove_columns("row").add_column("row", np.arange(len(table)))
    assert error_of(apply_audit, run, data, other, "drop", kinds=KINDS[:-1]).startswith(
        "`table` has rows that were not"
    )
    wrong = table.remove_columns("label").add_column("label", (np.array(table["label"]) + 1) % 3)
    assert error_of(apply_audit, run, data, wrong, "drop").startswith("`table` has other labels than the dataset")
    assert "is not the recorded one" in error_of(apply_audit, run, dataset(seed=5), table, "drop")
    ids, _, by_id = audited(ids=True)
    part = data.filter(lambda key: key > "k020", input_columns="key")
    assert "of the rows to change are not in the dataset" in error_of(apply_audit, ids, part, by_id, "drop")
    dropped, relabelled = (apply_audit(run, data, table, how) for how in ("drop", "relabel"))
    assert "give the dataset that they were dropped from" in error_of(undo_audit, dropped.dataset, dropped.changes)
    said = error_of(undo_audit, data, dropped.changes, data)
    assert said.startswith("`changes` is of another dataset: 60 rows and")
    assert "not all rows have the labels" in error_of(undo_audit, data, relabelled.changes)
    assert error_of(undo_audit, data, table).startswith("`changes` has no column 'old_label'")


@pytest.mark.parametrize("how", ["drop", "relabel"])
def test_by_the_command_on_real_images(tmp_path, capsys, how):
    rows = digits()[0].shuffle(seed=0).select(range(150)).flatten_indices()
    # A second column of classes, and names that a path would not take.
    parity = ClassLabel(names=["even/zero", "odd ✓"])
    rows = rows.add_column("parity", [label % 2 for label in rows["label"]], feature=parity)
    rows.save_to_disk(tmp_path / "my data")
    run, output = tmp_path / "run", tmp_path / "found"
    line = ["record", "--dataset", tmp_path / "my data", "--label-column", "parity", "--model", "test_resnet"]
    line += ["--epochs", "3", "--batch-size", "32", "--learning-rate", "0.02", "--signals", "margin", "predicted"]
    assert main([str(word) for word in [*line, "--output-dir", run]]) == 0
    line = [str(word) for word in ("audit", run, "--output", output, "--apply", how, "--fraction", "0.2")]
    capsys.readouterr()
    assert main(line) == 0
    said = capsys.readouterr().out
    applied, changes = load_from_disk(output / "dataset"), Dataset.from_parquet(str(output / "changes.parquet"))
    assert len(changes) and f"{len(changes):,} rows were {'dropped' if how == 'drop' else 'relabeled'}" in said
    assert f"--dataset {output / 'dataset'}" in said
    source = load_from_disk(tmp_path / "my data")
    assert same(undo_audit(applied, changes, source, label_column="parity"), source)
    assert json.loads((output / "recipe.json").read_text())["audit"]["apply"] == how
    assert pd.read_parquet(output / "changes.parquet").columns.tolist() == ["row", "old_label", "new_label", "reason"]
    # The new dataset can be recorded as it is, and the folder with the way back stays.
    for asked in (line[:4], line):
        assert main(asked) == 2
        said = capsys.readouterr().err
        assert f"--output '{output}' holds a dataset that an earlier audit made, and changes.parquet" in said
    assert load_from_disk(output / "dataset")[:]["label"] == applied["label"][:]
    line[3] = str(tmp_path / "more")
    assert main([*line, "--kinds", ISSUE, CONFLICTING, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] >= len(changes)
    again = ["record", "--dataset", str(output / "dataset"), "--label-column", "parity", "--model", "test_resnet"]
    assert main([*again, "--epochs", "2", "--output-dir", str(tmp_path / "again")]) == 0


def test_what_the_command_refuses(tmp_path, capsys):
    for line, message in (
        (["--apply", "drop"], "--apply 'drop' makes a new dataset: give a folder for it with --output"),
        (["--kinds", "label issue"], "--kinds 'label issue' goes with --apply: give that, or leave it out"),
    ):
        assert main(["audit", str(tmp_path), *line]) == 2
        assert message in capsys.readouterr().err
