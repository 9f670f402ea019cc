"""What does recording cost? Recording against plain training in the same loop, and training against the model alone.

    python benchmarks/recording.py [--dataset cifar100 folder or Hub id] [--rows 1024] [--model resnet18] [--pairs 5]

Single times on a shared machine say little, so each ratio compares neighboring runs: an epoch with recording and one
without it, or one with the model alone on a resident batch. The result is the median of the pairs. Results are
printed, and written to results/recording.json.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from result_files import results_of
from torch.nn.functional import cross_entropy

from hf_ltc.cli.demo import digits
from hf_ltc.data.labels import find_image_column, find_label_column, read_labels
from hf_ltc.data.load import load_split
from hf_ltc.training.batches import image_batches
from hf_ltc.training.forward import evaluate
from hf_ltc.training.images import StoredImages, image_size
from hf_ltc.training.loop import TrainingConfig, prepare_training, steps_per_epoch, train_epoch
from hf_ltc.training.metrics import LossBuffer, per_sample_metrics
from hf_ltc.training.models import create_model

NOTE = "epochs of the training loop alone: without validation losses, checkpoints and stability, which record adds"


def seconds(function, device):
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def ratio(pairs):
    ratios = [one / other for one, other in pairs]
    return {
        "median": round(statistics.median(ratios), 4),
        "pairs": [[round(one, 3), round(other, 3)] for one, other in pairs],
    }


def measure(options):
    if options.dataset is None:
        train, size = digits()[0], 32
    else:
        train, size = load_split(options.dataset, "train"), None
    label = find_label_column(train, options.label_column)
    image = find_image_column(train)
    train = train.select(range(min(options.rows, len(train))))
    labels = read_labels(train, label)
    size = image_size(train, image, size)
    accelerator = Accelerator(mixed_precision=options.mixed_precision)
    batches = image_batches(StoredImages(train, image, size), labels, device=accelerator.device)
    config = TrainingConfig(epochs=10_000, batch_size=options.batch_size)
    classes = int(labels.max()) + 1
    torch.manual_seed(options.seed)
    state = prepare_training(create_model(options.model, classes, size), len(train), config, accelerator)
    rows = np.arange(len(train))
    buffer = LossBuffer(["training_loss"], len(train), accelerator.device)
    rich = LossBuffer(["training_loss", "margin", "correct", "el2n"], len(train), accelerator.device)

    def plain():
        train_epoch(state, batches, config, accelerator)

    def recorded():
        buffer.clear()
        train_epoch(state, batches, config, accelerator, lambda at, losses, *_: buffer.add(at, losses))
        buffer.collect(accelerator, 1, rows)

    def with_signals():
        rich.clear()

        def observe(at, losses, logits, classes):
            rich.add(at, losses, *per_sample_metrics(rich.names[1:], logits, classes))

        train_epoch(state, batches, config, accelerator, observe)
        rich.collect(accelerator, 1, rows)

    def with_evaluation():
        recorded()
        buffer.clear()
        evaluate(state.model, batches, accelerator, lambda at, losses, *_: buffer.add(at, losses), 512)
        buffer.collect(accelerator, 1, rows)

    count = min(options.batch_size, len(train))
    ((pixels, targets, _),) = batches([np.arange(count)])
    alone = create_model(options.model, classes, size).to(accelerator.device)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    steps = steps_per_epoch(len(train), config, 1)

    def model_alone():
        for _ in range(steps):
            with accelerator.autocast():
                logits = alone(pixels)
            cross_entropy(logits.float(), targets).backward()
            optimizer.step()
            optimizer.zero_grad()

    device = accelerator.device
    for warm in (plain, recorded, model_alone):
        warm()
    compared = {"recorded": recorded, "with signals": with_signals, "with evaluation losses": with_evaluation}
    found = {}
    for name, function in compared.items():
        pairs = []
        for number in range(options.pairs):
            # Which goes first alternates, so that a drift of the machine favors neither.
            order = [function, plain] if number % 2 else [plain, function]
            times = {each: seconds(each, device) for each in order}
            pairs.append((times[function], times[plain]))
        found[f"{name} over plain training"] = ratio(pairs)
    pairs = []
    for number in range(options.pairs):
        order = [model_alone, plain] if number % 2 else [plain, model_alone]
        times = {each: seconds(each, device) for each in order}
        # Images a second each: an epoch of plain training sees every row, the model alone whole batches.
        pairs.append((len(train) / times[plain], steps * count / times[model_alone]))
    found["training rate over the model's own"] = ratio(pairs)
    found["images a second, plain training"] = round(statistics.median(one for one, _ in pairs), 1)
    found["bytes of the recorder a row"] = {
        "one signal": buffer.table.nbytes / len(train),
        "four signals": rich.table.nbytes / len(train),
    }
    found["peak bytes a row and signal, one signal"] = peak_memory()
    return found, len(train), size, accelerator


def peak_memory(rows=20_000_000):
    """Resident memory per row that an epoch of the recorder adds at its peak, on the CPU."""
    if not Path("/proc/self/status").exists():
        return None
    import subprocess

    code = f"""
import numpy as np, torch
from hf_ltc.training.metrics import LossBuffer
def memory(name):
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/status") if l.startswith(name))
rows = np.arange({rows})
part = torch.arange(10_000)
LossBuffer(["training_loss"], 10_000).collect
before = memory("VmRSS")
buffer = LossBuffer(["training_loss"], {rows})
for start in range(0, {rows}, 10_000):
    buffer.add(part + start, torch.ones(10_000))
buffer.collect(None, 1, rows)
print((memory("VmHWM") - before) / {rows})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return round(float(done.stdout), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default=None, help="digits at 32x32 if not given")
    parser.add_argument("--label-column", default=None)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--mixed-precision", default="no")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=results_of(__file__))
    options = parser.parse_args()
    found, rows, size, accelerator = measure(options)
    settings = {name: getattr(options, name) for name in ("model", "batch_size", "pairs", "mixed_precision", "seed")}
    result = {
        "command": f"python benchmarks/recording.py --model {options.model} --rows {options.rows} "
        f"--pairs {options.pairs}" + (" --dataset ..." if options.dataset else ""),
        "note": NOTE,
        "settings": {**settings, "rows": rows, "image_size": size, "threads": torch.get_num_threads()},
        "hardware": {
            "device": str(accelerator.device),
            "name": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else platform.machine(),
            "cpus": os.cpu_count(),
        },
        "versions": {name: version(name) for name in ("hf_ltc", "torch", "timm", "accelerate", "numpy")},
        "results": found,
    }
    options.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
