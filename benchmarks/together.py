"""Several small trainings of one shape on one device: one after another, or together?

    python benchmarks/together.py [--models 4] [--model test_resnet] [--batch-size 64] [--steps 50] [--pairs 7]

`record --runs K` and the seeds of `evaluate` are such trainings. Each way runs the same number of SGD steps with
momentum for each model, on images that are on the device:

- streams: step by step, each model on its own CUDA stream (only on a GPU);
- processes: each model in its own process, which starts to train when all are ready;
- vmap: the weights of all models stacked, with one forward and backward pass for all, by torch.func.

Single times on a shared machine say little, so each way takes turns with the trainings one after another. The result
is the median of the ratios, above 1 if the way is faster. Results are printed, and written to results/together.json.
"""

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from result_files import results_of
from torch.nn.functional import cross_entropy

from hf_ltc.training.models import create_model

CLASSES, SIZE, RATE = 100, 32, 0.02
# Losses of one training and of the same among others differ by rounding.
TOLERANCE = 0.02


class Trainings:
    """The models, their batches, and ways to train them."""

    def __init__(self, options: argparse.Namespace, numbers: range) -> None:
        self.options = options
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.models, self.batches = [], []
        for number in numbers:
            torch.manual_seed(number)
            model = create_model(options.model, CLASSES, SIZE, stem="imagenet").to(self.device).train()
            self.models.append(model)
            shape = (options.batch_size, 3, SIZE, SIZE)
            classes = torch.randint(CLASSES, shape[:1], device=self.device)
            self.batches.append((torch.randn(shape, device=self.device), classes))
        self.optimizers = [self.optimizer_of(list(model.parameters())) for model in self.models]
        self.streams = [torch.cuda.Stream() for _ in numbers] if self.device.type == "cuda" else []

    def optimizer_of(self, parameters: list[torch.Tensor]) -> torch.optim.SGD:
        return torch.optim.SGD(parameters, lr=RATE, momentum=0.9, nesterov=True, weight_decay=5e-4)

    def autocast(self) -> torch.autocast:
        enabled = self.options.mixed_precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def step(self, number: int) -> torch.Tensor:
        model, (images, classes), optimizer = self.models[number], self.batches[number], self.optimizers[number]
        with self.autocast():
            logits = model(images)
        loss = cross_entropy(logits.float(), classes)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    def one_after_another(self) -> torch.Tensor:
        return torch.stack([[self.step(number) for _ in range(self.options.steps)][-1] for number in self.numbers])

    @property
    def numbers(self) -> range:
        return range(len(self.models))

    def in_streams(self) -> torch.Tensor:
        losses = []
        for _ in range(self.options.steps):
            losses = []
            for number, stream in enumerate(self.streams):
                with torch.cuda.stream(stream):
                    losses.append(self.step(number))
        torch.cuda.synchronize()
        return torch.stack(losses)

    def as_one(self) -> Callable[[], torch.Tensor]:
        """Stacks copies of the weights; what is returned takes the steps."""
        weights, buffers = torch.func.stack_module_state(self.models)
        images, classes = (torch.stack(each) for each in zip(*self.batches))
        optimizer, model = self.optimizer_of(list(weights.values())), self.models[0]

        def loss_of(weights, buffers, images, classes):
            with self.autocast():
                logits = torch.func.functional_call(model, (weights, buffers), (images,))
            return cross_entropy(logits.float(), classes)

        losses_of = torch.func.vmap(loss_of, randomness="different")

        def train() -> torch.Tensor:
            losses = torch.empty(0)
            for _ in range(self.options.steps):
                losses = losses_of(weights, buffers, images, classes)
                # Each model's weights have the gradient of its own loss alone.
                losses.sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            return losses.detach()

        return train


def serve(options: argparse.Namespace, number: int, barrier, seconds) -> None:
    """A process that trains one model as often as it is told to."""
    torch.set_num_threads(1)
    mine = Trainings(options, range(number, number + 1))
    mine.one_after_another()
    for _ in range(options.pairs):
        wait(mine.device)
        barrier.wait()
        started = time.perf_counter()
        mine.one_after_another()
        wait(mine.device)
        seconds.put(time.perf_counter() - started)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(train: Callable[[], torch.Tensor], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    train()
    wait(device)
    return time.perf_counter() - started


def measure(options: argparse.Namespace) -> dict:
    all_of_them = Trainings(options, range(options.models))
    device, apart = all_of_them.device, all_of_them.one_after_another
    ways: dict[str, Callable[[], torch.Tensor]] = {"vmap": all_of_them.as_one()}
    # From the same weights, so that it is the same training.
    together, one_by_one = ways["vmap"](), apart()
    assert torch.allclose(together, one_by_one, rtol=TOLERANCE, atol=TOLERANCE), (together, one_by_one)
    if all_of_them.streams:
        ways["streams"] = all_of_them.in_streams
        all_of_them.in_streams()
    found = {}
    for name, train in ways.items():
        pairs = []
        for number in range(options.pairs):
            # Which goes first alternates, so that a drift of the machine favors neither.
            order = [train, apart] if number % 2 else [apart, train]
            times = {each: timed(each, device) for each in order}
            pairs.append((times[apart], times[train]))
        found[name] = pairs
    context = multiprocessing.get_context("spawn")
    barrier, seconds = context.Barrier(options.models + 1), context.Queue()
    workers = [context.Process(target=serve, args=(options, n, barrier, seconds)) for n in range(options.models)]
    for worker in workers:
        worker.start()
    found["processes"] = []
    for _ in range(options.pairs):
        before = timed(apart, device)
        barrier.wait()
        found["processes"].append((before, max(seconds.get() for _ in workers)))
    for worker in workers:
        worker.join()
    return {
        name: {
            "times as fast as one after another": round(statistics.median(one / way for one, way in pairs), 3),
            "pairs of seconds": [[round(one, 4), round(way, 4)] for one, way in pairs],
        }
        for name, pairs in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--mixed-precision", default="no", choices=["no", "bf16"])
    parser.add_argument("--output", type=Path, default=results_of(__file__))
    options = parser.parse_args()
    # As many as a process has, and cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    load = os.getloadavg()[0]
    found = measure(options)
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in settings.items())
    cuda = torch.cuda.is_available()
    result = {
        "command": f"python benchmarks/together.py {flags}",
        "settings": settings,
        "hardware": {"device": torch.cuda.get_device_name() if cuda else platform.machine(), "cpus": os.cpu_count()},
        "versions": {name: version(name) for name in ("hf_ltc", "torch", "timm")},
        "load": round(load, 2),
        "results": found,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
