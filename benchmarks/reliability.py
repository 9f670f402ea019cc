"""Would another seed rank the rows the same way? The reliability of every score, for each kind of recording.

    python benchmarks/recordings.py --data DATA                                               # first
    python benchmarks/recordings.py --data DATA --epochs 5 --windows 0 0.25 1
    python benchmarks/recordings.py --data DATA --epochs 60 --windows 0 0.25 1 --evaluated
    python benchmarks/reliability.py [--runs runs/benchmarks]

Reliability is the Spearman correlation within classes between the scores of two recordings that differ only in the
seed: here, the mean over all pairs of recorded seeds, with the range of the pairs. The tables also show how the place
of a row in the ranking correlates with its mean loss and its AUM in the same recording (a reliable score may say no
more than these), and the share of rows that coresets of 10% and 30% of two seeds have in common. Recordings of each
length have their own training with a whole schedule; "first" means the first epochs of longer ones.

Results go to results/reliability-DATASET.json and reliability.md.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

import numpy as np
from candidates import CANDIDATES, MEMBERS, WEIGHTED
from recordings import DATASETS, WINDOWS, path_of, provenance, trajectories
from result_files import results_of, write_results

from hf_ltc import Trajectories, baseline_scores, ltc_scores
from hf_ltc.coresets.overlap import overlap
from hf_ltc.evaluation.methods import DEFAULT_METHOD, METHODS
from hf_ltc.scores.baselines import BASELINES
from hf_ltc.scores.reliability import doubt_of_validation, within_class_spearman
from hf_ltc.trajectories.compare import stability
from hf_ltc.utils.errors import InputError

FIRST = (5, 10, 20)


def scores_of(name: str, run: Trajectories) -> np.ndarray:
    if name in CANDIDATES:
        return CANDIDATES[name](run)
    if name in BASELINES:
        scores = baseline_scores(run, name)
        return -scores if BASELINES[name].keeps == "lowest" else scores
    return ltc_scores(run, **METHODS[name].variant)


def measured(name: str, runs: list[Trajectories], beside: dict[str, list[np.ndarray]]) -> dict | None:
    try:
        scores = [scores_of(name, run) for run in runs]
    except InputError:
        # Fewer epochs than its window, or a per-sample metric that was not recorded with these losses.
        return None
    labels = runs[0].labels
    pairs = [within_class_spearman(one, two, labels) for one, two in itertools.combinations(scores, 2)]
    shared = [overlap(one, two, labels, (0.1, 0.3)) for one, two in itertools.combinations(scores, 2)]
    found = {
        "score": name,
        "reliability": round(statistics.mean(pairs), 3),
        "lowest": round(min(pairs), 3),
        "highest": round(max(pairs), 3),
        "pairs": len(pairs),
        **{f"overlap {f:.0%}": round(statistics.mean(each[f] for each in shared), 3) for f in (0.1, 0.3)},
    }
    for other, theirs in beside.items():
        both = [within_class_spearman(mine, their, labels) for mine, their in zip(scores, theirs)]
        found[f"with {other}"] = round(statistics.mean(both), 3)
    return found


def table(runs: Path, dataset: str, epochs: int, seeds: list[int], windows: list[float]) -> list[dict]:
    paths = [path_of(runs, dataset, "test_resnet", epochs, 0.0, seed) for seed in seeds]
    paths = [path for path in paths if path.exists()]
    if len(paths) < 2:
        return []
    rows = []
    for losses, window in itertools.product(("training", "evaluation"), windows):
        with np.load(paths[0]) as stored:
            if losses == "evaluation" and f"evaluation-{window}" not in stored:
                continue
        recorded = [trajectories(path, losses, window) for path in paths]
        for first in (*(f for f in FIRST if f < epochs), epochs):
            cut = [run.truncate(first) for run in recorded]
            known = [name for name in ("mean_loss", "aum") if name == "mean_loss" or cut[0].signals]
            beside = {name: [baseline_scores(run, name) for run in cut] for name in known}
            names = [*MEMBERS, *WEIGHTED, *CANDIDATES]
            # Per-sample metrics of an evaluation pass were recorded at averaged weights alone.
            if (losses, window) in (("training", 1.0), ("evaluation", 1.0)):
                names += [name for name in BASELINES if name != "random"]
            for name in names:
                found = measured(name, cut, beside)
                if found is not None:
                    about = {"dataset": dataset, "epochs": epochs, "first": first, "losses": losses, "window": window}
                    rows.append({**about, **found, "seeds": len(paths)})
    return rows


def stops(runs: Path, dataset: str, epochs: int, seeds: list[int]) -> list[dict]:
    """Where --stop-when-stable would have ended each run, and how stable the whole run is."""
    found = []
    for seed in seeds:
        path = path_of(runs, dataset, "test_resnet", epochs, 0.0, seed)
        if not path.exists():
            continue
        run = trajectories(path)
        for name in (DEFAULT_METHOD, "ltc"):
            family = METHODS[name].variant
            each = {t: stability(run.truncate(t), **family) for t in range(5, epochs + 1)}
            found.append(
                {
                    "dataset": dataset,
                    "epochs": epochs,
                    "seed": seed,
                    "score": name,
                    "stability of the whole run": round(each[epochs], 3),
                    **{
                        f"first epoch at {x}": next((t for t in each if each[t] >= x), None) for x in (0.9, 0.95, 0.98)
                    },
                }
            )
    return found


def rising(runs: Path, dataset: str, epochs: int, seeds: list[int]) -> list[dict]:
    """For each kind of validation samples, how many recordings hf-ltc score warns of: their loss rises again."""
    paths = [path_of(runs, dataset, "test_resnet", epochs, 0.0, seed) for seed in seeds]
    paths = [path for path in paths if path.exists()]
    found = []
    for kind in ("clean", "noisy20", "noisy40", "corrupted"):
        warned = [doubt_of_validation(trajectories(path, validation=kind).runs) is not None for path in paths]
        about = {"dataset": dataset, "epochs": epochs, "validation": kind}
        found.append({**about, "recordings": len(paths), "warned": sum(warned)})
    return found


def markdown(rows: list[dict], rises: list[dict]) -> str:
    lines = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        for epochs in sorted({row["epochs"] for row in rows if row["dataset"] == dataset}):
            here = [r for r in rows if r["dataset"] == dataset and r["epochs"] == epochs and r["first"] == epochs]
            columns = list(dict.fromkeys((row["losses"], row["window"]) for row in here))
            names = list(dict.fromkeys(row["score"] for row in here))
            lines += [f"## {dataset}, {epochs} epochs, {here[0]['seeds']} seeds", ""]
            heads = [f"{losses}, {'raw' if not w else f'window {w:g}'}" for losses, w in columns]
            lines += [
                f"| score | {' | '.join(heads)} | with mean loss | with AUM |",
                "|---|" + "---:|" * (len(heads) + 2),
            ]
            for name in names:
                found = {(row["losses"], row["window"]): row for row in here if row["score"] == name}
                cells = [f"{found[c]['reliability']:.2f}" if c in found else "" for c in columns]
                usual = found.get(("training", 1.0))
                beside = [f"{usual[f'with {other}']:.2f}" if usual else "" for other in ("mean_loss", "aum")]
                lines.append(f"| {name} | {' | '.join([*cells, *beside])} |")
            lines.append("")
    lines += ["## Recordings that hf-ltc score warns of, because their validation loss rises again", ""]
    lines += ["| dataset | epochs | validation samples | recordings | with a warning |", "|---|---:|---|---:|---:|"]
    lines += [f"| {' | '.join(str(value) for value in each.values())} |" for each in rises]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    options = parser.parse_args()
    rows, stopped, rises = [], [], []
    for dataset in DATASETS:
        found = {int(path.name.split("-")[2]) for path in options.runs.glob(f"{dataset}-test_resnet-*-noise0-*.npz")}
        for epochs in sorted(found):
            with np.load(path_of(options.runs, dataset, "test_resnet", epochs, 0.0, options.seeds[0])) as stored:
                windows = [window for window in WINDOWS if f"validation-{window}" in stored]
                about = json.loads(str(stored["about"]))
            print(dataset, epochs, about["test_accuracy"], flush=True)
            rows += table(options.runs, dataset, epochs, options.seeds, windows)
            stopped += stops(options.runs, dataset, epochs, options.seeds)
            rises += rising(options.runs, dataset, epochs, options.seeds)
    settings = {
        "source model": "test_resnet",
        "batch size": about["batch_size"],
        "learning rate": about["learning_rate"],
    }
    command = "python benchmarks/reliability.py"
    tables = {"results": rows, "stops": stopped, "rising validation loss": rises}
    for dataset in DATASETS:
        own = {name: [row for row in each if row["dataset"] == dataset] for name, each in tables.items()}
        write_results(
            results_of(__file__, f"reliability-{dataset}"),
            {"command": command, "settings": settings, **provenance(), **own},
        )
    results_of(__file__).with_suffix(".md").write_text(
        f"Made by `{command}`; reliability.py says how.\n\n{markdown(rows, rises)}"
    )


if __name__ == "__main__":
    main()
