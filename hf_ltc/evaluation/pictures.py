"""Tables and a picture of what an evaluation found."""

import io
import math
import re
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..scores.reliability import LOW
from ..utils import files
from ..utils.errors import LTCWarning, one_line
from .budget import words
from .methods import FULL, RANDOM
from .results import Evaluation, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS, TABLE, PICTURE = "results.json", "results.md", "accuracy.png"
_NONE = "–"
_SEEDS = 3
_WRAPPED = 30
_OPTIMIZERS = {"sgd": "SGD", "adamw": "AdamW"}
_FULL, _CURVE = "full data", "fitted curve"
_MARKERS = "osD^vP*X<>"


def write_results(evaluation: Evaluation, folder: Path) -> None:
    """Writes `results.json`, `results.md` and `accuracy.png`, each whole or not at all.

    Warns:
        LTCWarning: where the picture cannot be drawn or written, which takes nothing from the results.
    """
    files.write_json(folder / RESULTS, evaluation.to_dict())
    with files.replacing(folder / TABLE) as temporary:
        temporary.write_text(f"# What coresets are worth\n\n{markdown(evaluation)}", encoding="utf-8")
    try:
        drawn = io.BytesIO()
        with warnings.catch_warnings():
            # Names may be of any script, the fonts at hand are not.
            warnings.filterwarnings("ignore", r"Glyph .* missing", UserWarning)
            draw(evaluation).savefig(drawn, format="png", dpi=150)
        with files.replacing(folder / PICTURE) as temporary:
            temporary.write_bytes(drawn.getvalue())
    # Whatever ails a library that draws, its settings and its fonts: hours of training are behind the results.
    except Exception as error:
        warnings.warn(f"no picture {str(folder / PICTURE)!r}: {one_line(error)}", LTCWarning, stacklevel=2)


def markdown(evaluation: Evaluation) -> str:
    """The tables, as text that a reader can take as it is.

    Args:
        evaluation ([`Evaluation`]): The results.
    """
    parts = (_recommended, _accuracies, _scores, _transfers, _costs, _made_by)
    return "\n\n".join(text for part in parts for text in part(evaluation)) + "\n"


def draw(evaluation: Evaluation) -> "Figure":
    """Draws accuracy over budget.

    Args:
        evaluation ([`Evaluation`]): The results.

    Returns:
        `matplotlib.figure.Figure`: one panel a model, one line a method, named by its label.
    """
    # It takes a second, which commands that draw nothing need not wait for.
    from matplotlib import rc_context

    # Names are texts and never mathematics.
    with rc_context({"text.parse_math": False, "text.usetex": False}):
        return _drawn(evaluation)


def _drawn(evaluation: Evaluation) -> "Figure":
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(row["model"] for row in evaluation.rows))
    names = list(dict.fromkeys(_label(evaluation, row) for row in evaluation.rows if row["method"] != FULL))
    shown = {*names, _FULL, _CURVE}
    columns = min(len(models), 3)
    lines = math.ceil(len(models) / columns)
    # With room for the names beside the panels.
    longest = max((min(len(name), _WRAPPED) for name in names), default=0)
    figure = Figure(figsize=(4.2 * columns + 1 + 0.09 * longest, 3.6 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    colors = colormaps["tab10"]
    for panel, model in zip(panels, models):
        of_model = [row for row in evaluation.rows if row["model"] == model]
        for number, name in enumerate(names):
            rows = [row for row in of_model if row["method"] != FULL and _label(evaluation, row) == name]
            rows.sort(key=lambda row: row["fraction"])
            random = name == RANDOM
            _line(
                panel,
                [100 * row["fraction"] for row in rows],
                rows,
                name,
                color="0.4" if random else colors(number % 10),
                marker=_MARKERS[number % len(_MARKERS)],
                style="--" if random else "-" if number < 10 else "-.",
            )
        for row in of_model:
            if row["method"] == FULL:
                mean, spread = 100 * row["mean"], 100 * (row["deviation"] or 0)
                panel.axhline(mean, color="black", linewidth=1, linestyle=":", label=_FULL)
                panel.axhspan(mean - spread, mean + spread, color="black", alpha=0.08, linewidth=0)
        found = evaluation.recommendation
        if found is not None and found["model"] == model and (curve := found["curve"]):
            shares = np.geomspace(min(each["fraction"] for each in found["budgets"]), 1, 100)
            errors = curve["limit"] + curve["scale"] * shares ** -curve["power"]
            panel.plot(100 * shares, 100 * (1 - errors), color="black", linewidth=1, linestyle="--", label=_CURVE)
        budgets = sorted({100 * row["fraction"] for row in of_model if row["fraction"] is not None})
        panel.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        if len(budgets) == 1:
            panel.set_xlim(budgets[0] - 1, budgets[0] + 1)
        panel.set(title=textwrap.fill(model, _WRAPPED), xlabel="rows kept (%)", ylabel="test accuracy (%)")
        panel.grid(alpha=0.3)
    for panel in list(figure.axes)[len(models) :]:
        panel.set_visible(False)
    handles = {
        str(line.get_label()): line for panel in figure.axes for line in panel.get_lines() if line.get_label() in shown
    }
    legend = figure.legend(handles.values(), ["line"] * len(handles), loc="outside right upper", frameon=False)
    # Set here, since a legend leaves out a name that begins with "_".
    for entry, name in zip(legend.get_texts(), handles):
        entry.set_text(textwrap.fill(name, _WRAPPED))
    return figure


def _line(
    panel: Any, budgets: list[float], rows: list[dict[str, Any]], name: str, *, color: Any, marker: str, style: str
) -> None:
    means = [100 * row["mean"] for row in rows]
    spreads = [100 * (row["deviation"] or 0) for row in rows]
    panel.plot(budgets, means, color=color, marker=marker, linestyle=style, markersize=5, label=name)
    low, high = ([mean + sign * spread for mean, spread in zip(means, spreads)] for sign in (-1, 1))
    if len(budgets) > 1:
        panel.fill_between(budgets, low, high, color=color, alpha=0.12, linewidth=0)
    else:
        panel.errorbar(budgets, means, spreads, color=color, capsize=3, linestyle="none")


def _recommended(evaluation: Evaluation) -> list[str]:
    found = evaluation.recommendation
    if found is None:
        return []
    return [_text(words.headline(found)), _table(words.table(found)), *map(_text, words.details(found))]


def _accuracies(evaluation: Evaluation) -> list[str]:
    """A table a model: methods by budgets."""
    counts = {row["n"] for row in evaluation.rows}
    seeds = f"n = {counts.pop()} each" if len(counts) == 1 else "n in parentheses where it is smaller"
    most = max((row["n"] for row in evaluation.rows), default=0)

    def shown(row: Mapping[str, Any]) -> str:
        text = _plus_minus(row["mean"], row["deviation"])
        return text if row["n"] == most else f"{text} (n = {row['n']})"

    said = [
        f"Test accuracy in %, mean ± standard deviation over seeds ({seeds}), {evaluation.settings['test_rows']:,} "
        f"test rows. {_protocol(evaluation)} All seeds use the same recordings, so the deviation leaves out the luck "
        f"of a recording; the reliability below shows it. Bold: ahead of every other method by more than either "
        f"deviation, with {_SEEDS} seeds or more and a reliability of {LOW} or more."
    ]
    for model in dict.fromkeys(row["model"] for row in evaluation.rows):
        said.append(f"### {_text(model)}\n\n" + _by_budget(evaluation, model, shown, bold=True))
    return said


def _by_budget(
    evaluation: Evaluation, model: str, shown: Callable[[Mapping[str, Any]], str], *, bold: bool = False
) -> str:
    rows = [row for row in evaluation.rows if row["model"] == model]
    budgets = dict(sorted({(row["fraction"] or 1.0): row["rows"] for row in rows}.items()))
    best = {id(row) for budget in budgets for row in _best(evaluation, rows, budget)} if bold else set()
    table = [["rows chosen by", *(f"{percent(budget)} ({count:,})" for budget, count in budgets.items())]]
    for name in dict.fromkeys(_label(evaluation, row) for row in rows):
        own = {(row["fraction"] or 1.0): row for row in rows if _label(evaluation, row) == name}
        cells = [own.get(budget) for budget in budgets]
        texts = [_NONE if row is None else f"**{shown(row)}**" if id(row) in best else shown(row) for row in cells]
        table.append([_text(name), *texts])
    return _table(table)


def _best(evaluation: Evaluation, rows: Sequence[Mapping[str, Any]], budget: float) -> list[Mapping[str, Any]]:
    """The row of a budget that is ahead of all others by more than its deviation and theirs, if there is one."""
    ranked = sorted(
        (row for row in rows if row["fraction"] == budget and row["method"] != FULL), key=lambda row: -row["mean"]
    )
    # Of two seeds a deviation says next to nothing.
    if len(ranked) < 2 or any(row["n"] < _SEEDS for row in ranked):
        return []
    first, *others = ranked
    ahead = all(first["mean"] - row["mean"] > max(first["deviation"], row["deviation"]) for row in others)
    # Another recording might choose quite other rows by scores that depend on the seed; chance needs no recording.
    found = {(each["method"], each["source"]): each["reliability"] for each in evaluation.methods}
    known = found.get((first["method"], first["source"]))
    reliable = first["source"] is None or bool(known and known["mean"] is not None and known["mean"] >= LOW)
    return [first] if ahead and reliable else []


def _scores(evaluation: Evaluation) -> list[str]:
    if not evaluation.methods:
        return []
    table = [["method", "reliability of one run", "of the mean of all", "with mean loss", "with AUM"]]
    for each in evaluation.methods:
        found = each["reliability"] or {"one": None, "mean": None, "runs": 1}
        values = [found["one"], found["mean"], each["mean_loss"], each["aum"]]
        table.append(
            [_text(_label(evaluation, each)), *(_NONE if value is None else f"{value:.2f}" for value in values)]
        )
    return [
        "### Scores\n\nSpearman correlations within classes. Reliability: between the scores of two seeds (for the "
        "mean of all runs, by the Spearman-Brown formula). The last two columns: between how early a row is kept and "
        "its mean loss or AUM; the first of them is positive if a method keeps hard rows first.",
        _table(table),
    ]


def _transfers(evaluation: Evaluation) -> list[str]:
    # Without a model's own choice it says no more than the tables of accuracy.
    if all(each["loss"] is None for each in evaluation.transfer):
        return []
    said = [
        "### Transfer\n\nAccuracy in % of each model (columns) on rows chosen by each source model (in parentheses "
        "after the method). In parentheses after the accuracy: the points lost against the model's own choice, seed "
        "by seed."
    ]
    for fraction in dict.fromkeys(each["fraction"] for each in evaluation.transfer):
        part = [each for each in evaluation.transfer if each["fraction"] == fraction]
        models = list(dict.fromkeys(each["model"] for each in part))
        table = [[f"rows chosen by, {percent(fraction)}", *map(_text, models)]]
        for method, source in dict.fromkeys((each["method"], each["source"]) for each in part):
            own = {each["model"]: each for each in part if (each["method"], each["source"]) == (method, source)}
            shown = [_transferred(own[model]) if model in own else _NONE for model in models]
            table.append([_text(f"{method} ({source})"), *shown])
        said.append(_table(table))
    return said


def _transferred(each: Mapping[str, Any]) -> str:
    accuracy = _plus_minus(each["mean"], each["deviation"])
    if each["own"] == each["source"]:
        return f"{accuracy} (own)"
    if each["loss"] is None:
        return accuracy
    spread = "" if each["loss_deviation"] is None else f" ± {100 * each['loss_deviation']:.1f}"
    return f"{accuracy} ({100 * each['loss']:+.1f}{spread})"


def _costs(evaluation: Evaluation) -> list[str]:
    rows = [row for row in evaluation.rows if row["cost"] is not None and row["method"] != FULL]
    if not rows:
        return []
    said = [
        "### Cost\n\nTime to a tested model (recording, scoring, choosing, training and test, without reading the "
        "inputs), relative to all rows. In parentheses: without the recording, which several models can share. Means "
        "over the seeds; other work on the machine makes them less precise."
    ]

    def shown(row: Mapping[str, Any]) -> str:
        if row["cost"] is None:
            return _NONE
        without = 1 - row["seconds"]["recording"] / sum(row["seconds"].values())
        return f"{_share(row['cost'])} ({_share(row['cost'] * without)})"

    for model in dict.fromkeys(row["model"] for row in rows):
        said.append(f"{_text(model)}:\n\n" + _by_budget(evaluation, model, shown))
    return said


def _share(value: float) -> str:
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"


def _made_by(evaluation: Evaluation) -> list[str]:
    settings = evaluation.settings
    sources = "; ".join(
        f"{_text(name)}: {each['runs']} run{'s' if each['runs'] > 1 else ''} of {_text(each['model'])}"
        + (f", {each['seconds']:,.0f} s" if each["seconds"] is not None else "")
        for name, each in evaluation.sources.items()
    )
    versions = ", ".join(f"{name} {number}" for name, number in settings["versions"].items())
    hardware = settings["hardware"]
    return [
        f"Recordings: {sources}. Trained on {' and '.join(hardware['devices'])} ({hardware['cpus']} CPUs, processes: "
        f"{hardware['processes']}, mixed precision: {hardware['mixed_precision']}). {versions}. All settings are in "
        f"{RESULTS}."
    ]


def _protocol(evaluation: Evaluation) -> str:
    config, steps = evaluation.settings["config"], evaluation.settings["iterations"]
    trained = {
        model: f"{_OPTIMIZERS[how['optimizer']]}, peak learning rate {how['learning_rate']:g}, weight decay "
        f"{how['weight_decay']:g}"
        for model, how in {trial["model"]: trial["training"] for trial in evaluation.trials}.items()
    }
    alike = len(set(trained.values())) == 1
    how = (
        next(iter(trained.values()))
        if alike
        else "; ".join(f"{_text(model)}: {told}" for model, told in trained.items())
    )
    start = "pretrained weights" if config["pretrained"] else "scratch"
    equal = f"{steps:,} optimizer steps" if steps is not None else f"{config['epochs']} epochs"
    # Texts are not augmented.
    of_texts = evaluation.settings.get("text_column") is not None
    augmented = "" if of_texts else f", augmentation {'on' if config['augment'] else 'off'}"
    return (
        f"Trained from {start} for {equal} at every budget, batch size {config['batch_size']}, {config['schedule']}"
        f"{augmented} ({how}); tested after the last step."
    )


def _label(evaluation: Evaluation, row: Mapping[str, Any]) -> str:
    """A method's name; where several recordings choose, with whose."""
    if row["method"] == FULL:
        return _FULL
    several = len(evaluation.sources) > 1 and row["source"] is not None
    return f"{row['method']} ({row['source']})" if several else str(row["method"])


def _plus_minus(mean: float, spread: float | None) -> str:
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def _text(name: Any) -> str:
    """A name that Markdown takes for nothing but text; underscores inside words are, and stay."""
    line = re.sub(r"\s+", " ", str(name)).strip()
    return re.sub(r"[\\`*~$&\[\]|<>]|(?<!\w)_|_(?!\w)", r"\\\g<0>", line)


def _table(rows: list[list[str]]) -> str:
    """A Markdown table, the first row its head, set so that it can be read as text."""
    widths = [max(3, *(len(row[column]) for row in rows)) for column in range(len(rows[0]))]
    head, *body = [
        "| " + " | ".join(t.ljust(w) if i == 0 else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths))) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)) + "|"
    return "\n".join([head, rule, *body])
