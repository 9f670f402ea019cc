"""Does the weight of uncertainty help with texts? Recordings of several lengths, scored with and without it.

    python benchmarks/weight.py --data DATA [--runs runs/weight] [--partial]

DATA holds the folders banking77, trec and sst2 (train.parquet and test.parquet with `text` and `label`). Each is
recorded with the light model for texts, once for each number of epochs and seed, with its own learning rate schedule.
Fresh models are trained for 1,000 steps of 64 rows on the rows that the default order keeps, with the weight and
without it, and on random rows.

Chosen from banking77: texts and recordings of fewer than 15 epochs are not weighted. Chosen from trec: texts are not
weighted at any length. sst2 had no part in the choice. Finished trials are not repeated. --partial writes the results
so far to results/weight.json and weight.md.
"""

import argparse
import itertools
import json
import statistics
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from candidates import heavy_das
from datasets import Dataset
from recordings import provenance
from result_files import results_of, write_results
from tables import plus_minus

from hf_ltc import EvaluateConfig, RecordConfig, Trajectories, ltc_scores, ltc_typicality, record
from hf_ltc.config import TYPICAL_SHARE
from hf_ltc.coresets.order import coreset_order
from hf_ltc.data.labels import InputColumns, read_labels
from hf_ltc.data.load import load_split
from hf_ltc.evaluation.methods import chosen_rows
from hf_ltc.evaluation.target import train_on
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.training.inputs import Batches, input_batches, stored_inputs
from hf_ltc.training.loop import TrainingConfig
from hf_ltc.training.text.encoders import EMBEDDING_BAG, text_encoder

DATASETS = ("banking77", "trec", "sst2")
EPOCHS, BUDGETS, SEEDS = (5, 10, 12, 15, 30), (0.3, 0.5), (0, 1, 2)
RANDOM, PLAIN, WEIGHTED = "random rows", "without the weight", "with it"
TARGET = TrainingConfig(
    epochs=1, iterations=1000, batch_size=64, optimizer="adamw", learning_rate=1e-2, weight_decay=0.0, augment=False
)


@dataclass(frozen=True)
class Trial:
    """One model, trained on the rows that one way of scoring keeps; random rows have no recording, of 0 epochs."""

    dataset: str
    method: str
    epochs: int
    budget: float
    seed: int

    @property
    def name(self) -> str:
        method = self.method.replace(" ", "-")
        return f"{self.dataset}+{method}+{self.epochs}+{self.budget:g}+seed{self.seed}"


def trials() -> list[Trial]:
    found = []
    for seed, dataset, budget in itertools.product(SEEDS, DATASETS, BUDGETS):
        found.append(Trial(dataset, RANDOM, 0, budget, seed))
        found += [Trial(dataset, *each, budget, seed) for each in itertools.product((PLAIN, WEIGHTED), EPOCHS)]
    return found


@cache
def rows_of(data: Path, dataset: str, split: str) -> Dataset:
    return load_split(data / dataset, split)


@cache
def tokens(data: Path, dataset: str) -> tuple[Batches, Batches]:
    encoder, columns = text_encoder(EMBEDDING_BAG), InputColumns(text="text")
    parts = []
    for split in ("train", "test"):
        rows = rows_of(data, dataset, split)
        parts.append((stored_inputs(rows, columns, encoder), read_labels(rows, "label")))
    train, test = input_batches(EvaluateConfig(), torch.device("cpu"), *parts, what="test rows")
    return train, test


@cache
def recorded(data: Path, runs: Path, dataset: str, epochs: int, seed: int) -> Trajectories:
    folder = runs / f"{dataset}-{epochs}-seed{seed}"
    config = RecordConfig(text_column="text", epochs=epochs, seed=seed, output_dir=str(folder))
    return record(config, rows_of(data, dataset, "train"))


def train_trial(options: argparse.Namespace, trial: Trial) -> dict:
    run = recorded(options.data, options.runs, trial.dataset, trial.epochs or EPOCHS[0], trial.seed)
    size = round(trial.budget * len(run))
    if trial.method == RANDOM:
        rows = chosen_rows("random", run, size, seed=trial.seed)
    else:
        scores = heavy_das(run) if trial.method == WEIGHTED else ltc_scores(run, preset="das")
        rows = np.flatnonzero(
            coreset_order(scores, run.labels, typicality=ltc_typicality(run), typical=TYPICAL_SHARE) < size
        )
    train, test = tokens(options.data, trial.dataset)
    classes = len(rows_of(options.data, trial.dataset, "train").features["label"].names)
    config = replace(TARGET, seed=trial.seed)
    reached = train_on(EMBEDDING_BAG, train.take(run.rows[rows]), test, classes, config, Accelerator(cpu=True))
    return {**asdict(trial), "rows": len(rows), "accuracy": round(reached, 5)}


def table(results: list[dict]) -> str:
    def cell(**asked: object) -> str:
        found = [
            100 * each["accuracy"] for each in results if all(each[name] == value for name, value in asked.items())
        ]
        return plus_minus(statistics.mean(found), statistics.stdev(found)) if len(found) > 1 else ""

    heads = [f"{dataset} {budget:.0%}" for dataset, budget in itertools.product(DATASETS, BUDGETS)]
    lines = [f"| recorded | order | {' | '.join(heads)} |", "|---:|---|" + "---:|" * len(heads)]
    for epochs, method in [(0, RANDOM), *itertools.product(EPOCHS, (PLAIN, WEIGHTED))]:
        cells = [
            cell(dataset=dataset, budget=budget, epochs=epochs, method=method)
            for dataset, budget in itertools.product(DATASETS, BUDGETS)
        ]
        lines.append(f"| {f'{epochs} epochs' if epochs else ''} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/weight"))
    parser.add_argument("--partial", action="store_true", help="write the results that are there")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    folder = options.runs / "cells"
    asked = {trial.name: partial(train_trial, options, trial) for trial in trials()}
    if options.partial:
        paths = [folder / f"{name}.json" for name in asked]
        results = [json.loads(path.read_text()) for path in paths if path.exists()]
    else:
        results = list(run_trials(folder, asked).values())
    command = "python benchmarks/weight.py --data DATA"
    note = f"{len(results)} of {len(asked)} trials are done"
    output = results_of(__file__)
    write_results(output, {"command": command, "note": note, **provenance(), "results": results})
    said = (
        f"Made by `{command}`, which says how. Accuracy in percent, mean ± deviation over seeds. {note.capitalize()}."
    )
    output.with_suffix(".md").write_text(f"{said}\n\n{table(results)}\n")


if __name__ == "__main__":
    main()
