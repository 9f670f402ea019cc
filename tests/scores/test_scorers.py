"""Scoring and selecting on every kind of dataset object that `datasets` has."""

import dataclasses
import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value, load_dataset

from hf_ltc.coresets.select import in_coreset, rank_coreset, select_coreset
from hf_ltc.data.columns import read_column
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.scorers import LTCScorer
from tests.helpers import encoded
from tests.scores.recordings import FLAT, HELD, ROWS, as_dataset, expected_scores, make_run, recorded_digits

SIZE = 50


def png(pixels):
    return encoded((255 * pixels.reshape(8, 8)).astype(np.uint8))


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


def test_a_transform_is_restored_and_never_runs():
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


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("form", [None, "numpy", "torch", "arrow", "pandas"])
@pytest.mark.parametrize("preset", ["ltc", "cld"])
@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_map_scores_every_format(form, batched, preset, streaming):
    run = make_run(n=30)
    losses = run.losses.copy()
    losses[:, 20] = 2
    run = dataclasses.replace(run, losses=losses)
    # `datasets` itself cannot make a numpy batch whose first row is null, nor write a pandas one that is all null.
    held_out = (0, 11) if form in (None, "arrow") else (5, 11) if batched or form != "pandas" else ()
    dataset, recorded = as_dataset(run, held_out)
    expected = expected_scores(run, dataset, recorded, preset=preset)
    rows = dataset.with_format(form)
    scorer = LTCScorer.from_trajectories(run, preset=preset)
    if streaming:
        scored = rows.to_iterable_dataset().map(scorer, batched=batched, batch_size=20)
        if form in ("arrow", "pandas"):
            scored = [row for table in scored for row in pa.table(table).to_pylist()]
        assert [None if row["ltc_score"] is None else float(row["ltc_score"]) for row in scored] == expected
        assert [str(row["text"]) for row in scored] == dataset["text"][:]
        return
    scored = rows.map(scorer, batched=batched, batch_size=20)
    assert scored.features["ltc_score"] == Value("float32")
    assert scored.format["type"] == form
    assert scored.with_format(None)["ltc_score"][:] == expected
    assert scored.with_format(None)["text"][:] == dataset["text"][:]


def test_map_in_processes_after_shuffling_and_over_an_older_score():
    run = make_run(n=50, recipe={"dataset": {"label_column": "label"}})
    dataset, recorded = as_dataset(run)
    expected = expected_scores(run, dataset, recorded, scope="class")
    scorer = LTCScorer.from_trajectories(run, scope="class")
    order = np.random.default_rng(0).permutation(52)
    scored = dataset.select(order).map(LTCScorer.from_trajectories(run), batched=True)
    for rows in (scored, scored.with_format("arrow")):
        again = rows.map(scorer, batched=True, num_proc=2)
        assert again.with_format(None)["ltc_score"][:] == [expected[row] for row in order]
        assert again.column_names.count("ltc_score") == 1


@pytest.mark.parametrize("form", [None, "numpy", "torch", "arrow"])
@pytest.mark.parametrize("options", [{"batched": True}, {"writer_batch_size": 4}, {"batched": True, "num_proc": 2}])
def test_map_where_the_first_or_the_last_rows_have_no_score(form, options, tmp_path):
    if form in ("numpy", "torch") and "writer_batch_size" in options:
        pytest.skip("of a row in these formats datasets takes no type")
    run = make_run(n=15)
    dataset, recorded = as_dataset(run, held_out=[*range(10), *range(20, 25)])
    expected = expected_scores(run, dataset, recorded)
    scorer = LTCScorer.from_trajectories(run)
    scored = dataset.with_format(form).map(scorer, batch_size=5, **options).with_format(None)
    assert scored.features["ltc_score"] == Value("float32")
    assert scored["ltc_score"][:] == expected
    assert read_column(scored, "ltc_score").null_count == 15
    scored.to_parquet(tmp_path / "scored.parquet")
    assert pq.read_table(tmp_path / "scored.parquet")["ltc_score"].to_pylist() == expected
    # What is read again is ranked alike without the trajectories.
    ranks = rank_coreset(scored.remove_columns("loss_trajectory"), balance="none")["ltc_rank"][:]
    assert [row for row, rank in enumerate(ranks) if rank is None] == [*range(10), *range(20, 25)]


@pytest.mark.parametrize("batched", [True, False])
def test_map_where_no_row_has_a_score(batched):
    run = make_run(n=5)
    dataset, _ = as_dataset(run, held_out=range(4))
    scored = dataset.select(range(4)).map(LTCScorer.from_trajectories(run), batched=batched)
    for column in ("ltc_score", "ltc_typicality"):
        assert scored.features[column] == Value("float32") and scored[column][:] == [None] * 4
    row = LTCScorer.from_trajectories(run)({"loss_trajectory": None})
    assert row == {"ltc_score": None, "ltc_typicality": None}


def test_class_names_come_from_the_recipe():
    described = {"label_column": "kind", "names": ["ant", "bee", "cat"]}
    text = make_run(recipe={"dataset": {**described, "features": {"kind": {"_type": "Value", "dtype": "string"}}}})
    assert LTCScorer.from_trajectories(text, scope="class").class_names == ("ant", "bee", "cat")
    # A ClassLabel's numbers are the classes, whatever it calls them.
    described["names"] = ["2", "1", "0"]
    numbers = make_run(recipe={"dataset": {**described, "features": {"kind": {"_type": "ClassLabel"}}}})
    scorer = LTCScorer.from_trajectories(numbers, scope="class", class_names=described["names"])
    assert scorer.class_names is None
    assert scorer.label_column == "kind"


def test_scorer_is_a_small_value():
    run = make_run(n=5000, q=500, lengths=(31,))
    scorer = LTCScorer.from_trajectories(run, column="other")
    copy = pickle.loads(pickle.dumps(scorer))
    # With a hash of each row of the tenth that comes first.
    assert len(pickle.dumps(scorer)) < 2000 + 8 * 500
    batch = {"loss_trajectory": run.losses.T}
    np.testing.assert_array_equal(copy(batch)["other"], scorer(batch)["other"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        scorer.of = "levels"


MAPPED_AGAIN = """
import sys
import numpy as np
from datasets import load_from_disk
from hf_ltc.scores.scorers import LTCScorer
from tests.scores.recordings import make_run

run = make_run(n=50, recipe={"dataset": {"label_column": "label"}})
scored = load_from_disk(sys.argv[1]).map(LTCScorer.from_trajectories(run, scope="class"), batched=True)
print(scored._fingerprint, scored.cache_files[0]["filename"])
"""


def test_a_second_map_in_another_process_is_a_cache_hit(tmp_path):
    as_dataset(make_run(n=50))[0].save_to_disk(tmp_path / "rows")
    seen = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", MAPPED_AGAIN, str(tmp_path / "rows")],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        fingerprint, file = done.stdout.split()
        seen.append((fingerprint, file, os.stat(file).st_mtime_ns))
    assert seen[0] == seen[1]
