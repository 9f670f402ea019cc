"""Draws the pictures of README.md and docs/: from committed results, and from a recording of the demo's digits.

    PYTHONPATH=. python docs/pictures.py      # about half a minute: it records test_resnet twice for 20 epochs

Each picture says in its caption, on the page that shows it, where its numbers are from.
"""

import sys
import tempfile
from pathlib import Path
from statistics import mean

import matplotlib.pyplot as plt
import numpy as np
from datasets import Dataset
from matplotlib.figure import Figure

from hf_ltc import RecordConfig, Trajectories, digits, ltc_scores, record

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs" / "assets"
COLORS = {"coreset": "#4051b5", "random rows": "#8a8a8a", "validation": "#222222", "late": "#c2410c"}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "hf_ltc",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def accuracy() -> Figure:
    """Accuracy over budget: every model trained at convergence, and the mean where there are several."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from result_files import read_results

    trials = read_results(ROOT / "benchmarks" / "results" / "converged.json")["results"]
    named = {"typical-weighted-das": "coreset", "random": "random rows"}
    figure, axes = plt.subplots(1, 3, figsize=(9, 3))
    shown = {"cifar100": "CIFAR-100 (20 classes)", "fashion_mnist": "Fashion-MNIST", "digits": "scikit-learn digits"}
    for axis, (dataset, title) in zip(axes, shown.items()):
        found: dict[str, dict[float, list[float]]] = {label: {} for label in named.values()}
        for trial in trials:
            is_share = trial["budget"] < 1 and not trial["noise"] and trial.get("target") is None
            if trial["dataset"] == dataset and trial["method"] in named and is_share:
                each = found[named[trial["method"]]]
                each.setdefault(100 * trial["budget"], []).append(100 * trial["accuracy"])
        # Budgets that both have: one line alone compares nothing.
        budgets = sorted(set.intersection(*map(set, found.values())))
        for label, values in found.items():
            axis.plot(budgets, [mean(values[each]) for each in budgets], color=COLORS[label], label=label, linewidth=2)
            every = [(each, value) for each in budgets for value in values[each]]
            axis.scatter(*zip(*every), s=10, color=COLORS[label], alpha=0.45, linewidths=0)
        axis.set(title=title, xlabel="rows kept (%)", xscale="log")
        axis.set_xticks([5, 10, 20, 30, 50, 90], ["5", "10", "20", "30", "50", "90"])
        axis.minorticks_off()
    axes[0].set_ylabel("test accuracy (%)")
    axes[0].legend(loc="lower right")
    return figure


def recorded(folder: str) -> tuple[Trajectories, Dataset]:
    """What `hf-ltc demo` records."""
    train, _ = digits()
    settings = {"model": "test_resnet", "epochs": 20, "batch_size": 64, "learning_rate": 0.05, "augment": False}
    return record(RecordConfig(**settings, runs=2, output_dir=folder), train), train


def trajectories(run: Trajectories, train: Dataset) -> Figure:
    """Losses of the rows with the highest, a middle and the lowest DAS, beside the mean validation loss."""
    one = run.runs[0]
    order = np.argsort(ltc_scores(one, preset="das"))
    picked = {"highest score": order[-1], "lowest score": order[0]}
    figure, axis = plt.subplots(figsize=(6.4, 3.2))
    axis.plot(one.epochs, one.validation_losses.mean(axis=1), color=COLORS["validation"], linewidth=2.5)
    axis.text(5.3, 0.32, "mean of the validation samples", color=COLORS["validation"])
    for (name, at), color in zip(picked.items(), (COLORS["coreset"], COLORS["late"])):
        axis.plot(one.epochs, one.losses[:, at], color=color, linewidth=1.5, label=name)
        label = train.features["label"].int2str(int(one.labels[at]))
        place = [0.62, 0.55, 0.16, 0.3] if name.startswith("highest") else [0.82, 0.55, 0.16, 0.3]
        inset = axis.inset_axes(place)
        inset.imshow(train[int(one.rows[at])]["image"], cmap="gray_r")
        inset.set_xticks([])
        inset.set_yticks([])
        inset.grid(False)
        inset.set_title(f"{name}\nlabel {label}", fontsize=8, color=color)
        for spine in inset.spines.values():
            spine.set(visible=True, color=color)
    axis.set(xlabel="epoch", ylabel="loss", xlim=(0, 20), ylim=(0, None))
    axis.set_xticks(range(0, 21, 5))
    return figure


def reliability(run: Trajectories) -> Figure:
    """Places by the score within their class, in two runs that differ in the seed alone."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.1), sharey=True)
    for axis, preset in zip(axes, ("weighted-das", "ltc")):
        one, two = (ltc_scores(each, preset=preset) for each in run.runs)
        places = []
        for label in np.unique(run.labels):
            members = np.flatnonzero(run.labels == label)
            places.append([each[members].argsort().argsort() / (len(members) - 1) for each in (one, two)])
        first, second = np.concatenate(places, axis=1)
        axis.scatter(first, second, s=5, color=COLORS["coreset"], alpha=0.4, linewidths=0, rasterized=True)
        correlation = np.mean([np.corrcoef(*each)[0, 1] for each in places])
        axis.set(title=f"{preset}: {correlation:.2f}", xlabel="place by seed 0", aspect="equal")
    axes[0].set_ylabel("place by seed 1")
    return figure


def order(run: Trajectories, train: Dataset) -> Figure:
    """The first, the middle and the last rows of some classes in the coreset order."""
    scored = run.score(train)
    ranks = np.asarray(scored.with_format("numpy")["ltc_rank"], dtype=float)
    labels = np.asarray(train["label"])
    classes, count = (3, 5, 8), 8
    figure = plt.figure(figsize=(9, 1.5))
    parts = figure.subfigures(1, 3, wspace=0.06)
    for part, title in zip(parts, ("first picks: typical rows", "then: highest scores", "last: lowest scores")):
        part.suptitle(title, fontsize=9)
    lines = zip(*(part.subplots(len(classes), count) for part in parts))
    for line, label in zip(lines, classes):
        members = np.flatnonzero((labels == label) & np.isfinite(ranks))
        members = members[np.argsort(ranks[members])]
        middle = round(0.1 * len(members)) + 1
        picked = [*members[:count], *members[middle : middle + count], *members[-count:]]
        for place, row in zip(np.concatenate(line), picked):
            place.imshow(train[int(row)]["image"], cmap="gray_r")
            place.axis("off")
    return figure


def main() -> None:
    ASSETS.mkdir(exist_ok=True)
    with plt.rc_context(STYLE), tempfile.TemporaryDirectory() as folder:
        run, train = recorded(str(Path(folder) / "run"))
        drawn = {
            "accuracy": accuracy(),
            "trajectories": trajectories(run, train),
            "reliability": reliability(run),
            "order": order(run, train),
        }
        for name, figure in drawn.items():
            # No date, so that the same numbers are the same file.
            written = {"metadata": {"Date": None}, "bbox_inches": "tight", "facecolor": "white", "dpi": 200}
            figure.savefig(ASSETS / f"{name}.svg", **written)
            plt.close(figure)


if __name__ == "__main__":
    main()
