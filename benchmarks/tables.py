"""Tables of what coresets.py found: means, deviations and ranks over its trials."""

import itertools
import statistics

from scipy.stats import rankdata

from hf_ltc.evaluation.methods import FULL, RANDOM


def ranked(results: list[dict]) -> list[dict]:
    """Mean accuracy of each method in each setting, and its mean rank over the settings, best first."""
    settings: dict[tuple, dict[tuple, list[float]]] = {}
    for trial in results:
        if trial["method"] != FULL:
            where = (trial["dataset"], trial["noise"], trial["fraction"])
            settings.setdefault(where, {}).setdefault(key_of(trial), []).append(trial["accuracy"])
    if not settings:
        return []
    ways = set.intersection(*(set(each) for each in settings.values()))
    rank = {way: [] for way in ways}
    for each in settings.values():
        means = {way: statistics.mean(each[way]) for way in ways}
        ordered = rankdata([-means[way] for way in ways])
        for way, place in zip(ways, ordered):
            rank[way].append(float(place))
    rows = []
    for way in ways:
        row = {**dict(way), "mean rank": statistics.mean(rank[way])}
        for (dataset, noise, fraction), each in sorted(settings.items()):
            values = each[way]
            labels = f", {noise:.0%} of labels wrong," if noise else ""
            row[f"{dataset}{labels} {fraction:.0%}"] = {
                "mean": 100 * statistics.mean(values),
                "deviation": 100 * statistics.stdev(values) if len(values) > 1 else None,
                "seeds": len(values),
            }
        rows.append(row)
    # Equal ranks are sorted by name: the order of a set is not the same each time.
    return sorted(rows, key=lambda row: (row["mean rank"], str(row["method"]), str(row)))


def key_of(trial: dict) -> tuple:
    """A method of choosing rows: the settings of a trial without its dataset, budget and seed."""
    left = ("dataset", "fraction", "seed", "steps", "noise", "training", "rows", "accuracy", "wrong", "seconds")
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in trial.items() if k not in left)


def on_all_rows(results: list[dict]) -> str:
    """What the models reach on all rows, for which no method chooses."""
    found: dict[tuple, list[float]] = {}
    for trial in results:
        if trial["method"] == FULL:
            labels = f", {trial['noise']:.0%} of labels wrong," if trial["noise"] else ""
            found.setdefault((trial["dataset"] + labels, trial["target"]), []).append(100 * trial["accuracy"])
    said = [f"{d} {target} {statistics.mean(v):.1f} (n = {len(v)})" for (d, target), v in found.items()]
    return f"On all rows: {', '.join(said) or 'not measured'}."


def markdown(rows: list[dict]) -> str:
    settings = [key for key in rows[0] if isinstance(rows[0][key], dict)]
    most = max(row[key]["seeds"] for row in rows for key in settings)
    # Only settings that differ get a column.
    fields = [k for k in rows[0] if k not in settings and k != "mean rank"]
    fields = [k for k in fields if k == "method" or len({str(row[k]) for row in rows}) > 1]
    lines = [f"| {' | '.join([*fields, *settings, 'mean rank'])} |", "|" + "---|" * (len(fields) + len(settings) + 1)]
    for row in rows:
        cells = [str(row[k]) for k in fields]
        for key in settings:
            few = f" (n = {row[key]['seeds']})" if row[key]["seeds"] < most else ""
            cells.append(plus_minus(row[key]["mean"], row[key]["deviation"]) + few)
        lines.append(f"| {' | '.join([*cells, format(row['mean rank'], '.1f')])} |")
    return f"Accuracy in percent, mean ± deviation, n = {most}.\n\n" + "\n".join(lines)


def plus_minus(mean: float, deviation: float | None, sign: str = "") -> str:
    # A half, which a share of 10,000 rows often ends in, is rounded up, whatever its binary representation.
    return f"{mean + 1e-9:{sign}.1f}" + (f" ± {deviation:.1f}" if deviation is not None else "")


def transfer_table(results: list[dict], targets: tuple[str, ...], sources: tuple[str, ...]) -> str:
    """Targets by sources; in parentheses the loss, seed by seed, against rows that the target itself chose."""
    found: dict[tuple, dict[int, float]] = {}
    for trial in results:
        source = trial["method"] if trial["method"] in (FULL, RANDOM) else trial["source"]
        found.setdefault((trial["target"], source, trial["fraction"]), {})[trial["seed"]] = 100 * trial["accuracy"]

    def shown(values: list[float], sign: str = "") -> str:
        return plus_minus(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None, sign)

    heads = [*(f"chosen by {m}" for m in sources), "by itself", "random", "all rows"]
    lines = [f"| target | budget | {' | '.join(heads)} |", "|---|---|" + "---:|" * len(heads)]
    for target, fraction in itertools.product(targets, (0.1, 0.3)):
        own, cells = found[target, target, fraction], []
        for source in sources:
            each = found[target, source, fraction]
            lost = "" if source == target else f" ({shown([own[seed] - x for seed, x in each.items()], '+')})"
            cells.append(shown(list(each.values())) + lost)
        beside = (own, found[target, RANDOM, fraction], found[target, FULL, 1.0])
        cells += [shown(list(each.values())) for each in beside]
        lines.append(f"| {target} | {fraction:.0%} | {' | '.join(cells)} |")
    seeds = len(next(iter(found.values())))
    return f"Accuracy in percent, mean ± deviation, n = {seeds}; losses in points.\n\n" + "\n".join(lines)


def noise_tables(results: list[dict]) -> str:
    """From training losses: percent of wrong labels among the rows kept, by dataset and kind of validation samples."""
    shown = ("0.1", "0.3", "0.5")
    parts = []
    usual = [each for each in results if each["losses"] == "training"]
    for dataset, kind in dict.fromkeys((each["dataset"], each["validation"]) for each in usual):
        here = [each for each in usual if (each["dataset"], each["validation"]) == (dataset, kind)]
        shares = list(dict.fromkeys(each["noise"] for each in here))
        heads = [f"{share:.0%} wrong: of {float(f):.0%} kept" for share in shares for f in shown]
        lines = [f"| kept by | {' | '.join(heads)} |", "|---|" + "---:|" * len(heads)]
        for method in dict.fromkeys(each["method"] for each in here):
            cells = []
            for share, f in itertools.product(shares, shown):
                each = [
                    one["wrong labels kept"][f] for one in here if (one["method"], one["noise"]) == (method, share)
                ]
                cells.append(f"{100 * statistics.mean(each):.1f}")
            lines.append(f"| {method} | {' | '.join(cells)} |")
        labels = "correct labels" if kind == "clean" else "labels as wrong as those of the train rows"
        seeds = len({each["seed"] for each in here})
        parts.append(f"{dataset}, validation samples with {labels}, recordings: {seeds}.\n\n" + "\n".join(lines))
    return "\n\n".join(parts)
