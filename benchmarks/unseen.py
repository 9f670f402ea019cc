"""Scores by models that never trained on a row, against scores by models that did.

    python benchmarks/unseen.py --data DATA [--runs runs/unseen]

Records the first 5,000 rows of a dataset with five seeds and `rotate_validation`, so four models train on each row and
one holds it out; and again with five seeds that all hold out the same rows. The script compares the default score of

- trained: the losses of a row in the four runs that trained on it, averaged;
- unseen: its losses as a validation sample of the fifth run, against the other validation samples of that run (as in
  UNSEEN, arXiv 2511.12988);
- both: the mean of the two ranks within the class;
- plain: the recording without rotation, where a tenth of the rows cannot be in the coreset.

Everything is done twice, with other seeds and other hold-outs. Reliability is the Spearman correlation, within
classes, of the two scores. Fresh models are trained for 500 steps on the rows that each score keeps, typical rows
first as by default. Each budget has the same number of rows for every method. Existing recordings and trials are not
made again. Results go to results/unseen.json and unseen.md.

DATA holds the folders cifar100 and fashion_mnist with Parquet files (train*, test*).
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from candidates import within_class_ranks
from datasets import ClassLabel, Dataset
from recordings import provenance
from result_files import results_of

from hf_ltc import RecordConfig, Trajectories, record
from hf_ltc.coresets.choose import Selection, rank
from hf_ltc.data.load import load_split
from hf_ltc.evaluation.target import train_on
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.scores.ltc import ltc_scores
from hf_ltc.scores.reliability import within_class_spearman
from hf_ltc.scores.typicality import ltc_typicality
from hf_ltc.scores.windows import uncertainty
from hf_ltc.training.batches import ImageBatches, image_batches
from hf_ltc.training.images import StoredImages
from hf_ltc.training.loop import TrainingConfig
from hf_ltc.utils.files import write_json

# The side of the images.
DATASETS = {"cifar100": 32, "fashion_mnist": 28}
MODEL, STEM = "test_resnet", "imagenet"
ROWS, TEST_ROWS, EPOCHS, RUNS = 5_000, 4_000, 15, 5
FRACTIONS, STEPS, BATCH, RATE = (0.05, 0.1, 0.3), 500, 32, 0.05
METHODS = ("trained", "unseen", "both", "plain")
RANDOM = "random"
REPLICATES, SEEDS = (0, 1), (0, 1, 2)


@dataclass(frozen=True)
class Places:
    """The folders of data and of recordings."""

    data: Path
    runs: Path


@cache
def data_of(folder: Path, name: str) -> tuple[Dataset, Dataset]:
    """Train and test rows, with the coarse classes of CIFAR-100."""
    parts = [load_split(folder / name, f"{split}[:{rows}]") for split, rows in (("train", ROWS), ("test", TEST_ROWS))]
    if name == "cifar100":
        coarse = json.loads((folder / name / "labels.json").read_text())
        feature = ClassLabel(names=coarse["coarse_names"])
        for number, part in enumerate(parts):
            labels = np.asarray(coarse["fine_to_coarse"])[part["label"]]
            parts[number] = part.remove_columns("label").add_column("label", labels).cast_column("label", feature)
    return parts[0], parts[1]


@cache
def images_of(folder: Path, name: str) -> tuple[ImageBatches, ImageBatches]:
    train, test = data_of(folder, name)
    size, options = DATASETS[name], {"device": torch.device("cpu"), "channels_last": True, "cache": "always"}
    made = image_batches(StoredImages(train, "image", size), np.asarray(train["label"]), **options)
    known = (made.mean.tolist(), made.std.tolist())
    tested = image_batches(StoredImages(test, "image", size), np.asarray(test["label"]), statistics=known, **options)
    return made, tested


@cache
def recorded(places: Places, name: str, replicate: int, rotate: bool) -> Trajectories:
    rotated = {"rotate_validation": True, "validation_fraction": 1 / RUNS, "validation_per_class": ROWS}
    config = RecordConfig(
        model=MODEL,
        stem=STEM,
        epochs=EPOCHS,
        batch_size=64,
        runs=RUNS,
        seed=RUNS * replicate,
        validation_seed=replicate,
        output_dir=str(places.runs / f"{name}-{'rotated' if rotate else 'plain'}-{replicate}"),
        **(rotated if rotate else {}),
    )
    return record(config, data_of(places.data, name)[0])


def leave_one_out(table: np.ndarray) -> np.ndarray:
    """The default score of each validation sample of a run, float32 `(L, Q)`, against the mean loss of the others."""
    table = table.astype(np.float64)
    others = (table.sum(axis=1, keepdims=True) - table) / (table.shape[1] - 1)
    one, two = (values - values.mean(axis=0) for values in (table, others))
    correlation = (one * two).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (two**2).sum(axis=0))
    return correlation * np.sqrt(uncertainty(table[1:].astype(np.float32)))


@cache
def scores_of(places: Places, name: str, replicate: int, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores and typicality of all rows; NaN for rows that are no candidates."""
    if method == "plain":
        run = recorded(places, name, replicate, False)
        found = np.full((2, ROWS), np.nan)
        found[:, run.rows] = ltc_scores(run), ltc_typicality(run)
        return found[0], found[1]
    run = recorded(places, name, replicate, True)
    assert np.array_equal(run.rows, np.arange(ROWS))
    if method == "trained":
        return ltc_scores(run), ltc_typicality(run)
    if method == "both":
        each = [scores_of(places, name, replicate, one) for one in ("trained", "unseen")]
        return np.mean([within_class_ranks(one, run.labels) for one, _ in each], axis=0), each[0][1]
    scores, losses = np.full(ROWS, np.nan), np.full((EPOCHS + 1, ROWS), np.nan, dtype=np.float32)
    for one in run.runs:
        scores[one.validation_rows] = leave_one_out(one.validation_losses)
        losses[:, one.validation_rows] = one.validation_losses
    assert np.isfinite(losses).all()
    whole = Trajectories(
        losses=losses,
        validation_losses=losses,
        labels=run.labels,
        validation_labels=run.labels,
        rows=run.rows,
        validation_rows=np.full(ROWS, -1),
        epochs=np.arange(EPOCHS + 1),
        lengths=(EPOCHS + 1,),
    )
    return scores, ltc_typicality(whole)


def rows_of(places: Places, name: str, replicate: int, method: str, size: int, seed: int) -> np.ndarray:
    """The rows that are kept, increasing."""
    labels = np.asarray(data_of(places.data, name)[0]["label"])
    if method == RANDOM:
        draw = np.random.default_rng([replicate, seed])
        return np.flatnonzero(rank(draw.random(ROWS), labels, Selection(typical=0.0), None) < size)
    scores, typicality = scores_of(places, name, replicate, method)
    rows = np.flatnonzero(np.isfinite(scores))
    ranks = rank(scores[rows], labels[rows], Selection(typical=0.1), None, typicality[rows])
    return rows[ranks < size]


def train_trial(places: Places, name: str, replicate: int, method: str, fraction: float, seed: int) -> dict[str, Any]:
    train, test = images_of(places.data, name)
    rows = rows_of(places, name, replicate, method, round(fraction * ROWS), seed)
    config = TrainingConfig(epochs=1, iterations=STEPS, batch_size=BATCH, learning_rate=RATE, augment=False, seed=seed)
    started = time.perf_counter()
    classes = data_of(places.data, name)[0].features["label"].num_classes
    accelerator = Accelerator()
    accuracy = train_on(MODEL, train.take(rows), test, classes, config, accelerator, stem=STEM)
    return {
        "dataset": name,
        "replicate": replicate,
        "method": method,
        "fraction": fraction,
        "seed": seed,
        "rows": len(rows),
        "accuracy": accuracy,
        "seconds": round(time.perf_counter() - started, 2),
    }


def reliability(places: Places, name: str) -> dict[str, dict[str, float]]:
    """Of each method, the Spearman correlation of its two replicates within classes, and the overlap of coresets."""
    labels = np.asarray(data_of(places.data, name)[0]["label"])
    found = {}
    for method in METHODS:
        one, two = (scores_of(places, name, replicate, method)[0] for replicate in REPLICATES)
        found[method] = {"spearman": within_class_spearman(one, two, labels)}
        for fraction in FRACTIONS:
            size = round(fraction * ROWS)
            first, second = (rows_of(places, name, replicate, method, size, 0) for replicate in REPLICATES)
            found[method][f"overlap at {fraction:g}"] = len(np.intersect1d(first, second)) / size
    one, two = (scores_of(places, name, 0, method)[0] for method in ("trained", "unseen"))
    found["trained with unseen"] = {"spearman": within_class_spearman(one, two, labels)}
    return found


def table(header: list[str], lines: list[list[str]]) -> str:
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def markdown(command: str, names: list[str], trials: list[dict[str, Any]], found: dict[str, Any]) -> str:
    parts = [
        f"Made by `{command}`.",
        f"Test accuracy in % of {MODEL} after {STEPS} steps of {BATCH}, {TEST_ROWS:,} test rows: mean ± sample "
        f"deviation over {len(REPLICATES)} recordings of {RUNS} seeds by {len(SEEDS)} target seeds. Budgets are "
        f"shares of {ROWS:,} rows; source {MODEL}, {EPOCHS} epochs.",
    ]
    for name in names:
        lines = []
        for method in (RANDOM, *METHODS):
            cells = []
            for fraction in FRACTIONS:
                of = [
                    100 * t["accuracy"]
                    for t in trials
                    if (t["dataset"], t["method"]) == (name, method) and t["fraction"] == fraction
                ]
                cells.append(f"{statistics.mean(of):.1f} ± {statistics.stdev(of):.1f}")
            lines.append([method, *cells])
        parts += [f"### {name}", table(["rows chosen by", *(f"{fraction:.0%}" for fraction in FRACTIONS)], lines)]
    parts += [
        "### Reliability",
        "Spearman correlation, within classes, of the scores of two recordings of five runs each, and the share of "
        "rows that their coresets have in common.",
    ]
    for name in names:
        lines = []
        for method, each in found[name].items():
            shared = [each.get(f"overlap at {fraction:g}") for fraction in FRACTIONS]
            lines.append([method, f"{each['spearman']:.2f}", *("" if s is None else f"{s:.0%}" for s in shared)])
        parts += [f"{name}:", table(["score", "Spearman", *(f"at {f:.0%}" for f in FRACTIONS)], lines)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/unseen"))
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    names, places = options.datasets, Places(options.data, options.runs)
    trials = {}
    for name in names:
        for replicate in REPLICATES:
            for method in (RANDOM, *METHODS):
                for fraction in FRACTIONS:
                    for seed in SEEDS:
                        given = (places, name, replicate, method, fraction, seed)
                        trials["+".join(map(str, given[1:]))] = partial(train_trial, *given)
    for name in names:
        for replicate in REPLICATES:
            for rotate in (True, False):
                recorded(places, name, replicate, rotate)
    done = list(run_trials(places.runs / "trials", trials).values())
    found = {name: reliability(places, name) for name in names}
    command = " ".join(["python benchmarks/unseen.py --data DATA --datasets", *names])
    seconds = {
        f"{name}-{'rotated' if rotate else 'plain'}-{replicate}": recorded(places, name, replicate, rotate).recipe[
            "seconds"
        ]
        for name in names
        for replicate in REPLICATES
        for rotate in (True, False)
    }
    output = results_of(__file__)
    results = {"command": command, **provenance(), "recording": seconds, "reliability": found, "trials": done}
    write_json(output, results)
    output.with_suffix(".md").write_text(markdown(command, names, done, found))


if __name__ == "__main__":
    main()
