"""Which score finds wrong labels? Those of one recording against cleanlab's confident learning.

    pip install cleanlab
    python benchmarks/audit.py --data DATA [--runs runs/audit] [--seeds 0 1 2] [--only folds|recordings|table]

First, a share of the labels is replaced, by another random class (symmetric) or by the next class (class-dependent,
"pair flipping" in Han et al., Co-teaching, NeurIPS 2018). The labels of validation samples are replaced too, because
nobody knows which labels of a real dataset are wrong. Then `record` records the dataset once, with held-out validation
samples, and the rows are scored. Confident learning (Northcutt et al., JAIR 2021, arXiv 1911.00068) gets out-of-fold
probabilities of the same model, trained equally long on all rows, validation samples included: one training per fold.
On the candidate rows, each score is measured by how well it separates wrong labels from correct ones: AUROC, average
precision, and the miss rate. If n labels are wrong, the miss rate is the share of them that is not among the worst n
rows.

In a setting of its own, scikit-learn's digits are recorded without augmentation for so long that the model memorizes
the wrong labels (HEART): `--only recordings --datasets digits`.

Existing parts are skipped, and you can start several processes at once. DATA is as for recordings.py. Results go
to results/audit.json and audit.md.
"""

import argparse
import itertools
import json
import os
import time
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from data import SIZES
from datasets import ClassLabel, Dataset, Features, Image
from filelock import FileLock, Timeout
from recordings import DATASETS, provenance
from result_files import results_of, write_results
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, roc_auc_score

from hf_ltc import RecordConfig, Trajectories, audit, baseline_scores, digits, ltc_scores, record
from hf_ltc.data.labels import read_labels
from hf_ltc.data.load import load_split
from hf_ltc.training.batches import image_batches
from hf_ltc.training.forward import averaging_decay, evaluate
from hf_ltc.training.images import StoredImages
from hf_ltc.training.loop import TrainingConfig, prepare_training, steps_per_epoch, train_epoch
from hf_ltc.training.models import create_model
from hf_ltc.trajectories.run_dir import is_finished

ROWS, EPOCHS, BATCH, FOLDS = 5_000, 15, 64, 5
# The stem that the model was made with, as in recordings.py.
MODEL, STEM = "test_resnet", "imagenet"
KINDS = ("symmetric", "class-dependent")
# What is recorded until it is known by heart, and how.
HEART = "digits"
HEART_OPTIONS = {"epochs": 60, "learning_rate": 0.05, "augment": False}
HEART_SETTING = (HEART, 0.2, "symmetric")


@cache
def rows_of(folder: Path, name: str) -> tuple[Dataset, np.ndarray]:
    """The first rows of a dataset, with their images as stored, and their labels."""
    if name == HEART:
        train, _ = digits()
        return train, read_labels(train, "label")
    train = load_split(folder / name, f"train[:{ROWS}]")
    labels, names = read_labels(train, "label"), train.features["label"].names
    if name == "cifar100":
        coarse = json.loads((folder / name / "labels.json").read_text())
        labels, names = np.asarray(coarse["fine_to_coarse"])[labels], coarse["coarse_names"]
    images = train.select_columns("image").with_format(None)
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    stored = images.data.column("image").to_pylist()
    return Dataset.from_dict({"image": stored, "label": labels.tolist()}, features=features), labels


def replaced(labels: np.ndarray, share: float, kind: str, classes: int, seed: int) -> np.ndarray:
    """The labels with a share of them, drawn at random, replaced."""
    draw = np.random.default_rng([seed, round(100 * share), KINDS.index(kind)])
    wrong = draw.permutation(len(labels))[: round(share * len(labels))]
    step = draw.integers(1, classes, len(wrong)) if kind == "symmetric" else 1
    made = labels.copy()
    made[wrong] = (made[wrong] + step) % classes
    return made


def out_of_fold(rows: Dataset, name: str, labels: np.ndarray, seed: int) -> np.ndarray:
    """Each row's probabilities by a model that was trained on the other folds, float32 (N, C)."""
    accelerator, classes = Accelerator(cpu=True), rows.features["label"].num_classes
    options = {"device": torch.device("cpu"), "channels_last": True, "cache": "always"}
    images = image_batches(StoredImages(rows, "image", SIZES[name]), labels, **options)
    fold = np.random.default_rng([seed, 7]).permutation(len(labels)) % FOLDS
    probabilities = np.full((len(labels), classes), np.nan, dtype=np.float32)
    for k in range(FOLDS):
        inside, outside = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
        config = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, seed=seed)
        set_seed(seed)
        model = create_model(MODEL, classes, SIZES[name], stem=STEM)
        decay = averaging_decay("averaged", None, steps_per_epoch(len(inside), config, 1))
        state = prepare_training(model, len(inside), config, accelerator, average_decay=decay, channels_last=True)
        train = images.take(inside)
        for _ in range(EPOCHS):
            train_epoch(state, train, config, accelerator)

        def keep(at, losses, logits, labels, outside=outside):
            probabilities[outside[at.numpy()]] = logits.softmax(1).numpy()

        evaluate(state.averaged.module, images.take(outside), accelerator, keep, 512)
    return probabilities


def place(runs: Path, setting: tuple) -> Path:
    dataset, noise, kind, seed = setting
    return runs / f"{dataset}-{kind}-{round(100 * noise)}-seed{seed}"


def make_recording(data: Path, setting: tuple, path: Path) -> None:
    """What a user would record of the dataset with its wrong labels."""
    dataset, noise, kind, seed = setting
    rows, true = rows_of(data, dataset)
    feature = rows.features["label"]
    labels = replaced(true, noise, kind, feature.num_classes, seed)
    wrong = rows.remove_columns("label").add_column("label", labels, feature=feature)
    options: dict = {
        "model": MODEL,
        "stem": STEM,
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "seed": seed,
        "signals": ["margin", "correct", "el2n", "predicted"],
        "num_workers": 0,
        "output_dir": str(path),
    }
    config = RecordConfig(**options | (HEART_OPTIONS if dataset == HEART else {}))
    run = record(config, wrong, accelerator=Accelerator(cpu=True))
    print(f"{path.name}: {sum(run.recipe['seconds'].values()):.0f} s", flush=True)


def make_folds(data: Path, setting: tuple, path: Path) -> None:
    started = time.perf_counter()
    dataset, noise, kind, seed = setting
    rows, true = rows_of(data, dataset)
    labels = replaced(true, noise, kind, rows.features["label"].num_classes, seed)
    found = out_of_fold(rows, dataset, labels, seed)
    temporary = path.with_suffix(".unfinished.npz")
    np.savez(temporary, probabilities=found, labels=labels, true=true)
    os.replace(temporary, path)
    right = (found.argmax(1) == true).mean()
    print(f"{path.name}: {time.perf_counter() - started:.0f} s, out-of-fold accuracy {right:.3f}", flush=True)


def scores_of(run: Trajectories) -> dict[str, np.ndarray]:
    """Scores that are higher the more probably a label is wrong."""
    found = {}
    for name in ("aum", "mean_loss", "final_loss", "el2n"):
        scores = baseline_scores(run, name)
        found[name] = scores if name in ("mean_loss", "final_loss", "el2n") else -scores
    for name in ("weighted-das", "das", "ltc", "cld"):
        # Flat rows, of which there are few if any, are in the middle.
        found[name] = np.nan_to_num(-ltc_scores(run, preset=name))
    rank = {name: rankdata(scores) for name, scores in found.items()}
    for pair in (("aum", "mean_loss"), ("aum", "weighted-das"), ("aum", "das"), ("aum", "ltc"), ("mean_loss", "das")):
        found[" + ".join(pair)] = rank[pair[0]] + rank[pair[1]]
    found["aum + mean_loss + das"] = rank["aum"] + rank["mean_loss"] + rank["das"]
    found["label_quality"] = -np.array(audit(run)["label_quality"][:])
    return found


def confident_learning(folder: Path, run: Trajectories) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """cleanlab's label qualities, turned round, and the rows that it calls wrong, from out-of-fold probabilities."""
    path = folder.with_suffix(".npz")
    if not path.exists() or find_spec("cleanlab") is None:
        return {}, {}
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    with np.load(path) as stored:
        probabilities = stored["probabilities"][run.rows]
        assert (stored["labels"][run.rows] == run.labels).all()
    methods = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    scores = {f"cleanlab {m}": -get_label_quality_scores(run.labels, probabilities, method=m) for m in methods}
    filters = ("prune_by_noise_rate", "confident_learning", "low_self_confidence")
    return scores, {
        f"cleanlab {m}": find_label_issues(run.labels, probabilities, filter_by=m, n_jobs=1) for m in filters
    }


def measured(data: Path, folder: Path, setting: tuple) -> tuple[list[dict], list[dict]]:
    dataset, noise, kind, seed = setting
    run, true = Trajectories.load(folder), rows_of(data, dataset)[1]
    wrong = run.labels != true[run.rows]
    about = {"dataset": dataset, "noise": noise, "kind": kind, "seed": seed}
    table = audit(run)
    theirs, flagged = confident_learning(folder, run)
    rows = []
    for name, scores in {**scores_of(run), **theirs}.items():
        worst = np.argsort(-scores, kind="stable")[: np.count_nonzero(wrong)]
        values = {
            "auroc": roc_auc_score(wrong, scores),
            "average precision": average_precision_score(wrong, scores),
            "miss rate": 1 - wrong[worst].mean(),
        }
        rows.append({**about, "score": name, **{key: round(float(value), 4) for key, value in values.items()}})
    called = []
    for name, issues in {"is_label_issue": np.array(table["is_label_issue"][:]), **flagged}.items():
        precision, recall = wrong[issues].mean(), issues[wrong].mean()
        values = {
            "called wrong": issues.mean(),
            "precision": precision,
            "recall": recall,
            "F1": 2 * precision * recall / (precision + recall),
        }
        called.append({**about, "rule": name, **{key: round(float(value), 4) for key, value in values.items()}})
    suggested = np.array(table["suggested_label"][:])
    called[0]["suggested label is the true one"] = round(float((suggested == true[run.rows])[wrong].mean()), 4)
    return rows, called


def markdown(rows: list[dict], called: list[dict]) -> str:
    lines = []
    with_folds = {(r["dataset"], r["noise"], r["kind"], r["seed"]) for r in rows if r["score"].startswith("cleanlab")}
    for what, kept in (("all settings", None), ("settings with out-of-fold probabilities", with_folds)):
        here = [r for r in rows if kept is None or (r["dataset"], r["noise"], r["kind"], r["seed"]) in kept]
        here = [r for r in here if kept is not None or not r["score"].startswith("cleanlab")]
        settings = list(dict.fromkeys((r["dataset"], r["kind"], r["noise"]) for r in here))
        if not settings:
            continue
        seeds = len({r["seed"] for r in here})
        lines += [f"## Mean over {what}: {len(settings)} settings, {seeds} seed{'s' * (seeds > 1)}", ""]
        heads = [f"{d} {k} {n:.0%}" for d, k, n in settings]
        lines += [f"| score | AUROC | average precision | miss rate | {' | '.join(heads)} |"]
        lines += ["|---|" + "---:|" * (3 + len(heads))]
        by_score: dict[str, list[dict]] = {}
        for row in here:
            by_score.setdefault(row["score"], []).append(row)
        for name, each in sorted(by_score.items(), key=lambda item: -np.mean([r["auroc"] for r in item[1]])):
            means = [f"{np.mean([r[key] for r in each]):.3f}" for key in ("auroc", "average precision", "miss rate")]
            cells = []
            for setting in settings:
                of = [r for r in each if (r["dataset"], r["kind"], r["noise"]) == setting]
                pair = (np.mean([r[key] for r in of]) for key in ("auroc", "miss rate"))
                cells.append(" / ".join(f"{value:.3f}" for value in pair))
            lines.append(f"| {name} | {' | '.join(means)} | {' | '.join(cells)} |")
        lines += ["", "Beside the means: AUROC / miss rate of each setting.", ""]
    lines += ["## Rows that are called wrong", "", "| setting | rule | called wrong | precision | recall | F1 |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for r in called:
        setting = f"{r['dataset']} {r['kind']} {r['noise']:.0%}, seed {r['seed']}"
        cells = [f"{r[key]:.3f}" for key in ("called wrong", "precision", "recall", "F1")]
        lines.append(f"| {setting} | {r['rule']} | {' | '.join(cells)} |")
    right = [(r["dataset"], r["suggested label is the true one"]) for r in called if r["rule"] == "is_label_issue"]
    lines += ["", "Of rows with a wrong label the suggested label was the true one:"]
    for dataset in dict.fromkeys(name for name, _ in right):
        shares = [share for name, share in right if name == dataset]
        lines.append(f"{dataset} {np.mean(shares):.2f} (mean of {len(shares)} settings).")
    return "\n".join(lines) + "\n"


def by_heart(heart: list[dict]) -> str:
    """The table of recordings in which wrong labels were learned by heart, if there are any."""
    if not heart:
        return ""
    seeds = len({row["seed"] for row in heart})
    how = f"{HEART}, 20% wrong, {HEART_OPTIONS['epochs']} epochs without augmentation, {seeds} seeds"
    lines = [
        "",
        f"## Known by heart: {how}",
        "",
        "| score | AUROC | average precision | miss rate |",
        "|---|---:|---:|---:|",
    ]
    for name in dict.fromkeys(row["score"] for row in heart):
        each = [row for row in heart if row["score"] == name]
        means = [f"{np.mean([row[key] for row in each]):.3f}" for key in ("auroc", "average precision", "miss rate")]
        lines.append(f"| {name} | {' | '.join(means)} |")
    return "\n".join(lines) + "\n"


def write_tables(options: argparse.Namespace) -> None:
    rows, called = [], []
    for setting in itertools.product(options.datasets, options.noise, options.kinds, options.seeds):
        folder = place(options.runs, setting)
        if folder.is_dir() and is_finished(folder):
            found = measured(options.data, folder, setting)
            rows, called = rows + found[0], called + found[1]
    heart = []
    for seed in options.seeds:
        folder = place(options.runs, (*HEART_SETTING, seed))
        if folder.is_dir() and is_finished(folder):
            heart += measured(options.data, folder, (*HEART_SETTING, seed))[0]
    output, command = results_of(__file__), "python benchmarks/audit.py --data DATA"
    settings = {"rows": ROWS, "model": MODEL, "epochs": EPOCHS, "batch_size": BATCH, "folds": FOLDS}
    tool = {"cleanlab": version("cleanlab")} if find_spec("cleanlab") else {}
    made = {
        "command": command,
        "settings": settings,
        **provenance(),
        **tool,
        "scores": rows,
        "rules": called,
        "by heart": heart,
    }
    write_results(output, made)
    text = markdown(rows, called) + by_heart(heart)
    output.with_suffix(".md").write_text(f"Made by `{command}`; audit.py says how.\n\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/audit"))
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=[*DATASETS, HEART])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.1, 0.2, 0.4, 0.05], help="shares of wrong labels")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", choices=["folds", "recordings", "table"])
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    settings = itertools.product(options.seeds, options.noise, options.kinds, options.datasets)
    for seed, noise, kind, dataset in settings:
        setting = (dataset, noise, kind, seed)
        if dataset == HEART and setting[:3] != HEART_SETTING:
            continue
        folder = place(options.runs, setting)
        for what, make, path in (
            ("recordings", make_recording, folder),
            ("folds", make_folds, folder.with_suffix(".npz")),
        ):
            if options.only not in (None, what):
                continue
            try:
                with FileLock(f"{path}.lock", timeout=0):
                    if not (path.exists() and (path.is_file() or is_finished(path))):
                        make(options.data, setting, path)
            except Timeout:
                continue
    if options.only in (None, "table"):
        write_tables(options)


if __name__ == "__main__":
    main()
