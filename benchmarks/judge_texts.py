"""How often `hf-ltc evaluate --quick` is right about texts: its choice against the test accuracies of all of them.

    python benchmarks/texts.py --data DATA                              # first: the recordings and the accuracies
    python benchmarks/judge_texts.py --data DATA [--runs runs/texts]

The light model judges for itself: five recordings of each of TREC, Banking77 and SST-2, at five budgets. Candidates
are the default, dual_beta, ccs and random rows, in this order. The margin of 1.5 points, the two models and the number
of their steps were chosen on images: nothing is fitted here. What is true is in results/texts.json, means of five
seeds; two candidates differ truly if they do by two standard errors.

Results go to results/judge_texts.json and judge_texts.md. What is done is not done again.
"""

import argparse
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from recordings import provenance
from result_files import read_results, results_of, write_results
from texts import DATASETS, LIGHT, Bench

from hf_ltc import EvaluateConfig
from hf_ltc.evaluation.judge.rows import judge_fractions
from hf_ltc.evaluation.methods import DEFAULT_METHOD, RANDOM
from hf_ltc.evaluation.trials import run_trials

SEEDS, FRACTIONS = range(5), (0.1, 0.2, 0.3, 0.5, 0.7)


def judged(bench: Bench, dataset: str, seed: int) -> dict:
    """What is kept of one recording at each budget."""
    run = bench.run(dataset, LIGHT, seed)
    config = EvaluateConfig(members=[DEFAULT_METHOD], fractions=list(FRACTIONS), seed=seed, text_column="text")
    found = judge_fractions(config, run, bench.rows(dataset)["train"])
    return {
        f"{fraction:g}": {
            "kept": each.kept,
            "means": {one.name: round(one.mean, 5) for one in each.candidates},
            "seconds": round(each.seconds, 1),
        }
        for fraction, each in zip(FRACTIONS, found)
    }


def choices(found: dict[str, dict]) -> list[dict]:
    """Each choice, and what its candidates are worth."""
    truth: dict[tuple, list[float]] = {}
    for each in read_results(results_of(__file__, "texts"))["results"]:
        if each["source"] == each["target"] == LIGHT:
            truth.setdefault((each["dataset"], each["budget"], each["method"]), []).append(100 * each["accuracy"])
    made = []
    for name, budgets in found.items():
        dataset, seed = name.split("+")
        for fraction, each in budgets.items():
            of = {method: truth[dataset, float(fraction), method] for method in each["means"]}
            means = {method: statistics.mean(values) for method, values in of.items()}
            apart, right = 0, 0
            for other in [method for method in means if method != DEFAULT_METHOD]:
                gap = means[other] - means[DEFAULT_METHOD]
                error = math.hypot(*(statistics.stdev(of[m]) / math.sqrt(len(of[m])) for m in (other, DEFAULT_METHOD)))
                if abs(gap) > 2 * error:
                    apart += 1
                    right += (each["means"][other] > each["means"][DEFAULT_METHOD]) == (gap > 0)
            made.append(
                {
                    "dataset": dataset,
                    "budget": float(fraction),
                    "seed": int(seed.removeprefix("seed")),
                    "kept": each["kept"],
                    **{f"of {what}": round(value, 2) for what, value in means.items()},
                    "differ": apart,
                    "told": right,
                    "seconds": each["seconds"],
                }
            )
    return made


def markdown(made: Sequence[dict]) -> str:
    lines = [
        "| data | budget | kept | it | the default | random | best | differences told |",
        "|---|---:|---|---:|---:|---:|---:|---:|",
    ]
    for dataset in DATASETS:
        for budget in FRACTIONS:
            here = [each for each in made if (each["dataset"], each["budget"]) == (dataset, budget)]
            kept = [each["kept"] for each in here]
            names = ", ".join(f"{name} {count}x" for name, count in Counter(kept).most_common())
            worth = statistics.mean(each[f"of {each['kept']}"] for each in here)
            of = {name.removeprefix("of "): value for name, value in here[0].items() if name.startswith("of ")}
            best = max(of, key=lambda name: of[name])
            told = f"{sum(each['told'] for each in here)} of {sum(each['differ'] for each in here)}"
            lines.append(
                f"| {dataset} | {budget:.0%} | {names} | {worth:.1f} | {of[DEFAULT_METHOD]:.1f} | {of[RANDOM]:.1f} "
                f"| {best} {of[best]:.1f} | {told} |"
            )
    left = [each for each in made if each["kept"] != DEFAULT_METHOD]
    gains = [each[f"of {each['kept']}"] - each[f"of {DEFAULT_METHOD}"] for each in made]
    behind = [each[f"of {RANDOM}"] - each[f"of {each['kept']}"] for each in made]
    alone = [each[f"of {RANDOM}"] - each[f"of {DEFAULT_METHOD}"] for each in made]
    told, differ = (sum(each[key] for each in made) for key in ("told", "differ"))
    lines += [
        "",
        f"{len(made)} choices of {statistics.mean(each['seconds'] for each in made):.0f} s. The default was left "
        f"{len(left)} times. On average a choice gains {statistics.mean(gains):+.2f} points on the default, "
        f"{min(gains):+.1f} at worst. It is behind random rows by {max(behind):.1f} points at most, the default by "
        f"{max(alone):.1f}. Of {differ} true differences from the default the sign of {told} was told.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/texts"))
    options = parser.parse_args()
    # Cores that others use make threads wait for each other.
    torch.set_num_threads(1)
    bench = Bench(options.data, options.runs)
    work = {f"{name}+seed{seed}": partial(judged, bench, name, seed) for seed in SEEDS for name in DATASETS}
    made = choices(run_trials(options.runs / "judged", work, "judging"))
    command = "python benchmarks/judge_texts.py --data DATA"
    output = results_of(__file__)
    write_results(output, {"command": command, **provenance(), "results": made})
    text = markdown(made)
    output.with_suffix(".md").write_text(f"Made by `{command}`; judge_texts.py says how.\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
