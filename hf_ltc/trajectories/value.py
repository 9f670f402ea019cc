"""Trajectories: what a run recorded, as a value, and its way back to the dataset it was recorded on."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..coresets import order
from ..coresets.weights import WEIGHT, check_weight_column, weight_rows
from ..data.columns import LOSS_TRAJECTORY, TRAJECTORY_SUFFIX, with_columns
from ..data.inputs import class_numbers, integers, loss_table
from ..recipe import Recipe
from ..utils import files
from ..utils.errors import InputError
from ..utils.files import local
from . import combine, run_dir, tables
from .align import row_places
from .checks import check_fields
from .exchange import ExchangeMixin
from .features import RowFeatures, feature_columns, require_features
from .ranked import score_trajectories
from .run_dir import LOSSES, EpochTable, write_rows

# A field that is not given has its value once the others are known.
_LATER: Any = None


@dataclass(frozen=True, eq=False)
class Trajectories(ExchangeMixin):
    """The losses of a recording: those of the candidate rows and of the validation samples, at each checkpoint.

    Several runs (of different seeds or source models) can be in one value: their checkpoints follow one another along
    the first axis, and `lengths` says how many each run has. No difference is taken across runs, and a score is the
    mean of the scores of each run. If validation samples rotate over the runs (`RecordConfig.rotate_validation`), the
    value has the rows and validation samples of all runs, and NaN at all checkpoints of a run that did not record
    them.

    The losses may come from any training: the first four arguments, as arrays or tensors of any floating-point type,
    are enough.

    Args:
        losses (`np.ndarray`): float32 `(L, N)`, natural-log cross-entropy of row `rows[i]` at checkpoint `epochs[t]`.
            After `load(..., mmap=True)` it is read from disk epoch by epoch instead.
        validation_losses (`np.ndarray`): float32 `(L, Q)`.
        labels (`np.ndarray`): int64 `(N,)`, classes as numbered by the dataset's `ClassLabel`.
        validation_labels (`np.ndarray`): int64 `(Q,)`.
        rows (`np.ndarray`, *optional*):
            int64 `(N,)`, row numbers in the source dataset, increasing; 0 to N - 1 if not given.
        validation_rows (`np.ndarray`, *optional*):
            int64 `(Q,)`, row numbers in the source dataset, or -1 if from another split, as all are if not given.
        epochs (`np.ndarray`, *optional*):
            int64 `(L,)`, training epochs before each checkpoint, 0 being the untrained model; 0, 1, ... if not given.
        lengths (`tuple[int, ...]`, *optional*): Checkpoints of each run; they sum to L. One run if not given.
        signals (`Mapping[str, np.ndarray]`, *optional*):
            Per-sample metrics, float32 `(L, N)` each: margin, correct, el2n, evaluation_loss, ...; predicted are class
            numbers.
        ids (`pyarrow.Array`, *optional*): `(N,)` unique ids of the rows, where the dataset has such a column.
        recipe (`dict`, *optional*): How it was made: settings, dataset identity, versions, hardware, seconds.
        loss_name (`str`, *optional*, defaults to `"training_loss"`):
            Which losses `losses` are: `"training_loss"` or `"evaluation_loss"`.
        features ([`RowFeatures`], *optional*):
            The input of the source model's last layer for each row (`RecordConfig.features`), by row number:
            `features.of(rows)` is float16 `(n, D)`.

    Raises:
        InputError: for arrays whose shapes do not match, and a recipe that cannot be checked against a dataset.
    """

    losses: Any
    validation_losses: Any
    labels: np.ndarray
    validation_labels: np.ndarray
    rows: np.ndarray = _LATER
    validation_rows: np.ndarray = _LATER
    epochs: np.ndarray = _LATER
    lengths: tuple[int, ...] = _LATER
    signals: Mapping[str, Any] = field(default_factory=dict)
    ids: Any = None
    recipe: dict[str, Any] = field(default_factory=dict)
    loss_name: str = LOSSES[0]
    features: RowFeatures | None = None

    def __post_init__(self) -> None:
        # Refuses one in which what checks rely on is malformed.
        Recipe.from_dict(self.recipe)
        for name in ("labels", "validation_labels"):
            self._set(name, class_numbers(getattr(self, name), name))
        for name in ("losses", "validation_losses"):
            self._set(name, _table(getattr(self, name), name))
        self._set("signals", {name: _table(table, name) for name, table in self.signals.items()})
        usual = {
            "rows": np.arange(len(self.labels)),
            "validation_rows": np.full(len(self.validation_labels), -1),
            "epochs": np.arange(len(self.losses)),
        }
        for name, values in usual.items():
            self._set(name, values if getattr(self, name) is None else integers(getattr(self, name), name))
        given = len(self.epochs) if self.lengths is None else self.lengths
        # A number is that of a single run.
        self._set("lengths", tuple(integers(np.atleast_1d(np.asarray(given)), "lengths").tolist()))
        check_fields(self)

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        samples, checkpoints = len(self.validation_labels), " + ".join(map(str, self.lengths))
        return f"Trajectories({len(self):,} rows, {samples:,} validation samples, {checkpoints} checkpoints)"

    @property
    def runs(self) -> list["Trajectories"]:
        """The runs, one by one, each with what it recorded."""
        return combine.runs_of(self)

    @classmethod
    def load(cls, path: str | Path, *, losses: str | None = None, mmap: bool = False) -> "Trajectories":
        """Loads a run directory: the epochs so far of an unfinished run, the finished seeds of several.

        Args:
            path (`str` or `Path`): The run directory.
            losses (`str`, *optional*):
                `"training"` (the default) or `"evaluation"`, if both were recorded. `signals` has the other.
            mmap (`bool`, *optional*, defaults to `False`): Read each epoch from disk when it is used.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: for a file that is missing, truncated or of another run, naming it.
        """
        path = local(path, "path")
        if not path.is_dir():
            raise InputError(f"no run directory {str(path)!r}: make one with hf-ltc record")
        if seeds := run_dir.seed_folders(path):
            done = [seed for seed in seeds if run_dir.is_finished(seed)]
            if not done:
                raise InputError(f"no run in {str(path)!r} is finished yet: run the same hf-ltc record command again")
            together = cls.average([cls.load(seed, losses=losses, mmap=mmap) for seed in done])
            return dataclasses.replace(together, recipe=run_dir.read_shared_recipe(path, len(done)) or together.recipe)
        return cls(**run_dir.read_run(path, losses, mmap))

    def save(self, path: str | Path) -> None:
        """Writes a run directory, which [`Trajectories.load`] reads.

        Args:
            path (`str` or `Path`): A new or empty folder.
        """
        path = local(path, "path")
        files.check_free(path, lambda _: False)
        runs = self.runs
        for number, run in enumerate(runs):
            one = run if number == 0 else dataclasses.replace(run, features=None)
            run_dir.write_run(one, path if len(runs) == 1 else path / f"seed-{number}")
        if len(runs) > 1:
            write_rows(path, self)
            files.write_json(path / files.RECIPE, run_dir.marked(run_dir.recipe_to_write(self)))

    def truncate(self, epochs: int) -> "Trajectories":
        """Keeps the checkpoints up to a training epoch.

        Args:
            epochs (`int`): The last epoch kept.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: if none is left.
        """
        if not isinstance(epochs, Real):
            raise InputError(f"truncate({epochs!r}): give the number of an epoch")
        kept = np.flatnonzero(self.epochs <= epochs)
        if not len(kept):
            raise InputError(
                f"truncate({epochs}) leaves nothing: the first checkpoint is of epoch {self.epochs.min()}"
            )
        return combine.take_checkpoints(self, kept)

    def every(self, k: int) -> "Trajectories":
        """Keeps what `record_every=k` records: the checkpoints whose epoch is a multiple of `k`, and the last.

        Args:
            k (`int`): 1 or more.

        Returns:
            [`Trajectories`]
        """
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"every({k!r}): it must be 1 or more, a whole number")
        kept = self.epochs % k == 0
        kept[np.cumsum(self.lengths) - 1] = True
        return combine.take_checkpoints(self, np.flatnonzero(kept))

    @classmethod
    def average(cls, runs: Sequence["Trajectories"]) -> "Trajectories":
        """Joins runs of several seeds or source models: the score of a row is the mean of its scores in all runs.

        Args:
            runs (`Sequence[Trajectories]`):
                Runs of the same dataset, with the same validation samples, or with samples that rotate
                (`RecordConfig.rotate_validation`). Rows that some runs did not record are left out, unless these runs
                held them out.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: if the runs have different datasets, validation samples or kinds of losses.
        """
        return combine.average(runs)

    def take_rows(self, rows: np.ndarray) -> "Trajectories":
        """Keeps some rows.

        Args:
            rows (`np.ndarray`): int64, row numbers in the source dataset, all of them recorded.

        Returns:
            [`Trajectories`]: its rows in increasing order.

        Raises:
            InputError: for rows that were not recorded.
        """
        return combine.take_rows(self, rows)

    def attach(
        self,
        dataset: Dataset,
        signals: Sequence[str] = (),
        *,
        features: bool = False,
        projection: str | None = None,
        id_column: str | None = None,
    ) -> Dataset:
        """Adds the column `loss_trajectory` to the recorded dataset; no row is rewritten.

        Args:
            dataset (`datasets.Dataset`):
                The recorded dataset in the recorded order; with recorded ids, any part of it in any order.
            signals (`Sequence[str]`, *optional*): Per-sample metrics to add, as `<name>_trajectory`.
            features (`bool`, *optional*, defaults to `False`):
                Add the column `features`, the input of the source model's last layer for each row
                (`RecordConfig.features`): lists of D float32, of a fixed size if every row has them. Held-out rows
                have them too, unless rows are joined by id.
            projection (`str`, *optional*):
                `"pca"` or `"umap"`: add the float32 columns `projection_x` and `projection_y`, for a map in Embedding
                Atlas.
            id_column (`str`, *optional*): The column with the ids, if it is not the recorded one.

        Returns:
            `datasets.Dataset`: with lists of L float32, null for rows that were held out as validation samples. If
                only some of several runs held out a row, it has NaN at the checkpoints of these runs.

        Raises:
            InputError: if it is another dataset, or was shuffled, filtered or relabeled, saying what differs; if a
                per-sample metric or the features were not recorded.
        """
        wanted = require_features(self.features) if features or projection else None
        where = self.positions(dataset, id_column)
        added = {LOSS_TRAJECTORY: self.losses}
        for signal in signals:
            if signal not in self.signals:
                raise InputError(
                    f"the signal {signal!r} was not recorded (recorded are: {', '.join(self.signals) or 'none'}): "
                    f"record with `RecordConfig.signals` {signal}"
                )
            added[f"{signal}{TRAJECTORY_SUFFIX}"] = self.signals[signal]
        columns = {name: tables.trajectory_column(table, where) for name, table in added.items()}
        if wanted is not None:
            numbers = np.where(where >= 0, self.rows[where], -1)
            if self.ids is None:
                held = self.validation_rows[self.validation_rows >= 0]
                numbers[held] = held
            columns |= feature_columns(wanted.of(numbers[numbers >= 0]), numbers >= 0, features, projection)
        return with_columns(dataset, columns)

    def positions(
        self, dataset: Dataset, id_column: str | None = None, *, identity: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Finds each row of a dataset among the recorded rows, and checks that it is the recorded dataset.

        Args:
            dataset (`datasets.Dataset`): As for [`Trajectories.attach`].
            id_column (`str`, *optional*): Likewise.
            identity (`Mapping`, *optional*):
                The result of [`dataset_identity`] for the dataset, if known, so that it is not computed twice.

        Returns:
            `np.ndarray`: int64 `(len(dataset),)`, the position among the recorded rows, or -1.

        Raises:
            InputError: as [`Trajectories.attach`].
        """
        return row_places(self, dataset, id_column, identity)

    def score(
        self,
        dataset: Dataset,
        *,
        preset: str | None = None,
        balance: order.Balance | str | None = None,
        typical: float | None = None,
        baselines: Sequence[str] = (),
        id_column: str | None = None,
        label_column: str | None = None,
        **variant: Any,
    ) -> Dataset:
        """Adds `loss_trajectory`, `ltc_score`, `ltc_typicality` and `ltc_rank` at once, as [`LTCScorer`] and
        [`rank_coreset`] do; no image is decoded and no row rewritten.

        Args:
            dataset (`datasets.Dataset`): As for [`Trajectories.attach`].
            preset (`str`, *optional*): `"ltc"`, `"cld"`, `"das"` or `"weighted-das"`, as for [`ltc_scores`].
            balance (`str`, *optional*):
                As for [`rank_coreset`]; if not given, `"class"`, or `"none"` for rows without classes.
            typical (`float`, *optional*):
                How many typical rows come first, as for [`rank_coreset`]; the others get no typicality. If not given,
                `25` if the dataset is known to be of images (`1` where their mean validation loss rises), else `0.1`;
                and `0` for language models, rows without classes, and other images recorded for fewer than 15 epochs.
            baselines (`Sequence[str]`, *optional*):
                Known scores to add as well, as [`BaselineScorer`] does: `aum_score` for `"aum"`, float32, null for
                held-out rows. They do not change the rank.
            id_column (`str`, *optional*): As for [`Trajectories.attach`].
            label_column (`str`, *optional*): The column with the classes; if not given, the recorded one, or the only
                one.
            **variant: `of`, `aggregate`, `scope`, `weighting`, as for [`ltc_scores`].

        Returns:
            `datasets.Dataset`

        Warns:
            LTCWarning: if runs disagree, hard rows come first, the validation loss rises, or there are only two
                differences.

        Raises:
            InputError: as [`Trajectories.attach`], [`ltc_scores`] and [`baseline_scores`].
        """
        options: dict[str, Any] = {"preset": preset, "balance": balance, "typical": typical, "baselines": baselines}
        options |= {"id_column": id_column, "label_column": label_column}
        return score_trajectories(self, dataset, **options, **variant)[0]

    def weights(self, dataset: Dataset, *, weight_column: str = WEIGHT, **options: Any) -> Dataset:
        """Scores the rows and adds a weight for each row's loss, with mean one, as an alternative to a coreset:
        [`Trajectories.score`] followed by [`weight_rows`].

        Args:
            dataset (`datasets.Dataset`): As for [`Trajectories.attach`].
            weight_column (`str`, *optional*, defaults to `"weight"`): The column to add; an existing one is refused.
            **options: As for [`Trajectories.score`].

        Returns:
            `datasets.Dataset`: with the columns of the score, and the float32 weights, null for held-out rows.

        Raises:
            InputError: as [`Trajectories.score`] and [`weight_rows`].
        """
        check_weight_column(dataset, weight_column)
        return weight_rows(self.score(dataset, **options), weight_column=weight_column)


def _table(values: Any, name: str) -> Any:
    """A table as it is read from disk stays there."""
    return values if isinstance(values, EpochTable) else loss_table(values, name)
