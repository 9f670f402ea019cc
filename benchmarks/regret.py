"""Tables of converged.py: accuracies, the lead of the default over random rows, and its gap to the best method."""

import statistics
from collections.abc import Sequence

from tables import plus_minus

from hf_ltc.evaluation.methods import FULL, RANDOM

# Two standard errors.
_SURE = 2
Cells = dict[tuple[str, str], dict[str, dict[int, float]]]


def report(results: Sequence[dict], default: str, unseen: Sequence[str]) -> str:
    """Markdown of all results.

    Args:
        results (`Sequence[dict]`): The trials.
        default (`str`): The method that the others are compared with.
        unseen (`Sequence[str]`): Datasets that no part of the default was chosen on.
    """
    return tables(_cells(results), default, unseen)


def tables(cells: Cells, default: str, unseen: Sequence[str]) -> str:
    """Likewise, of accuracies in percent by setting (dataset with what else it is, budget), method and seed."""
    parts = []
    for dataset in dict.fromkeys(setting[0] for setting in cells):
        parts.append(_accuracies(dataset, cells))
    parts += [_regret(cells, default, unseen), _means(cells, default)]
    return "\n\n".join(parts)


def _cells(results: Sequence[dict]) -> Cells:
    cells: Cells = {}
    for each in results:
        noise = f", {each['noise']:.0%} of labels wrong" if each["noise"] else ""
        target = f", {each['target']}" if each["target"] != "test_resnet" else ""
        kept = f"{each['budget']:.0%}" if each["budget"] <= 1 else f"{each['budget']:g} rows a class"
        tests = {"": "accuracy"}
        if "imbalanced" in each["dataset"]:
            tests = {", balanced test": "accuracy", ", natural test": "natural"}
        for test, key in tests.items():
            where = (f"{each['dataset']}{noise}{target}{test}", kept)
            cells.setdefault(where, {}).setdefault(each["method"], {})[each["seed"]] = 100 * each[key]
    return cells


def _accuracies(dataset: str, cells: Cells) -> str:
    here = {kept: methods for (name, kept), methods in cells.items() if name == dataset}
    methods = list(dict.fromkeys(name for each in here.values() for name in each if name != FULL))
    budgets = [kept for kept in here if any(name != FULL for name in here[kept])]
    lines = [f"| {dataset}: kept by | {' | '.join(budgets)} |", "|---|" + "---:|" * len(budgets)]
    for method in methods:
        shown = [_shown(here[kept].get(method, {})) for kept in budgets]
        lines.append(f"| {method} | {' | '.join(shown)} |")
    full = [value for each in here.values() for value in each.get(FULL, {}).values()]
    rows = f"On all rows: {_shown(dict(enumerate(full)))}." if full else "All rows were not trained on."
    return "\n".join(lines) + f"\n\n{rows}"


def _shown(values: dict[int, float]) -> str:
    if not values:
        return ""
    each = list(values.values())
    return plus_minus(statistics.mean(each), statistics.stdev(each) if len(each) > 1 else None) + f" ({len(each)})"


def _regret(cells: Cells, default: str, unseen: Sequence[str]) -> str:
    lines = [
        "| setting | kept | random | default | ahead of random | best method | its accuracy | regret | n |",
        "|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    behind, worst = [], ("", 0.0)
    ahead, count = 0, 0
    for (dataset, kept), methods in cells.items():
        if default not in methods or RANDOM not in methods:
            continue
        difference, error, n = _difference(methods[default], methods[RANDOM])
        # Of the seeds that a method and the default both have.
        gain = {name: _difference(each, methods[default])[0] for name, each in methods.items() if name != FULL}
        best = max(gain, key=lambda name: gain[name])
        regret = gain[best]
        mean = {name: statistics.mean(methods[name].values()) for name in (RANDOM, default, best)}
        count += 1
        ahead += difference > 0
        if error is not None and difference < -_SURE * error:
            behind.append(f"{dataset} at {kept}")
        if regret > worst[1]:
            worst = (f"{dataset} at {kept}, against {best}", regret)
        apart = plus_minus(difference, None, "+") + ("" if error is None else f" (s.e. {error:.1f})")
        name = f"*{dataset}*" if dataset.split(",")[0] in unseen else dataset
        lines.append(
            f"| {name} | {kept} | {mean[RANDOM]:.1f} | {mean[default]:.1f} | {apart} | {best} | {mean[best]:.1f} "
            f"| {regret:.1f} | {n} |"
        )
    said = (
        f"The default is ahead of random rows in {ahead} of {count} settings; behind by more than two standard "
        f"errors in {', '.join(behind) or 'none'}. The largest regret is {worst[1]:.1f} points: {worst[0] or 'none'}. "
        "Datasets in italics had no part in any choice. The standard error is of the difference, seed by seed."
    )
    return "\n".join(lines) + f"\n\n{said}"


def _difference(one: dict[int, float], other: dict[int, float]) -> tuple[float, float | None, int]:
    """The mean difference over the seeds that both have, its standard error, and their number."""
    each = [one[seed] - other[seed] for seed in sorted(one.keys() & other.keys())]
    error = statistics.stdev(each) / len(each) ** 0.5 if len(each) > 1 else None
    return statistics.mean(each), error, len(each)


def _means(cells: Cells, default: str) -> str:
    """Every method's mean over the settings that have it, beside the default's over the same settings and seeds."""
    lines = [
        "| method | settings | its mean | the default's | default ahead |",
        "|---|---:|---:|---:|---:|",
    ]
    rows = []
    for method in dict.fromkeys(name for each in cells.values() for name in each if name not in (FULL, default)):
        pairs = []
        for each in cells.values():
            if method in each and default in each:
                seeds = sorted(each[method].keys() & each[default].keys())
                if seeds:
                    pairs.append([statistics.mean(each[name][seed] for seed in seeds) for name in (method, default)])
        if pairs:
            its, ours = (statistics.mean(column) for column in zip(*pairs))
            rows.append((ours - its, f"| {method} | {len(pairs)} | {its:.1f} | {ours:.1f} | {ours - its:+.1f} |"))
    return "\n".join([*lines, *(line for _, line in sorted(rows))])
