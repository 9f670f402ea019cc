"""How often `hf-ltc select --judge` is right: its choice of a coreset against the test accuracies of all of them.

    python benchmarks/recordings.py --data DATA            # first: the recordings, and what coresets.py made of them
    python benchmarks/judge.py --data DATA [--runs runs/benchmarks]

The truth is in coresets-typical.json: CIFAR-100 (20 classes) and Fashion-MNIST at budgets from 5 to 90%, three seeds,
each with a recording of its own. With them come the digits of scikit-learn, recorded and trained here, in the setting
of the demo. Candidates are the default, dual_beta, ccs and random rows, in this order of preference.

Proxies are trained like the targets, but for a quarter of their steps (125 of 500, 50 of 200 on digits). They never
see test rows.

What is not independent: the margin of 1.5 points, the two proxies and the quarter of the steps were chosen on digits,
Fashion-MNIST and CIFAR-100 at 5, 10 and 30%, with other recordings' seeds among them. So the cells of these budgets
say how well the constants fit, and those of 20, 50, 70 and 90% how well they carry over on the same data.

Results go to results/judge.json and judge.md. What is done is not done again.
"""

import argparse
import itertools
import json
import math
import statistics
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from coresets import BATCH, DATASETS, RATE, STEPS, data_of
from recordings import path_of, provenance, trajectories
from result_files import read_results, results_of, write_results

from hf_ltc import RecordConfig, Trajectories, record
from hf_ltc.cli.demo import digits
from hf_ltc.coresets.choose import coreset_size
from hf_ltc.data.labels import read_labels
from hf_ltc.evaluation.judge.choices import OTHERS, by_method, with_others
from hf_ltc.evaluation.judge.proxies import Proxy, judge, proxy_steps
from hf_ltc.evaluation.judge.rows import judged_rows
from hf_ltc.evaluation.judge.verdict import preferred
from hf_ltc.evaluation.methods import DEFAULT_METHOD, RANDOM, chosen_rows
from hf_ltc.evaluation.target import train_on
from hf_ltc.evaluation.trials import run_trials
from hf_ltc.training.batches import image_batches
from hf_ltc.training.images import StoredImages
from hf_ltc.training.loop import TrainingConfig

CANDIDATES = (DEFAULT_METHOD, *OTHERS)
FRACTIONS, SEEDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9), range(3)
# On which budgets the constants of the judge were chosen.
CHOSEN_ON = (0.05, 0.1, 0.3)
DIGITS, DIGIT_FRACTIONS = "digits", (0.05, 0.1, 0.2, 0.3)
# Of the digits, as in digits.py; recorded once for each seed.
MODEL = "test_resnet"
DIGIT_TARGET = TrainingConfig(epochs=1, iterations=200, batch_size=64, learning_rate=0.05, augment=False)
QUARTER = 4
# How the targets of coresets.py are trained.
TARGET = TrainingConfig(epochs=1, iterations=STEPS, batch_size=BATCH, learning_rate=RATE, augment=False)


def accelerator() -> Accelerator:
    return Accelerator(cpu=True, mixed_precision="bf16")


def forget_precision() -> None:
    """Accelerate has one precision in a process; the digits have another one than the other data."""
    AcceleratorState._reset_state(reset_partial_state=True)


def judge_images(options: argparse.Namespace, dataset: str, fraction: float, seed: int) -> dict:
    forget_precision()
    data = data_of(options.data, dataset, 0.0)
    run = trajectories(path_of(options.runs, dataset, MODEL, 30, 0.0, seed))
    size = coreset_size(len(data.rows), fraction)
    # The targets' own quarter: with 500 steps it is above the tool's least.
    training = replace(TARGET, iterations=proxy_steps(TARGET, len(data.rows)))
    proxy = Proxy(MODEL, data.classes, training, stem="imagenet")
    candidates = with_others({DEFAULT_METHOD: by_method(DEFAULT_METHOD, run)}, run)
    seconds = sum(run.recipe["seconds"].values())
    found = judge(
        candidates,
        size,
        proxy,
        data.train,
        data.validation,
        accelerators=accelerator,
        seed=seed,
        recording_seconds=seconds,
    )
    return {"dataset": dataset, "fraction": fraction, "judged": found.to_dict()}


@lru_cache
def digit_run(folder: Path, seed: int) -> Trajectories:
    config = RecordConfig(
        model=MODEL,
        epochs=20,
        batch_size=64,
        learning_rate=0.05,
        augment=False,
        signals=["margin"],
        seed=seed,
        output_dir=str(folder / f"judge-digits-{seed}"),
    )
    return record(config, digits()[0])


def judge_digits(options: argparse.Namespace, fraction: float, seed: int) -> dict:
    """The judgement, and the truth: models trained on the rows that each candidate keeps."""
    forget_precision()
    run = digit_run(options.runs, seed)
    train, test = digits()
    steps = DIGIT_TARGET.iterations // QUARTER
    rows = judged_rows(run, train, judge_steps=steps)
    size = coreset_size(len(run), fraction)
    candidates = with_others({DEFAULT_METHOD: by_method(DEFAULT_METHOD, run)}, run)
    found = rows.judge(candidates, size, seed=seed)
    pixels = image_batches(StoredImages(test, "image", 8), read_labels(test, "label"), device=torch.device("cpu"))
    # Scaled as the train rows are.
    tests = replace(pixels, mean=rows.pool.mean, std=rows.pool.std)
    truth = {
        name: train_on(
            MODEL,
            rows.pool.take(chosen_rows(name, run, size, seed=seed)),
            tests,
            10,
            replace(DIGIT_TARGET, seed=seed),
            Accelerator(cpu=True),
        )
        for name in candidates
    }
    return {"dataset": DIGITS, "fraction": fraction, "judged": found.to_dict(), "truth": truth}


def truth_of_images() -> dict[tuple, float]:
    """The test accuracy by dataset, fraction, seed and method."""
    stored = read_results(results_of(__file__, "coresets-typical"))
    return {
        (trial["dataset"], trial["fraction"], trial["seed"], trial["method"]): trial["accuracy"]
        for trial in stored["results"]
        if trial["method"] in CANDIDATES
    }


def cells_of(results: list[dict], truth: dict[tuple, float]) -> list[dict]:
    """What the judge kept with each recording of a setting, and what models reach on it in the mean of all seeds."""
    cells = []
    for dataset, fraction in dict.fromkeys((each["dataset"], each["fraction"]) for each in results):
        mine = [each for each in results if (each["dataset"], each["fraction"]) == (dataset, fraction)]
        names = [each["name"] for each in mine[0]["judged"]["candidates"]]
        by_seed = {each["judged"]["seed"]: each["truth"] for each in mine if "truth" in each}
        # Of all seeds, whichever recordings have been judged.
        seeds = by_seed or SEEDS
        reached = {
            name: [by_seed[s][name] if by_seed else truth[dataset, fraction, s, name] for s in seeds] for name in names
        }
        cells.append(
            {
                "dataset": dataset,
                "fraction": fraction,
                "kept": [each["judged"]["kept"] for each in mine],
                "cannot tell": sum(each["judged"]["cannot_tell"] for each in mine),
                "proxies": {
                    name: [each["judged"]["candidates"][i]["mean"] for each in mine] for i, name in enumerate(names)
                },
                "truth": {name: statistics.mean(values) for name, values in reached.items()},
                "each": reached,
                "share of the recording": statistics.mean(each["judged"]["share"] for each in mine),
            }
        )
    return cells


def errors_of(cells: list[dict]) -> dict[str, float]:
    """The standard error of the difference of two means of a cell, by dataset: of all its deviations together."""
    found = {}
    for dataset in dict.fromkeys(cell["dataset"] for cell in cells):
        mine = [values for cell in cells if cell["dataset"] == dataset for values in cell["each"].values()]
        variances = [statistics.variance(values) for values in mine if len(values) > 1]
        # Of one seed alone it is not known, and no gap is taken for a true one.
        variance = statistics.mean(variances) if variances else math.inf
        found[dataset] = math.sqrt(2 * variance / min(map(len, mine)))
    return found


def summary(cells: list[dict], errors: dict[str, float]) -> dict:
    """How often the judge is right, and what following it gains and loses, in points."""
    compared = right = 0
    loss, of_default, of_random, left, rightly = [], [], [], 0, 0
    for cell in cells:
        best, error = max(cell["truth"].values()), errors[cell["dataset"]]
        for number, kept in enumerate(cell["kept"]):
            mine = cell["truth"][kept]
            loss.append(100 * (best - mine))
            of_default.append(100 * (mine - cell["truth"][DEFAULT_METHOD]))
            of_random.append(100 * (mine - cell["truth"][RANDOM]))
            if kept != DEFAULT_METHOD:
                left += 1
                rightly += mine > cell["truth"][DEFAULT_METHOD]
            for name in cell["truth"]:
                gap = cell["truth"][name] - cell["truth"][DEFAULT_METHOD]
                if name != DEFAULT_METHOD and abs(gap) > 2 * error:
                    judged = cell["proxies"][name][number] - cell["proxies"][DEFAULT_METHOD][number]
                    compared += 1
                    right += judged * gap > 0
    regret = [100 * (max(cell["truth"].values()) - cell["truth"][DEFAULT_METHOD]) for cell in cells]
    return {
        "settings": len(cells),
        "choices": len(loss),
        "comparisons with a true gap": compared,
        "right": right,
        "default left": left,
        "rightly left": rightly,
        "at most a point behind the best": sum(each <= 1 for each in loss),
        "mean loss": statistics.mean(loss),
        "largest loss": max(loss),
        "mean loss of the default": statistics.mean(regret),
        "largest loss of the default": max(regret),
        "gain on the default": statistics.mean(of_default),
        "worst against the default": min(of_default),
        "worst against random": min(of_random),
        "share of the recording": statistics.mean(cell["share of the recording"] for cell in cells),
    }


def by_margin(cells: list[dict]) -> list[dict]:
    """Mean and largest loss against the best candidate with other margins than the one that is used."""
    rows = []
    for margin in (0.0, 0.005, 0.01, 0.015, 0.02, 0.03, 1.0):
        loss = []
        for cell in cells:
            names = list(cell["truth"])
            for number in range(len(cell["kept"])):
                kept = names[preferred([cell["proxies"][name][number] for name in names], margin)]
                loss.append(100 * (max(cell["truth"].values()) - cell["truth"][kept]))
        rows.append({"margin": 100 * margin, "mean loss": statistics.mean(loss), "largest loss": max(loss)})
    return rows


def by_first(cells: list[dict]) -> list[dict]:
    """What following the judge gains if another candidate is a user's own selection, and so comes first."""
    rows = []
    for first in CANDIDATES:
        before, after, left = [], [], 0
        for cell in cells:
            names = [first, *(name for name in cell["truth"] if name != first)]
            best = max(cell["truth"].values())
            for number in range(len(cell["kept"])):
                kept = names[preferred([cell["proxies"][name][number] for name in names])]
                left += kept != first
                before.append(100 * (best - cell["truth"][first]))
                after.append(100 * (best - cell["truth"][kept]))
        about = {"first": first, "choices": len(after), "left": left}
        means = {"mean loss": statistics.mean(after), "largest loss": max(after)}
        rows.append({**about, **means, "of it alone": statistics.mean(before), "at most": max(before)})
    return rows


def markdown(cells: list[dict], groups: dict[str, dict], margins: list[dict], firsts: list[dict]) -> str:
    lines = [
        "Test accuracy in percent, mean of three seeds with a recording each. Kept: by each of the recordings.",
        "",
        "| data | budget | kept | of it | best candidate | of it | default | random | cannot tell |",
        "|---|---:|---|---:|---|---:|---:|---:|---:|",
    ]
    for cell in cells:
        truth = cell["truth"]
        best = max(truth, key=lambda name: truth[name])
        counts = {name: cell["kept"].count(name) for name in dict.fromkeys(cell["kept"])}
        kept = ", ".join(f"{name} {count}x" for name, count in counts.items())
        mine = statistics.mean(truth[name] for name in cell["kept"])
        shown = [f"{100 * truth[name]:.1f}" for name in (best, DEFAULT_METHOD, RANDOM)]
        lines.append(
            f"| {cell['dataset']} | {cell['fraction']:.0%} | {kept} | {100 * mine:.1f} | {best} | {shown[0]} "
            f"| {shown[1]} | {shown[2]} | {cell['cannot tell']} |"
        )
    names = list(groups)
    lines += ["", f"| | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for key in groups[names[0]]:
        values = [groups[name][key] for name in names]
        lines.append(f"| {key} | " + " | ".join(f"{v:.2f}" if isinstance(v, float) else str(v) for v in values) + " |")
    lines += [
        "",
        "Losses and gains are in points, of the mean accuracies of a setting; a true gap is one of more than two "
        "standard errors between the default and another candidate, and right is a judgement with its sign, whether "
        "or not it is more than the margin.",
        "",
        "Other margins (100: never leave the default; 0: the highest accuracy):",
        "",
        "| margin | mean loss | largest loss |",
        "|---:|---:|---:|",
    ]
    lines += [f"| {row['margin']:g} | {row['mean loss']:.2f} | {row['largest loss']:.2f} |" for row in margins]
    lines += [
        "",
        "If another candidate comes first, as a user's own selection does; the others follow in their order:",
        "",
        "| first | choices | left | mean loss | largest loss | mean loss of it alone | largest |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['first']} | {row['choices']} | {row['left']} | {row['mean loss']:.2f} | {row['largest loss']:.2f} "
        f"| {row['of it alone']:.2f} | {row['at most']:.2f} |"
        for row in firsts
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--partial", action="store_true", help="write the results that are there")
    parser.add_argument("--datasets", nargs="+", default=[DIGITS, *DATASETS])
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    work = {}
    for seed, dataset in itertools.product(SEEDS, options.datasets):
        for fraction in DIGIT_FRACTIONS if dataset == DIGITS else FRACTIONS:
            name = f"{dataset}+{fraction:g}+seed{seed}"
            if dataset == DIGITS:
                work[name] = partial(judge_digits, options, fraction, seed)
            else:
                work[name] = partial(judge_images, options, dataset, fraction, seed)
    folder = options.runs / "judged"
    if options.partial:
        there = [path for name in work if (path := folder / f"{name}.json").exists()]
        results = [json.loads(path.read_text()) for path in there]
    else:
        results = list(run_trials(folder, work, "judging").values())
    cells = cells_of(results, truth_of_images())
    errors = errors_of(cells)
    fitted = [cell for cell in cells if cell["fraction"] in CHOSEN_ON]
    others = [cell for cell in cells if cell["fraction"] not in CHOSEN_ON]
    parts = {"all": cells, "5, 10, 30%: chosen on": fitted, "other budgets": others}
    parts |= {each: [cell for cell in cells if cell["dataset"] == each] for each in options.datasets}
    groups = {name: summary(part, errors) for name, part in parts.items() if part}
    margins, firsts = by_margin(cells), by_first(cells)
    command = "python benchmarks/judge.py --data DATA"
    output = results_of(__file__)
    missing = len(results) < len(work)
    left = f" {len(results)} of {len(work)} choices: the others were not judged yet." if missing else ""
    made = {
        "command": command,
        "note": left.strip() or None,
        "target": asdict(TARGET),
        "standard errors": errors,
        "summary": groups,
        "margins": margins,
    }
    write_results(output, {**made, **provenance(), "cells": cells, "results": results})
    text = markdown(cells, groups, margins, firsts)
    output.with_suffix(".md").write_text(f"Made by `{command}`; judge.py says how.{left}\n\n{text}\n")


if __name__ == "__main__":
    main()
