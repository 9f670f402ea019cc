"""The time of an epoch with losses, compared with get_loss_values.py of the official CLD code, on CIFAR-100.

    python benchmarks/official.py --official FOLDER --dataset CIFAR100

FOLDER is a checkout of https://github.com/manishnagaraj/CLD_Coresets_from_Trajectories, CIFAR100 a Hub id or a folder
of Parquet files. Both sides train the same model on the same number of rows with the same batch size. After each epoch
they compute the losses of all train rows and validation samples, in evaluation mode and without augmentation. The
official code runs unchanged, except for the model, and for tensors that stay on the CPU if there is no GPU.

Each side has its own process. The two take turns, in alternating order, because on a shared machine only neighboring
runs can be compared; the result is the median of their ratios. A linear model leaves little work except loading images
and storing losses, and this is what a fast GPU waits for.
"""

import argparse
import contextlib
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

NOTE = (
    "seconds an epoch: theirs are those of its training and of its losses, without its pass over the test set, its "
    "checkpoint and its pickle; ours are all that an epoch takes, checkpoint and published losses too, without the "
    "decoding of the images, once a recording, which is given apart"
)
LINEAR = "linear"
CLASSES, SIDE = 100, 32
# Their defaults, but for the learning rate, at which small models diverge.
BATCH, EVALUATION_BATCH, RATE = 128, 256, 0.01
# Their test pass has no counterpart here and is not counted.
TEST_ROWS = 100


def balanced(dataset, column, rows):
    """The first rows of each class, equally many, in the order of the dataset."""
    import numpy as np

    from hf_ltc.data.labels import read_labels

    labels = read_labels(dataset, column)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(CLASSES))
    each = rows // CLASSES
    if np.bincount(labels, minlength=CLASSES).min() < each:
        raise SystemExit(f"--rows is {rows}, but not every class has {each} rows")
    return dataset.select(np.sort(np.concatenate([order[start : start + each] for start in starts])))


def prepare(folder, dataset, label_column, rows):
    """The rows as a dataset for us and as the pickles of CIFAR-100 for them."""
    import pickle

    import numpy as np
    from datasets import disable_progress_bars

    from hf_ltc.data.labels import find_image_column, find_label_column, read_labels
    from hf_ltc.data.load import load_split

    disable_progress_bars()
    train = load_split(dataset, "train")
    label, image = find_label_column(train, label_column), find_image_column(train)
    train = balanced(train, label, rows).select_columns([image, label])
    train.save_to_disk(str(folder / "train"))
    place = folder / "Data" / "cifar" / "cifar-100-python"
    place.mkdir(parents=True)
    for name, part in (("train", train), ("test", train.select(range(TEST_ROWS)))):
        pixels = np.stack([np.asarray(row.convert("RGB")).transpose(2, 0, 1).reshape(-1) for row in part[image]])
        content = {"data": pixels, "fine_labels": read_labels(part, label).tolist()}
        with (place / name).open("wb") as file:
            pickle.dump(content, file)
    with (place / "meta").open("wb") as file:
        pickle.dump({"fine_label_names": [str(number) for number in range(CLASSES)]}, file)
    return label


def linear():
    """A model so small that little but the code around it is measured."""
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, CLASSES))


def theirs(folder, official, epochs):
    """Returns a function that runs their main() and returns the seconds of its epochs."""
    import types
    from typing import Any

    import torch
    import torchvision

    from hf_ltc.training.models import create_model

    # Their command line, which is not what is measured.
    sys.modules["fire"] = types.ModuleType("fire")
    sys.path.insert(0, str(official))
    import get_loss_values as script

    loaded: Any = script
    if not torch.cuda.is_available():
        for kind in (torch.Tensor, torch.nn.Module):
            kind.cuda = lambda self, *_, **__: self
    # The checksums of CIFAR-100 are not those of these rows.
    torchvision.datasets.cifar.check_integrity = lambda *_: True
    seconds = []

    def timed(function):
        def called(*arguments):
            start = time.perf_counter()
            result = function(*arguments)
            seconds.append(time.perf_counter() - start)
            return result

        return called

    loaded.Utils.train_epoch = timed(loaded.Utils.train_epoch)
    loaded.get_train_validation_losses = timed(loaded.get_train_validation_losses)
    os.chdir(folder)

    def run(model, seed, workers):
        seconds.clear()
        loaded.Utils.get_model = lambda *_: linear() if model == LINEAR else create_model(model, CLASSES, SIDE)
        loaded.main(
            workers=workers,
            epochs=epochs,
            batch_size=BATCH,
            test_batch_size=EVALUATION_BATCH,
            learning_rate=RATE,
            manual_seed=seed,
        )
        assert len(seconds) == 2 * epochs
        return {"epoch": sum(seconds) / epochs}

    return run


def ours(folder, label, epochs):
    """Returns a function that records and returns the seconds of the epochs, and of what comes once before them."""
    from datasets import load_from_disk

    from hf_ltc import RecordConfig, record
    from hf_ltc.recording import source_run
    from hf_ltc.training import models

    train = load_from_disk(str(folder / "train"))
    train_epochs, create, seconds = source_run.SourceRun._train, models.create_model, []

    def timed(*arguments):
        start = time.perf_counter()
        train_epochs(*arguments)
        seconds.append(time.perf_counter() - start)

    source_run.SourceRun._train = timed
    models.create_model = lambda name, *rest, **options: linear() if name == LINEAR else create(name, *rest, **options)

    def run(model, seed, workers):
        seconds.clear()
        output = folder / "run"
        shutil.rmtree(output, ignore_errors=True)
        config = RecordConfig(
            model=model,
            epochs=epochs,
            output_dir=str(output),
            label_column=label,
            losses="evaluation",
            weights="raw",
            schedule="step",
            initial_losses=False,
            batch_size=BATCH,
            eval_batch_size=EVALUATION_BATCH,
            learning_rate=RATE,
            seed=seed,
            num_workers=workers,
        )
        run = record(config, train)
        return {
            "epoch": seconds[0] / epochs,
            "decoding_once": run.recipe["seconds"]["decoding"],
            "rows": len(run),
            "validation_rows": len(run.validation_labels),
        }

    return run


def serve(side, folder, threads, **given):
    """Runs one side as often as asked and answers with its times; what it prints itself is discarded."""
    import torch

    torch.set_num_threads(threads)
    answers = sys.stdout
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            run = {"theirs": theirs, "ours": ours}[side](folder, **given)
            for line in sys.stdin:
                print(json.dumps(run(**json.loads(line))), file=answers, flush=True)
        except Exception:
            print(said.getvalue()[-2000:], file=sys.__stderr__)
            raise


def start(side, folder, **given):
    """Starts the process of one side."""
    arguments = json.dumps({"side": side, "folder": str(folder), **given})
    command = [sys.executable, __file__, "--serve", arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process, **request):
    """One run of a side."""
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit("a side ended: see what it printed above")
    return json.loads(answer)


def compare(theirs, ours, model, workers, pairs, seed):
    """Neighboring runs of both sides; the first pair warms up and is not counted."""
    found = []
    for number in range(pairs + 1):
        sides = {"theirs": theirs, "ours": ours}
        order = list(sides) if number % 2 else list(sides)[::-1]
        # Ours has its images in memory and needs no workers.
        found.append({name: ask(sides[name], model=model, seed=seed + number, workers=workers) for name in order})
        print(f"{model}, {workers} workers: {number} of {pairs} pairs", file=sys.stderr, flush=True)
    counted = found[1:]
    own, other = ([pair[name]["epoch"] for pair in counted] for name in ("ours", "theirs"))
    return {
        "their_seconds_over_ours": round(statistics.median(t / o for t, o in zip(other, own)), 3),
        "their_seconds_an_epoch": [round(value, 4) for value in other],
        "our_seconds_an_epoch": [round(value, 4) for value in own],
        "our_seconds_of_decoding_once": round(statistics.median(p["ours"]["decoding_once"] for p in counted), 4),
        "rows": counted[0]["ours"]["rows"],
        "validation_rows": counted[0]["ours"]["validation_rows"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", metavar="FOLDER", help="checkout of the official code")
    parser.add_argument("--dataset", help="CIFAR-100: a Hub id or a folder of Parquet files")
    parser.add_argument("--label-column", default=None, help="its fine labels; found by its type if not given")
    parser.add_argument("--model", default="test_convnext", help="a timm model, beside the linear one (test_convnext)")
    parser.add_argument("--rows", type=int, default=2000, help="rows, as many of each class, a tenth held out (2000)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs a run (3)")
    parser.add_argument("--pairs", type=int, default=3, help="pairs of runs that count, after one that warms up (3)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 4], help="their loader's processes (0 and 4)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on either side (1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first pair (0)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "official.json")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        arguments = json.loads(given.serve)
        serve(**{**arguments, "folder": Path(arguments["folder"])})
        return
    if not given.official or not given.dataset:
        parser.error("give --official and --dataset")

    from accelerate import Accelerator

    from hf_ltc.utils.environment import hardware

    results = {}
    shared = {"epochs": given.epochs, "threads": given.threads}
    load_average = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        label = prepare(folder, given.dataset, given.label_column, given.rows)
        sides = (
            start("theirs", folder, official=str(Path(given.official).resolve()), **shared),
            start("ours", folder, label=label, **shared),
        )
        for model in (LINEAR, given.model):
            by_workers = {
                f"{workers} workers": compare(*sides, model, workers, given.pairs, given.seed)
                for workers in given.workers
            }
            fastest = min(by_workers, key=lambda name: statistics.median(by_workers[name]["their_seconds_an_epoch"]))
            # What counts is theirs at its fastest on this machine.
            ratio = by_workers[fastest]["their_seconds_over_ours"]
            results[model] = {"their_seconds_over_ours": ratio, "their_fastest": fastest, **by_workers}
        for side in sides:
            side.stdin.close()
            side.wait()
    names = ("model", "rows", "epochs", "pairs", "workers", "threads", "seed")
    settings = {name: getattr(given, name) for name in names}
    flags = " ".join(
        f"--{name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in settings.items()
    )
    result = {
        "command": f"python benchmarks/official.py --official FOLDER --dataset CIFAR100 {flags}",
        "note": NOTE,
        "settings": {
            **settings,
            "batch_size": BATCH,
            "evaluation_batch_size": EVALUATION_BATCH,
            "learning_rate": RATE,
        },
        "hardware": hardware(Accelerator()),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("hf_ltc", "torch", "torchvision", "timm", "accelerate", "datasets")},
        },
        # Of the machine before it: times are comparable where it is well below the number of cores.
        "load_average": round(load_average, 2),
        "results": results,
    }
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
