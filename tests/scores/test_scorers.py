"""Scoring and selecting on every kind of dataset object that `datasets` has."""

import functools
import io
import subprocess
import sys

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset
from sklearn.datasets import load_digits

from hf_ltc.coresets.select import in_coreset, rank_coreset, select_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.data.splits import hold_out
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.scorers import LTCScorer
from hf_ltc.trajectories.value import Trajectories

ROWS = 400
SIZE = 50
HELD, FLAT = 11, 18


@functools.cache
def recorded_digits():
    """Handwritten digits, and the losses of a softmax regression trained on them; some rows held out, one flat."""
    pixels, labels = load_digits(return_X_y=True)
    pixels, labels = pixels[:ROWS] / 16, labels[:ROWS]
    held = np.zeros(ROWS, bool)
    held[hold_out(labels, 0.12)[1]] = True
    weights, losses = np.zeros((64, 10)), []
    for _ in range(7):
        logits = pixels @ weights
        logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
        losses.append(-logits[np.arange(ROWS), labels])
        gradient = np.exp(logits) - np.eye(10)[labels]
        weights -= 2 * pixels[~held].T @ gradient[~held] / (~held).sum()
    table = np.array(losses, dtype=np.float32)
    table[:, FLAT] = 2.0
    run = Trajectories(
        losses=table[:, ~held],
        validation_losses=table[:, held],
        labels=labels[~held],
        validation_labels=labels[held],
        rows=np.flatnonzero(~held),
        validation_rows=np.flatnonzero(held),
        epochs=np.arange(7),
        lengths=(7,),
        recipe={"dataset": {"label_column": "label"}},
    )
    return pixels, labels, run


def png(pixels):
    with io.BytesIO() as file:
        PIL.Image.fromarray((255 * pixels.reshape(8, 8)).astype(np.uint8)).save(file, "PNG")
        return file.getvalue()


@functools.cache
def attached(readable=False):
    """The digits with their trajectories; unless `readable`, images that nobody can decode."""
    pixels, labels, run = recorded_digits()
    features = Features(image=Image(), label=ClassLabel(num_classes=10), row=Value("int64"))
    images = [{"bytes": png(p) if readable else b"no image", "path": None} for p in pixels]
    columns = {"image": images, "label": labels, "row": np.arange(ROWS)}
    return run.attach(Dataset(pa.table(columns, schema=features.arrow_schema)))


@functools.cache
def expected(scope="dataset"):
    """Score and rank of every row, None where it has none, from the plain function on arrays."""
    run = recorded_digits()[2]
    scores = np.full(ROWS, np.nan, dtype=np.float32)
    scores[run.rows] = ltc_scores(run, scope=scope)
    assert np.isnan(scores).sum() == len(run.validation_rows) + 1
    return [None if np.isnan(score) else float(score) for score in scores]


def scorer(scope="dataset"):
    return LTCScorer.from_trajectories(recorded_digits()[2], scope=scope)


def assert_scores(found, rows, scope="dataset"):
    wanted = [expected(scope)[row] for row in rows]
    assert [score is None for score in found] == [score is None for score in wanted]
    given = [row is not None for row in wanted]
    np.testing.assert_allclose(np.array(found)[given].astype(float), np.array(wanted)[given].astype(float), atol=1e-6)


def stored(dataset, column):
    return read_column(dataset, column).to_pylist()


def held_out():
    return recorded_digits()[2].validation_rows.tolist()


ORDERS = {
    "whole": lambda d: d,
    "shuffled": lambda d: d.shuffle(seed=0),
    "selected": lambda d: d.select([5, 399, FLAT, HELD, 0, 77]),
    "repeated": lambda d: d.select([5, 5, FLAT, HELD, HELD, 100]),
    "one of each": lambda d: d.select([FLAT, HELD, 5]),
}


def test_the_rows_above_are_what_they_say():
    assert HELD in held_out() and FLAT not in held_out() and expected()[FLAT] is None
    assert all(expected()[row] is not None for row in (0, 5, 77, 100, 399))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("format", [None, "arrow", "pandas", "numpy", "torch"])
@pytest.mark.parametrize("scope", ["dataset", "class"])
def test_map_scores_any_dataset_in_any_format(order, format, scope):
    # In NumPy and torch format `datasets` decodes all columns for `map`, and fails on a batch whose first list is null
    # (its pull request 8432): one batch that begins with a recorded row is what works there. In the others, nothing is
    # decoded, and any batch does.
    tensors = format in ("numpy", "torch")
    dataset = ORDERS[order](attached(readable=tensors)).with_format(format)
    scored = dataset.map(scorer(scope), batched=True, batch_size=None if tensors else 3, keep_in_memory=True)
    assert_scores(stored(scored, "ltc_score"), stored(dataset, "row"), scope)
    assert scored.format["type"] == format
    assert stored(scored, "image") == stored(dataset, "image")


@pytest.mark.parametrize("batch_size", [1, 3, None])
def test_map_scores_frames_of_polars(batch_size):
    # Without images, which `datasets` does not decode for polars.
    dataset = attached().remove_columns("image").select([HELD, 5, FLAT, 399, HELD]).with_format("polars")
    scored = dataset.map(scorer(), batched=True, batch_size=batch_size, keep_in_memory=True)
    assert_scores(stored(scored, "ltc_score"), [HELD, 5, FLAT, 399, HELD])
    assert scored.features["ltc_score"] == Value("float32")


@pytest.mark.parametrize("format", [None, "numpy", "torch"])
def test_map_scores_row_by_row_too(format):
    rows = [1, FLAT, HELD, 4, 6]
    dataset = attached(readable=format is not None).select(rows).with_format(format)
    scored = dataset.map(scorer(), keep_in_memory=True)
    assert_scores(stored(scored, "ltc_score"), rows)


def test_two_processes_score_and_filter_alike(tmp_path):
    dataset = attached()
    scored = dataset.map(scorer(), batched=True, num_proc=2, cache_file_name=str(tmp_path / "scored.arrow"))
    assert_scores(stored(scored, "ltc_score"), range(ROWS))
    ranked = rank_coreset(scored)
    options = {"fn_kwargs": {"size": SIZE}, "input_columns": "ltc_rank", "batched": True}
    kept = ranked.filter(in_coreset, num_proc=2, cache_file_name=str(tmp_path / "kept.arrow"), **options)
    assert stored(kept, "row") == stored(select_coreset(scored, size=SIZE), "row")


@pytest.mark.parametrize("format", [None, "arrow", "numpy", "torch"])
def test_filter_keeps_the_coreset_in_any_format(format):
    ranked = rank_coreset(attached().map(scorer(), batched=True, keep_in_memory=True))
    wanted = stored(select_coreset(ranked, size=SIZE), "row")
    shown = ranked.with_format(format)
    kept = shown.filter(
        in_coreset, fn_kwargs={"size": SIZE}, input_columns="ltc_rank", batched=True, keep_in_memory=True
    )
    assert stored(kept, "row") == wanted and kept.format["type"] == format
    assert len(wanted) == SIZE and set(np.bincount(stored(kept, "label"), minlength=10)) == {5}


def transform(batch):
    raise AssertionError("the transform ran")


def test_a_transform_is_put_back_and_never_runs():
    _, _, run = recorded_digits()
    shown = attached(readable=True).remove_columns("loss_trajectory").with_transform(transform)
    scored = run.score(shown)
    assert_scores(stored(scored, "ltc_score"), range(ROWS))
    coreset = select_coreset(scored, size=SIZE)
    assert stored(coreset, "ltc_rank") == [r for r in stored(scored, "ltc_rank") if r is not None and r < SIZE]
    for dataset in (scored, coreset):
        assert dataset.format["format_kwargs"] == {"transform": transform}
        with pytest.raises(AssertionError, match="the transform ran"):
            dataset[0]


def test_run_score_is_map_then_rank():
    _, _, run = recorded_digits()
    plain = attached().remove_columns("loss_trajectory")
    mapped = rank_coreset(attached().map(scorer(), batched=True, keep_in_memory=True))
    at_once = run.score(plain)
    assert_scores(stored(at_once, "ltc_score"), range(ROWS))
    assert stored(at_once, "loss_trajectory") == stored(mapped, "loss_trajectory")
    assert stored(rank_coreset(mapped), "ltc_rank") == stored(mapped, "ltc_rank")
    for dataset in (at_once, mapped):
        assert [r is None for r in stored(dataset, "ltc_rank")] == [row in held_out() for row in range(ROWS)]
        assert max(r for r in stored(dataset, "ltc_rank") if r is not None) == stored(dataset, "ltc_rank")[FLAT]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The digits as they lie on the Hub: Parquet in shards, ranked, the images readable this time."""
    folder = tmp_path_factory.mktemp("shards")
    ranked = rank_coreset(attached(readable=True).map(scorer(), batched=True, keep_in_memory=True))
    for number in range(3):
        ranked.shard(3, number, contiguous=True).to_parquet(folder / f"train-{number:05d}-of-00003.parquet")
    return folder


def streamed(folder):
    return load_dataset("parquet", data_files=str(folder / "train-*.parquet"), split="train", streaming=True)


@pytest.mark.parametrize("batched", [True, False])
def test_streamed_parquet_is_scored_and_filtered(shards, batched):
    stream = streamed(shards).remove_columns(["ltc_score"])
    scored = list(stream.decode(False).map(scorer(), batched=batched))
    assert_scores([row["ltc_score"] for row in scored], [row["row"] for row in scored])
    assert [row["row"] for row in scored] == list(range(ROWS))
    kept = list(
        streamed(shards).filter(in_coreset, input_columns="ltc_rank", batched=batched, fn_kwargs={"size": SIZE})
    )
    ranked = Dataset.from_list([{k: row[k] for k in ("row", "ltc_rank")} for row in scored])
    assert [row["row"] for row in kept] == [
        row for row, rank in zip(ranked["row"], ranked["ltc_rank"]) if rank is not None and rank < SIZE
    ]
    # What is kept can be trained on.
    pixels = recorded_digits()[0]
    for row in kept:
        assert np.array_equal(np.asarray(row["image"]), (255 * pixels[row["row"]].reshape(8, 8)).astype(np.uint8))


# `datasets` makes a tensor of the tensors that torch batches are made of, and torch remarks on it.
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("format", ["numpy", "torch", "arrow"])
def test_streamed_parquet_in_any_format(shards, format):
    stream = streamed(shards).select_columns(["row", "loss_trajectory", "ltc_rank"])
    options = {"input_columns": "ltc_rank", "batched": True, "fn_kwargs": {"size": SIZE}}
    if format == "arrow":
        # A filter of a stream of Arrow tables gets tables, so it comes before the format.
        kept = list(stream.filter(in_coreset, **options).with_format("arrow").map(scorer(), batched=True))
        kept = [row for table in kept for row in table.to_pylist()]
    else:
        kept = list(stream.with_format(format).map(scorer(), batched=True).filter(in_coreset, **options))
    assert len(kept) == SIZE
    assert_scores([float(row["ltc_score"]) for row in kept], [int(row["row"]) for row in kept])


def test_a_parquet_predicate_is_the_same_coreset(shards):
    read = load_dataset(
        "parquet",
        data_files=str(shards / "train-*.parquet"),
        split="train",
        streaming=True,
        filters=[("ltc_rank", "<", SIZE)],
    )
    table = pq.read_table(shards, filters=[("ltc_rank", "<", SIZE)], columns=["row"])
    assert [row["row"] for row in read.decode(False)] == table["row"].to_pylist()
    assert table.num_rows == SIZE


CACHED = """
import sys
import numpy as np
from datasets import load_dataset
from hf_ltc.scores import scorers
from hf_ltc.coresets import select
from hf_ltc.trajectories.value import Trajectories

data, run, cache, may_compute = sys.argv[1:]
dataset = load_dataset("parquet", data_files=data, split="train", cache_dir=cache)
scorer = scorers.LTCScorer.from_trajectories(Trajectories.from_parquet(run))
if may_compute == "no":
    def refuse(*args):
        raise SystemExit("computed again")
    scorers.LTCScorer.__call__ = refuse
scored = dataset.remove_columns("ltc_score").map(scorer, batched=True)
ranked = select.rank_coreset(scored)
if may_compute == "no":
    select.pc.less = refuse
kept = ranked.filter(select.in_coreset, fn_kwargs={"size": 50}, input_columns="ltc_rank", batched=True)
print(scored._fingerprint, ranked._fingerprint, kept._fingerprint, len(kept))
"""


def test_a_second_identical_map_and_filter_is_a_cache_hit_in_a_fresh_process(shards, tmp_path):
    recorded_digits()[2].to_parquet(tmp_path / "run")

    def in_a_fresh_process(may_compute):
        paths = [str(shards / "train-*.parquet"), str(tmp_path / "run"), str(tmp_path / "cache")]
        command = [sys.executable, "-c", CACHED, *paths, may_compute]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    first = in_a_fresh_process("yes")
    assert first[-1] == "50" and in_a_fresh_process("no") == first
