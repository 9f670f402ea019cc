"""What runs would have recorded of a small dataset, and what is read of them."""

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, Value

from hf_ltc.data.columns import read_column
from hf_ltc.data.identity import dataset_identity
from hf_ltc.data.splits import hold_out
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils import files

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


def rotated(count=3, lengths=None, fraction=None, data=None, ids=False, signals=("margin",), marked=True):
    """What each of several runs would have recorded, of which each holds other rows out."""
    data = dataset() if data is None else data
    labels = labels_of(data)
    runs = []
    for turn, length in enumerate(lengths or [5] * count):
        kept, held = hold_out(labels, fraction or 1 / count, len(data), turn=turn)
        random = np.random.default_rng(turn)
        table = falling(random, length, len(data))
        table[:, FLAT] = 1.5
        values = {
            "losses": table[:, kept],
            "validation_losses": table[:, held],
            "labels": labels[kept],
            "validation_labels": labels[held],
            "rows": kept,
            "validation_rows": held,
            "ids": read_column(data, "key").combine_chunks().take(pa.array(kept)) if ids else None,
            "epochs": np.arange(length),
            "lengths": (length,),
            "signals": {name: random.normal(size=(length, len(kept))).astype(np.float32) for name in signals},
        }
        run = replace(make(data, ids=ids), **values)
        recipe = {**run.recipe, "validation": {"turn": turn}} if marked else run.recipe
        runs.append(replace(run, recipe={**recipe, "seed": turn}))
    return runs


def falling(random, length, count):
    """Losses that fall at speeds of their own, as recorded ones do."""
    levels = 3 * np.exp(-random.gamma(2, 0.3, count) * np.arange(length)[:, None])
    return (levels + 0.3 * random.random((length, count))).astype(np.float32)


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


def unfinish(folder, planned=range(9)):
    change(folder / files.RECIPE, epochs=None, planned_epochs=list(planned))


def assert_attached(attached, run, rows):
    """The trajectory of each row, by the numbers its rows had when they were recorded; null where there is none."""
    found = read_column(attached, "loss_trajectory").to_pylist()
    place = {row: i for i, row in enumerate(run.rows.tolist())}
    table = np.asarray(run.losses)
    assert len(found) == len(rows)
    for row, values in zip(rows, found):
        assert values == (table[:, place[row]].tolist() if row in place else None), row


ORDERS = {
    "as it was": lambda data: data,
    "shuffled": lambda data: data.shuffle(seed=3),
    "filtered": lambda data: data.filter(lambda key: key > "k020", input_columns="key"),
    "a part": lambda data: data.select([9, 3, int(HELD[0]), 30]),
    "one row": lambda data: data.select([9]),
    "reversed": lambda data: data.select(range(ROWS)[::-1]).flatten_indices(),
    "other images": lambda data: data.remove_columns("image").add_column("image", list("x" * len(data))),
}
