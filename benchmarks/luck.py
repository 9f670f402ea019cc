"""The luck of a recording: how similar are the coresets of two recordings, and what does another recording change?

    python benchmarks/recordings.py --data DATA --seeds 0 1 2                                  # first
    python benchmarks/luck.py --data DATA [--runs runs/benchmarks]

Overlap: the share of rows that the coresets of two recordings have in common if only the seed differs. The same for a
recording and two others joined by their mean scores (as in hf_ltc) or by their mean ranks.

Accuracy: target models of three seeds on the coresets of each of three recordings, to separate the luck of the
recording from that of the target; also on the coresets of two recordings joined either way. 500 steps, as in
coresets.py; it shares its trials, and does not repeat them.
"""

import argparse
import itertools
import statistics
from functools import lru_cache, partial
from pathlib import Path

import coresets
import numpy as np
import torch
from coresets import DATASETS, Trial, recording, train_trial
from recordings import provenance
from result_files import results_of, write_results
from tables import plus_minus

from hf_ltc import Trajectories, ltc_scores
from hf_ltc.config import TYPICAL_ROWS
from hf_ltc.coresets.order import coreset_order
from hf_ltc.evaluation.methods import DEFAULT_METHOD
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.scores.typicality import typicality_for

SEEDS = (0, 1, 2)
BUDGETS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
TRAINED = (0.05, 0.1, 0.3)
RANKS = "mean-ranks"


@lru_cache
def ranks_of(runs: Path, dataset: str, numbers: tuple[int, ...], by: str) -> np.ndarray:
    each = recording(runs, Trial(dataset, "", runs=numbers))
    if by == RANKS:
        ranks = [_ranks(run) for run in each]
        return coreset_order(-np.mean(ranks, axis=0), each[0].labels)
    return _ranks(Trajectories.average(each))


def _ranks(run: Trajectories) -> np.ndarray:
    keys = typicality_for(run, TYPICAL_ROWS)
    return coreset_order(ltc_scores(run), run.labels, typicality=keys)


def overlaps(runs: Path) -> list[dict]:
    """Of one recording with another, and of one with two others, at each budget."""
    found = []
    for dataset, budget in itertools.product(DATASETS, BUDGETS):
        kept: dict[str, list[float]] = {"one and one": [], "one and two": [], f"one and two, {RANKS}": []}

        def shared(one: np.ndarray, two: np.ndarray, budget: float = budget) -> float:
            size = round(budget * len(one))
            return float(((one < size) & (two < size)).sum() / size)

        for seed in SEEDS:
            others = tuple(number for number in SEEDS if number != seed)
            alone = ranks_of(runs, dataset, (seed,), "scores")
            kept["one and one"] += [shared(alone, ranks_of(runs, dataset, (o,), "scores")) for o in others if o > seed]
            kept["one and two"].append(shared(alone, ranks_of(runs, dataset, others, "scores")))
            kept[f"one and two, {RANKS}"].append(shared(alone, ranks_of(runs, dataset, others, RANKS)))
        means = {name: round(statistics.mean(each), 3) for name, each in kept.items()}
        found.append({"dataset": dataset, "budget": budget, **means})
    return found


def trials() -> dict[str, Trial]:
    """One recording for each target; two joined by scores, and by ranks."""
    made = {}
    for dataset, fraction, seed in itertools.product(DATASETS, TRAINED, SEEDS):
        at = {"dataset": dataset, "fraction": fraction, "seed": seed}
        joined = tuple(number for number in SEEDS if number != seed)
        each = [Trial(method=DEFAULT_METHOD, runs=(number,), **at) for number in SEEDS]
        each += [Trial(method=name, runs=joined, **at) for name in (DEFAULT_METHOD, RANKS)]
        made |= {trial.name: trial for trial in each}
    return made


def rows_of(runs: Path, trial: Trial, pool: int) -> np.ndarray:
    if trial.method != RANKS:
        return _rows_of(runs, trial, pool)
    return np.flatnonzero(ranks_of(runs, trial.dataset, trial.runs, RANKS) < round(trial.fraction * pool))


# The trials of coresets.py choose their rows by this name.
_rows_of, coresets.rows_of = coresets.rows_of, rows_of


def luck(results: list[dict]) -> list[dict]:
    """Deviations of the target's and the recording's luck, and the accuracies of joined recordings."""
    found = []
    for dataset, fraction in itertools.product(DATASETS, TRAINED):
        here = [each for each in results if (each["dataset"], each["fraction"]) == (dataset, fraction)]
        table = np.zeros((len(SEEDS), len(SEEDS)))
        for each in here:
            if len(each["runs"]) == 1:
                table[each["runs"][0], each["seed"]] = 100 * each["accuracy"]
        joined = {
            name: [100 * each["accuracy"] for each in here if len(each["runs"]) > 1 and each["method"] == name]
            for name in (DEFAULT_METHOD, RANKS)
        }
        # Analysis of variance with one observation a cell: recordings by targets.
        rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
        noise = float((rest**2).sum() / (len(SEEDS) - 1) ** 2)
        between = float(len(SEEDS) * table.mean(axis=1).var(ddof=1))
        found.append(
            {
                "dataset": dataset,
                "fraction": fraction,
                "one": [float(value) for value in table.flatten()],
                "by recording": [float(value) for value in table.mean(axis=1)],
                "deviation of recordings": max(0.0, (between - noise) / len(SEEDS)) ** 0.5,
                "deviation of the rest": noise**0.5,
                "two by scores": joined[DEFAULT_METHOD],
                "two by ranks": joined[RANKS],
            }
        )
    return found


def text(shared: list[dict], lost: list[dict]) -> str:
    names = [name for name in shared[0] if name not in ("dataset", "budget")]
    lines = [f"| overlap | kept | {' | '.join(names)} |", "|---|---:|" + "---:|" * len(names)]
    for each in shared:
        cells = " | ".join(f"{each[name]:.2f}" for name in names)
        lines.append(f"| {each['dataset']} | {each['budget']:.0%} | {cells} |")
    lines += [
        "",
        "| accuracy | kept | one recording | worst and best recording | deviation of recordings | of the rest "
        "| two, mean scores | two, mean ranks |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for each in lost:
        one, two, ranks = (
            plus_minus(statistics.mean(each[name]), statistics.stdev(each[name]))
            for name in ("one", "two by scores", "two by ranks")
        )
        recordings = f"{min(each['by recording']):.1f} to {max(each['by recording']):.1f}"
        lines.append(
            f"| {each['dataset']} | {each['fraction']:.0%} | {one} | {recordings} "
            f"| {each['deviation of recordings']:.2f} | {each['deviation of the rest']:.2f} | {two} | {ranks} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    shared = overlaps(options.runs)
    asked = trials()
    todo = {name: partial(train_trial, options, trial) for name, trial in asked.items()}
    results = list(run_trials(options.runs / "cells", todo, "luck").values())
    lost = luck(results)
    command = "python benchmarks/luck.py --data DATA"
    output = results_of(__file__)
    write_results(output, {"command": command, **provenance(), "overlap": shared, "luck": lost, "results": results})
    said = "Mean ± deviation; one recording: 9 models, two: 3. The three recordings differ in nothing but the seed."
    output.with_suffix(".md").write_text(f"Made by `{command}`. {said}\n\n{text(shared, lost)}\n")


if __name__ == "__main__":
    main()
