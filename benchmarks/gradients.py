"""Losses against gradients: what do LTC, TracIn and influence functions cost, and which rows do they choose?

    pip install captum==0.9.0 kronfluence==1.0.1
    python benchmarks/gradients.py --data DATA [--runs runs/gradients] [--datasets cifar100 ...] [--seeds 0 1 2]

A small model is trained once for each seed, and everything is computed from this training: losses as `record` stores
them by default, the weights of five epochs, and the last weights. Each score says how much a row helps all validation
samples together:

- ltc, and the score of the default: from the losses of all epochs;
- ltc-checkpoints: LTC of the losses at the five saved weights, evaluated in five more passes;
- tracin: TracIn (arXiv 2002.08484) by captum's TracInCP, the dot products of the gradients of all convolutions and of
  the last layer at the five saved weights, times their learning rates;
- tracin-fast: the same for the last layer alone, by TracInCPFast;
- influence: influence functions with EK-FAC (arXiv 2308.03296) by kronfluence, at the last weights.

Fresh models are trained on random rows and on the rows that each score except ltc-checkpoints keeps, best rows of each
class first. Seconds are those of one core (process time); the training is timed too. Finished parts are not
repeated, and you can start several processes at once. data.py describes DATA. Results go to
results/gradients.json and gradients.md.
"""

import argparse
import json
import shutil
import statistics
import time
from dataclasses import asdict, dataclass
from functools import cache, partial
from importlib.metadata import version
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from captum.influence import TracInCP, TracInCPFast
from data import Data
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from recordings import DATASETS, provenance
from result_files import results_of, write_results
from tables import plus_minus
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from hf_ltc import Trajectories
from hf_ltc.coresets.order import coreset_order
from hf_ltc.evaluation.methods import DEFAULT_METHOD, RANDOM, chosen_rows, kept_early, method_scores
from hf_ltc.evaluation.target import train_on
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.scores.ltc import DEFAULT_PRESET
from hf_ltc.scores.reliability import within_class_spearman
from hf_ltc.training.batches import ImageBatches
from hf_ltc.training.forward import averaging_decay, evaluate
from hf_ltc.training.loop import (
    TrainingConfig,
    TrainingState,
    plain_model,
    prepare_training,
    steps_per_epoch,
    train_epoch,
)
from hf_ltc.training.metrics import LossBuffer
from hf_ltc.training.models import create_model

# A tenth of each class is held out: 220 validation samples.
ROWS, TEST_ROWS, EPOCHS, BATCH, RATE = 2_200, 2_000, 15, 64, 0.1
MODEL, STEM = "test_resnet", "imagenet"
# Not the last one, at which the learning rate is 0.
SAVED = (2, 5, 8, 11, 14)
FRACTIONS, STEPS, TARGET_BATCH, TARGET_RATE = (0.1, 0.3), 100, 32, 0.05
GRADIENTS = ("tracin", "tracin-fast", "influence")
FROM_CHECKPOINTS = "ltc-checkpoints"
FROM_LOSSES = ("ltc", DEFAULT_PRESET, FROM_CHECKPOINTS)
MEAN_LOSS = "mean_loss"
CHOOSING = (RANDOM, DEFAULT_METHOD, DEFAULT_PRESET, "ltc", *GRADIENTS)


@dataclass(frozen=True)
class Trial:
    """One model, trained on the rows that one score chose."""

    dataset: str
    method: str
    fraction: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}+{self.method}+{self.fraction:g}+seed{self.seed}"


@cache
def data_of(folder: Path, name: str) -> Data:
    return Data(folder, name, rows=ROWS)


def whole(batches: ImageBatches) -> TensorDataset:
    """All rows as the model sees them, without augmentation."""
    ((pixels, labels, _),) = batches([np.arange(len(batches))])
    return TensorDataset(pixels.contiguous(), labels)


def network_of(data: Data) -> torch.nn.Module:
    return create_model(MODEL, data.classes, data.size, stem=STEM)


def losses_at(network: torch.nn.Module, batches: ImageBatches, accelerator: Accelerator) -> np.ndarray:
    buffer = LossBuffer(["loss"], len(batches))
    evaluate(network, batches, accelerator, lambda at, losses, *_: buffer.add(at, losses), 512)
    return buffer.collect(None, 0, np.arange(len(batches)))["loss"]


def weights_of(runs: Path, dataset: str, seed: int, epoch: int) -> Path:
    return runs / "recordings" / f"{dataset}-seed{seed}" / f"epoch-{epoch:02}.pt"


def train_source(options: argparse.Namespace, dataset: str, seed: int) -> dict:
    """Trains, keeps losses and weights, and says how long each took."""
    data, accelerator = data_of(options.data, dataset), Accelerator(cpu=True)
    config = TrainingConfig(epochs=EPOCHS, batch_size=BATCH, learning_rate=RATE, seed=seed)
    folder = weights_of(options.runs, dataset, seed, 0).parent
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(seed)
    network = network_of(data)
    decay = averaging_decay("averaged", None, steps_per_epoch(len(data.train), config, 1))
    state = prepare_training(network, len(data.train), config, accelerator, average_decay=decay, channels_last=True)
    buffer, seconds = LossBuffer(["loss"], len(data.train)), dict.fromkeys(("training", "losses", "weights"), 0.0)
    started = time.process_time()
    trained = [losses_at(network, data.train, accelerator)]
    held = [losses_at(network, data.validation, accelerator)]
    seconds["losses"] += time.process_time() - started
    for epoch in range(1, EPOCHS + 1):
        buffer.clear()
        started = time.process_time()
        train_epoch(state, data.train, config, accelerator, lambda at, losses, *_: buffer.add(at, losses))
        seconds["training"] += time.process_time() - started
        started = time.process_time()
        trained.append(buffer.collect(None, epoch, np.arange(len(data.train)))["loss"])
        held.append(losses_at(state.averaged.module, data.validation, accelerator))
        seconds["losses"] += time.process_time() - started
        if epoch in (*SAVED, EPOCHS):
            started = time.process_time()
            keep_weights(state, accelerator, weights_of(options.runs, dataset, seed, epoch))
            seconds["weights"] += time.process_time() - started
    np.savez(folder / "losses.npz", losses=np.stack(trained), validation=np.stack(held))
    return {"dataset": dataset, "seed": seed, "parameters": sum(p.numel() for p in network.parameters()), **seconds}


def keep_weights(state: TrainingState, accelerator: Accelerator, path: Path) -> None:
    kept = {"rate": state.scheduler.get_last_lr()[0], "weights": plain_model(state, accelerator).state_dict()}
    torch.save(kept, path)


def load_weights(network: torch.nn.Module, path: str | Path) -> float:
    """Loads saved weights, and returns the learning rate at which they were saved."""
    kept = torch.load(path, weights_only=True)
    network.load_state_dict(kept["weights"])
    return kept["rate"]


def as_run(data: Data, losses: np.ndarray, validation: np.ndarray) -> Trajectories:
    return Trajectories(
        losses=losses,
        validation_losses=validation,
        labels=data.labels,
        validation_labels=data.held_labels,
        rows=data.rows,
        validation_rows=data.held,
        epochs=np.arange(len(losses)),
        lengths=(len(losses),),
    )


def recording(options: argparse.Namespace, dataset: str, seed: int) -> Trajectories:
    with np.load(weights_of(options.runs, dataset, seed, 0).with_name("losses.npz")) as stored:
        return as_run(data_of(options.data, dataset), stored["losses"], stored["validation"])


def from_checkpoints(options: argparse.Namespace, dataset: str, seed: int) -> tuple[np.ndarray, int]:
    data, accelerator = data_of(options.data, dataset), Accelerator(cpu=True)
    network = network_of(data).to(memory_format=torch.channels_last)
    tables: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    for epoch in SAVED:
        load_weights(network, weights_of(options.runs, dataset, seed, epoch))
        for part, table in tables.items():
            table.append(losses_at(network, getattr(data, part), accelerator))
    run = as_run(data, *(np.stack(table) for table in tables.values()))
    return method_scores("ltc", run), run.losses.nbytes + run.validation_losses.nbytes


def tracin(options: argparse.Namespace, dataset: str, seed: int, fast: bool) -> tuple[np.ndarray, int]:
    data = data_of(options.data, dataset)
    network = network_of(data).eval()
    # Gradients of single rows are computed for these layers alone; the others are batch norms.
    layers = [name for name, each in network.named_modules() if isinstance(each, torch.nn.Conv2d | torch.nn.Linear)]
    paths = [str(weights_of(options.runs, dataset, seed, epoch)) for epoch in SAVED]
    shared = {
        "checkpoints": paths,
        "checkpoints_load_func": load_weights,
        "loss_fn": torch.nn.CrossEntropyLoss(reduction="sum"),
    }
    train, held = DataLoader(whole(data.train), batch_size=BATCH), whole(data.validation)
    if fast:
        found = TracInCPFast(network, network.get_classifier(), train, **shared).influence(held.tensors).sum(dim=0)
    else:
        made = TracInCP(network, train, layers=layers, sample_wise_grads_per_batch=True, **shared)
        found = made.influence(DataLoader(held, batch_size=BATCH), aggregate=True)[0]
    return found.detach().numpy(), sum(Path(path).stat().st_size for path in paths)


class Classification(Task):
    """What kronfluence takes gradients of."""

    def compute_train_loss(self, batch: list[torch.Tensor], model: torch.nn.Module, sample: bool = False):
        pixels, labels = batch
        logits = model(pixels)
        if sample:
            labels = torch.multinomial(logits.detach().softmax(1), 1).flatten()
        return cross_entropy(logits, labels, reduction="sum")

    def compute_measurement(self, batch: list[torch.Tensor], model: torch.nn.Module) -> torch.Tensor:
        return self.compute_train_loss(batch, model)


def influence(options: argparse.Namespace, dataset: str, seed: int) -> tuple[np.ndarray, int]:
    data, path = data_of(options.data, dataset), weights_of(options.runs, dataset, seed, EPOCHS)
    network, task = network_of(data).eval(), Classification()
    load_weights(network, path)
    folder = path.with_name("influence")
    shutil.rmtree(folder, ignore_errors=True)
    set_seed(seed)
    analyzer = Analyzer("row", prepare_model(network, task), task, cpu=True, disable_tqdm=True, output_dir=str(folder))
    train, held = whole(data.train), whole(data.validation)
    analyzer.fit_all_factors("ekfac", train, BATCH, factor_args=FactorArguments(strategy="ekfac"))
    scored = ScoreArguments(aggregate_query_gradients=True, damping_factor=None)
    analyzer.compute_pairwise_scores("sum", "ekfac", held, train, BATCH, BATCH, score_args=scored)
    found = analyzer.load_pairwise_scores("sum")
    factors = sum(each.stat().st_size for each in folder.rglob("factors_ekfac/*.safetensors"))
    shutil.rmtree(folder)
    return found["all_modules"][0].float().numpy(), path.stat().st_size + factors


def score(options: argparse.Namespace, dataset: str, seed: int, method: str) -> dict:
    """Scores all rows by one method; says how long that took beside the training, and what has to be stored."""
    made = json.loads((options.runs / "recordings" / f"{dataset}-seed{seed}.json").read_text())
    data_of(options.data, dataset)
    run = recording(options, dataset, seed)
    started, before = time.process_time(), time.perf_counter()
    if method == FROM_CHECKPOINTS:
        scores, size = from_checkpoints(options, dataset, seed)
    elif method in GRADIENTS:
        ways = {"tracin": partial(tracin, fast=False), "tracin-fast": partial(tracin, fast=True)}
        scores, size = ways.get(method, influence)(options, dataset, seed)
    else:
        scores, size = method_scores(method, run), run.losses.nbytes + run.validation_losses.nbytes
    seconds, wall = time.process_time() - started, time.perf_counter() - before
    assert np.isfinite(scores).all()
    kept = options.runs / "scores" / f"{dataset}-{method}-seed{seed}.npy"
    np.save(kept, scores)
    known = method in FROM_LOSSES and method != FROM_CHECKPOINTS
    return {
        "dataset": dataset,
        "seed": seed,
        "method": method,
        "seconds": seconds,
        "wall seconds": wall,
        "seconds while training": made["losses"] if known else made["weights"],
        "bytes": size,
    }


def scores_of(options: argparse.Namespace, dataset: str, seed: int, method: str) -> np.ndarray:
    if method in (MEAN_LOSS, DEFAULT_METHOD):
        run = recording(options, dataset, seed)
        return kept_early(method, run, method_scores(method, run))
    return np.load(options.runs / "scores" / f"{dataset}-{method}-seed{seed}.npy")


def agreement(options: argparse.Namespace, dataset: str, method: str) -> dict:
    """Spearman correlations within classes, means over seeds, and of the scores of two seeds."""
    labels = data_of(options.data, dataset).labels
    each = {seed: scores_of(options, dataset, seed, method) for seed in options.seeds}
    found = {"dataset": dataset, "method": method}
    for other in ("ltc", DEFAULT_PRESET, MEAN_LOSS):
        pairs = [(each[seed], scores_of(options, dataset, seed, other)) for seed in options.seeds]
        found[f"with {other}"] = statistics.mean(within_class_spearman(*pair, labels) for pair in pairs)
    seeds = [within_class_spearman(each[one], each[two], labels) for one, two in combinations(options.seeds, 2)]
    return {**found, "with another seed": statistics.mean(seeds) if seeds else None}


def train_trial(options: argparse.Namespace, trial: Trial) -> dict:
    data = data_of(options.data, trial.dataset)
    size = round(trial.fraction * len(data.rows))
    if trial.method in (RANDOM, DEFAULT_METHOD):
        rows = chosen_rows(trial.method, recording(options, trial.dataset, trial.seed), size, seed=trial.seed)
    else:
        scores = scores_of(options, trial.dataset, trial.seed, trial.method)
        rows = np.flatnonzero(coreset_order(scores, data.labels) < size)
    config = TrainingConfig(
        epochs=1, iterations=STEPS, batch_size=TARGET_BATCH, learning_rate=TARGET_RATE, augment=False, seed=trial.seed
    )
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    tested = data.test.take(np.arange(TEST_ROWS))
    found = train_on(MODEL, data.train.take(rows), tested, data.classes, config, accelerator, stem=STEM)
    return {**asdict(trial), "rows": len(rows), "accuracy": found}


def trials_of(options: argparse.Namespace) -> list[Trial]:
    made = []
    for dataset in options.datasets:
        for seed in options.seeds:
            made += [Trial(dataset, method, fraction, seed) for fraction in FRACTIONS for method in CHOOSING]
    return made


def table(dataset: str, sources: list[dict], costs: list[dict], agreed: list[dict], results: list[dict]) -> str:
    """One dataset: a row for each way of choosing."""

    def mean(rows: list[dict], key: str) -> float:
        return statistics.mean(row[key] for row in rows)

    lines = [
        "| chosen by | seconds | of the training | bytes stored | Spearman with ltc | with the default's score "
        "| with a low mean loss | of two seeds | accuracy at 10% | at 30% |",
        "|---|" + "---:|" * 9,
    ]
    training = mean([each for each in sources if each["dataset"] == dataset], "training")
    for method in (*CHOOSING, FROM_CHECKPOINTS):
        cost = [each for each in costs if (each["dataset"], each["method"]) == (dataset, method)]
        cells = [""] * 3
        if cost:
            seconds = mean(cost, "seconds") + mean(cost, "seconds while training")
            cells = [f"{seconds:.2f}", f"{seconds / training:.1%}", f"{mean(cost, 'bytes') / 1e6:.2f} MB"]
        found = next((each for each in agreed if (each["dataset"], each["method"]) == (dataset, method)), {})
        names = ("with ltc", f"with {DEFAULT_PRESET}", f"with {MEAN_LOSS}", "with another seed")
        cells += [f"{found[name]:.2f}" if found.get(name) is not None else "" for name in names]
        for fraction in FRACTIONS:
            here = (dataset, method, fraction)
            right = [
                100 * each["accuracy"]
                for each in results
                if (each["dataset"], each["method"], each["fraction"]) == here
            ]
            cells.append(
                plus_minus(statistics.mean(right), statistics.stdev(right) if right[1:] else None) if right else ""
            )
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/gradients"))
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=DATASETS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--partial", action="store_true", help="write the models that are there")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    settings = [(dataset, seed) for dataset in options.datasets for seed in options.seeds]
    made = {f"{d}-seed{s}": partial(train_source, options, d, s) for d, s in settings}
    sources = list(run_trials(options.runs / "recordings", made, "recordings").values())
    ways = (*FROM_LOSSES, *GRADIENTS)
    made = {f"{d}-{way}-seed{s}": partial(score, options, d, s, way) for d, s in settings for way in ways}
    costs = list(run_trials(options.runs / "scores", made, "scores").values())
    agreed = [
        agreement(options, dataset, way)
        for dataset in options.datasets
        for way in (DEFAULT_METHOD, *FROM_LOSSES, *GRADIENTS)
    ]
    trials = {trial.name: trial for trial in trials_of(options)}
    # Models are trained in bf16, which accelerate refuses to a process that computed in another precision.
    AcceleratorState._reset_state()
    cells = options.runs / "cells"
    if options.partial:
        results = [json.loads(path.read_text()) for name in trials if (path := cells / f"{name}.json").exists()]
    else:
        todo = {name: partial(train_trial, options, trial) for name, trial in trials.items()}
        results = list(run_trials(cells, todo, "models").values())
    command = f"python benchmarks/gradients.py --data DATA --datasets {' '.join(options.datasets)}"
    note = f"{len(results)} of {len(trials)} models"
    rows = {name: len(data_of(options.data, name).rows) for name in options.datasets}
    protocol = {
        "rows": rows,
        "validation samples": {name: len(data_of(options.data, name).held) for name in options.datasets},
        "source": f"{MODEL}, {EPOCHS} epochs, batch {BATCH}, one-cycle SGD, peak learning rate {RATE:g}, "
        "crops and flips",
        "saved weights": f"after epochs {', '.join(map(str, SAVED))}; influence: after epoch {EPOCHS}",
        "target": f"{MODEL}, {STEPS} steps, batch {TARGET_BATCH}, one-cycle SGD, peak learning rate {TARGET_RATE:g}, "
        f"bf16 autocast, no augmentation, {TEST_ROWS} test rows; a seed has a recording of its own",
    }
    about = provenance()
    about["versions"] |= {name: version(name) for name in ("captum", "kronfluence")}
    found = {"training": sources, "scores": costs, "agreement": agreed, "results": results}
    output = results_of(__file__)
    write_results(output, {"command": command, "protocol": protocol, "note": note, **about, **found})
    parts = [f"Made by `{command}`; gradients.py says how. Trained were {note}."]
    for dataset in options.datasets:
        mine = [each for each in sources if each["dataset"] == dataset]
        training = statistics.mean(each["training"] for each in mine)
        held = protocol["validation samples"][dataset]
        parts.append(
            f"{dataset}, {rows[dataset]:,} rows and {held} validation samples, {mine[0]['parameters']:,} parameters, "
            f"{len(mine)} seeds; training took {training:.0f} seconds of a core, and seconds are beside these. "
            "Accuracy in percent, mean ± deviation."
        )
        parts.append(table(dataset, sources, costs, agreed, results))
    output.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
