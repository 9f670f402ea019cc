"""What to do with rows that contradict the validation samples? Leave them out, relabel them, or weight them down.

    python benchmarks/audit.py --data DATA --only recordings --kinds symmetric --noise 0 0.2 --seeds 0 1 2    # first
    python benchmarks/conflicting.py --data DATA [--runs runs/audit] [--seeds 0 1 2] [--ways kept ...] [--partial]

A dataset is recorded as in audit.py, once with its own labels and once with 20% of them replaced by another class,
validation samples included. The script compares two sets of candidate rows of the same size: rows whose losses have a
negative correlation with the mean validation loss (DAS), and rows that `audit` calls label issues. A fresh model of
the same kind is trained on the candidate rows, with one of these sets

- kept: nothing changes;
- left out;
- relabelled: with the label that `audit` suggests;
- weighted down: each epoch draws a quarter of them.

To see the effect of their number alone, the same number of random rows is left out. All models train for the same
number of steps. They are tested on test rows with correct labels: on all of them, and on the quarter of the classes
that has the most negative rows.

Finished trials are not repeated, including those in conflicting.json, and you can start several processes at once. One
seed of every setting comes first. --partial writes the results so far. DATA is as for
recordings.py; recordings are shared with audit.py. Results go to results/conflicting.json and .md.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from audit import BATCH, MODEL, STEM, place, rows_of
from data import SIZES
from recordings import DATASETS, provenance
from result_files import read_results, results_of, write_results
from tables import plus_minus

from hf_ltc import Trajectories, audit, ltc_scores
from hf_ltc.data.labels import read_labels
from hf_ltc.data.load import load_split
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.training.batches import ImageBatches, image_batches
from hf_ltc.training.forward import evaluate
from hf_ltc.training.images import StoredImages
from hf_ltc.training.loop import TrainingConfig, plain_model, prepare_training, train_epoch, training_epochs
from hf_ltc.training.metrics import LossBuffer, per_sample_metrics
from hf_ltc.training.models import create_model
from hf_ltc.utils.files import write_json

STEPS, RATE = 700, 0.1
# Of the rows that are weighted down, the share that takes part in an epoch.
SHARE = 0.25
NOISE = (0.0, 0.2)
KEPT = "kept"
WAYS = (
    KEPT,
    "negative left out",
    "negative relabelled",
    "issues left out",
    "issues relabelled",
    "random left out",
    "negative weighted down",
    "issues weighted down",
)


@dataclass(frozen=True)
class Trial:
    """One model, trained with one set of rows treated in one way."""

    dataset: str
    noise: float
    way: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}+noise{self.noise:g}+{self.way.replace(' ', '-')}+seed{self.seed}"


def trials_of(seeds: list[int], ways: list[str]) -> list[Trial]:
    settings = [(dataset, noise) for noise in reversed(NOISE) for dataset in DATASETS]
    return [Trial(*setting, way, seed) for seed in seeds for setting in settings for way in ways]


@lru_cache(maxsize=2)
def images_of(folder: Path, name: str) -> tuple[ImageBatches, ImageBatches, np.ndarray]:
    """The images of the recorded rows and of the test rows, and the true labels of the former."""
    rows, true = rows_of(folder, name)
    options = {"device": torch.device("cpu"), "channels_last": True, "cache": "always"}
    made = image_batches(StoredImages(rows, "image", SIZES[name]), true, **options)
    test = load_split(folder / name, "test")
    labels = read_labels(test, "label")
    if name == "cifar100":
        labels = np.asarray(json.loads((folder / name / "labels.json").read_text())["fine_to_coarse"])[labels]
    options |= {"statistics": (made.mean.tolist(), made.std.tolist())}
    return made, image_batches(StoredImages(test, "image", SIZES[name]), labels, **options), true


@lru_cache(maxsize=4)
def sets_of(runs: Path, dataset: str, noise: float, seed: int) -> dict[str, np.ndarray]:
    """What a recording says: rows, labels, suggested labels, and which rows are of each set."""
    setting = (dataset, noise, "symmetric", seed)
    folder = place(runs, setting)
    run = Trajectories.load(folder)
    negative, table = ltc_scores(run, preset="das") < 0, audit(run)
    draw = np.random.default_rng([seed, 11]).permutation(len(run))
    left_out = np.zeros(len(run), dtype=bool)
    left_out[draw[: negative.sum()]] = True
    return {
        "rows": run.rows,
        "labels": run.labels,
        "suggested": np.array(table["suggested_label"][:]),
        "negative": negative,
        "issues": np.array(table["is_label_issue"][:]),
        "random": left_out,
    }


def config_of(trial: Trial) -> TrainingConfig:
    return TrainingConfig(epochs=1, iterations=STEPS, batch_size=BATCH, learning_rate=RATE, seed=trial.seed)


def train_trial(options: argparse.Namespace, trial: Trial) -> dict:
    found = sets_of(options.runs, trial.dataset, trial.noise, trial.seed)
    started = time.perf_counter()
    images, test, true = images_of(options.data, trial.dataset)
    which, _, how = trial.way.partition(" ")
    treated = found.get(which, np.zeros(len(found["rows"]), dtype=bool))
    labels = np.where(treated, found["suggested"], found["labels"]) if how == "relabelled" else found["labels"]
    kept = np.flatnonzero(~treated) if how == "left out" else np.arange(len(treated))
    candidates = replace(images.take(found["rows"]), labels=torch.from_numpy(labels))
    rare = np.flatnonzero(treated) if how == "weighted down" else None
    by_class = right_by_class(candidates, test, kept, rare, trial)
    classes = len(by_class)
    per_class = np.bincount(found["labels"][found["negative"]], minlength=classes)
    most = np.argsort(-per_class, kind="stable")[: classes // 4]
    given, true = found["labels"], true[found["rows"]]
    return {
        **asdict(trial),
        "rows": len(kept),
        "treated": int(treated.sum()),
        "wrong of the treated": float((given != true)[treated].mean()) if treated.any() else None,
        "wrong": float((labels != true)[kept].mean()),
        # The test rows of each class are equally many.
        "accuracy": float(by_class.mean()),
        "accuracy on the classes of negative rows": float(by_class[most].mean()),
        "seconds": round(time.perf_counter() - started, 1),
    }


def right_by_class(
    candidates: ImageBatches, test: ImageBatches, kept: np.ndarray, rare: np.ndarray | None, trial: Trial
) -> np.ndarray:
    """The accuracy on the test rows of each class, of a model trained on the rows kept, some of them rarely."""
    accelerator, config = Accelerator(cpu=True, mixed_precision="bf16"), config_of(trial)
    set_seed(trial.seed)
    classes = int(test.labels.max()) + 1
    network = create_model(MODEL, classes, test.size, stem=STEM)
    size = len(kept) if rare is None else len(kept) - len(rare) + round(SHARE * len(rare))
    state = prepare_training(network, size, config, accelerator, channels_last=True)
    train = candidates.take(kept)
    for epoch in range(training_epochs(size, config, 1)):
        if rare is not None:
            drawn = np.random.default_rng([trial.seed, epoch, 13]).permutation(rare)[: round(SHARE * len(rare))]
            train = candidates.take(np.sort(np.concatenate([np.setdiff1d(kept, rare), drawn])))
        train_epoch(state, train, config, accelerator)
    buffer = LossBuffer(["correct"], len(test))

    def add(at: torch.Tensor, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        buffer.add(at, *per_sample_metrics(["correct"], logits, labels))

    evaluate(plain_model(state, accelerator), test, accelerator, add, 512)
    correct = buffer.collect(None, 0, np.arange(len(test)))["correct"]
    accelerator.free_memory()
    return np.array([correct[test.labels.numpy() == c].mean() for c in range(classes)])


def report(results: list[dict]) -> str:
    """Accuracies of each way in each setting, and what it is worth against the rows kept, seed by seed."""
    settings = list(dict.fromkeys((each["dataset"], each["noise"]) for each in results))
    heads = [f"{d}{f', {n:.0%} wrong' if n else ''}" for d, n in settings]
    parts = []
    for what, key in (
        ("on all test rows", "accuracy"),
        ("on the classes of negative rows", "accuracy on the classes of negative rows"),
    ):
        lines = [f"| set and use | {' | '.join(heads)} | mean gain |", "|---|" + "---:|" * (len(heads) + 1)]
        for way in WAYS:
            cells, gains = [], []
            for dataset, noise in settings:
                here = [e for e in results if (e["dataset"], e["noise"]) == (dataset, noise)]
                kept = {e["seed"]: 100 * e[key] for e in here if e["way"] == KEPT}
                mine = {e["seed"]: 100 * e[key] for e in here if e["way"] == way}
                both = [mine[seed] - kept[seed] for seed in mine if seed in kept]
                gains.append(statistics.mean(both) if both else None)
                cells.append(_cell(list(mine.values()), [] if way == KEPT else both))
            total = "" if None in gains or way == KEPT else f"{statistics.mean(gains):+.1f}"
            lines.append(f"| {way} | {' | '.join(cells)} | {total} |")
        parts.append(f"Accuracy {what}, in percent, and the gain over the rows kept.\n\n" + "\n".join(lines))
    lines = ["| setting | seeds | candidate rows | in each set | wrong of the negative | wrong of the issues |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for (dataset, noise), head in zip(settings, heads):
        here = [e for e in results if (e["dataset"], e["noise"]) == (dataset, noise)]
        sizes = {e["seed"]: e["treated"] for e in here if e["way"] == "negative left out"}
        wrong = []
        for which in ("negative", "issues"):
            shares = [e["wrong of the treated"] for e in here if e["way"] == f"{which} left out"]
            wrong.append(f"{statistics.mean(shares):.0%}" if shares and noise else "")
        rows = next((e["rows"] for e in here if e["way"] == KEPT), 0)
        mean = f"{statistics.mean(sizes.values()):,.0f}" if sizes else ""
        lines.append(f"| {head} | {len(sizes)} | {rows:,} | {mean} | {' | '.join(wrong)} |")
    parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _cell(accuracies: list[float], gains: list[float]) -> str:
    if not accuracies:
        return ""
    said = f"{statistics.mean(accuracies):.1f}"
    if not gains:
        return said
    return f"{said} ({plus_minus(statistics.mean(gains), statistics.stdev(gains) if len(gains) > 1 else None, '+')})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/audit"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--partial", action="store_true", help="write the results that are there")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    output, folder = results_of(__file__), options.runs / "conflicting"
    folder.mkdir(parents=True, exist_ok=True)
    asked = {trial.name: trial for trial in trials_of(options.seeds, options.ways)}
    for each in read_results(output)["results"] if output.exists() else []:
        path = folder / f"{Trial(each['dataset'], each['noise'], each['way'], each['seed']).name}.json"
        if not path.exists():
            write_json(path, each)
    if options.partial:
        paths = [folder / f"{name}.json" for name in asked]
        results = [json.loads(path.read_text()) for path in paths if path.exists()]
    else:
        work = {name: partial(train_trial, options, each) for name, each in asked.items()}
        results = list(run_trials(folder, work).values())
    command = "python benchmarks/conflicting.py --data DATA"
    note = f"{len(results)} of the {len(asked)} trials of {len(options.seeds)} seeds are done"
    target = f"{MODEL}, {STEPS} steps, batch {BATCH}, one-cycle SGD, peak learning rate {RATE:g}, bf16 autocast, "
    target += "crops and flips, tested after the last step"
    protocol = {"target": target, "share of rows weighted down in an epoch": SHARE}
    write_results(output, {"command": command, "protocol": protocol, "note": note, **provenance(), "results": results})
    paired = "Gains are over the rows kept with the same seed, ± their deviation over seeds where there are several."
    text = f"Made by `{command}`; conflicting.py says how. {note}. {paired}\n\n{report(results)}\n"
    output.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
