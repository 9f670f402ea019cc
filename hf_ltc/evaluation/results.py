"""Results of an evaluation: means and deviations over seeds, transfer and cost, computed from its trials."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..config import TYPICAL_SHARE
from ..training.models import architecture_name
from ..utils import files
from ..utils.errors import InputError
from ..utils.files import local
from .methods import FULL, RANDOM, methods_of

FORMAT = 1


@dataclass(frozen=True)
class Evaluation:
    """What models reach on rows that several methods chose.

    Args:
        settings (`dict`): What the accuracies depend on: protocol, settings, datasets, versions, hardware.
        sources (`dict[str, dict]`): The recordings by name: their source model, runs, seconds and hardware.
        methods (`list[dict]`): Of each method and recording: reliability, and the correlation of how early a row is
            kept with its mean loss and AUM.
        trials (`list[dict]`): One model each: `model`, `method`, `source`, `fraction`, `seed`, `rows`, `accuracy`, ...
    """

    settings: dict[str, Any]
    sources: dict[str, dict[str, Any]]
    methods: list[dict[str, Any]]
    trials: list[dict[str, Any]]

    def __repr__(self) -> str:
        lines = [
            f"  {row['model']}, {row['method']}, {row['rows']:,} rows: {row['mean']:.1%} (n = {row['n']})"
            for row in self.rows
        ]
        return "\n".join([f"Evaluation of {len(self.trials)} models, test accuracy", *lines])

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Mean, sample deviation, number of seeds and cost of each choice of rows and model."""
        return summarize(self.trials, self.sources, self.methods)

    @property
    def recommendation(self) -> dict[str, Any] | None:
        """The smallest budget that is worth nearly as much as all rows, where `EvaluateConfig.recommend` asked for it:
        `fraction` (`None` if no budget is), how far each budget that was tried is behind, the fitted curve, the cost.
        """
        return self.settings.get("recommendation")

    @cached_property
    def transfer(self) -> list[dict[str, Any]]:
        """What rows chosen by one architecture are worth to another, and what its own choice would have gained."""
        return transfer(self.trials, {name: source["model"] for name, source in self.sources.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; [`Evaluation.load`] reads them."""
        return {
            "format": FORMAT,
            **self.settings,
            "sources": self.sources,
            "methods": self.methods,
            "results": self.rows,
            "transfer": self.transfer,
            # Trials were called so in the first version, which is how files have them.
            "cells": self.trials,
        }

    @classmethod
    def load(cls, path: str | Path) -> "Evaluation":
        """Reads `results.json`.

        Args:
            path (`str` or `Path`): The file.

        Raises:
            InputError: for a file that is missing, damaged or of another kind, naming it.
        """
        values = files.read_json(local(path, "path"))
        if values.pop("format", None) != FORMAT or not {"sources", "methods", "cells"} <= values.keys():
            raise InputError(f"{str(path)!r} holds no results of hf-ltc evaluate: give its results.json")
        parts = [values.pop(name) for name in ("sources", "methods", "cells")]
        for derived in ("results", "transfer"):
            values.pop(derived, None)
        return cls(values, *parts)


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation; `None` for fewer than two values, which have none."""
    return statistics.stdev(values) if len(values) > 1 else None


def summarize(
    trials: Sequence[Mapping[str, Any]], sources: Mapping[str, Mapping[str, Any]], methods: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Puts the seeds of each choice of rows and model together.

    `cost` is what a model on chosen rows takes from nothing, in shares of the seconds that it takes on all rows: its
    training, its test, and the recording, scoring and choosing that it needs. `training_share` is that of its training
    and test alone. Decoding the images, which all of them need, is in none. Where the models were trained on different
    devices there is neither, and where the recording was made on another one there is no cost.

    Args:
        trials (`Sequence[Mapping]`): As those of [`Evaluation`].
        sources (`Mapping[str, Mapping]`): Likewise.
        methods (`Sequence[Mapping]`): Likewise.

    Returns:
        `list[dict]`: in the order of the trials.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for trial in trials:
        groups.setdefault((trial["model"], trial["method"], trial["source"], trial["fraction"]), []).append(trial)
    whole = {key[0]: _mean_seconds(group, "training") for key, group in groups.items() if key[1] == FULL}
    scoring = {(each["method"], each["source"]): each["seconds"] for each in methods}
    found = []
    for (model, method, source, fraction), group in groups.items():
        group = sorted(group, key=lambda trial: trial["seed"])
        accuracies = [trial["accuracy"] for trial in group]
        seconds = {
            "recording": sources[source]["seconds"] if source is not None else 0.0,
            "scoring": scoring.get((method, source)) if source is not None else 0.0,
            "choosing": _mean_seconds(group, "choosing"),
            "training": _mean_seconds(group, "training"),
        }
        # Seconds of one device are no shares of those of another.
        devices = {trial["device"] for trial in [*group, *groups.get((model, FULL, None, None), [])]}
        alike = len(devices) == 1
        recorded_on = ((sources[source]["hardware"] or {}) if source is not None else {}).get("device")
        all_alike = alike and (recorded_on is None or {recorded_on} == devices)
        full = whole.get(model) if alike else None
        known = [value for value in seconds.values() if value is not None]
        found.append(
            {
                "model": model,
                "method": method,
                "source": source,
                "fraction": fraction,
                "rows": group[0]["rows"],
                "n": len(group),
                "mean": statistics.fmean(accuracies),
                "deviation": deviation(accuracies),
                "accuracy": accuracies,
                "seeds": [trial["seed"] for trial in group],
                "steps": group[0]["steps"],
                "seconds": seconds,
                "training_share": _mean_seconds(group, "training") / full if full else None,
                "cost": sum(known) / full if full and all_alike and len(known) == len(seconds) else None,
            }
        )
    return found


def transfer(trials: Sequence[Mapping[str, Any]], architectures: Mapping[str, str]) -> list[dict[str, Any]]:
    """What rows that a recording of one architecture chose are worth to each model.

    The loss is what the model reaches on rows that a recording of its own architecture chose less what it reaches on
    these, seed by seed. Of several recordings of one architecture the first counts as its own.

    Args:
        trials (`Sequence[Mapping]`): As those of [`Evaluation`].
        architectures (`Mapping[str, str]`): The source model of each recording.

    Returns:
        `list[dict]`: empty where there is but one recording and one model.
    """
    chosen = [trial for trial in trials if trial["source"] is not None]
    models = list(dict.fromkeys(trial["model"] for trial in chosen))
    if len(models) < 2 and len(architectures) < 2:
        return []
    # Under whichever of its names each was asked for.
    named = {name: architecture_name(of) for name, of in architectures.items()}
    own = {model: next((name for name in named if named[name] == architecture_name(model)), None) for model in models}
    reached: dict[tuple[Any, ...], dict[int, float]] = {}
    for trial in chosen:
        key = (trial["method"], trial["fraction"], trial["source"], trial["model"])
        reached.setdefault(key, {})[trial["seed"]] = trial["accuracy"]
    found = []
    for (method, fraction, source, model), accuracies in reached.items():
        by_own = reached.get((method, fraction, own[model], model), {})
        losses = [by_own[seed] - value for seed, value in accuracies.items() if seed in by_own]
        found.append(
            {
                "method": method,
                "fraction": fraction,
                "source": source,
                "source_model": architectures[source],
                "model": model,
                "mean": statistics.fmean(accuracies.values()),
                "deviation": deviation(list(accuracies.values())),
                "n": len(accuracies),
                "own": own[model],
                "loss": statistics.fmean(losses) if losses else None,
                "loss_deviation": deviation(losses),
            }
        )
    return found


def card_rows(
    evaluation: Evaluation,
    digest: str,
    scorer: Mapping[str, str] | str,
    balance: str,
    typical: float,
    usual: float,
) -> list[dict[str, Any]]:
    """The rows of a card's table of accuracies: of a scorer, random and full, by one recording.

    Args:
        evaluation ([`Evaluation`]): The results.
        digest (`str`): Of the recording whose coresets are pushed, from [`losses_digest`].
        scorer (`Mapping[str, str]` or `str`): The score variant, or the name of a baseline.
        balance (`str`): How the coresets that are pushed are balanced.
        typical (`float`): How many typical rows come first in them, as for [`rank_coreset`].
        usual (`float`): How many do where any do, by [`typical_of`].

    Returns:
        `list[dict]`: as `push_coreset(evaluation=...)` takes them.

    Raises:
        InputError: if the recording, the scorer or the balance is none of the results.
    """
    source = next((name for name, each in evaluation.sources.items() if each["digest"] == digest), None)
    if source is None:
        raise InputError("`evaluation` is of other recordings than the one that is pushed: evaluate this one")
    if (was := evaluation.settings["config"]["balance"]) != balance:
        raise InputError(f"`evaluation` is of `balance` {was}, the coresets pushed are of {balance}: take the same")
    methods = methods_of(scorer, typical, usual)
    # Results of before it was said are of a tenth.
    told = [each for each in evaluation.methods if each["source"] == source]
    had = {each["method"]: each.get("typical", TYPICAL_SHARE) for each in told}
    if other := [name for name in methods if typical and had.get(name, typical) != typical]:
        raise InputError(
            f"`evaluation` has {other[0]} with `typical` {had[other[0]]:g}, and the coresets pushed have {typical:g}: "
            "evaluate them, with another `output_dir`"
        )
    chosen = [row for row in evaluation.rows if row["source"] == source and row["method"] in methods]
    if not chosen:
        have = ", ".join(dict.fromkeys(row["method"] for row in evaluation.rows if row["source"] == source)) or "none"
        raise InputError(
            f"`evaluation` has no results of {' or '.join(methods) or scorer}"
            + (f" with `typical` {typical:g}" if typical and not methods else "")
            + f", but of {have}: evaluate it"
        )
    # One name is enough, where a score variant was evaluated under two.
    chosen = [row for row in chosen if row["method"] == chosen[0]["method"]]
    shared = [row for row in evaluation.rows if row["method"] in (FULL, RANDOM)]
    said = {FULL: "full data", RANDOM: "random subset"}
    found = evaluation.recommendation or {"fraction": None}
    smallest = [found.get(name) for name in ("model", "method", "source", "fraction")]
    return [
        {
            "rows": said.get(row["method"], f"coreset by {row['method']}")
            + (f", {percent(row['fraction'])}" if row["fraction"] is not None else "")
            + (
                f" (the smallest within {100 * found['tolerance']:g} points of full data)"
                if found["fraction"] and smallest == [row[name] for name in ("model", "method", "source", "fraction")]
                else ""
            ),
            "number": row["rows"],
            "model": row["model"],
            "accuracy": row["accuracy"],
            "protocol": f"{row['steps']:,} steps, last one",
        }
        for row in sorted([*shared, *chosen], key=lambda row: (row["model"], -row["rows"], row["method"] == RANDOM))
    ]


def percent(fraction: float) -> str:
    """A budget for a reader."""
    return f"{round(100 * fraction, 6):g}%"


def _mean_seconds(trials: Sequence[Mapping[str, Any]], phase: str) -> float:
    return statistics.fmean(trial["seconds"][phase] for trial in trials)
