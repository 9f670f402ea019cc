"""The recordings of an evaluation and the scores by them: what they took, how reliable they are, what they restate."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..recipe import Recipe
from ..scores.reliability import reliability_of, within_class_spearman
from ..trajectories.value import Trajectories
from ..utils import files
from ..utils.errors import InputError
from .dataset import EvaluatedDataset
from .methods import RANDOM, find_method, kept_early, method_scores
from .pictures import RESULTS
from .results import Evaluation

# Scores that others may merely restate.
_KNOWN = ("mean_loss", "aum")
Scores = dict[tuple[str, str], tuple[np.ndarray, float]]


def source_model(run: Trajectories) -> str | None:
    """The name of the source model of a recording, if it has one."""
    return Recipe.from_dict(run.recipe).config.model


def score_all(methods: Sequence[str], sources: Mapping[str, Trajectories]) -> Scores:
    """Scores of each method by each recording, and their seconds; not of chance, which each seed draws anew."""
    found: Scores = {}
    for name, run in sources.items():
        for method in methods:
            if method == RANDOM:
                continue
            started = time.perf_counter()
            try:
                scores = method_scores(method, run)
            except InputError as error:
                raise InputError(f"{name}: {error}" if len(sources) > 1 else str(error)) from error
            found[name, method] = (scores, round(time.perf_counter() - started, 3))
    return found


def source_of(name: str, run: Trajectories, digest: str) -> dict[str, Any]:
    recipe = Recipe.from_dict(run.recipe)
    return {
        "model": recipe.config.model or name,
        "runs": len(run.lengths),
        "checkpoints": list(run.lengths),
        "losses": run.loss_name,
        "seconds": recording_seconds(run),
        "hardware": recipe.hardware.to_dict() or None,
        "digest": digest,
    }


def recording_seconds(run: Trajectories) -> float | None:
    """What all its runs took but for decoding images, if that is known."""
    whole = Recipe.from_dict(run.recipe)
    each = [Recipe.from_dict(recipe) for recipe in whole.runs or ()]
    total = 0.0
    for recipe in each if len(each) == len(run.lengths) else [whole]:
        if not recipe.seconds:
            return None
        # The seconds of runs recorded together are their sums already, which each of them has where they are joined
        # with others.
        among = len(recipe.seeds or [0]) if recipe is not whole else 1
        # Models are timed with the images at hand.
        total += sum(taken for phase, taken in recipe.seconds.items() if phase != "decoding") / among
    return total


def methods_told(data: EvaluatedDataset, scored: Scores, trials: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """How far each method's scores depend on the seed of the recording, and how far the rows that it keeps first are
    those of a high mean loss, of a large AUM.

    Of the methods of all trials whose recording is given, those of other calls too.
    """
    pairs = dict.fromkeys([*((trial["source"], trial["method"]) for trial in trials), *scored])
    found = []
    for source, run in data.sources.items():
        # Each has all tables of its run, and is the same for every method.
        runs = run.runs if len(run.lengths) > 1 else []
        known = {name: _known(name, run) for name in _KNOWN}
        for method in (method for of, method in pairs if of == source):
            if (source, method) not in scored:
                try:
                    scored = scored | score_all([method], {source: run})
                except InputError:
                    # Of another call, whose recording had a per-sample metric that this one has not.
                    continue
            scores, seconds = scored[source, method]
            if find_method(method).baseline == RANDOM:
                # Chance orders the rows of a cluster: there is nothing to agree on.
                nothing = {"reliability": None, **dict.fromkeys(_KNOWN)}
                found.append({"method": method, "source": source, "seconds": seconds, **nothing})
                continue
            first = kept_early(method, run, scores)
            each = [method_scores(method, one) for one in runs]
            typical = find_method(method).typical(run)
            told: dict[str, Any] = {"method": method, "source": source, "seconds": seconds, "typical": typical}
            told["reliability"] = reliability_of(each, run.labels).to_dict() if each else None
            for name, other in known.items():
                told[name] = None if other is None else within_class_spearman(first, other, run.labels)
            found.append(files.finite(told))
    return found


def methods_told_before(folder: Path, sources: set[str]) -> list[dict[str, Any]]:
    """What an earlier call said of recordings that this one was not given."""
    before = _before(folder)
    return [each for each in before.methods if each["source"] in sources] if before else []


def recommended_before(folder: Path) -> dict[str, Any] | None:
    """The budget that an earlier call found."""
    before = _before(folder)
    return before.recommendation if before else None


def _before(folder: Path) -> Evaluation | None:
    path = folder / RESULTS
    try:
        return Evaluation.load(path) if path.exists() else None
    except InputError:
        # Of another version, or damaged: it is written anew.
        return None


def _known(name: str, run: Trajectories) -> np.ndarray | None:
    try:
        return method_scores(name, run)
    except InputError:
        # Its per-sample metric was not recorded.
        return None
