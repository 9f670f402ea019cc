"""How far can recorded losses be compressed before the ranking changes?

    python benchmarks/compression.py [--runs runs/benchmarks] [--datasets cifar100 fashion_mnist] [--seeds 0 1]
                                     [--data DATA]

The recordings are those of recordings.py: training losses, validation losses at averaged weights, 30 epochs and the
untrained model. Each is encoded, decoded and scored, and compared with the score of the original losses: Spearman
correlation within classes, the rows that coresets of 10% and 30% share, and the reliability (the Spearman correlation
of two seeds' scores). The few validation samples are not compressed; with fewer epochs, they have fewer too. Coresets
are by the score alone, because typical rows are drawn from the bits of the losses.
Results are written to results/compression.json and compression.md.

With --data, models are trained on the coresets of some forms, as in coresets.py; each seed has its own recording. The
gain of a form is the accuracy of its coresets above random rows, compared with the gain of the original losses.
Finished trials are not repeated, and you can start several processes at once.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from coresets import Trial, data_of, train_on_rows
from recordings import path_of, provenance, trajectories
from result_files import results_of, write_results
from scipy.fft import dct, idct
from scipy.stats import sem

from hf_ltc import Trajectories, ltc_scores
from hf_ltc.coresets.overlap import overlap
from hf_ltc.evaluation.methods import RANDOM, chosen_rows
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.scores.ltc import DEFAULT_PRESET
from hf_ltc.scores.reliability import within_class_spearman
from hf_ltc.trajectories.combine import take_checkpoints

VARIANTS = {"default": {}, "das": {"preset": "das"}, "cld": {"preset": "cld"}, "ltc": {"preset": "ltc"}}
BUDGETS = (0.1, 0.3)
# Losses between which logarithms are told apart.
_LOWEST, _HIGHEST = 1e-4, 20.0
_ZSTD = pa.Codec("zstd", compression_level=3)
# The forms whose coresets models are trained on, from the finest to the coarsest.
TRAINED = (
    RANDOM,
    "float32",
    "8 bits of the logarithm",
    "4 bits of the logarithm",
    "every 2nd epoch",
    "every 5th epoch",
    "every 10th epoch",
    "8 cosines, float16",
    "4 cosines, float16",
)
# The recording as it is read again, and the bytes of its losses.
Coded = tuple[Trajectories, int]


def as_type(run: Trajectories, kind: type) -> Coded:
    stored = run.losses.astype(kind)
    return with_losses(run, stored.astype(np.float32)), stored.nbytes


def as_bfloat16(run: Trajectories) -> Coded:
    """Float32 without its last two bytes, to the nearest."""
    bits = run.losses.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return with_losses(run, rounded.view(np.float32)), 2 * run.losses.size


def as_logarithms(run: Trajectories, bits: int) -> Coded:
    """Evenly spaced logarithms of losses."""
    low, high = np.log(_LOWEST), np.log(_HIGHEST)
    steps = 2**bits - 1
    places = np.rint((np.log(np.clip(run.losses, _LOWEST, _HIGHEST)) - low) / (high - low) * steps)
    return with_losses(run, np.exp(places / steps * (high - low) + low)), run.losses.size * bits // 8


def of_every(run: Trajectories, step: int) -> Coded:
    """Losses of every so many epochs, the untrained model, and the last epoch."""
    last = len(run.epochs) - 1
    kept = take_checkpoints(run, np.unique([*range(0, last, step), last]))
    return kept, kept.losses.nbytes


def of_cosines(run: Trajectories, count: int) -> Coded:
    """The first coefficients of a cosine transform over the checkpoints, as float16."""
    found = dct(run.losses, axis=0, norm="ortho")[:count].astype(np.float16)
    padded = np.zeros_like(run.losses)
    padded[:count] = found
    return with_losses(run, idct(padded, axis=0, norm="ortho")), found.nbytes


def zipped(run: Trajectories, kind: type) -> Coded:
    """Bytes of the same place together, epoch by epoch, compressed by zstd: the losses come back as they were."""
    stored = run.losses.astype(kind)
    size = 0
    for losses in stored:
        by_place = losses.view(np.uint8).reshape(-1, stored.itemsize).T
        size += len(_ZSTD.compress(np.ascontiguousarray(by_place).tobytes()))
    return with_losses(run, stored.astype(np.float32)), size


def with_losses(run: Trajectories, losses: np.ndarray) -> Trajectories:
    fields = ("validation_losses", "labels", "validation_labels", "rows", "validation_rows", "epochs", "lengths")
    return Trajectories(
        losses=np.ascontiguousarray(losses, dtype=np.float32), **{name: getattr(run, name) for name in fields}
    )


CODES: dict[str, Callable[[Trajectories], Coded]] = {
    "float32": lambda run: as_type(run, np.float32),
    "float32, bytes split, zstd": lambda run: zipped(run, np.float32),
    "float16": lambda run: as_type(run, np.float16),
    "float16, bytes split, zstd": lambda run: zipped(run, np.float16),
    "bfloat16": as_bfloat16,
    "8 bits of the logarithm": lambda run: as_logarithms(run, 8),
    "6 bits of the logarithm": lambda run: as_logarithms(run, 6),
    "4 bits of the logarithm": lambda run: as_logarithms(run, 4),
    "every 2nd epoch": lambda run: of_every(run, 2),
    "every 3rd epoch": lambda run: of_every(run, 3),
    "every 5th epoch": lambda run: of_every(run, 5),
    "every 10th epoch": lambda run: of_every(run, 10),
    "16 cosines, float16": lambda run: of_cosines(run, 16),
    "8 cosines, float16": lambda run: of_cosines(run, 8),
    "4 cosines, float16": lambda run: of_cosines(run, 4),
}


def measured(runs: Path, dataset: str, seeds: list[int]) -> list[dict]:
    """A record of each code and variant, the mean over the seeds."""
    whole = [trajectories(path_of(runs, dataset, "test_resnet", 30, 0.0, seed)) for seed in seeds]
    labels = whole[0].labels
    expected = {name: [ltc_scores(run, **variant) for run in whole] for name, variant in VARIANTS.items()}
    found = []
    for code, encode in CODES.items():
        coded = [encode(run) for run in whole]
        for name, variant in VARIANTS.items():
            scores = [ltc_scores(run, **variant) for run, _ in coded]
            shared = [overlap(one, two, labels) for one, two in zip(scores, expected[name])]
            pairs = [(scores[i], scores[j]) for j in range(len(seeds)) for i in range(j)]
            found.append(
                {
                    "dataset": dataset,
                    "code": code,
                    "variant": name,
                    "bytes_a_row": statistics.mean(size / len(run) for run, size in coded),
                    "spearman": statistics.mean(
                        within_class_spearman(one, two, labels) for one, two in zip(scores, expected[name])
                    ),
                    **{
                        f"overlap_{fraction}": statistics.mean(each[fraction] for each in shared)
                        for fraction in BUDGETS
                    },
                    "reliability": statistics.mean(within_class_spearman(*pair, labels) for pair in pairs),
                }
            )
    return found


def gains(trained: list[dict]) -> dict[tuple[str, float, str], list[float]]:
    """By dataset, budget and form, the accuracy of each seed less that on random rows, in points."""
    reached = {(each["dataset"], each["fraction"], each["code"], each["seed"]): each["accuracy"] for each in trained}
    found: dict[tuple[str, float, str], list[float]] = {}
    for (dataset, fraction, code, seed), accuracy in reached.items():
        if all((dataset, fraction, each, seed) in reached for each in TRAINED):
            gain = 100 * (accuracy - reached[dataset, fraction, RANDOM, seed])
            found.setdefault((dataset, fraction, code), []).append(gain)
    return found


def gain_table(trained: list[dict], datasets: list[str]) -> list[str]:
    """What the coresets of each form are worth: the gain in each setting, and its mean beside that of float32."""
    found, every = gains(trained), [(dataset, fraction) for dataset in datasets for fraction in BUDGETS]
    settings = [setting for setting in every if (*setting, RANDOM) in found]
    whole = statistics.mean(statistics.mean(found[*setting, "float32"]) for setting in settings)
    said = ["## What models reach", "", "Points above random rows, score alone, mean ± standard error.", ""]
    heads = [f"{name} {fraction:.0%}, n = {len(found[name, fraction, RANDOM])}" for name, fraction in settings]
    said.append(f"| losses | {' | '.join(heads)} | mean | of the gain |")
    said.append(f"|---{'|---' * (len(settings) + 2)}|")
    for code in (code for code in TRAINED if code != RANDOM):
        each = [found[*setting, code] for setting in settings]
        cells = [f"{statistics.mean(v):+.1f}" for v in each]
        cells = [f"{cell} ± {sem(v):.1f}" if len(v) > 1 else cell for cell, v in zip(cells, each)]
        mean = statistics.mean(map(statistics.mean, each))
        said.append(f"| {code} | {' | '.join(cells)} | {mean:+.1f} | {mean / whole:.0%} |")
    return [*said, ""]


def markdown(results: list[dict], trained: list[dict], datasets: list[str]) -> str:
    """What models reach, and for each variant a table: the codes, each number as the mean over the datasets."""
    said = gain_table(trained, datasets) if trained else []
    for name in VARIANTS:
        said += [f"## {name}", "", "| losses | bytes a row | Spearman | shared at 10% | at 30% | reliability |"]
        said.append("|---|---|---|---|---|---|")
        for code in CODES:
            here = [each for each in results if (each["variant"], each["code"]) == (name, code)]
            values = {key: statistics.mean(each[key] for each in here) for key in here[0] if key not in _NAMES}
            cells = [f"{values['bytes_a_row']:.0f}", f"{values['spearman']:.3f}"]
            cells += [f"{100 * values[f'overlap_{fraction}']:.0f}%" for fraction in BUDGETS]
            # Of each dataset, since these differ.
            cells.append(", ".join(f"{each['reliability']:.2f}" for each in here))
            said.append(f"| {code} | {' | '.join(cells)} |")
        said.append("")
    return "\n".join([f"Tables of variants: means over {' and '.join(datasets)}; reliability of each.", "", *said])


_NAMES = ("dataset", "code", "variant")


def accuracies(options: argparse.Namespace) -> list[dict]:
    """A record of each form, dataset, budget and seed: the accuracy of a model trained on its coreset."""
    found = [
        {"dataset": dataset, "code": code, "fraction": fraction, "seed": seed}
        for seed in options.targets
        for dataset in options.datasets
        for fraction in BUDGETS
        for code in TRAINED
    ]

    def train(dataset: str, code: str, fraction: float, seed: int) -> dict:
        data = data_of(options.data, dataset, 0.0)
        run = trajectories(path_of(options.runs, dataset, "test_resnet", 30, 0.0, seed))
        method = RANDOM if code == RANDOM else DEFAULT_PRESET
        coded = run if code == RANDOM else CODES[code](run)[0]
        rows = chosen_rows(method, coded, round(fraction * len(data.rows)), seed=seed)
        return {"accuracy": train_on_rows(data, rows, Trial(dataset, method, fraction, seed))}

    todo = {"+".join(map(str, each.values())): partial(train, **each) for each in found}
    folder = options.runs / "compression"
    if options.partial:
        done = {name: folder / f"{name}.json" for name in todo}
        results = {name: json.loads(path.read_text()) for name, path in done.items() if path.exists()}
    else:
        results = run_trials(folder, todo, "compression")
    return [each | results[name] for name, each in zip(todo, found) if name in results]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--datasets", nargs="+", default=["cifar100", "fashion_mnist"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--data", type=Path, help="as for recordings.py: train models on the coresets")
    parser.add_argument("--targets", type=int, nargs="+", default=[0, 1, 2], help="seeds of these models (0 1 2)")
    parser.add_argument("--partial", action="store_true", help="take the models that are trained already")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    trained = accuracies(options) if options.data else []
    results = [each for dataset in options.datasets for each in measured(options.runs, dataset, options.seeds)]
    command = f"python benchmarks/compression.py --datasets {' '.join(options.datasets)} --seeds "
    command += " ".join(map(str, options.seeds))
    if trained:
        command += f" --data DATA --targets {' '.join(map(str, options.targets))}{' --partial' * options.partial}"
    output = results_of(__file__)
    made = {"command": command, **provenance(), "results": results, "accuracies": trained}
    write_results(output, made)
    text = f"Made by `{command}`.\n\n{markdown(results, trained, options.datasets)}"
    output.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
