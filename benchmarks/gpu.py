"""CIFAR-100 and ResNet-18 at full size on a GPU, in slices of limited time, each resuming the one before.

    python benchmarks/gpu.py --data DATA/cifar100 [--archive results.tar] [--minutes 9] [--official FOLDER]
    python benchmarks/gpu.py --smoke [--runs runs/smoke]                     # all of it, tiny, in minutes on a CPU

The parts, in this order:

- overhead (recording.py): what recording adds to training, goal 1.02, and the rate of training over that of the model
  alone, goal 0.90;
- together (together.py): several small trainings of one shape, one after another and together;
- official (official.py, with --official): the seconds of an epoch of the official code over ours, goal 3;
- coresets: three seeds are recorded at once with `hf-ltc record`, then target models are trained on what each method
  chose with `hf-ltc evaluate`, several at once, by each of --protocols.

After --minutes, everything stops between two steps. The same command resumes: recordings after their last epoch,
evaluations after their last model, other parts from their beginning. So a slice must be long enough for one model (its
--iterations, or, with the protocol epochs, --epochs of all rows) and for each of the other parts. The state is kept in
--runs, and also in the file --archive if it is given, so another machine can resume. Exit code 0 means that all is
done, 75 that there is more to do, 1 that something failed or that the slice was too short to finish anything. After
each slice, the results so far are written to --output, with a table next to it.

Nothing here has been run on a GPU yet: no result of it is in this folder.
"""

import argparse
import json
import signal
import subprocess
import sys
import tarfile
import time
from importlib.metadata import version
from pathlib import Path

from datasets import DatasetDict
from result_files import results_of, write_results

from hf_ltc import digits

HERE = Path(__file__).parent
UNFINISHED = 75
# Seconds that a stopped process has to end its step and to release its files.
GRACE = 20
FRACTIONS = ["0.1", "0.2", "0.3", "0.5", "0.7"]
MEMBERS = ["typical-weighted-das", "weighted-das", "das", "ltc", "cld"]
BASELINES = ["random", "aum", "mean_loss", "el2n", "forgetting", "dyn_unc", "tdds", "dual_beta", "ccs", "s2l"]
MEASURED = ("overhead", "together", "official")
PARTS = (*MEASURED, "coresets")
# What is asked of the numbers: which one, by its way through the JSON, and the goal.
GOALS = (
    ("recording over plain training", ("overhead", "recorded over plain training", "median"), "at most 1.02"),
    ("rate over the model's own", ("overhead", "training rate over the model's own", "median"), "at least 0.90"),
    ("official epoch over ours", ("official", "{model}", "their_seconds_over_ours"), "at least 3"),
    ("vmap over one after another", ("together", "vmap", "times as fast as one after another"), "above 1"),
    ("streams over one after another", ("together", "streams", "times as fast as one after another"), "above 1"),
    ("processes over one after another", ("together", "processes", "times as fast as one after another"), "above 1"),
)
# All parts in minutes on a CPU: that they run is what is shown.
SMOKE = {
    "model": "test_resnet",
    "seeds": 2,
    "epochs": 2,
    "iterations": 3,
    "batch_size": 64,
    "fractions": ["0.3"],
    "protocols": ["iterations", "epochs"],
    "workers": 2,
    "rows": 256,
    "official_rows": 200,
    "steps": 2,
    "pairs": 1,
    "members": MEMBERS[:2],
    "baselines": ["random", "ccs"],
}


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


def phases(options: argparse.Namespace) -> list[list[list[str]]]:
    """What is run one after another, each as commands side by side."""
    runs, seeds = options.runs, str(options.seeds)
    hf_ltc, here = [sys.executable, "-m", "hf_ltc"], [sys.executable]
    data = ["--dataset", options.data]
    label = ["--label-column", options.label_column] if options.label_column else []
    size, precision = ["--batch-size", str(options.batch_size)], ["--mixed-precision", options.mixed_precision]
    model, pairs = ["--model", options.model], ["--pairs", str(options.pairs)]
    made: list[list[list[str]]] = []
    # Each of these starts anew until it has written its file.
    measures = {
        "overhead": ["recording.py", *data, *label, *model, *size, *precision, "--rows", str(options.rows)],
        "together": ["together.py", *precision, "--steps", str(options.steps)],
        "official": ["official.py", *data, *label, *model, "--rows", str(options.official_rows)],
    }
    if options.official:
        measures["official"] += ["--official", options.official, "--workers", "4", "--epochs", "2"]
    for name, (script, *given) in measures.items():
        wanted = name in options.parts and (name != "official" or options.official)
        if wanted and not (runs / f"{name}.json").exists():
            output = ["--output", str(runs / f"{name}.json")]
            made.append([[*here, str(HERE / script), *given, *pairs, *output]])
    if "coresets" not in options.parts:
        return made
    recording = [*hf_ltc, "record", *data, "--split", options.split, *label, "--losses", "both"]
    recording += ["--signals", "margin", "correct", "el2n", *model, "--epochs", str(options.epochs), *size]
    recording += [*precision, "--channels-last"]
    each = [
        ["--seed", str(seed), "--output-dir", str(runs / "source" / f"seed-{seed}")] for seed in range(options.seeds)
    ]
    made.append([[*recording, *own] for own in each])
    for protocol in options.protocols:
        evaluation = [*hf_ltc, "evaluate", str(runs / "source"), "--models", options.model, *data, *label]
        evaluation += ["--fractions", *options.fractions, "--members", *options.members]
        evaluation += ["--baselines", *options.baselines, "--seeds", seeds, "--protocol", protocol]
        evaluation += ["--epochs", str(options.epochs), *size, *precision, "--channels-last"]
        evaluation += ["--iterations", str(options.iterations)] if protocol == "iterations" else []
        evaluation += ["--output-dir", str(runs / protocol)]
        # Each takes the next trial that no other has begun.
        made.append([evaluation] * options.workers)
    return made


def work(options: argparse.Namespace, end: float) -> bool:
    return all(run_until(commands, end) for commands in phases(options))


def finished(runs: Path) -> int:
    """Parts measured, epochs recorded and models trained."""
    patterns = ("*.json", "**/trajectories/*.safetensors", "*/cells/*.json")
    return sum(1 for pattern in patterns for _ in runs.glob(pattern))


def write(options: argparse.Namespace, output: Path) -> None:
    """What has been found so far."""
    found = {}
    for name in MEASURED:
        path = options.runs / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
    evaluated = {name: options.runs / name for name in options.protocols if (options.runs / name).is_dir()}
    done = {
        name: [json.loads(each.read_text()) for each in sorted(path.glob("cells/*.json"))]
        for name, path in evaluated.items()
    }
    command = "python benchmarks/gpu.py " + ("--smoke" if options.smoke else "--data DATA")
    settings = {name: getattr(options, name) for name in SMOKE}
    about = {
        "command": command,
        "settings": settings,
        "versions": {name: version(name) for name in ("hf_ltc", "torch")},
    }
    write_results(output.with_suffix(".json"), {**about, **found, **done})
    lines = ["| measured | found | goal |", "|---|---:|---|"]
    for said, way, goal in GOALS:
        value = {name: each["results"] for name, each in found.items()}
        for key in way:
            value = value.get(key.format(model=options.model), {})
        if value != {}:
            lines.append(f"| {said} | {value} | {goal} |")
    parts = [f"Made by `{command}`; gpu.py says how.", "\n".join(lines)]
    for name, path in evaluated.items():
        # Written when all models of a protocol are trained.
        if (path / "results.md").exists():
            # Without its own heading.
            _, _, text = (path / "results.md").read_text().partition("\n")
            parts.append(f"By the protocol of {name}:\n\n{text.strip()}")
        else:
            parts.append(f"By the protocol of {name}: {len(done[name])} models so far.")
    output.with_suffix(".md").write_text("\n\n".join(parts) + "\n")


def unpack(archive: Path, runs: Path) -> None:
    # Files left by a slice that was killed before it wrote the archive are newer, and stay.
    left = max((path.stat().st_mtime for path in runs.rglob("*")), default=0.0)
    if archive.exists() and archive.stat().st_mtime > left:
        with tarfile.open(archive) as stored:
            stored.extractall(runs, filter="data")


def pack(archive: Path, runs: Path) -> None:
    # Written beside the old one, which stays until the new one is complete.
    written = archive.with_name(f"{archive.name}.unfinished")
    with tarfile.open(written, "w") as stored:
        for path in sorted(runs.iterdir()):
            stored.add(path, path.name)
    written.replace(archive)


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=None, help="CIFAR-100: a folder of Parquet files, or its id on the Hub")
    parser.add_argument("--smoke", action="store_true", help="digits and a tiny model, instead of all settings")
    parser.add_argument("--split", default="train")
    parser.add_argument("--label-column", default=None, help="fine_label, of the one on the Hub")
    parser.add_argument("--archive", type=Path, default=None, help="what there is so far; made if it is not there")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu"))
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--official", default=None, metavar="FOLDER", help="checkout of the official code")
    parser.add_argument("--output", type=Path, default=None, help="results/gpu.json, or of --smoke in --runs")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--workers", type=int, default=4, help="evaluations side by side")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--iterations", type=int, default=10_000, help="steps of a target by that protocol")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--mixed-precision", default="bf16")
    parser.add_argument("--fractions", nargs="+", default=FRACTIONS)
    parser.add_argument("--members", nargs="+", default=MEMBERS)
    parser.add_argument("--baselines", nargs="+", default=BASELINES)
    parser.add_argument("--protocols", nargs="+", default=["iterations", "epochs"], choices=["iterations", "epochs"])
    parser.add_argument("--rows", type=int, default=12_800, help="rows of an epoch whose overhead is measured")
    parser.add_argument("--official-rows", type=int, default=10_000, help="rows of an epoch of the official code")
    parser.add_argument("--steps", type=int, default=50, help="steps of the small trainings that are timed together")
    parser.add_argument("--pairs", type=int, default=7, help="pairs of times of what is measured")
    options = parser.parse_args(arguments)
    if options.smoke:
        for name, value in SMOKE.items():
            setattr(options, name, value)
    elif not options.data:
        parser.error("give --data, or --smoke")
    options.output = options.output or (options.runs / "gpu.json" if options.smoke else results_of(__file__))
    return options


def main() -> None:
    options = parsed()
    end = time.monotonic() + 60 * options.minutes - GRACE
    options.runs.mkdir(parents=True, exist_ok=True)
    if options.archive:
        unpack(options.archive, options.runs)
    if options.smoke and not options.data:
        options.data = str(options.runs / "data")
        if not Path(options.data).exists():
            train, test = digits()
            DatasetDict({"train": train.select(range(400)), "test": test.select(range(100))}).save_to_disk(
                options.data
            )
    code, before = 1, finished(options.runs)
    try:
        code = 0 if work(options, end) else UNFINISHED
        if code == UNFINISHED and finished(options.runs) == before:
            print("nothing was finished: raise --minutes, or lower what a model or a part takes", file=sys.stderr)
            code = 1
    except Failed:
        print("a command failed: what it printed says why", file=sys.stderr)
    finally:
        if options.archive:
            pack(options.archive, options.runs)
        write(options, options.output)
    sys.exit(code)


if __name__ == "__main__":
    main()
