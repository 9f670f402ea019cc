"""Makes the recordings for reliability.py and coresets.py: everything that can be recorded, from one training.

    python benchmarks/recordings.py --data DATA [--runs runs/benchmarks] [--epochs 30] [--noise 0.0] [--seeds 0 1 2 3]

A source model is trained once per seed. After each epoch, losses are computed at its raw weights and at averages of
them over several windows, so the recordings differ only in these, and not in the training. The loop is the one
of the package (`hf_ltc.training.loop`). Existing recordings are skipped, and you can start several processes at once:
each takes the next recording that no other has started.

data.py describes DATA. The features of the source model are stored too, for methods that need them.
"""

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from data import AUGMENTED, SIZES, Data, flipped, with_labels
from filelock import FileLock, Timeout
from timm.utils import ModelEmaV3

from hf_ltc import Trajectories
from hf_ltc.training.batches import ImageBatches
from hf_ltc.training.forward import evaluate
from hf_ltc.training.loop import TrainingConfig, plain_model, prepare_training, steps_per_epoch, train_epoch
from hf_ltc.training.metrics import LossBuffer, per_sample_metrics
from hf_ltc.training.models import create_model
from hf_ltc.trajectories.compare import stability

DATASETS = ("cifar100", "fashion_mnist")
SIGNALS = ("margin", "correct", "el2n")
# Windows of the averaged weights, in epochs; 0 are the raw weights.
WINDOWS = (0.0, 0.25, 1.0, 4.0)
# Windows whose weights train rows are evaluated at too, a pass over all of them each.
EVALUATED = (0.0, 1.0)
NOISY_VALIDATION = (0.2, 0.4)
# Optimizer and learning rate of each architecture; with SGD at 0.1 transformers learn nothing.
OPTIMIZERS = {
    "test_vit": ("adamw", 0.002),
    "test_convnext": ("adamw", 0.002),
    "swin_tiny_patch4_window7_224": ("adamw", 0.001),
}
# The stem that each was made with, ImageNet's where nothing is said. VGG has none: its first full layer spans 7x7.
STEMS = {"vgg11_bn": "auto"}
BATCH = 64


def corrupted(batches: ImageBatches, seed: int = 0) -> ImageBatches:
    """The images with Gaussian noise of a third of a pixel's range."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(batches.pixels.shape, generator=draw) * 85
    return replace(batches, pixels=(batches.pixels.float() + noise).clamp(0, 255).to(torch.uint8))


def path_of(
    runs: Path, dataset: str, model: str, epochs: int, noise: float, seed: int, augmented: bool = True
) -> Path:
    plain = "" if augmented else "-plain"
    return runs / f"{dataset}-{model}-{epochs}-noise{round(100 * noise)}-seed{seed}{plain}.npz"


def make(
    data: Data,
    model: str,
    epochs: int,
    seed: int,
    windows: list[float],
    evaluated: list[float],
    mixed_precision: str,
    path: Path,
    augment: bool,
) -> None:
    started = time.perf_counter()
    accelerator = Accelerator(cpu=True, mixed_precision=mixed_precision)
    optimizer, rate = OPTIMIZERS.get(model, ("sgd", 0.1))
    config = TrainingConfig(
        epochs=epochs,
        batch_size=BATCH,
        optimizer=optimizer,
        learning_rate=rate,
        weight_decay=0.05 if optimizer == "adamw" else 5e-4,
        augment=augment,
        seed=seed,
    )
    set_seed(seed)
    n = len(data.rows)
    steps = steps_per_epoch(n, config, 1)
    network = create_model(model, data.classes, data.size, stem=STEMS.get(model, "imagenet"))
    state = prepare_training(network, n, config, accelerator, channels_last=True)
    averages = {w: ModelEmaV3(network, decay=max(0.0, 1 - 1 / (w * steps))) for w in windows if w}

    def after_step() -> None:
        for average in averages.values():
            average.update(network)

    validation = {"clean": data.validation, "corrupted": corrupted(data.validation)}
    for share in NOISY_VALIDATION:
        wrong = flipped(data.held_labels, share, data.classes, seed=2)
        validation[f"noisy{round(100 * share)}"] = with_labels(data.validation, wrong)
    tables: dict[str, list[np.ndarray]] = {}
    everything = ["loss", *SIGNALS]

    def losses_of(network: torch.nn.Module, batches: ImageBatches, names: list[str]) -> dict[str, np.ndarray]:
        buffer = LossBuffer(names, len(batches))
        evaluate(network, batches, accelerator, lambda at, *seen: add(buffer, at, *seen), 512)
        return buffer.collect(None, 0, np.arange(len(batches)))

    def add(buffer, at, losses, logits, labels):
        buffer.add(at, losses, *per_sample_metrics(buffer.names[1:], logits, labels))

    def keep(name: str, values: np.ndarray) -> None:
        tables.setdefault(name, []).append(values)

    def checkpoint(trained: dict[str, np.ndarray] | None) -> None:
        for w in windows:
            weights = averages[w].module if w else plain_model(state, accelerator)
            if w in evaluated or trained is None:
                found = losses_of(weights, data.train, everything)
                if w in evaluated:
                    keep(f"evaluation-{w}", found["loss"])
                    if w == 1.0:
                        for name in SIGNALS:
                            keep(f"evaluation-{name}", found[name])
                if trained is None:
                    # Before training there are no training losses: those of the untrained model are taken.
                    trained = found
            keep(f"validation-{w}", losses_of(weights, validation["clean"], ["loss"])["loss"])
            if w == 1.0:
                for kind in validation:
                    if kind != "clean":
                        keep(f"validation-{kind}", losses_of(weights, validation[kind], ["loss"])["loss"])
        for name in everything:
            keep(f"training-{name}", trained[name])

    checkpoint(None)
    buffer = LossBuffer(everything, n)
    for _ in range(epochs):
        buffer.clear()
        # The averages are updated after each step, which is when the next one begins.
        first = [True]

        def step(first=first) -> None:
            if not first.pop():
                after_step()
            first.append(False)

        train_epoch(state, data.train, config, accelerator, lambda at, *seen: add(buffer, at, *seen), step)
        after_step()
        checkpoint(buffer.collect(None, state.epoch, np.arange(n)))
    buffer_accuracy = LossBuffer(["loss", "correct"], len(data.test))
    final = averages[1.0].module
    evaluate(final, data.test, accelerator, lambda at, *seen: add(buffer_accuracy, at, *seen), 512)
    accuracy = float(buffer_accuracy.collect(None, 0, np.arange(len(data.test)))["correct"].mean())
    arrays = {name: np.stack(values) for name, values in tables.items()}
    arrays["features"] = features_of(final, data.train, accelerator)
    about = {
        "dataset": data.name,
        "model": model,
        "epochs": epochs,
        "seed": seed,
        "batch_size": BATCH,
        "optimizer": optimizer,
        "learning_rate": rate,
        "mixed_precision": mixed_precision,
        "steps_per_epoch": steps,
        "test_accuracy": accuracy,
        "seconds": round(time.perf_counter() - started, 1),
    }
    temporary = path.with_suffix(".unfinished.npz")
    np.savez(
        temporary,
        about=json.dumps(about),
        rows=data.rows,
        labels=data.labels,
        true=data.true,
        held=data.held,
        held_labels=data.held_labels,
        **arrays,
    )
    os.replace(temporary, path)
    print(f"{path.name}: {about['seconds']} s, test accuracy {accuracy:.3f}", flush=True)


def features_of(network: torch.nn.Module, batches: ImageBatches, accelerator: Accelerator) -> np.ndarray:
    """What the last layer of a timm model sees of each image, float16 `(N, width)`."""
    seen: list[torch.Tensor] = []
    hook = network.get_classifier().register_forward_pre_hook(lambda _, given: seen.append(given[0].float()))
    places: list[torch.Tensor] = []
    evaluate(network, batches, accelerator, lambda at, *_: places.append(at), 512)
    hook.remove()
    features = torch.empty((len(batches), seen[0].shape[1]), dtype=torch.float16)
    features[torch.cat(places)] = torch.cat(seen).half()
    return features.numpy()


def trajectories(path: Path, losses: str = "training", window: float = 1.0, validation: str = "clean") -> Trajectories:
    """One of the recordings that a file holds.

    Args:
        path (`Path`): The file.
        losses (`str`, *optional*, defaults to `"training"`): Train rows: `"training"` or `"evaluation"`.
        window (`float`, *optional*, defaults to `1.0`): Window of the averaged weights in epochs, 0 for raw ones.
        validation (`str`, *optional*, defaults to `"clean"`): Validation samples: also `"corrupted"`, `"noisy20"`,
            `"noisy40"`, at averaged weights only.
    """
    with np.load(path) as stored:
        about = json.loads(str(stored["about"]))
        # Per-sample metrics of an evaluation pass were recorded only at weights averaged over one epoch.
        beside = SIGNALS if losses == "training" or window == 1.0 else ()
        train = stored["training-loss" if losses == "training" else f"evaluation-{window}"]
        held = stored[f"validation-{window}" if validation == "clean" else f"validation-{validation}"]
        return Trajectories(
            losses=train,
            validation_losses=held,
            labels=stored["labels"],
            validation_labels=stored["held_labels"],
            rows=stored["rows"],
            validation_rows=stored["held"],
            epochs=np.arange(len(train)),
            lengths=(len(train),),
            signals={name: stored[f"{losses}-{name}"] for name in beside},
            recipe={
                "dataset": {"image_column": "image"},
                "config": {"model": about["model"], "seed": about["seed"], "epochs": len(train) - 1},
                "seconds": {"all": about["seconds"]},
            },
            loss_name=f"{losses}_loss",
        )


def stopped_at(run: Trajectories, threshold: float) -> int:
    """The epoch after which --stop-when-stable would have ended a run; the last one if it never would have."""
    for t in range(2, run.lengths[0]):
        if stability(run.truncate(t), preset="ltc") >= threshold:
            return t
    return run.lengths[0] - 1


def provenance() -> dict:
    """What a result was made with."""
    return {
        "hardware": {"machine": platform.machine(), "cpus": os.cpu_count(), "device": "cpu", "threads": 1},
        "versions": {name: version(name) for name in ("hf_ltc", "torch", "timm", "accelerate", "numpy", "scipy")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(SIZES))
    parser.add_argument("--models", nargs="+", default=["test_resnet"])
    parser.add_argument("--epochs", type=int, nargs="+", default=[30])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0], help="shares of wrong labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--windows", type=float, nargs="+", default=list(WINDOWS))
    parser.add_argument("--evaluated", type=float, nargs="*", default=list(EVALUATED), help="windows to evaluate at")
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--plain", action="store_true", help="without augmentation")
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    options.runs.mkdir(parents=True, exist_ok=True)
    for noise in options.noise:
        for seed in options.seeds:
            for dataset in options.datasets:
                for model in options.models:
                    for epochs in options.epochs:
                        path = path_of(options.runs, dataset, model, epochs, noise, seed, not options.plain)
                        try:
                            with FileLock(path.with_suffix(".lock"), timeout=0):
                                if not path.exists():
                                    data = Data(options.data, dataset, noise=noise)
                                    wanted = (options.windows, options.evaluated, options.mixed_precision)
                                    augment = AUGMENTED[dataset] and not options.plain
                                    make(data, model, epochs, seed, *wanted, path, augment)
                        except Timeout:
                            continue


if __name__ == "__main__":
    main()
