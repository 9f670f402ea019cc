"""What are coresets worth to models that are trained until they converge? The default against all other methods.

    python benchmarks/recordings.py --data DATA --windows 1 --evaluated --datasets ...    # first, with the same --runs
    python benchmarks/converged.py --data DATA [--runs runs/benchmarks] [--seeds 5]

A fresh test_resnet is trained on the rows that each method keeps, with augmentation (none for digits), for 40 epochs
of them and at least 500 steps. So the one cycle of the learning rate ends where the learning curve is flat. Each seed
has its own target, draws and recording, so the deviation includes their luck; of the large datasets, which have all
of their rows, there is one recording.

SETTINGS lists what is trained, in order: a few seeds of every setting come first. Finished trials are not repeated,
including those in converged.json, and you can start several processes at once. --partial writes the results so far to
results/converged.json and converged.md.
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from data import AUGMENTED, LARGE, Data
from orders import ODDS, OTHERS, VARIANTS, Recorded
from recordings import OPTIMIZERS, STEMS, path_of, provenance, trajectories
from regret import report
from result_files import read_results, results_of, write_results

from hf_ltc.evaluation.methods import DEFAULT_METHOD, FULL, RANDOM, chosen_rows, method_scores
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.scores.ltc import DEFAULT_PRESET
from hf_ltc.training.forward import evaluate
from hf_ltc.training.loop import TrainingConfig, plain_model, prepare_training, train_epoch, training_epochs
from hf_ltc.training.metrics import LossBuffer, per_sample_metrics
from hf_ltc.training.models import create_model
from hf_ltc.utils.files import write_json

PASSES, STEPS, BATCH, RATE = 40, 500, 64, 0.1
SOURCE = "test_resnet"
MAIN = (RANDOM, DEFAULT_METHOD, DEFAULT_PRESET, "dual_beta", "ccs", "aum")
HIGH = (RANDOM, DEFAULT_METHOD, DEFAULT_PRESET, "dual_beta")
REST = (*VARIANTS, "das", "ltc", "cld", "mean_loss", "dyn_unc", *OTHERS)
# What the number of rows was chosen from over which the default's odds move.
CHOSEN_FROM = tuple(name for name in ODDS if "moving" in name)
# What the number of typical rows was chosen from; a tenth was the default before.
TENTH = ("typical 0.1",)
FIXED = (*TENTH, "typical 15 rows", "typical 25 rows")
# Datasets that no part of the rule was chosen on. cifar10 decided for 25 typical rows of each class instead of 15.
UNSEEN = ("clothing",)


@dataclass(frozen=True)
class Setting:
    """Methods compared on a dataset; a budget below 1 is a share of the candidate rows, others rows of each class."""

    dataset: str
    budgets: tuple[float, ...]
    methods: tuple[str, ...] = MAIN
    noise: float = 0.0
    target: str = SOURCE
    # Seeds that are trained before any setting has all of them.
    first: tuple[int, ...] = (0,)

    def trials(self, seeds: Iterable[int]) -> "list[Trial]":
        return [
            Trial(self.dataset, method, budget, seed, self.noise, self.target)
            for seed in seeds
            for budget in self.budgets
            for method in self.methods
        ]


SMALL = (0.05, 0.1, 0.2, 0.3)
SETTINGS = (
    *(Setting(name, SMALL) for name in ("cifar100", "fashion_mnist", "mnist", "digits")),
    Setting("digits", (0.5, 0.7, 0.9)),
    *(Setting(name, (5, 10, 50)) for name in ("cifar100", "fashion_mnist")),
    Setting("digits", SMALL, first=(1, 2, 3, 4)),
    Setting("cifar10", SMALL, first=(0, 1, 2)),
    Setting("clothing", (0.1, 0.3), (*MAIN, "mean_loss"), first=(0, 1)),
    Setting("cifar100_imbalanced", (0.1, 0.3, 0.5)),
    *(Setting(name, SMALL[:2], first=(1, 2)) for name in ("mnist", "fashion_mnist", "cifar100")),
    Setting("digits", (0.05,), (RANDOM, DEFAULT_METHOD, "typical, even odds"), first=tuple(range(40))),
    Setting("digits", (0.05,), ("typical, odds of 10%", *CHOSEN_FROM), first=tuple(range(20))),
    Setting("fashion_mnist", (5, 0.05), CHOSEN_FROM, first=(0, 1, 2)),
    Setting("cifar100", (0.05,), CHOSEN_FROM, first=(0, 1, 2)),
    *(
        Setting(name, (0.05, 0.1), FIXED, first=(0, 1, 2))
        for name in ("cifar100", "fashion_mnist", "mnist", "cifar10")
    ),
    *(Setting(name, (50,), FIXED) for name in ("cifar100", "fashion_mnist")),
    *(Setting(name, (0.7, 0.9), TENTH) for name in ("cifar100", "fashion_mnist")),
    *(Setting(name, (0.1,), TENTH, noise=0.2) for name in ("cifar100", "fashion_mnist")),
    Setting("cifar100_imbalanced", (0.3, 0.5), TENTH, first=(0, 1, 2)),
    *(Setting(name, (0.2, 0.3), TENTH, first=(0, 1, 2)) for name in ("cifar100", "fashion_mnist", "mnist", "cifar10")),
    # Other architectures train on what test_resnet chose.
    *(
        Setting("cifar100", (0.1, 0.3), (RANDOM, DEFAULT_METHOD, "dual_beta"), target=target)
        for target in ("test_efficientnet", "test_vit")
    ),
    # Of so many rows of a class, is it the number or the share of typical ones that counts?
    *(Setting(name, (0.01, 0.02, 0.05), (*HIGH, "typical 0.025", *TENTH), first=(0, 1, 2)) for name in LARGE),
    *(Setting(name, (0.1,), noise=0.2) for name in ("cifar100", "fashion_mnist")),
    *(Setting(name, (0.5,), (*HIGH, *TENTH)) for name in ("cifar100", "fashion_mnist", "mnist")),
    *(Setting(name, (0.1,), REST) for name in ("cifar100", "fashion_mnist", "digits", "mnist")),
    Setting("cifar100_fine", (0.1,)),
    *(Setting(name, (1,), (FULL,)) for name in ("cifar100", "fashion_mnist", "mnist", "digits")),
    Setting("cifar100_imbalanced", (1,), (FULL,)),
    *(Setting(name, (0.7, 0.9), (RANDOM, DEFAULT_METHOD, "dual_beta")) for name in ("cifar100", "fashion_mnist")),
    *(Setting(name, (0.3,), noise=0.2) for name in ("cifar100", "fashion_mnist")),
    Setting("cifar100", (0.1, 0.3), noise=0.4),
    Setting("cifar100_imbalanced", (0.1, 0.3, 0.5), first=(1, 2)),
    *(Setting(name, SMALL[2:], first=(1, 2)) for name in ("mnist", "fashion_mnist", "cifar100")),
    Setting("cifar100_fine", (0.3,)),
    *(Setting(name, (0.05, 0.3), REST) for name in ("cifar100", "fashion_mnist", "digits", "mnist")),
    *(Setting(name, (0.7, 0.9), HIGH) for name in ("cifar100", "fashion_mnist", "mnist")),
    Setting("cifar100_fine", (1,), (FULL,)),
    Setting("digits", SMALL[:2], (*VARIANTS, *ODDS), first=(0, 1, 2, 3, 4)),
    *(Setting(name, (5,), (*MAIN, *ODDS), first=(1, 2)) for name in ("fashion_mnist", "cifar100")),
    *(Setting(name, (5, 10, 0.05, 0.1), tuple(ODDS)) for name in ("fashion_mnist", "cifar100", "mnist")),
)


@dataclass(frozen=True)
class Trial:
    """One model, trained on the rows that one method chose."""

    dataset: str
    method: str
    budget: float
    seed: int
    noise: float = 0.0
    target: str = SOURCE

    @property
    def name(self) -> str:
        noise = f"+noise{self.noise:g}" if self.noise else ""
        target = f"+{self.target}" if self.target != SOURCE else ""
        method = self.method.replace(",", "").replace(" ", "-")
        return f"{self.dataset}{noise}{target}+{method}+{self.budget:g}+seed{self.seed}"


def trials_of(seeds: int) -> list[Trial]:
    found = [trial for each in SETTINGS for trial in each.trials(each.first)]
    return list(dict.fromkeys([*found, *(trial for each in SETTINGS for trial in each.trials(range(seeds)))]))


@lru_cache(maxsize=3)
def data_of(folder: Path, name: str, noise: float) -> Data:
    return Data(folder, name, noise=noise)


@lru_cache(maxsize=3)
def recorded(runs: Path, dataset: str, noise: float, seed: int) -> Recorded:
    path = path_of(runs, dataset, SOURCE, 30, noise, 0 if dataset in LARGE else seed)
    with np.load(path) as stored:
        features = stored.get("features")
    return Recorded(trajectories(path), features)


@lru_cache(maxsize=64)
def scores_of(runs: Path, dataset: str, noise: float, seed: int, method: str) -> np.ndarray:
    return method_scores(method, recorded(runs, dataset, noise, seed).run)


def rows_of(runs: Path, trial: Trial, pool: int, classes: int) -> np.ndarray:
    if trial.method == FULL:
        return np.arange(pool)
    size = round(trial.budget * pool) if trial.budget < 1 else round(trial.budget * classes)
    where = (runs, trial.dataset, trial.noise, trial.seed)
    if chooser := {**VARIANTS, **ODDS, **OTHERS}.get(trial.method):
        return chooser(recorded(*where), size, trial.seed)
    scores = None if trial.method == RANDOM else scores_of(*where, trial.method)
    return chosen_rows(trial.method, recorded(*where).run, size, seed=trial.seed, scores=scores)


def training_of(trial: Trial, rows: int) -> TrainingConfig:
    optimizer, rate = OPTIMIZERS.get(trial.target, ("sgd", RATE))
    return TrainingConfig(
        epochs=1,
        iterations=max(STEPS, PASSES * -(-rows // BATCH)),
        batch_size=BATCH,
        optimizer=optimizer,
        learning_rate=rate,
        weight_decay=0.05 if optimizer == "adamw" else 5e-4,
        augment=AUGMENTED[trial.dataset],
        seed=trial.seed,
    )


def right_by_class(data: Data, rows: np.ndarray, target: str, config: TrainingConfig) -> list[float]:
    """The accuracy on the test rows of each class, of a model trained on some rows."""
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    set_seed(config.seed)
    network = create_model(target, data.classes, data.size, stem=STEMS.get(target, "imagenet"))
    state = prepare_training(network, len(rows), config, accelerator, channels_last=True)
    train = data.train.take(rows)
    for _ in range(training_epochs(len(rows), config, 1)):
        train_epoch(state, train, config, accelerator)
    buffer = LossBuffer(["correct"], len(data.test))
    model = plain_model(state, accelerator)

    def add(at: torch.Tensor, losses: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        buffer.add(at, *per_sample_metrics(["correct"], logits, labels))

    evaluate(model, data.test, accelerator, add, 512)
    correct = buffer.collect(None, 0, np.arange(len(data.test)))["correct"]
    accelerator.free_memory()
    return [round(float(correct[data.test.labels.numpy() == c].mean()), 6) for c in range(data.classes)]


def train_trial(options: argparse.Namespace, trial: Trial) -> dict:
    started = time.perf_counter()
    data = data_of(options.data, trial.dataset, trial.noise)
    rows = rows_of(options.runs, trial, len(data.rows), data.classes)
    config = training_of(trial, len(rows))
    by_class = np.array(right_by_class(data, rows, trial.target, config))
    tested = np.bincount(data.test.labels.numpy(), minlength=data.classes)
    natural = np.bincount(data.true, minlength=data.classes)
    return {
        **asdict(trial),
        "training": mark(trial),
        "rows": len(rows),
        "steps": config.iterations,
        "accuracy": float(by_class @ tested / tested.sum()),
        # With the classes as frequent as among the candidate rows.
        "natural": float(by_class @ natural / natural.sum()),
        "wrong": float((data.labels[rows] != data.true[rows]).mean()),
        "seconds": round(time.perf_counter() - started, 1),
    }


def mark(trial: Trial) -> str:
    """A digest of how a trial's model is trained, which its name does not say."""
    settings = [asdict(training_of(trial, 1)), PASSES, STEPS, STEMS.get(trial.target, "imagenet")]
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def rounded(result: dict) -> dict:
    """A result as it is stored: to a hundredth of a test row, without rows and steps, which follow from the budget, by
    natural classes only where that is shown, and its target if it is another one."""
    natural = result["natural"] if "imbalanced" in result["dataset"] else None
    kept = {name: value for name, value in {**result, "natural": natural}.items() if name not in ("rows", "steps")}
    if kept["target"] == SOURCE:
        del kept["target"]
    kept["seconds"] = round(kept["seconds"])
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in kept.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--partial", action="store_true", help="write the results that are there")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    output, folder = results_of(__file__), options.runs / "converged"
    folder.mkdir(parents=True, exist_ok=True)
    asked = {trial.name: trial for trial in trials_of(options.seeds)}
    before = read_results(output)["results"] if output.exists() else []
    for each in ({"target": SOURCE, **each} for each in before):
        trial = Trial(**{key: each[key] for key in ("dataset", "method", "budget", "seed", "noise", "target")})
        path = folder / f"{trial.name}.json"
        if not path.exists():
            write_json(path, each)
    if options.partial:
        paths = {name: folder / f"{name}.json" for name in asked}
        found = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    else:
        found = run_trials(folder, {name: partial(train_trial, options, each) for name, each in asked.items()})
    for name, each in found.items():
        if each["training"] != mark(asked[name]):
            sys.exit(f"{folder / name}.json was trained with other settings: delete it, and it is done again")
    made = {
        "command": "python benchmarks/converged.py --data DATA",
        "protocol": {
            "target": f"{PASSES} epochs of the rows kept and at least {STEPS} steps, batch {BATCH}, one-cycle SGD, "
            f"peak learning rate {RATE:g}, bf16 autocast, crops and flips but for digits, tested after the last step",
            "source": "test_resnet, 30 epochs, training losses, validation losses at averaged weights; one recording "
            "for each seed",
        },
        "note": f"{len(found)} of the {len(asked)} trials of {options.seeds} seeds are done",
        **provenance(),
    }
    write_results(output, {**made, "results": [rounded(each) for each in found.values()]})
    said = f"Made by `{made['command']}`; converged.py says how. {made['note'].capitalize()}."
    output.with_suffix(".md").write_text(f"{said}\n\n{report(list(found.values()), DEFAULT_METHOD, UNSEEN)}\n")


if __name__ == "__main__":
    main()
