"""CIFAR-100 and ResNet-18 at full size on a GPU, in slices of limited time, each resuming the one before.

    python benchmarks/gpu.py --data DATA/cifar100 --archive results.tar [--minutes 9] [--workers 4]

Records three seeds at once with `hf-ltc record`, then trains target models on what each method chose with `hf-ltc
evaluate`, several at once. After --minutes everything is stopped between two steps, and the archive holds what there
is. The same command with that archive resumes, on another machine too: recordings after their last epoch, evaluations
after their last model. So a slice has to be long enough for one model: for its --iterations, or with --protocols
epochs for --epochs of all rows. Exit code 0 means that all is done, 75 that there is more to do, 1 that something
failed, or that a slice was too short to finish anything.

Nothing here has been run on a GPU yet: no result of it is in this folder.
"""

import argparse
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

UNFINISHED = 75
# Seconds that a stopped process has to end its step and to release its files.
GRACE = 20
FRACTIONS = ["0.1", "0.2", "0.3", "0.5", "0.7"]
MEMBERS = ["weighted-das", "das", "ltc", "cld"]
BASELINES = ["random", "aum", "mean_loss", "el2n", "forgetting", "dyn_unc", "tdds", "dual_beta", "ccs"]


class Failed(Exception):
    """One of the commands ended with an error, which it has printed."""


def run_until(commands: list[list[str]], end: float) -> bool:
    """Runs commands side by side; stops them when the time is up. Whether all ended well."""
    processes = [subprocess.Popen(command) for command in commands]
    try:
        for process in processes:
            process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        # Looked at before they are told to stop: being stopped is no failure.
        failed = any(process.poll() for process in processes)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
        if failed:
            raise Failed from None
        return False
    if any(process.returncode for process in processes):
        raise Failed
    return True


def work(options: argparse.Namespace, runs: Path, end: float) -> bool:
    hf_ltc = [sys.executable, "-m", "hf_ltc"]
    training = ["--model", options.model, "--epochs", str(options.epochs), "--batch-size", str(options.batch_size)]
    shared = ["--mixed-precision", options.mixed_precision, "--channels-last"]
    shared += ["--label-column", options.label_column] if options.label_column else []
    recording = [*hf_ltc, "record", "--dataset", options.data, "--split", options.split, "--losses", "both"]
    recording += ["--signals", "margin", "correct", "el2n", *training, *shared]
    each = [
        [*recording, "--seed", str(seed), "--output-dir", str(runs / "source" / f"seed-{seed}")]
        for seed in range(options.seeds)
    ]
    if not run_until(each, end):
        return False
    for protocol in options.protocols:
        evaluation = [*hf_ltc, "evaluate", str(runs / "source"), "--models", options.model, "--dataset", options.data]
        evaluation += ["--fractions", *options.fractions, "--members", *MEMBERS, "--baselines", *BASELINES]
        evaluation += ["--seeds", str(options.seeds), "--protocol", protocol, "--epochs", str(options.epochs)]
        evaluation += ["--iterations", str(options.iterations)] if protocol == "iterations" else []
        evaluation += ["--batch-size", str(options.batch_size), *shared, "--output-dir", str(runs / protocol)]
        # Each takes the next trial that no other has begun.
        if not run_until([evaluation] * options.workers, end):
            return False
    return True


def finished(runs: Path) -> int:
    """Epochs recorded and models trained."""
    return sum(1 for pattern in ("**/trajectories/*.safetensors", "*/cells/*.json") for _ in runs.glob(pattern))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-100: a folder of Parquet files, or its id on the Hub")
    parser.add_argument("--split", default="train")
    parser.add_argument("--label-column", default=None, help="fine_label, of the one on the Hub")
    parser.add_argument("--archive", type=Path, required=True, help="what there is so far; made if it is not there")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--workers", type=int, default=4, help="evaluations side by side")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=10_000, help="steps of a target by that protocol")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--mixed-precision", default="bf16")
    parser.add_argument("--fractions", nargs="+", default=FRACTIONS)
    parser.add_argument("--protocols", nargs="+", default=["iterations"], choices=["iterations", "epochs"])
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes - GRACE
    options.runs.mkdir(parents=True, exist_ok=True)
    # Files left by a slice that was killed before it wrote the archive are newer, and stay.
    left = max((path.stat().st_mtime for path in options.runs.rglob("*")), default=0.0)
    if options.archive.exists() and options.archive.stat().st_mtime > left:
        with tarfile.open(options.archive) as archive:
            archive.extractall(options.runs, filter="data")
    code, before = 1, finished(options.runs)
    try:
        code = 0 if work(options, options.runs, end) else UNFINISHED
        if code == UNFINISHED and finished(options.runs) == before:
            print("no epoch and no model was finished: raise --minutes, or lower what a model takes", file=sys.stderr)
            code = 1
    except Failed:
        print("a command failed: what it printed says why", file=sys.stderr)
    finally:
        # Written beside the old one, which stays until the new one is complete.
        written = options.archive.with_name(f"{options.archive.name}.unfinished")
        with tarfile.open(written, "w") as archive:
            for path in sorted(options.runs.iterdir()):
                archive.add(path, path.name)
        written.replace(options.archive)
    sys.exit(code)


if __name__ == "__main__":
    main()
