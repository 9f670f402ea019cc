"""Scores as columns: callables for `map` of any engine."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..data.columns import LOSS_TRAJECTORY, LTC_SCORE, TRAJECTORY_SUFFIX, typicality_name
from ..recipe import Recipe
from ..utils.errors import InputError, listed, require
from .absent import absent_from_runs
from .baselines import BASELINES, Baseline, random
from .kernels import count_of, each_part, pass_over, run_spans
from .ltc import first_trained, references, score_variant
from .mapped_batches import ARROW, Rows, columns_of, on_host, read_rows
from .odds import typical_spans
from .protocol import Recorded, RecordedColumns, not_finite, require_recorded
from .typical_rows import usual_typical
from .typicality import Stage, first_drawn, typical_stages, typicality_of


@dataclass(frozen=True, eq=False)
class LTCScorer:
    """Adds a score and the typicality (see [`ltc_typicality`]), which ranking needs too, to batches of rows.

    It is a picklable, stateless callable for `map` of any engine: make it with [`LTCScorer.from_trajectories`]. It
    reads only `loss_trajectory` and, with `scope="class"`, the label column. It takes rows and batches of
    `Dataset.map` and `IterableDataset.map` in any format, and batches of Ray Data. For a mapping it returns only the
    new columns, which `datasets` adds to the row. For an Arrow table or a pandas or polars frame it returns all
    columns. Both values are null for rows without a trajectory, and the score is null for flat trajectories. Of
    images, only the rows that come first have a typicality, as after [`Trajectories.score`].

    Args:
        reference (`np.ndarray`): float64 `(sum of T over the runs, G)`, from [`references`].
        lengths (`tuple[int, ...]`): Checkpoints of each run.
        of (`str`): `"differences"` or `"levels"`.
        label_column (`str`, *optional*): The column that says which reference belongs to a row; if not given, there is
            one for all.
        class_names (`tuple[str, ...]`, *optional*): Needed if that column does not hold class numbers.
        column (`str`): The column of scores; that of typicality has its name (`ltc_typicality` for `ltc_score`).
        trained (`tuple[int, ...]`, *optional*):
            The first checkpoint of each run after the untrained model, where uncertainty is the weight.
        spans (`tuple[tuple[int, int, int], ...]`, *optional*): As [`typical_spans`] gives them.
        stages (`tuple[Stage, ...]`, *optional*): As [`typical_stages`] gives them; without, no typicality is added.
        first (`np.ndarray`, *optional*): As [`first_drawn`] gives it: which rows have a typicality, if not all do.
    """

    reference: np.ndarray
    lengths: tuple[int, ...]
    of: str
    label_column: str | None = None
    class_names: tuple[str, ...] | None = None
    column: str = LTC_SCORE
    trained: tuple[int, ...] | None = None
    spans: tuple[tuple[int, int, int], ...] = ()
    stages: tuple[Stage, ...] = ()
    first: np.ndarray | None = None

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
        column: str = LTC_SCORE,
        class_names: Sequence[str] | None = None,
    ) -> "LTCScorer":
        """Makes the scorer of a recording.

        Args:
            trajectories ([`Trajectories`]): The recording.
            of (`str`, *optional*): As for [`ltc_scores`], like the three that follow.
            aggregate (`str`, *optional*): See `of`.
            scope (`str`, *optional*): See `of`.
            weighting (`str`, *optional*): See `of`.
            preset (`str`, *optional*): A name for all four, as for [`ltc_scores`].
            column (`str`, *optional*, defaults to `"ltc_score"`): The column of scores that it adds.
            class_names (`Sequence[str]`, *optional*):
                With `scope="class"`, if the label column holds strings (or integers that are not a `ClassLabel`): the
                classes in the order of their numbers, `hf_ltc.data.labels.class_names(dataset, label_column)`.

        Returns:
            [`LTCScorer`]

        Raises:
            InputError: as [`ltc_scores`].
        """
        member = score_variant(of, aggregate, scope, weighting, preset=preset)
        reference = np.concatenate(references(trajectories, **member))
        lengths = tuple(int(length) for length in trajectories.lengths)
        trained = first_trained(trajectories, member)
        spans = typical_spans(trajectories)
        typical = usual_typical(trajectories)
        stages = typical_stages(trajectories) if typical else ()
        first = first_drawn(trajectories, stages, typical) if typical else None
        if member["scope"] == "dataset":
            return cls(reference, lengths, member["of"], None, None, column, trained, spans, stages, first)
        dataset = Recipe.from_dict(trajectories.recipe).dataset
        label_column = dataset.label_column or "label"
        stored = dataset.features.get(label_column)
        if isinstance(stored, Mapping):
            class_names = None if stored.get("_type") == "ClassLabel" else class_names or dataset.names
        names = None if class_names is None else tuple(str(name) for name in class_names)
        return cls(reference, lengths, member["of"], label_column, names, column, trained, spans, stages, first)

    def __call__(self, batch: Any) -> Any:
        """Scores the rows of a batch.

        Args:
            batch (`Mapping`, `pyarrow.Table`, or frame of pandas or polars): A row, or a batch of rows.

        Returns:
            `{column: values}` for a mapping: float32, `None` where there is none; else the table with the columns.

        Raises:
            InputError: without a trajectory column, for trajectories of another length or that are not finite, and for
                labels without a reference trajectory.
        """
        rows = read_rows(batch, LOSS_TRAJECTORY, sum(self.lengths))
        groups = None if self.label_column is None else self._groups(batch, rows, self.label_column)
        ends = np.cumsum([count_of(length, self.of) for length in self.lengths])
        runs = np.split(self.reference, ends[:-1])
        scores, finite = pass_over(rows.values, self.lengths, runs, groups, self.of, self.trained)
        if not finite:
            raise rows.not_finite(LOSS_TRAJECTORY, self.lengths)
        columns, typicality = {self.column: scores}, typicality_name(self.column)
        if self.stages:
            columns[typicality] = typicality_of(rows.values, self.spans, self.stages, self.first)
        elif typicality in columns_of(batch):
            # Of another recording.
            columns[typicality] = np.full_like(scores, np.nan)
        return rows.with_columns(batch, columns)

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
                    "class_names=hf_ltc.data.labels.class_names(dataset, label_column) to LTCScorer.from_trajectories"
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


def baseline_scores(
    trajectories: RecordedColumns, name: str, *, epochs: tuple[int, int | None] | None = None, **options: Any
) -> np.ndarray:
    """Scores every recorded row by a baseline.

    Args:
        trajectories ([`Trajectories`]):
            The recording; with several runs the score is the mean over those that recorded the row.
        name (`str`): One of [`BASELINES`]: `"mean_loss"`, `"final_loss"`, `"forgetting"`, `"el2n"`, `"aum"`,
            `"dyn_unc"`, `"tdds"`, `"dual"`, `"random"`.
        epochs (`tuple[int, int or None]`, *optional*):
            First and last epoch to look at; the baseline's own if not given.
        **options: Options of the baseline's function, e.g. `window=10`.

    Returns:
        `np.ndarray`: float32 `(N,)`; `BASELINES[name].keeps` says whether the highest or the lowest are kept.

    Raises:
        InputError: for an unknown name or option, a metric that was not recorded, values that are not finite, and
            fewer checkpoints than the baseline needs.
    """
    scorer = BaselineScorer.from_trajectories(trajectories, name, epochs=epochs, **options)
    baseline = BASELINES[name]
    if baseline.signal is None:
        return baseline.function(trajectories.rows, **dict(scorer.options)).astype(np.float32)
    table = trajectories.losses if baseline.signal == "loss" else trajectories.signals[baseline.signal]
    scores = np.empty(len(trajectories.rows), dtype=np.float32)

    def work(values: np.ndarray, part: slice) -> None:
        found = score_table(scorer, values)
        if found is None:
            what = "losses" if baseline.signal == "loss" else f"values of {baseline.signal}"
            raise not_finite(trajectories, table, trajectories.rows, what)
        scores[part] = found

    each_part(table, work)
    return scores


def _finite_but(runs: Sequence[np.ndarray], absent: Sequence[np.ndarray]) -> bool:
    """Whether all values of runs are finite but those of rows absent from them."""
    return all((np.isfinite(run).all(axis=0) | gone).all() for run, gone in zip(runs, absent))


@dataclass(frozen=True)
class BaselineScorer:
    """Adds a baseline's score to batches of rows: a picklable, stateless callable for `map` of any engine.

    It reads one trajectory column (`loss_trajectory`, or `<signal>_trajectory`), and takes and returns the same kinds
    of batches as [`LTCScorer`].

    `"random"` needs row numbers: map with `with_indices=True`, or name a column that holds them (`row_column`), which
    is correct for shuffled datasets too.

    Make one with [`BaselineScorer.from_trajectories`].

    Args:
        name (`str`): One of [`BASELINES`].
        checkpoints (`tuple[tuple[int, ...], ...]`): Positions in the trajectory that are used, for each run.
        lengths (`tuple[int, ...]`): Checkpoints of each run.
        options (`tuple[tuple[str, Any], ...]`): Options of the baseline's function.
        column (`str`): The column that is added.
        row_column (`str`, *optional*): The column with the row numbers, for `"random"`.
    """

    name: str
    checkpoints: tuple[tuple[int, ...], ...]
    lengths: tuple[int, ...]
    options: tuple[tuple[str, Any], ...]
    column: str
    row_column: str | None = None

    @classmethod
    def from_trajectories(
        cls,
        trajectories: RecordedColumns,
        name: str,
        *,
        epochs: tuple[int, int | None] | None = None,
        column: str | None = None,
        row_column: str | None = None,
        **options: Any,
    ) -> "BaselineScorer":
        """Makes the scorer of a recording.

        Args:
            trajectories ([`Trajectories`]): The recording.
            name (`str`): One of [`BASELINES`].
            epochs (`tuple[int, int or None]`, *optional*):
                First and last epoch to look at; the baseline's own if not given.
            column (`str`, *optional*): The column that it adds; `<name>_score` if not given.
            row_column (`str`, *optional*): For `"random"`, the column with the row numbers.
            **options: Options of the baseline's function.

        Returns:
            [`BaselineScorer`]

        Raises:
            InputError: as [`baseline_scores`].
        """
        require_recorded(trajectories)
        if not isinstance(name, str) or name not in BASELINES:
            raise InputError(f"no baseline {name!r}: there are {', '.join(map(repr, BASELINES))}")
        baseline = BASELINES[name]
        settings = _settings(name, baseline, options)
        if baseline.signal not in (None, "loss") and baseline.signal not in trajectories.signals:
            raise InputError(
                f"{name} needs the signal {baseline.signal!r}, which was not recorded (there are: "
                f"{', '.join(trajectories.signals) or 'none'}): record again with `RecordConfig.signals` "
                f"{baseline.signal}"
            )
        first, last = epochs or baseline.epochs
        first = max(first, 1)
        between = f"from epoch {first} on" if last is None else f"in epochs {first} to {last}"
        used: list[tuple[int, ...]] = []
        for start, stop in run_spans(trajectories.lengths):
            number = trajectories.epochs[start:stop]
            wanted = (number >= first) & (number <= (np.inf if last is None else last))
            used.append(tuple((start + np.flatnonzero(wanted)).tolist()))
            need = settings.get("window", 1) + baseline.more_than_window
            if baseline.signal is not None and len(used[-1]) < need:
                smaller = " or a smaller window" if need > 1 else ""
                raise InputError(
                    f"{name} needs {need} checkpoints or more, but only {len(used[-1])} were recorded "
                    f"{between}: give other epochs{smaller}, or record more epochs"
                )
        lengths = tuple(int(length) for length in trajectories.lengths)
        return cls(name, tuple(used), lengths, tuple(settings.items()), column or f"{name}_score", row_column)

    @property
    def keeps(self) -> Literal["highest", "lowest"]:
        """Which scores are kept: `"highest"` or `"lowest"`."""
        return BASELINES[self.name].keeps

    @property
    def length(self) -> int:
        """Length of the trajectory."""
        return sum(self.lengths)

    def score(self, runs: Sequence[np.ndarray], absent: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """Mean of the baseline over runs.

        Args:
            runs (`Sequence[np.ndarray]`): `(K, N)` for each run, the metric at the checkpoints that are used.
            absent (`Sequence[np.ndarray]`, *optional*): For each run bool `(N,)`, the rows that it did not record.

        Returns:
            `np.ndarray`: float32 `(N,)`.
        """
        function, options = BASELINES[self.name].function, dict(self.options)
        found = np.stack([function(run, **options) for run in runs])
        if absent is None:
            return found.mean(axis=0).astype(np.float32)
        return found.mean(axis=0, where=~np.stack(absent)).astype(np.float32)

    def __call__(self, batch: Any, indices: Any = None) -> Any:
        """Scores the rows of a batch.

        Args:
            batch (`Mapping`, `pyarrow.Table`, or frame of pandas or polars): A row, or a batch of rows.
            indices (`int` or `Sequence[int]`, *optional*): Row numbers, as `with_indices=True` passes them.

        Returns:
            `{column: scores}` for a mapping: float32, `None` where there is no score; else the table with the column.

        Raises:
            InputError: without the trajectory column, or for trajectories of another length or that are not finite.
        """
        signal = BASELINES[self.name].signal
        if signal is None:
            # Held-out rows cannot be chosen, by chance no more than otherwise.
            rows = read_rows(batch, LOSS_TRAJECTORY, self.length)
            numbers = self._row_numbers(batch, indices)[rows.present]
            scores = random(numbers, **dict(self.options)).astype(np.float32)
            return rows.with_columns(batch, {self.column: scores})
        column = f"{signal}{TRAJECTORY_SUFFIX}"
        fix = None if signal == "loss" else f"attach it, scored = run.attach(dataset, signals=[{signal!r}])"
        rows = read_rows(batch, column, self.length, fix)
        found = score_table(self, rows.values)
        if found is None:
            raise rows.not_finite(column, self.lengths)
        return rows.with_columns(batch, {self.column: found})

    def _row_numbers(self, batch: Any, indices: Any) -> np.ndarray:
        if self.row_column is not None:
            indices = batch[self.row_column]
        elif indices is None:
            raise InputError("random scores are made of row numbers: map with with_indices=True, or give row_column")
        return np.asarray(indices, dtype=np.int64).reshape(-1)


def score_table(scorer: BaselineScorer, values: np.ndarray) -> np.ndarray | None:
    """Mean of a baseline over the runs that recorded a row.

    Args:
        scorer ([`BaselineScorer`]): The baseline.
        values (`np.ndarray`): float32 `(L, N)`, its metric at all checkpoints.

    Returns:
        `np.ndarray`: float32 `(N,)`; `None` where values are not finite.
    """
    runs = [values[list(run)] for run in scorer.checkpoints]
    if all(np.isfinite(run).all() for run in runs):
        return scorer.score(runs)
    absent = absent_from_runs(values, scorer.lengths)
    return scorer.score(runs, absent) if _finite_but(runs, absent) else None


def _settings(name: str, baseline: Baseline, options: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(baseline.function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    if unknown := [key for key in options if key not in defaults]:
        known = f"it has {', '.join(defaults)}" if defaults else "it has none but epochs"
        raise InputError(f"{name} has no option {unknown[0]!r}: {known}")
    settings = {**defaults, **options}
    window, decay, seed = settings.get("window", 2), settings.get("decay", 1), settings.get("seed", 0)
    require(window >= 2, "window", window, "2 or more")
    require(0 < decay <= 1, "decay", decay, "inside (0, 1]")
    require(seed >= 0, "seed", seed, "0 or more")
    return settings
