import itertools
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value, concatenate_datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_ltc.data import columns
from hf_ltc.data.columns import any_length, read_column, take_rows, with_columns
from hf_ltc.utils.errors import InputError

ADDED = Features(score=Value("float32"), path=List(Value("float32"), length=2))


def images(n, content=b"not a picture"):
    """A dataset whose images cannot be decoded."""
    features = Features(image=Image(), number=Value("int64"), text=Value("string"))
    image, text = {"bytes": content, "path": None}, [f"row {i}" for i in range(n)]
    columns = {"image": [image] * n, "number": list(range(n)), "text": text}
    return Dataset(pa.table(columns, schema=features.arrow_schema))


def new_columns(n, seed=0):
    draw = np.random.default_rng(seed)
    score = pa.array(draw.random(n, dtype=np.float32), mask=draw.random(n) < 0.2)
    path = [None if i % 5 == 4 else pair for i, pair in enumerate(draw.random((n, 2)).astype("f4").tolist())]
    arrays = [score, pa.array(path, ADDED.arrow_schema.field("path").type)]
    return {name: (array, ADDED[name]) for name, array in zip(ADDED, arrays)}


def stored(dataset):
    """All values in row order, undecoded, by the library alone."""
    return dataset.with_format("arrow")[:].to_pydict() if len(dataset) else {name: [] for name in dataset.column_names}


def slowly(dataset, columns):
    """The same by `Dataset.add_column`, which rewrites the rows."""
    for name, (values, feature) in columns.items():
        if name in dataset.column_names:
            dataset = dataset.remove_columns(name)
        dataset = dataset.add_column(name, values, feature=feature)
    return dataset


@st.composite
def row_selections(draw):
    """A chain of what reorders, leaves out or repeats rows."""
    steps = draw(st.lists(st.sampled_from(["shuffle", "select", "slice", "repeat", "shard"]), max_size=3))
    dataset = images(draw(st.integers(1, 25)))
    for step in steps:
        n = len(dataset)
        if step == "shuffle":
            dataset = dataset.shuffle(seed=draw(st.integers(0, 9)))
        elif step == "select":
            dataset = dataset.select(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n, unique=True)))
        elif step == "repeat":
            dataset = dataset.select(draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n + 3)))
        elif step == "slice":
            start = draw(st.integers(0, n - 1))
            dataset = dataset.select(range(start, draw(st.integers(start + 1, n))))
        else:
            dataset = dataset.shard(2, 0)
    return dataset


@settings(deadline=None, max_examples=60)
@given(row_selections())
def test_with_columns_says_what_add_column_says(dataset):
    columns = new_columns(len(dataset))
    added, expected = with_columns(dataset, columns), slowly(dataset, columns)
    assert stored(added) == stored(expected)
    assert added.features == expected.features
    assert read_column(added, "score").to_pylist() == columns["score"][0].to_pylist()
    # And again: what is there is replaced.
    other = new_columns(len(dataset), seed=1)
    assert stored(with_columns(added, other)) == stored(slowly(expected, other))
    # Rows can still be chosen from the result.
    back = list(range(len(dataset)))[::-2]
    assert stored(added.select(back)) == stored(expected.select(back))


def addresses(column):
    """Where the bytes of a stored column lie."""
    return [(b.address, b.size) for chunk in column.chunks for b in chunk.buffers() if b is not None]


def stop(batch):
    raise AssertionError("the transform ran")


FORMATS = {
    "none": lambda d: d,
    "torch": lambda d: d.with_format("torch"),
    "torch, one column": lambda d: d.with_format("torch", columns=["number"]),
    "numpy, the others too": lambda d: d.with_format("numpy", columns=["number"], output_all_columns=True),
    "numpy, a dtype": lambda d: d.with_format("numpy", columns=["number"], dtype="float64"),
    "arrow": lambda d: d.with_format("arrow"),
    "some columns": lambda d: d.with_format(None, columns=["text"]),
    "transform": lambda d: d.with_transform(stop),
    "transform of a column": lambda d: d.with_transform(stop, columns=["text"], output_all_columns=True),
}


@pytest.mark.parametrize("selected", [False, True, "repeated"])
@pytest.mark.parametrize("name", FORMATS)
def test_formats_and_transforms_stay_and_never_run(name, selected):
    dataset = images(12)
    if selected:
        dataset = dataset.select([4, 1, 1, 7] if selected == "repeated" else [4, 1, 7])
    shown = FORMATS[name](dataset)
    columns = new_columns(len(shown))
    added = with_columns(shown, columns)
    assert read_column(shown, "text").to_pylist() == [f"row {i}" for i in read_column(dataset, "number").to_pylist()]
    assert stored(added.with_format(None)) == stored(slowly(dataset, columns))
    before, after = shown.format, added.format
    assert sorted(after["columns"]) == sorted([*before["columns"], *columns])
    assert {k: v for k, v in after.items() if k != "columns"} == {k: v for k, v in before.items() if k != "columns"}
    # The dataset that was given is as it was.
    assert shown.column_names == ["image", "number", "text"] and shown.format == before


@pytest.mark.parametrize(
    "select",
    [
        lambda d: d,
        lambda d: d.shuffle(seed=1),
        lambda d: d.select([5, 2, 9]),
        lambda d: d.select(range(3, 9)),
        lambda d: d.select(range(3, 9)).shuffle(seed=1),
        lambda d: concatenate_datasets([d, images(5)]).shuffle(seed=1),
    ],
)
def test_no_row_is_rewritten(select):
    dataset = select(images(12))

    added = with_columns(dataset, new_columns(len(dataset)))
    for column in dataset.column_names:
        assert addresses(added.data.column(column)) == addresses(dataset.data.column(column))
    if dataset._indices is not None:
        assert addresses(added._indices.column(0)) == addresses(dataset._indices.column(0))


def test_a_dataset_on_disk_stays_mapped_to_its_files(tmp_path):
    images(50, content=bytes(20_000)).save_to_disk(tmp_path / "images")
    dataset = Dataset.load_from_disk(str(tmp_path / "images")).shuffle(seed=2)
    before = pa.total_allocated_bytes()
    added = with_columns(dataset, new_columns(50))
    assert added.cache_files == dataset.cache_files
    # The images are 1 MB, the new columns 600 bytes.
    assert pa.total_allocated_bytes() - before < 100_000
    rewritten = slowly(dataset, new_columns(50))
    assert pa.total_allocated_bytes() - before > 1_000_000 or rewritten.cache_files != dataset.cache_files
    added.save_to_disk(tmp_path / "added")
    again = Dataset.load_from_disk(str(tmp_path / "added"))
    assert stored(again) == stored(added) and again.features == added.features


FINGERPRINT = """
import sys
import numpy as np, pyarrow as pa
from datasets import Dataset, Value
from hf_ltc.data.columns import with_columns
dataset = Dataset.from_parquet(sys.argv[1], cache_dir=sys.argv[2]).shuffle(seed=3)
added = with_columns(dataset, {"score": (pa.array(np.arange(20, dtype="f4") * float(sys.argv[3])), Value("float32"))})
print(added._fingerprint)
"""


def test_the_fingerprint_is_that_of_the_values_in_any_process(tmp_path):
    pq.write_table(pa.table({"number": range(20)}), tmp_path / "rows.parquet")

    def in_a_fresh_process(factor):
        command = [sys.executable, "-c", FINGERPRINT, str(tmp_path / "rows.parquet"), str(tmp_path / "cache"), factor]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    one = in_a_fresh_process("1")
    assert one and one == in_a_fresh_process("1")
    assert one != in_a_fresh_process("2")


def test_fingerprints_tell_names_types_values_and_datasets_apart():
    dataset = images(4)
    values = pa.array([1, 2, 3, 4], pa.int32())
    prints = {
        with_columns(dataset, {"a": (values, Value("int32"))})._fingerprint,
        with_columns(dataset, {"b": (values, Value("int32"))})._fingerprint,
        with_columns(dataset, {"a": (values.cast(pa.int64()), Value("int64"))})._fingerprint,
        with_columns(dataset, {"a": (pa.array([1, 2, 3, None], pa.int32()), Value("int32"))})._fingerprint,
        with_columns(dataset.select([1, 0, 2, 3]), {"a": (values, Value("int32"))})._fingerprint,
        dataset._fingerprint,
    }
    assert len(prints) == 6


@pytest.mark.parametrize("select", [lambda d: d, lambda d: d.select([3, 1])])
def test_chunked_values_are_taken_as_they_are(select):
    dataset = select(images(6))
    score = np.arange(len(dataset), dtype=np.float32)
    chunked = pa.chunked_array([score[:1], score[1:]])
    added = with_columns(dataset, {"score": (chunked, Value("float32"))})
    assert read_column(added, "score").to_pylist() == score.tolist()


def test_a_missing_column_is_named():
    with pytest.raises(InputError, match="no column 'score' in the dataset: it has 'image', 'number', 'text'"):
        read_column(images(2), "score")


def test_an_empty_dataset_gets_the_columns_too():
    dataset = images(3).select([])
    added = with_columns(dataset, {"score": (pa.array([], pa.float32()), Value("float32"))})
    assert len(added) == 0
    assert added.column_names == ["image", "number", "text", "score"]


# Rows of a column of any size

VALUES = {
    "images": (images(7).data.column("image").to_pylist(), images(7).data.column("image").type),
    "lists": ([[1.0, 2.0], None, [3.0, 4.0], [5.0, 6.0], None, [7.0, 8.0], [9.0, 0.0]], pa.list_(pa.float32(), 2)),
    "numbers": ([3, None, 1, 4, 1, 5, 9], pa.int64()),
    "words": (["a", "", None, "dd", "e", "f", "ggg"], pa.dictionary(pa.int32(), pa.string())),
    "large": ([b"a", b"", None, b"dd", b"e", b"f", b"ggg"], pa.large_binary()),
}


@pytest.mark.parametrize("most", [1, 40, 2**25])
@pytest.mark.parametrize("kind", VALUES)
@given(cuts=st.lists(st.integers(0, 7), max_size=4), rows=st.lists(st.integers(-1, 6), max_size=20))
def test_rows_are_taken_in_any_order_out_of_any_chunks(kind, most, cuts, rows):
    values, stored = VALUES[kind]
    bounds = [0, *sorted(cuts), 7]
    column = pa.chunked_array([pa.array(values[a:b], stored) for a, b in itertools.pairwise(bounds)], stored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_TAKEN_BYTES", most)
        taken = take_rows(column, np.array(rows, dtype=np.int64))
    assert taken.type == stored
    assert taken.to_pylist() == [None if row < 0 else values[row] for row in rows]


BIG = """
import resource, sys
import numpy as np, pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Image, Value
from hf_ltc.data.columns import read_column
from hf_ltc.coresets.ray.data import Bound, CoresetBounds
from hf_ltc.training.pixels.grey import find_grey_range
from hf_ltc.data.identity import check_identity, dataset_identity
from hf_ltc.data.shared_rows import shared_rows

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

# 2,300 rows of a megabyte, the same 50 MB in all chunks: what is held beside these is what was copied.
kind = sys.argv[1]
encoded = pa.array([b"GIF8" + bytes([row]) * 1_000_000 for row in range(50)], kind if kind != "image" else "binary")
feature = Image() if kind == "image" else Value(kind)
if kind == "image":
    encoded = pa.StructArray.from_arrays([encoded, pa.nulls(50, pa.string())], ["bytes", "path"])
labels = pa.chunked_array([pa.array([row % 2 for row in range(50)], pa.int64())] * 46)
features = Features({"image": feature, "label": ClassLabel(names=["no", "yes"])})
table = pa.table([pa.chunked_array([encoded] * 46), labels], schema=features.arrow_schema)
dataset = Dataset(table, fingerprint="of this test")
mixed = dataset.shuffle(seed=0)
dataset_identity(dataset.select([0, 1]), "label")
before = peak()
for view in (dataset, mixed, dataset.select(range(0, 2300, 3))):
    check_identity(view, dataset_identity(view, "label", "image") | {"image_column": "image"})
found, _, looked_for = shared_rows(dataset, mixed, [("image", "image")])
assert len(found) == looked_for == 2300
assert find_grey_range([(mixed, "image", None)]) is None
# A batch of Ray's.
batch = table.append_column("score", [np.linspace(0, 1, 2300)]).append_column("row", [np.arange(2300)])
names = {"score_column": "score", "label_column": None, "row_column": "row"}
options = {**names, "typicality_column": None, "keep": "highest", "exclude_negative": False}
scores = Bound("score", np.array([1 - 1e-2]), np.array([0]))
none, every = Bound.nothing("typicality", 1), Bound.everything("typicality", 1)
bounds = CoresetBounds(20, 2300, pa.array([0]), none, every, scores, Bound.nothing(None, 1), options)
assert bounds(batch)["row"].to_pylist() == list(range(2277, 2300))
print(peak() - before)
"""


@pytest.mark.parametrize("kind", ["image", "large_binary"])
def test_images_of_more_than_an_array_holds_cost_the_rows_that_are_read(kind):
    done = subprocess.run([sys.executable, "-c", BIG, kind], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # In gigabytes, of 2.3: 128 rows of a megabyte, once as they are and once in part on their way.
    assert float(done.stdout) < 0.3


def test_null_lists_of_any_length_are_of_none():
    """pyarrow 25 and older write no Parquet file with nulls that have the length of a list of a fixed size."""
    pair = pa.list_(pa.float32(), 2)
    column = pa.chunked_array([pa.array([[1, 2], None, [3, 4]], pair), pa.array([None, [5, 6]], pair).slice(1)])
    made, feature = any_length(column, List(Value("float32"), length=2))
    assert feature == List(Value("float32")) and made.to_pylist() == column.to_pylist()
    assert [np.diff(chunk.offsets).tolist() for chunk in made.chunks] == [[2, 0, 2], [2]]
