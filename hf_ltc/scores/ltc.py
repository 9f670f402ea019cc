"""LTC and its variants: each row's loss trajectory correlated with those of the validation samples.

Every score variant is u(z) . r_g: u(z) is the row's centered trajectory of norm one, r_g the reference
trajectory of the row's group. The mean Pearson correlation with Q validation samples is one such product with the mean
of their u, so no N x Q matrix is needed: O((N + Q) T) time and O(N) memory. With `weighting="uncertainty"` the score
is multiplied by the square root of how much the model's probability of the row's label varies, in the same pass.
Short recordings and texts are not weighted.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..recipe import Recipe
from ..utils.errors import InputError, listed, require
from .absent import absent_from_runs
from .kernels import BLOCK, count_of, pass_over, run_spans, standardized
from .protocol import (
    PlainLosses,
    Recorded,
    Validated,
    check_finite,
    check_recorded,
    is_short,
    losses_not_finite,
    require_classes,
    shown_classes,
)

PRESETS: dict[str, dict[str, str]] = {
    "ltc": {"of": "differences", "aggregate": "correlations", "scope": "dataset", "weighting": "none"},
    "cld": {"of": "differences", "aggregate": "losses", "scope": "class", "weighting": "none"},
    "das": {"of": "levels", "aggregate": "losses", "scope": "dataset", "weighting": "none"},
    "weighted-das": {"of": "levels", "aggregate": "losses", "scope": "dataset", "weighting": "uncertainty"},
}
"""Score variants that have a name: LTC (arXiv 2503.09721), CLD (arXiv 2508.20230), DAS, the dynamic alignment score
of AlignPrune (arXiv 2604.07306), and DAS weighted by uncertainty."""
# What won the benchmarks (docs/results.md).
DEFAULT_PRESET = "weighted-das"
DEFAULT = PRESETS[DEFAULT_PRESET]
_CHOICES = {
    "of": ("differences", "levels"),
    "aggregate": ("correlations", "losses"),
    "scope": ("dataset", "class"),
    "weighting": ("none", "uncertainty"),
}
VARIANTS: list[dict[str, str]] = [dict(zip(_CHOICES, values)) for values in itertools.product(*_CHOICES.values())]
"""All score variants."""


def ltc_scores(
    trajectories: Any,
    validation_losses: Any = None,
    *,
    of: str | None = None,
    aggregate: str | None = None,
    scope: str | None = None,
    weighting: str | None = None,
    preset: str | None = None,
) -> np.ndarray:
    """Scores every recorded row by the correlation of its loss trajectory with those of the validation samples.

    `of="differences", aggregate="correlations", scope="dataset"` is LTC (arXiv 2503.09721): the mean Pearson
    correlation of a row's epoch-to-epoch loss changes with those of all validation samples. `aggregate="losses",
    scope="class"` is CLD (arXiv 2508.20230): the correlation with the mean validation losses of the row's class.
    `of="levels", aggregate="losses", scope="dataset"` is DAS (AlignPrune, arXiv 2604.07306), and the default weights
    it by uncertainty.

    Args:
        trajectories ([`Trajectories`], `np.ndarray` or `torch.Tensor`):
            The recording. With several runs, the score is the mean over those that recorded the row and in which it is
            not flat. Or just the losses of the rows, `(L, N)`, starting with those of the untrained model; if they
            start later, pass [`Trajectories`] with `epochs`.
        validation_losses (`np.ndarray` or `torch.Tensor`, *optional*):
            If losses are given: those of the validation samples at the same checkpoints, `(L, Q)`.
        of (`str`, *optional*, defaults to `"levels"`):
            What to correlate: `"levels"`, the losses, or `"differences"` between successive checkpoints.
        aggregate (`str`, *optional*, defaults to `"losses"`):
            `"correlations"`: the mean correlation with the validation samples; `"losses"`: the correlation with their
            mean loss.
        scope (`str`, *optional*, defaults to `"dataset"`):
            Which validation samples: all of the `"dataset"`, or those of the row's `"class"`.
        weighting (`str`, *optional*, defaults to `"uncertainty"`):
            `"uncertainty"`: the correlation times the square root of [`uncertainty`]. Among rows that follow the
            validation samples, this favors those that the model stays unsure about for long. Texts, and recordings
            of fewer than 15 epochs, are not weighted.
        preset (`str`, *optional*): `"ltc"`, `"cld"`, `"das"` or `"weighted-das"`, instead of the four.

    Returns:
        `np.ndarray`: float32 `(N,)` in [-1, 1]. NaN where the row's trajectory is flat: its differences (levels) are
        all the same, or their root mean square deviation is less than 2**-34 of the loss, below what float32 losses
        can show.

    Raises:
        InputError: without validation samples (in a class, with `scope="class"`), with fewer than two differences, for
            losses that are not finite, for validation samples that are all flat, and for tables that do not match.
    """
    member = score_variant(of, aggregate, scope, weighting, preset=preset)
    if validation_losses is not None:
        if isinstance(trajectories, Recorded):
            raise InputError(
                "`validation_losses` go with an array of losses, and a recording has its own: leave them out, and "
                "name the options of a variant, such as of='differences'"
            )
        if member["scope"] == "class":
            raise InputError("losses alone have no classes: give Trajectories(losses, validation_losses, labels, ...)")
        trajectories = PlainLosses.of(trajectories, validation_losses)
    runs = references(trajectories, **member)
    groups = trajectories.labels if member["scope"] == "class" else None
    trained = first_trained(trajectories, member)
    scores, finite = pass_over(trajectories.losses, trajectories.lengths, runs, groups, member["of"], trained)
    if not finite:
        raise losses_not_finite(trajectories, trajectories.losses)
    return scores


def references(
    trajectories: Recorded,
    of: str | None = None,
    aggregate: str | None = None,
    scope: str | None = None,
    weighting: str | None = None,
    *,
    preset: str | None = None,
) -> tuple[np.ndarray, ...]:
    """The reference trajectories r_g that [`ltc_scores`] multiplies rows by: a few kilobytes in place of Q samples.

    Args:
        trajectories ([`Trajectories`]): The recording.
        of, aggregate, scope, weighting, preset: As for [`ltc_scores`].

    Returns:
        `tuple[np.ndarray, ...]`: for each run float64 `(T, G)`, T differences (or T + 1 levels), G = 1 or the number
        of classes; each column sums to zero. NaN for a class that has neither rows nor validation samples.

    Raises:
        InputError: as [`ltc_scores`].
    """
    member = score_variant(of, aggregate, scope, weighting, preset=preset)
    check_recorded(trajectories)
    return validation_references(trajectories, member)


def validation_references(trajectories: Validated, member: Mapping[str, str]) -> tuple[np.ndarray, ...]:
    """[`references`] of a checked recording, which may be without the losses of its rows."""
    labels, validation_labels = trajectories.labels, trajectories.validation_labels
    if member["scope"] == "class":
        require_classes(trajectories, "scope='class' needs", "give scope='dataset', or preset 'ltc' or 'das'")
        every = np.asarray(validation_labels)
        count = int(max(every.max(), labels.max() if len(labels) else 0)) + 1
    else:
        every, count = np.zeros(len(validation_labels), dtype=np.int64), 1
    found = []
    absent = absent_from_runs(trajectories.validation_losses, trajectories.lengths)
    for number, (start, stop) in enumerate(run_spans(trajectories.lengths)):
        table = np.stack([np.asarray(trajectories.validation_losses[t]) for t in range(start, stop)])
        groups = every
        if absent[number].any():
            groups, table = (np.compress(~absent[number], values, axis=-1) for values in (groups, table))
        if not len(groups):
            raise InputError(f"run {number} has no validation losses, all are NaN: leave this run out")
        has = np.bincount(groups, minlength=count) > 0
        needed = np.bincount(labels, minlength=count) > 0 if member["scope"] == "class" else has
        if len(missing := np.flatnonzero(~has & needed)):
            raise InputError(
                f"no validation samples in {shown_classes(trajectories, missing)}: score with scope='dataset', or "
                "record with validation samples of every class"
            )
        check_finite(trajectories, trajectories.validation_losses, table, [len(table)])
        build = _mean_trajectories if member["aggregate"] == "losses" else _mean_correlations
        reference = build(table, groups, count, member["of"])
        if len(flat := np.flatnonzero(has & np.isnan(reference[0]))):
            where = f" of {shown_classes(trajectories, flat)}" if member["scope"] == "class" else ""
            raise InputError(
                f"the validation losses{where} are flat: they change by the same amount in every epoch, so nothing "
                "correlates with them; record with a model that learns, or with more epochs"
            )
        found.append(reference)
    return tuple(found)


def score_variant(
    of: str | None = None,
    aggregate: str | None = None,
    scope: str | None = None,
    weighting: str | None = None,
    *,
    preset: str | None = None,
) -> dict[str, str]:
    """Checks the choices of a score, or looks them up.

    Args:
        of, aggregate, scope, weighting, preset: As for [`ltc_scores`].

    Returns:
        `dict[str, str]`: `of`, `aggregate`, `scope` and `weighting`.

    Raises:
        InputError: for an unknown value, and for a preset together with a choice that contradicts it.
    """
    choices = {"of": of, "aggregate": aggregate, "scope": scope, "weighting": weighting}
    given = {name: value for name, value in choices.items() if value is not None}
    for name, value in given.items():
        require(value in _CHOICES[name], name, value, f"one of {listed(_CHOICES[name])}")
    if preset is None:
        return {**DEFAULT, **given}
    require(preset in PRESETS, "preset", preset, f"one of {listed(list(PRESETS))}")
    for name, value in given.items():
        if value != PRESETS[preset][name]:
            raise InputError(f"`preset` {preset!r} has {name}={PRESETS[preset][name]!r}: leave {name}={value!r} out")
    return PRESETS[preset]


def is_weighted(trajectories: Validated, member: Mapping[str, str]) -> bool:
    """Whether a variant's weight, if it has one, is used for a recording: coresets of some are better without.

    Within few windows the probability of a row varies most if the row was learned then: in a short recording, the
    weight would favor the easiest rows. Models of texts soon memorize their rows, and it would favor the hardest.

    Args:
        trajectories ([`Trajectories`]): The recording, of one or more runs.
        member (`Mapping[str, str]`): The variant, from [`score_variant`].

    Returns:
        `bool`: whether `weighting` is `"uncertainty"`, the rows are no texts, and every run was trained for 15 epochs
            or more, however few of them were recorded; where nothing tells, for 15 checkpoints.
    """
    recipe = Recipe.from_dict(trajectories.recipe)
    return member["weighting"] != "none" and not recipe.dataset.is_text and not is_short(trajectories)


def variant_of_all(runs: Sequence[Validated], **variant: Any) -> dict[str, str]:
    """The score variant by which recordings can be compared: without its weight, unless all of them are weighted.

    Args:
        runs (`Sequence[Trajectories]`): The recordings.
        **variant: As for [`score_variant`].
    """
    member = score_variant(**variant)
    return {**member, **({} if all(is_weighted(run, member) for run in runs) else {"weighting": "none"})}


def first_trained(trajectories: Recorded, member: Mapping[str, str]) -> tuple[int, ...] | None:
    """The first checkpoint of each run after the untrained model; none if scores are not weighted."""
    if not is_weighted(trajectories, member):
        return None
    return tuple(int(trajectories.epochs[start] == 0) for start, _ in run_spans(trajectories.lengths))


def _mean_correlations(table: np.ndarray, groups: np.ndarray, count: int, of: str) -> np.ndarray:
    """r_g = mean of u(q) over the samples of the group that are not flat: float64 (T, G)."""
    summed = np.zeros((count_of(len(table), of), count))
    used = np.zeros(count)
    width = max(64, BLOCK // (8 * len(table)))
    for left in range(0, table.shape[1], width):
        part = slice(left, left + width)
        u = standardized(table[:, part], of)
        sharp = ~np.isnan(u[0])
        group = groups[part]
        if not sharp.all():
            u, group = u[:, sharp], group[sharp]
        used += np.bincount(group, minlength=count)
        if count == 1:
            summed[:, 0] += u.sum(axis=1)
            continue
        for t in range(len(u)):
            summed[t] += np.bincount(group, weights=u[t], minlength=count)
    with np.errstate(invalid="ignore"):
        return summed / used


def _mean_trajectories(table: np.ndarray, groups: np.ndarray, count: int, of: str) -> np.ndarray:
    """r_g = u of the group's mean losses: float64 (T, G)."""
    size = np.bincount(groups, minlength=count)
    with np.errstate(invalid="ignore"):
        mean = np.stack([np.bincount(groups, weights=losses, minlength=count) for losses in table]) / size
    return standardized(mean, of)
