"""Are coresets better than random rows where the mean validation loss rises while the train rows are learned?

    python benchmarks/recordings.py --data DATA    # first; also --epochs 5 10, and --plain, for the datasets below
    python benchmarks/rise.py --data DATA [--runs runs/benchmarks]

It rises with wrong labels or images of another kind among the validation samples, and where a source model overfits,
as without augmentation. Then all rows are ranked by typicality, which does not look at validation samples. That is
compared with the order that was the default before, which follows them, and with random rows. A fresh test_resnet is
trained for 500 steps on what each keeps, as in coresets.py.

Results go to results/rise.json and rise.md. Finished trials are not repeated, and you can start several processes at
once.
"""

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from coresets import Trial, data_of, mark, protocol, train_on_rows
from recordings import path_of, provenance, trajectories
from result_files import results_of, write_results
from tables import plus_minus

from hf_ltc import Trajectories, ltc_scores
from hf_ltc.config import TYPICAL_ROWS
from hf_ltc.coresets.order import coreset_order
from hf_ltc.evaluation.methods import RANDOM, chosen_rows
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.scores.protocol import is_short
from hf_ltc.scores.rise import find_rise
from hf_ltc.scores.typicality import ltc_typicality

FRACTIONS = (0.1, 0.3)
TYPICAL, FOLLOWING = "all by typicality", "following the validation samples"


@dataclass(frozen=True)
class Recording:
    """A recording, and the validation samples that its scores follow."""

    dataset: str
    epochs: int = 30
    seed: int = 0
    validation: str = "clean"
    augmented: bool = True

    def load(self, runs: Path) -> Trajectories:
        path = path_of(runs, self.dataset, "test_resnet", self.epochs, 0.0, self.seed, self.augmented)
        return trajectories(path, validation=self.validation)


KINDS = {
    "clean": "correct",
    "noisy20": "20% wrong labels",
    "noisy40": "40% wrong labels",
    "corrupted": "strong Gaussian noise",
}
RECORDINGS = (
    *(
        Recording(dataset, 30, seed, kind)
        for seed in range(3)
        for dataset in ("cifar100", "fashion_mnist")
        for kind in KINDS
    ),
    *(Recording("cifar10", validation=kind) for kind in KINDS),
    *(
        Recording(dataset, epochs, seed, "noisy40")
        for seed in range(2)
        for epochs in (5, 10)
        for dataset in ("cifar100", "fashion_mnist", "clothing")
    ),
    *(Recording(dataset, augmented=False) for dataset in ("cifar100", "cifar10", "fashion_mnist", "clothing")),
)


def trials_of(recording: Recording) -> dict[str, tuple[Recording, str, float]]:
    """By name; what does not look at validation samples, or at a recording, is the same for several of them."""
    found = {}
    for fraction in FRACTIONS:
        for method in (RANDOM, TYPICAL, FOLLOWING):
            of = recording if method == FOLLOWING else replace(recording, validation="clean")
            of = Recording(of.dataset, seed=of.seed) if method == RANDOM else of
            about = f"{of.epochs}-{of.validation}-{'augmented' if of.augmented else 'plain'}-seed{of.seed}"
            found[f"{of.dataset}+{method.replace(' ', '-')}+{about}+{fraction:g}"] = (of, method, fraction)
    return found


def rows_of(run: Trajectories, method: str, size: int, seed: int) -> np.ndarray:
    if method == RANDOM:
        return chosen_rows(RANDOM, run, size, seed=seed)
    typicality = ltc_typicality(run)
    if method == TYPICAL:
        order = coreset_order(np.zeros(len(run)), run.labels, typicality=typicality, typical=1)
    else:
        typical = 0 if is_short(run) else TYPICAL_ROWS
        order = coreset_order(ltc_scores(run), run.labels, typicality=typicality, typical=typical)
    return np.flatnonzero(order < size)


def train_trial(options: argparse.Namespace, recording: Recording, method: str, fraction: float) -> dict:
    started = time.perf_counter()
    data = data_of(options.data, recording.dataset, 0.0)
    trial = Trial(recording.dataset, method, fraction, recording.seed)
    rows = rows_of(recording.load(options.runs), method, round(fraction * len(data.rows)), recording.seed)
    accuracy = train_on_rows(data, rows, trial)
    seconds = round(time.perf_counter() - started, 2)
    return {**asdict(recording), "method": method, "fraction": fraction, "accuracy": accuracy, "seconds": seconds}


def table(results: dict[str, dict], rises: dict[Recording, bool]) -> str:
    cases: dict[tuple, list[Recording]] = {}
    for each in RECORDINGS:
        cases.setdefault((each.dataset, each.epochs, each.validation, each.augmented), []).append(each)
    heads = [f"{method}, {fraction:.0%}" for method in (RANDOM, TYPICAL, FOLLOWING) for fraction in FRACTIONS]
    lines = [
        f"| dataset | epochs | validation samples | rises | {' | '.join(heads)} |",
        "|---|---:|---|---:|" + "---:|" * len(heads),
    ]
    for (dataset, epochs, kind, augmented), recordings in cases.items():
        said = KINDS[kind] + ("" if augmented else ", no augmentation")
        counted = f"{sum(rises[each] for each in recordings)} of {len(recordings)}"
        cells = []
        for method in (RANDOM, TYPICAL, FOLLOWING):
            for fraction in FRACTIONS:
                found = [
                    results.get(name)
                    for each in recordings
                    for name, (_, how, share) in trials_of(each).items()
                    if (how, share) == (method, fraction)
                ]
                known = [100 * one["accuracy"] for one in found if one is not None]
                spread = statistics.stdev(known) if len(known) > 1 else None
                few = f" ({len(known)})" if 0 < len(known) < len(recordings) else ""
                cells.append(plus_minus(statistics.mean(known), spread) + few if known else "")
        lines.append(f"| {dataset} | {epochs} | {said} | {counted} | {' | '.join(cells)} |")
    return "Accuracy in percent, mean ± deviation over seeds.\n\n" + "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--partial", action="store_true", help="write the results that are there")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    asked = {name: trial for each in RECORDINGS for name, trial in trials_of(each).items()}
    folder = options.runs / "rise"
    if options.partial:
        there = {name: folder / f"{name}.json" for name in asked}
        results = {name: json.loads(path.read_text()) for name, path in there.items() if path.exists()}
    else:
        results = run_trials(folder, {name: partial(train_trial, options, *trial) for name, trial in asked.items()})
    rises = {each: find_rise(each.load(options.runs)) is not None for each in RECORDINGS}
    made = {
        "command": "python benchmarks/rise.py --data DATA",
        "protocol": protocol(
            "rise",
            [
                Trial(each.dataset, TYPICAL, seed=each.seed, runs=(each.seed,), recorded=each.epochs)
                for each in RECORDINGS
            ],
        ),
        "training": mark(Trial("cifar100", TYPICAL)),
        "note": f"{len(results)} of {len(asked)} trials are done",
        **provenance(),
    }
    write_results(results_of(__file__), {**made, "results": list(results.values())})
    said = f"Made by `{made['command']}`; rise.py says how. {made['note'].capitalize()}."
    results_of(__file__).with_suffix(".md").write_text(f"{said}\n\n{table(results, rises)}\n")


if __name__ == "__main__":
    main()
