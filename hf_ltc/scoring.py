"""LTC and its family: each row's loss trajectory correlated with those of the validation samples.

Every score of the family is u(z) . r_g: u(z) is the row's centred trajectory of norm one, r_g the reference
trajectory of the row's group. The mean Pearson correlation with Q validation samples is one such product with the mean
of their u, so no N x Q matrix is needed: O((N + Q) T) time and O(N) memory. With `weighting="uncertainty"` it is
multiplied by the square root of how much the model's probability of the row's label varies, which takes a second read.
"""

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from datasets import Dataset

from .batchrows import ARROW, Rows, columns_of, on_host, read_rows
from .errors import InputError, listed, some_rows
from .passes import BLOCK, count_of, pass_over, run_spans, standardised

PRESETS: dict[str, dict[str, str]] = {
    "ltc": {"of": "differences", "aggregate": "correlations", "scope": "dataset", "weighting": "none"},
    "cld": {"of": "differences", "aggregate": "losses", "scope": "class", "weighting": "none"},
    "das": {"of": "levels", "aggregate": "losses", "scope": "dataset", "weighting": "none"},
    "weighted-das": {"of": "levels", "aggregate": "losses", "scope": "dataset", "weighting": "uncertainty"},
}
"""Score variants that have a name: LTC (arXiv 2503.09721), CLD (arXiv 2508.20230), DAS, the dynamic alignment score
of AlignPrune (arXiv 2604.07306), and DAS weighted by uncertainty."""
# What won the benchmarks (docs/choosing.md).
DEFAULT_PRESET = "weighted-das"
DEFAULT = PRESETS[DEFAULT_PRESET]

_CHOICES = {
    "of": ("differences", "levels"),
    "aggregate": ("correlations", "losses"),
    "scope": ("dataset", "class"),
    "weighting": ("none", "uncertainty"),
}
FAMILY: list[dict[str, str]] = [dict(zip(_CHOICES, values)) for values in itertools.product(*_CHOICES.values())]
"""All members of the family."""

_TRAJECTORY = "loss_trajectory"


@runtime_checkable
class Recorded(Protocol):
    """What LTC needs of a recording, [`Trajectories`]: L checkpoints of N rows and of Q validation samples."""

    @property
    def losses(self) -> Any: ...  # float32 (L, N), an array or read from disk epoch by epoch
    @property
    def validation_losses(self) -> Any: ...  # float32 (L, Q)
    @property
    def labels(self) -> np.ndarray: ...  # int64 (N,)
    @property
    def validation_labels(self) -> np.ndarray: ...  # int64 (Q,)
    @property
    def rows(self) -> np.ndarray: ...  # int64 (N,)
    @property
    def validation_rows(self) -> np.ndarray: ...  # int64 (Q,)
    @property
    def epochs(self) -> np.ndarray: ...  # int64 (L,)
    @property
    def lengths(self) -> tuple[int, ...]: ...  # checkpoints of each run, summing to L
    @property
    def recipe(self) -> dict[str, Any]: ...


class RecordedColumns(Recorded, Protocol):
    """All that a recording has: per-sample metrics, ids of its rows, its runs, and its way back to the dataset."""

    @property
    def signals(self) -> Mapping[str, Any]: ...  # float32 (L, N) each
    @property
    def ids(self) -> Any: ...  # pyarrow.Array (N,), or None
    @property
    def loss_name(self) -> str: ...
    @property
    def runs(self) -> Sequence["RecordedColumns"]: ...
    def positions(
        self, dataset: Dataset
    ) -> np.ndarray: ...  # int64 (len(dataset),), -1 for rows that were not recorded


def ltc_scores(
    trajectories: Recorded,
    of: str | None = None,
    aggregate: str | None = None,
    scope: str | None = None,
    weighting: str | None = None,
    *,
    preset: str | None = None,
) -> np.ndarray:
    """Scores every recorded row by the correlation of its loss trajectory with those of the validation samples.

    `of="differences", aggregate="correlations", scope="dataset"` is LTC (arXiv 2503.09721): the mean Pearson
    correlation of a row's epoch-to-epoch loss changes with those of all validation samples. `aggregate="losses",
    scope="class"` is CLD (arXiv 2508.20230): the correlation with the mean validation losses of the row's class.
    `of="levels", aggregate="losses", scope="dataset"` is DAS (AlignPrune, arXiv 2604.07306), and the default weights
    it by uncertainty.

    Args:
        trajectories ([`Trajectories`]):
            The recording. Of several runs the score is the mean over those in which the row is not flat.
        of (`str`, *optional*, defaults to `"levels"`):
            What is correlated: `"differences"` of the loss from checkpoint to checkpoint, or `"levels"`, the loss.
        aggregate (`str`, *optional*, defaults to `"losses"`):
            `"correlations"`: the mean correlation with the validation samples; `"losses"`: the correlation with their
            mean loss.
        scope (`str`, *optional*, defaults to `"dataset"`):
            With which validation samples: all of the `"dataset"`, or those of the row's `"class"`.
        weighting (`str`, *optional*, defaults to `"uncertainty"`):
            `"uncertainty"`: the correlation times the square root of [`uncertainty`], so that of rows that move with
            the validation samples those come first that the model is long unsure of.
        preset (`str`, *optional*): `"ltc"`, `"cld"`, `"das"` or `"weighted-das"`, instead of the four.

    Returns:
        `np.ndarray`: float32 `(N,)` in [-1, 1]. NaN where the row's trajectory is flat: its differences (levels) are
        all the same, or deviate by less than 2**-34 of the loss in root mean square, which is less than float32 losses
        can show.

    Raises:
        InputError: without validation samples (in a class, with `scope="class"`), with fewer than two differences, for
            losses that are not finite, and for validation samples that are all flat.
    """
    require_recorded(trajectories)
    member = family_member(of, aggregate, scope, weighting, preset=preset)
    groups = trajectories.labels if member["scope"] == "class" else None
    runs = _references(trajectories, member)
    trained = _trained(trajectories, member)
    scores, finite = pass_over(trajectories.losses, trajectories.lengths, runs, groups, member["of"], trained)
    if not finite:
        raise _not_finite(trajectories, trajectories.losses)
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
    """The reference trajectories r_g that [`ltc_scores`] multiplies rows with: a few kilobytes that stand for all Q.

    Args:
        trajectories ([`Trajectories`]): The recording.
        of, aggregate, scope, weighting, preset: As for [`ltc_scores`].

    Returns:
        `tuple[np.ndarray, ...]`: for each run float64 `(T, G)`, T differences (or T + 1 levels), G = 1 or the number
        of classes; each column sums to zero. NaN for a class that has neither rows nor validation samples.

    Raises:
        InputError: as [`ltc_scores`].
    """
    return _references(trajectories, family_member(of, aggregate, scope, weighting, preset=preset))


@dataclass(frozen=True, eq=False)
class LTCScorer:
    """Adds a score of the family to batches of rows: a callable for `map` of any engine, picklable and without state.

    It reads `loss_trajectory`, and the label column with `scope="class"`, and nothing else. It takes the batches of
    `Dataset.map` and `IterableDataset.map`, batched and not, in any format, and of Ray Data. Of a mapping it returns
    the score column alone, which `datasets` adds to the row; of an Arrow table or a frame of pandas or polars it
    returns that with the score column added. Rows without a trajectory, and flat ones, have no score.

    Make one with [`LTCScorer.from_trajectories`].

    Args:
        reference (`np.ndarray`): float64 `(sum of T over the runs, G)`, from [`references`].
        lengths (`tuple[int, ...]`): Checkpoints of each run.
        of (`str`): `"differences"` or `"levels"`.
        label_column (`str`, *optional*): The column that says which reference is a row's; there is one if not given.
        class_names (`tuple[str, ...]`, *optional*): Where that column does not hold the numbers of the classes.
        column (`str`): The column that is added.
        trained (`tuple[int, ...]`, *optional*):
            Of each run the first checkpoint that is not of the untrained model, where uncertainty weighs.
    """

    reference: np.ndarray
    lengths: tuple[int, ...]
    of: str
    label_column: str | None = None
    class_names: tuple[str, ...] | None = None
    column: str = "ltc_score"
    trained: tuple[int, ...] | None = None

    @classmethod
    def from_trajectories(
        cls,
        trajectories: Recorded,
        of: str | None = None,
        aggregate: str | None = None,
        scope: str | None = None,
        weighting: str | None = None,
        *,
        preset: str | None = None,
        column: str = "ltc_score",
        class_names: Sequence[str] | None = None,
    ) -> "LTCScorer":
        """Makes the scorer of a recording.

        Args:
            trajectories ([`Trajectories`]): The recording.
            of, aggregate, scope, weighting, preset: As for [`ltc_scores`].
            column (`str`, *optional*, defaults to `"ltc_score"`): The column that it adds.
            class_names (`Sequence[str]`, *optional*):
                With `scope="class"`, where the label column holds strings (or integers that are not a `ClassLabel`):
                the classes in the order of their numbers, `hf_ltc.data.class_names(dataset, label_column)`.

        Returns:
            [`LTCScorer`]

        Raises:
            InputError: as [`ltc_scores`].
        """
        member = family_member(of, aggregate, scope, weighting, preset=preset)
        reference = np.concatenate(_references(trajectories, member))
        lengths = tuple(int(length) for length in trajectories.lengths)
        trained = _trained(trajectories, member)
        if member["scope"] == "dataset":
            return cls(reference, lengths, member["of"], column=column, trained=trained)
        dataset = trajectories.recipe.get("dataset") or {}
        label_column = dataset.get("label_column") or "label"
        stored = (dataset.get("features") or {}).get(label_column)
        if isinstance(stored, Mapping):
            class_names = None if stored.get("_type") == "ClassLabel" else class_names or dataset.get("names")
        names = None if class_names is None else tuple(str(name) for name in class_names)
        return cls(reference, lengths, member["of"], label_column, names, column, trained)

    def __call__(self, batch: Any) -> Any:
        """Scores the rows of a batch.

        Args:
            batch (`Mapping`, `pyarrow.Table`, or frame of pandas or polars): A row, or a batch of rows.

        Returns:
            `{column: scores}` of a mapping: float32, `None` where there is no score; else the table with the column.

        Raises:
            InputError: without a trajectory column, for trajectories of another length or that are not finite, and for
                labels without a reference trajectory.
        """
        rows = read_rows(batch, _TRAJECTORY, sum(self.lengths))
        groups = None if self.label_column is None else self._groups(batch, rows, self.label_column)
        runs = _split(self.reference, [count_of(length, self.of) for length in self.lengths])
        scores, finite = pass_over(rows.values, self.lengths, runs, groups, self.of, self.trained)
        if not finite:
            raise rows.not_finite(_TRAJECTORY)
        return rows.with_scores(batch, self.column, scores)

    def _groups(self, batch: Any, rows: "Rows", column: str) -> np.ndarray:
        if column not in columns_of(batch):
            raise InputError(
                f"no label column {column!r} in the batch, which has {listed(columns_of(batch), most=20)}: scores by "
                "class need the labels that the run was recorded with"
            )
        stored = on_host(batch[column])
        labels = [stored] if rows.single else stored.to_pylist() if isinstance(stored, ARROW) else list(stored)
        labels = [label for label, present in zip(labels, rows.present) if present]
        if self.class_names is not None:
            number = {name: i for i, name in enumerate(self.class_names)}
            groups = np.array([number.get(str(label), -1) for label in labels], dtype=np.int64)
        else:
            if text := [label for label in labels if isinstance(label, str)]:
                raise InputError(
                    f"column {column!r} holds text ({text[0]!r}), not class numbers: give "
                    "class_names=hf_ltc.data.class_names(dataset, label_column) to LTCScorer.from_trajectories"
                )
            # A null is None, or NaN in pandas.
            groups = np.array([-1 if label is None or label != label else int(label) for label in labels], dtype=int)
        known = (groups >= 0) & (groups < self.reference.shape[1])
        known[known] = ~np.isnan(self.reference[0, groups[known]])
        if not known.all():
            wrong = sorted({repr(label) for label, good in zip(labels, known) if not good})
            raise InputError(
                f"column {column!r} has labels without a reference trajectory ({listed(wrong, str, most=20)}): the "
                "run that the scorer was made from had no such class; score with scope='dataset', or record this one"
            )
        return groups


def family_member(
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
        if value not in _CHOICES[name]:
            raise InputError(f"`{name}` is {value!r}: it must be one of {listed(_CHOICES[name])}")
    if preset is None:
        return {**DEFAULT, **given}
    if preset not in PRESETS:
        raise InputError(f"`preset` is {preset!r}: it must be one of {listed(list(PRESETS))}")
    for name, value in given.items():
        if value != PRESETS[preset][name]:
            raise InputError(f"`preset` {preset!r} has {name}={PRESETS[preset][name]!r}: leave {name}={value!r} out")
    return PRESETS[preset]


def _trained(trajectories: Recorded, member: Mapping[str, str]) -> tuple[int, ...] | None:
    if member["weighting"] == "none":
        return None
    return tuple(int(trajectories.epochs[start] == 0) for start, _ in run_spans(trajectories.lengths))


def _references(trajectories: Recorded, member: Mapping[str, str]) -> tuple[np.ndarray, ...]:
    check_recorded(trajectories)
    labels, validation_labels = trajectories.labels, trajectories.validation_labels
    if member["scope"] == "class":
        groups = np.asarray(validation_labels)
        count = int(max(groups.max(), labels.max() if len(labels) else 0)) + 1
        has = np.bincount(groups, minlength=count) > 0
        if len(missing := np.flatnonzero(~has & (np.bincount(labels, minlength=count) > 0))):
            raise InputError(
                f"no validation samples in {_classes(trajectories, missing)}: score with scope='dataset', or record "
                "with validation samples of every class"
            )
    else:
        groups, count = np.zeros(len(validation_labels), dtype=np.int64), 1
        has = np.ones(1, dtype=bool)
    found = []
    for start, stop in run_spans(trajectories.lengths):
        table = np.stack([np.asarray(trajectories.validation_losses[t]) for t in range(start, stop)])
        check_finite(trajectories, trajectories.validation_losses, table)
        build = _mean_trajectories if member["aggregate"] == "losses" else _mean_correlations
        reference = build(table, groups, count, member["of"])
        if len(flat := np.flatnonzero(has & np.isnan(reference[0]))):
            where = f" of {_classes(trajectories, flat)}" if member["scope"] == "class" else ""
            raise InputError(
                f"the validation losses{where} are flat: they change by the same amount in every epoch, so nothing "
                "correlates with them; record with a model that learns, or with more epochs"
            )
        found.append(reference)
    return tuple(found)


def require_recorded(value: Any, name: str = "trajectories") -> None:
    """Checks that what was given is a recording.

    Args:
        value: What was given.
        name (`str`, *optional*, defaults to `"trajectories"`): The parameter that it was given as.

    Raises:
        InputError: if it is anything else, as the path of one.
    """
    if not isinstance(value, Recorded):
        place = repr(str(value)) if isinstance(value, str | os.PathLike) else "RUN"
        raise InputError(f"`{name}` is a {type(value).__name__}, not a recording: give Trajectories.load({place})")


def check_recorded(trajectories: Recorded) -> None:
    require_recorded(trajectories)
    short = [length for length in trajectories.lengths if length < 3]
    if short or not len(trajectories.lengths):
        raise InputError(
            f"a run of {short[0] if short else 0} checkpoints has fewer than two differences, which have no "
            "correlation: record more epochs"
        )
    if not len(trajectories.validation_labels):
        raise InputError(
            "the recording has no validation samples to correlate rows with: record with a validation split, or "
            "with a `RecordConfig.validation_fraction` of the train rows"
        )


def _mean_correlations(table: np.ndarray, groups: np.ndarray, count: int, of: str) -> np.ndarray:
    """r_g = mean of u(q) over the samples of the group that are not flat: float64 (T, G)."""
    summed = np.zeros((count_of(len(table), of), count))
    used = np.zeros(count)
    width = max(64, BLOCK // (8 * len(table)))
    for left in range(0, table.shape[1], width):
        part = slice(left, left + width)
        u = standardised(table[:, part], of)
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
    return standardised(mean, of)


def _split(reference: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    return np.split(reference, np.cumsum(counts)[:-1])


def check_finite(trajectories: Recorded, table: Any, losses: np.ndarray) -> None:
    if not np.isfinite(losses).all():
        raise _not_finite(trajectories, table)


def _not_finite(trajectories: Recorded, table: Any) -> InputError:
    if table is trajectories.validation_losses:
        return not_finite(trajectories, table, trajectories.validation_rows, "validation losses")
    return not_finite(trajectories, table, trajectories.rows, "losses")


def not_finite(trajectories: Recorded, table: Any, rows: np.ndarray, name: str) -> InputError:
    """The error that names the first epoch with values that are not finite, and their rows.

    Args:
        trajectories ([`Trajectories`]): The recording.
        table (`np.ndarray`): `(L, N)`, one of its tables.
        rows (`np.ndarray`): `(N,)`, the rows of that table.
        name (`str`): What is in the table.

    Returns:
        `InputError`
    """
    for run, (start, stop) in enumerate(run_spans(trajectories.lengths)):
        for t in range(start, stop):
            bad = np.flatnonzero(~np.isfinite(np.asarray(table[t])))
            if not len(bad):
                continue
            # Validation samples that are a split of their own have no row numbers, but a position.
            which = rows[bad] if (rows[bad] >= 0).all() else bad
            epoch = int(trajectories.epochs[t])
            of_run = f" of run {run}" if len(trajectories.lengths) > 1 else ""
            before = (
                f", or score the epochs before it with trajectories.truncate({epoch - 1})" if t - start > 2 else ""
            )
            return InputError(
                f"epoch {epoch}{of_run} has {len(bad)} {name} that are not finite (rows {some_rows(which)}): record "
                f"again with a lower learning rate{before}"
            )
    return InputError(f"{name} are too large to score: record again with a lower learning rate")


def _classes(trajectories: Recorded, classes: np.ndarray) -> str:
    names = (trajectories.recipe.get("dataset") or {}).get("names")
    shown = listed(classes, lambda c: repr(names[c]) if names and c < len(names) else str(c), count="classes")
    return f"{'class' if len(classes) == 1 else 'classes'} {shown}"
