"""Each baseline against a slow implementation written from its paper, row by row."""

import dataclasses
import math
import pickle
import statistics
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, Features, List, Value
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from hf_ltc.scores import baselines, kernels
from hf_ltc.scores.baselines import BASELINES
from hf_ltc.scores.scorers import BaselineScorer, baseline_scores
from hf_ltc.utils.errors import InputError
from tests.scores.recordings import OnDisk


@dataclass(frozen=True, eq=False)
class Run:
    """What the baselines need of a recording."""

    losses: Any
    signals: dict[str, Any]
    rows: np.ndarray
    epochs: np.ndarray
    lengths: tuple[int, ...]
    validation_losses: Any = None
    labels: Any = None
    validation_labels: Any = None
    validation_rows: Any = None
    recipe: dict[str, Any] = field(default_factory=dict)


def make_run(n=40, lengths=(33,), seed=0, classes=10):
    """Signals of logits that grow toward the label at speeds of their own, with noise."""
    rng = np.random.default_rng(seed)
    epochs = np.concatenate([np.arange(length) for length in lengths])
    logits = rng.normal(0, 2, (len(epochs), n, classes))
    logits[:, :, 0] += rng.normal(0.3, 0.3, n) * epochs[:, None]
    probability = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    margin = logits[:, :, 0] - logits[:, :, 1:].max(axis=2)
    wanted = np.eye(classes)[0]
    return Run(
        losses=-np.log(probability[:, :, 0]).astype(np.float32),
        signals={
            "margin": margin.astype(np.float32),
            "correct": (margin > 0).astype(np.float32),
            "el2n": np.linalg.norm(probability - wanted, axis=2).astype(np.float32),
        },
        rows=np.arange(n) * 3,
        epochs=epochs,
        lengths=lengths,
    )


# From the papers: one row at a time, in plain Python, of the values after each training epoch.


def slow_mean_loss(losses):
    return sum(losses) / len(losses)


def slow_final_loss(losses):
    return losses[-1]


def slow_forgetting(correct):
    """Algorithm 1 of Toneva et al.; never learned: more than any other."""
    events, previous = 0, 0
    for now in correct:
        if previous > now:
            events += 1
        previous = now
    return events if any(correct) else len(correct)


def slow_el2n(norms):
    return sum(norms) / len(norms)


def slow_aum(margins):
    return sum(margins) / len(margins)


def slow_dyn_unc(losses, window=10):
    """Equations 2 and 3 of He et al.: sample deviations over windows k = 0 .. K - J - 1, then their mean."""
    p = [math.exp(-loss) for loss in losses]
    total = 0.0
    for k in range(len(p) - window):
        mean = sum(p[k : k + window]) / window
        total += math.sqrt(sum((value - mean) ** 2 for value in p[k : k + window]) / (window - 1))
    return total / (len(p) - window)


def slow_dual(losses, window=10):
    """Equations 1 and 2 of Cho et al.: windows k = 1 .. T - J + 1."""
    p = [math.exp(-loss) for loss in losses]
    values = []
    for k in range(len(p) - window + 1):
        part = p[k : k + window]
        values.append((1 - statistics.fmean(part)) * statistics.stdev(part))
    return statistics.fmean(values)


def slow_tdds(losses, window=10, decay=0.9):
    """Weights decay (1 - decay)^(T - J - k) of the windows' norms, k = 0 .. T - J."""
    total = 0.0
    windows = len(losses) - window + 1
    for k in range(windows):
        changes = [abs(losses[t + 1] - losses[t]) for t in range(k, k + window - 1)]
        mean = sum(changes) / len(changes)
        norm = math.sqrt(sum((change - mean) ** 2 for change in changes))
        total += norm * decay * (1 - decay) ** (windows - 1 - k)
    return total


SLOW = {
    "mean_loss": (slow_mean_loss, None),
    "final_loss": (slow_final_loss, None),
    "forgetting": (slow_forgetting, "correct"),
    "el2n": (slow_el2n, "el2n"),
    "aum": (slow_aum, "margin"),
    "dyn_unc": (slow_dyn_unc, None),
    "tdds": (slow_tdds, None),
    "dual": (slow_dual, None),
}
WINDOWED = [name for name in SLOW if name in ("dyn_unc", "tdds", "dual")]


def slowly(run, name, first=1, last=None, **options):
    function, signal = SLOW[name]
    table = run.losses if signal is None else run.signals[signal]
    scores = []
    for i in range(table.shape[1]):
        parts, stop = [], 0
        for length in run.lengths:
            start, stop = stop, stop + length
            values = [
                float(table[t, i])
                for t in range(start, stop)
                if first <= run.epochs[t] and (last is None or run.epochs[t] <= last)
            ]
            parts.append(function(values, **options))
        scores.append(sum(parts) / len(parts))
    return np.array(scores)


def test_every_baseline_is_tested():
    assert set(SLOW) | {"random"} == set(BASELINES)
    # A low loss is good; of every other score the papers keep the high ones.
    assert {name for name, baseline in BASELINES.items() if baseline.keeps == "lowest"} == {"mean_loss", "final_loss"}


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("lengths", [(33,), (45, 33)], ids=str)
def test_baselines_are_their_papers(name, lengths):
    run = make_run(lengths=lengths)
    _, last = BASELINES[name].epochs
    scores = baseline_scores(run, name)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, slowly(run, name, last=last), rtol=1e-5, atol=1e-6)
    assert len(np.unique(scores)) > 5


@pytest.mark.parametrize("name", WINDOWED)
@given(seed=st.integers(0, 10**6), window=st.integers(2, 9), length=st.integers(11, 20), first=st.integers(0, 1))
@settings(max_examples=15, deadline=None)
def test_windows_of_any_size(name, seed, window, length, first):
    run = make_run(n=5, lengths=(length,), seed=seed)
    found = baseline_scores(run, name, window=window, epochs=(first, 15))
    np.testing.assert_allclose(found, slowly(run, name, 1, 15, window=window), rtol=1e-5, atol=1e-6)


def test_the_shortest_recordings():
    run = make_run(lengths=(4,))
    np.testing.assert_allclose(baseline_scores(run, "dyn_unc", window=2), slowly(run, "dyn_unc", window=2), rtol=1e-5)
    for name in ("dual", "tdds"):
        np.testing.assert_allclose(baseline_scores(run, name, window=3), slowly(run, name, window=3), atol=1e-6)
    for name in ("mean_loss", "final_loss", "forgetting", "el2n", "aum"):
        one = make_run(lengths=(2,))
        np.testing.assert_allclose(baseline_scores(one, name), slowly(one, name), rtol=1e-5)


def test_options_are_the_papers():
    run = make_run()
    np.testing.assert_allclose(
        baseline_scores(run, "tdds", decay=0.5, window=5), slowly(run, "tdds", decay=0.5, window=5), rtol=1e-5
    )
    np.testing.assert_allclose(baseline_scores(run, "el2n", epochs=(5, 20)), slowly(run, "el2n", 5, 20), rtol=1e-5)
    np.testing.assert_allclose(baseline_scores(run, "dual", epochs=(1, None)), slowly(run, "dual"), rtol=1e-5)


def test_the_untrained_model_is_left_out():
    run = make_run()
    losses = run.losses.copy()
    losses[0] = np.nan
    signals = {name: values.copy() for name, values in run.signals.items()}
    for values in signals.values():
        values[0] = np.nan
    blank = dataclasses.replace(run, losses=losses, signals=signals)
    for name in SLOW:
        np.testing.assert_array_equal(baseline_scores(blank, name), baseline_scores(run, name), err_msg=name)


def test_forgetting_by_hand():
    table = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 0, 1, 1, 0]]).T
    assert baselines.forgetting(table).tolist() == [2, 5, 0, 1]


@pytest.mark.parametrize("name", SLOW)
def test_tables_on_disk_are_read_part_by_part(name, monkeypatch):
    run = make_run(lengths=(33, 34))
    expected = baseline_scores(run, name)
    monkeypatch.setattr(kernels, "_PART", 7)
    monkeypatch.setattr(kernels, "_READ", 67 * 4 * 20)
    signals = {key: OnDisk(values) for key, values in run.signals.items()}
    read = dataclasses.replace(run, losses=OnDisk(run.losses), signals=signals)
    np.testing.assert_array_equal(baseline_scores(read, name), expected)


def as_dataset(run, held_out=2):
    """Rows with all signals as `attach` adds them; the last ones are held out, and have none."""
    columns, features = {}, {"text": Value("string")}
    n = run.losses.shape[1] + held_out
    for name, table in {"loss": run.losses, **run.signals}.items():
        columns[f"{name}_trajectory"] = [*table.T, *[None] * held_out]
        features[f"{name}_trajectory"] = List(Value("float32"), length=len(table))
    return Dataset.from_dict({"text": [str(i) for i in range(n)], **columns}, features=Features(features))


@pytest.mark.parametrize("name", SLOW)
@pytest.mark.parametrize("form", [None, "arrow"])
def test_map_gives_what_the_function_gives(name, form):
    run = make_run(lengths=(33, 31))
    scorer = BaselineScorer.from_trajectories(run, name)
    dataset = as_dataset(run).with_format(form)
    scored = dataset.map(pickle.loads(pickle.dumps(scorer)), batched=True, batch_size=13)
    assert scored.features[f"{name}_score"] == Value("float32")
    found = scored.with_format(None)[f"{name}_score"][:]
    assert found[-2:] == [None, None]
    np.testing.assert_allclose(found[:-2], baseline_scores(run, name), rtol=1e-5, atol=1e-7)
    row = scorer({f"{BASELINES[name].signal}_trajectory": dataset.with_format("numpy")[3][_column(name)]})
    assert row[f"{name}_score"] == pytest.approx(found[3], rel=1e-5)


def _column(name):
    return f"{BASELINES[name].signal}_trajectory"


def test_streams_and_processes():
    run = make_run()
    scorer = BaselineScorer.from_trajectories(run, "aum", column="margin_mean")
    dataset = as_dataset(run)
    expected = [*baseline_scores(run, "aum").tolist(), None, None]
    streamed = [row["margin_mean"] for row in dataset.to_iterable_dataset().map(scorer, batched=True, batch_size=7)]
    assert streamed == pytest.approx(expected)
    assert dataset.map(scorer, batched=True, num_proc=2)["margin_mean"][:] == pytest.approx(expected)
    assert scorer.keeps == "highest"


# Random.


def test_random_scores_are_of_the_row_alone():
    run = make_run(n=200)
    scores = baseline_scores(run, "random", seed=3)
    np.testing.assert_array_equal(
        scores[50:], baseline_scores(dataclasses.replace(run, rows=run.rows[50:]), "random", seed=3)
    )
    assert not np.array_equal(scores, baseline_scores(run, "random", seed=4))
    assert (baseline_scores(run, "random") == baseline_scores(run, "random", seed=0)).all()


def test_random_scores_are_splitmix64():
    """As Steele et al. define it, in Python's integers: the n-th number of the generator that starts at the seed."""
    bits = 2**64 - 1
    start = int(np.random.SeedSequence(7).generate_state(1, np.uint64)[0])
    for row in (0, 1, 2, 10**9):
        z = (start + (row + 1) * 0x9E3779B97F4A7C15) & bits
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & bits
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & bits
        z ^= z >> 31
        assert baselines.random(np.array([row]), seed=7)[0] == (z >> 11) / 2**53


def test_random_scores_stay_what_they_are():
    # Coresets of a seed that were published can be made again.
    found = baselines.random(np.array([0, 1, 2, 10**9]), seed=0)
    assert found.tolist() == [0.023278059725723055, 0.3999828085671886, 0.2350549191695227, 0.57147455439202]


@given(st.integers(0, 2**31), st.integers(0, 10**10))
@settings(max_examples=20, deadline=None)
def test_random_scores_are_uniform_and_unrelated(seed, first):
    rows = first + np.arange(20_000)
    scores = baselines.random(rows, seed)
    assert scores.min() >= 0
    assert scores.max() < 1
    assert len(np.unique(scores)) == len(rows)
    # By chance one seed in a hundred million.
    assert kstest(scores, "uniform").pvalue > 1e-8
    for other in (scores[1:], baselines.random(rows[1:], seed + 1), baselines.random(2 * rows[1:], seed)):
        assert abs(np.corrcoef(scores[:-1], other)[0, 1]) < 6 / math.sqrt(len(rows))


def test_random_in_map_by_index_and_by_column():
    run = make_run()
    run = dataclasses.replace(run, rows=np.arange(40))
    dataset = as_dataset(run)
    expected = [*baseline_scores(run, "random", seed=5).tolist(), None, None]
    by_index = BaselineScorer.from_trajectories(run, "random", seed=5)
    for batched in (True, False):
        scored = dataset.map(by_index, with_indices=True, batched=batched, batch_size=9)
        assert scored["random_score"][:] == pytest.approx(expected)
    by_column = BaselineScorer.from_trajectories(run, "random", seed=5, row_column="row")
    order = np.random.default_rng(0).permutation(42)
    numbered = dataset.add_column("row", np.arange(42)).select(order)
    scored = numbered.map(by_column, batched=True)
    assert scored["random_score"][:] == pytest.approx([expected[row] for row in order])
    arrow = by_column(pa.table({"loss_trajectory": list(run.losses.T), "row": run.rows}))
    assert arrow["random_score"].to_pylist() == pytest.approx(expected[:40])
    with pytest.raises(InputError, match="with_indices=True"):
        dataset.map(by_index, batched=True)


# Bad input.


def test_what_the_recording_lacks_is_named():
    run = dataclasses.replace(make_run(), signals={"margin": make_run().signals["margin"]})
    for name, signal in [("forgetting", "correct"), ("el2n", "el2n")]:
        with pytest.raises(
            InputError, match=rf"{name} needs the signal '{signal}'.*margin\): .*`RecordConfig.signals` {signal}"
        ):
            baseline_scores(run, name)
    scorer = BaselineScorer.from_trajectories(run, "aum")
    dataset = as_dataset(run).remove_columns("margin_trajectory")
    with pytest.raises(
        InputError, match=r"no column 'margin_trajectory'.*run\.attach\(dataset, signals=\['margin'\]\)"
    ):
        dataset.map(scorer, batched=True)
    with pytest.raises(InputError, match=r"no column 'loss_trajectory'.*run\.attach\(dataset\)"):
        BaselineScorer.from_trajectories(run, "dual")({"text": "0"})


def test_values_that_are_not_finite_are_named():
    run = make_run(lengths=(20, 20))
    margin = run.signals["margin"].copy()
    margin[25, [2, 7]] = np.nan
    bad = dataclasses.replace(run, signals={"margin": margin})
    with pytest.raises(
        InputError, match=r"epoch 5 of run 1 has 2 values of margin that are not finite \(rows 6, 21\)"
    ):
        baseline_scores(bad, "aum")
    scorer = BaselineScorer.from_trajectories(bad, "aum")
    with pytest.raises(InputError, match=r"'margin_trajectory' has 2 values that are not finite at checkpoint 25"):
        scorer({"margin_trajectory": margin.T})
    with pytest.raises(InputError, match=r"trajectory of length 39 \(row 0 of the batch\), .* of length 40"):
        scorer({"margin_trajectory": margin[1:].T})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("el3n",), r"no baseline 'el3n': there are 'mean_loss', .*'random'"),
        (("aum", {"window": 3}), r"aum has no option 'window': it has none but epochs"),
        (("tdds", {"j": 3}), r"tdds has no option 'j': it has window, decay"),
        (("tdds", {"decay": 0}), r"`decay` is 0: it must be inside \(0, 1\]"),
        (("dual", {"window": 1}), r"`window` is 1: it must be 2 or more"),
        (("random", {"seed": -1}), r"`seed` is -1"),
        (
            ("dual",),
            r"dual needs 10 checkpoints or more, but only 9 were recorded in epochs 1 to 30: .*smaller window",
        ),
        (
            ("dyn_unc", {"window": 9}),
            r"dyn_unc needs 10 checkpoints or more, but only 9 were recorded from epoch 1 on",
        ),
        (
            ("el2n", {"epochs": (20, 30)}),
            r"el2n needs 1 checkpoints? or more, but only 0 were recorded in epochs 20 to 30",
        ),
    ],
)
def test_options_are_checked(arguments, message):
    name, options = arguments[0], dict(*arguments[1:])
    with pytest.raises(InputError, match=message):
        baseline_scores(make_run(lengths=(10,)), name, **options)
