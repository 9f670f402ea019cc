"""Trajectories: what a run recorded, as a value, and its way back to the dataset it was recorded on."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Value

from . import rundir, scoring, selection, tables
from .columns import read_column, with_columns
from .data import find_label_column, read_labels
from .errors import InputError
from .identity import check_identity

LOSSES = ("training_loss", "evaluation_loss")
VALIDATION_LOSS = "validation_loss"
IDS = "ids.parquet"
_NAMED = 5


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Recorded losses, epoch-major: those of the rows that can be chosen, and those of the validation samples.

    Several runs (seeds, source models) are one value too: their checkpoints follow one another along the first axis,
    and `lengths` says how many are whose. No difference is taken across runs, and scores are means over them.

    Args:
        losses (`np.ndarray`): float32 `(L, N)`, natural-log cross-entropy of row `rows[i]` at checkpoint `epochs[t]`.
            From `load(..., mmap=True)` it is read from disk epoch by epoch instead.
        validation_losses (`np.ndarray`): float32 `(L, Q)`.
        labels (`np.ndarray`): int64 `(N,)`, classes as numbered by the dataset's `ClassLabel`.
        validation_labels (`np.ndarray`): int64 `(Q,)`.
        rows (`np.ndarray`): int64 `(N,)`, row numbers in the source dataset, increasing.
        validation_rows (`np.ndarray`): int64 `(Q,)`, row numbers in the source dataset, or -1 if from another split.
        epochs (`np.ndarray`): int64 `(L,)`, training epochs before each checkpoint, 0 being the untrained model.
        lengths (`tuple[int, ...]`): Checkpoints of each run; they sum to L.
        signals (`Mapping[str, np.ndarray]`): float32 `(L, N)` each: margin, correct, el2n, evaluation_loss, ...
        ids (`pyarrow.Array`, *optional*): `(N,)` unique ids of the rows, where the dataset has such a column.
        recipe (`dict`): How it was made: settings, dataset identity, versions, hardware, seconds.
    """

    losses: Any
    validation_losses: Any
    labels: np.ndarray
    validation_labels: np.ndarray
    rows: np.ndarray
    validation_rows: np.ndarray
    epochs: np.ndarray
    lengths: tuple[int, ...]
    signals: Mapping[str, Any] = field(default_factory=dict)
    ids: Any = None
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checkpoints, n, q = len(self.epochs), len(self.rows), len(self.validation_labels)
        shapes = {"losses": (self.losses, n), "validation_losses": (self.validation_losses, q)}
        shapes |= {name: (table, n) for name, table in self.signals.items()}
        for name, (table, columns) in shapes.items():
            if tuple(table.shape) != (checkpoints, columns):
                raise InputError(f"{name} has shape {tuple(table.shape)}, not ({checkpoints}, {columns})")
        if sum(self.lengths) != checkpoints:
            raise InputError(
                f"lengths {self.lengths} sum to {sum(self.lengths)}, but there are {checkpoints} checkpoints"
            )
        if len(self.labels) != n or len(self.validation_rows) != q:
            raise InputError(
                f"labels of {len(self.labels)} and validation rows of {len(self.validation_rows)} samples"
            )

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def runs(self) -> list["Trajectories"]:
        """The runs it is made of, each as a value of its own."""
        ends = np.cumsum(self.lengths)
        return [self._take(np.arange(end - size, end)) for end, size in zip(ends, self.lengths)]

    @classmethod
    def load(cls, path: str | Path, *, losses: str | None = None, mmap: bool = False) -> "Trajectories":
        """Loads a run directory, or what of it an unfinished run has published; of several seeds, the finished ones.

        Args:
            path (`str` or `Path`): The run directory.
            losses (`str`, *optional*): `"training"` or `"evaluation"`, where both were recorded; training by default.
            mmap (`bool`, *optional*, defaults to `False`): Read an epoch from disk whenever it is used, and hold none.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: for a file that is missing, truncated or of another run, naming it.
        """
        path = Path(path)
        if not path.is_dir():
            raise InputError(f"no run directory {str(path)!r}: make one with hf-ltc record --output-dir {path}")
        if seeds := rundir.seed_folders(path):
            done = [seed for seed in seeds if "epochs" in rundir.read_json(seed / rundir.RECIPE)]
            if not done:
                raise InputError(f"no run in {str(path)!r} is finished yet: run the same hf-ltc record command again")
            together = cls.average([cls.load(seed, losses=losses, mmap=mmap) for seed in done])
            return dataclasses.replace(together, recipe=rundir.read_json(path / rundir.RECIPE))
        recipe = rundir.read_json(path / rundir.RECIPE)
        if recipe.get("format") != rundir.FORMAT:
            raise InputError(
                f"{str(path / rundir.RECIPE)!r} has format {recipe.get('format')!r}, this version reads "
                f"{rundir.FORMAT}: load it with the version of hf_ltc that wrote it"
            )
        table = rundir.read_arrays(
            path / rundir.ROWS, ["train_rows", "train_labels", "validation_rows", "validation_labels"]
        )
        epochs = _epochs_of(path, recipe)
        files = [rundir.epoch_path(path, epoch) for epoch in epochs]
        for file, epoch in zip(files, epochs):
            with rundir.opened(file) as content:
                marks, names = content.metadata() or {}, list(content.keys())
            if marks.get("run") != recipe["run"] or marks.get("epoch") != str(epoch):
                raise InputError(
                    f"{str(file)!r} is epoch {marks.get('epoch')} of run {marks.get('run')}, not epoch {epoch} of run "
                    f"{recipe['run']}: put the right file back, or record again into another --output-dir"
                )
        name = _losses_of(names, losses, path)
        count = {True: len(table["validation_labels"]), False: len(table["train_rows"])}
        read = {
            signal: rundir.EpochTable(files, signal, count[signal == VALIDATION_LOSS])
            for signal in names
            if not signal.startswith("validation_") or signal == VALIDATION_LOSS
        }
        arrays: dict[str, Any] = read if mmap else {signal: np.asarray(values) for signal, values in read.items()}
        return cls(
            losses=arrays.pop(name),
            validation_losses=arrays.pop(VALIDATION_LOSS),
            labels=table["train_labels"],
            validation_labels=table["validation_labels"],
            rows=table["train_rows"],
            validation_rows=table["validation_rows"],
            epochs=np.array(epochs, dtype=np.int64),
            lengths=(len(epochs),),
            signals=arrays,
            ids=_read_ids(path),
            recipe=recipe,
        )

    def save(self, path: str | Path) -> None:
        """Writes a run directory, which [`Trajectories.load`] reads.

        Args:
            path (`str` or `Path`): A new or empty folder.
        """
        path = Path(path)
        rundir.check_free(path, lambda _: False)
        runs = self.runs
        for number, run in enumerate(runs):
            folder = path if len(runs) == 1 else path / f"seed-{number}"
            recipe = {"format": rundir.FORMAT, "run": "saved", **run.recipe, "epochs": run.epochs.tolist()}
            write_rows(folder, run)
            for t, epoch in enumerate(run.epochs.tolist()):
                arrays = {name: values[t] for name, values in {**run.signals, run._loss_name: run.losses}.items()}
                arrays[VALIDATION_LOSS] = run.validation_losses[t]
                marks = {"run": recipe["run"], "epoch": str(epoch)}
                rundir.write_arrays(rundir.epoch_path(folder, epoch), arrays, marks)
            rundir.write_json(folder / rundir.RECIPE, recipe)
        if len(runs) > 1:
            write_rows(path, self)
            rundir.write_json(path / rundir.RECIPE, {"format": rundir.FORMAT, "run": "saved", **self.recipe})

    def truncate(self, epochs: int) -> "Trajectories":
        """Keeps the checkpoints up to a training epoch.

        Args:
            epochs (`int`): The last epoch kept.
        """
        return self._take(np.flatnonzero(self.epochs <= epochs))

    def every(self, k: int) -> "Trajectories":
        """Keeps the checkpoints whose epoch is a multiple of `k`, as if it had been recorded with `record_every=k`.

        Args:
            k (`int`): 1 or more.
        """
        if k < 1:
            raise InputError(f"every({k}): it must be 1 or more")
        return self._take(np.flatnonzero(self.epochs % k == 0))

    @classmethod
    def average(cls, runs: Sequence["Trajectories"]) -> "Trajectories":
        """Joins runs of several seeds or source models: each row's score is the mean of its scores in them.

        Args:
            runs (`Sequence[Trajectories]`):
                Of the same dataset, with the same validation samples. Rows that only some recorded are left out.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: if they are of different datasets or validation samples.
        """
        if not runs:
            raise InputError("average([]): give one run or more")
        first = runs[0]
        rows = first.rows
        for number, run in enumerate(runs[1:], 1):
            problem = _differs(first, run)
            if problem:
                raise InputError(f"run {number} cannot be averaged with run 0: {problem}")
            rows = np.intersect1d(rows, run.rows, assume_unique=True)
        if not len(rows):
            raise InputError("the runs have no row in common: record them on the same dataset and hold-out")
        aligned = [run if np.array_equal(run.rows, rows) else run.take_rows(rows) for run in runs]
        shared = set(first.signals).intersection(*(run.signals for run in runs))
        recipe = dict(first.recipe)
        if len(runs) > 1:
            recipe["runs"] = [run.recipe for run in runs]
        return dataclasses.replace(
            aligned[0],
            losses=_stack([run.losses for run in aligned]),
            validation_losses=_stack([run.validation_losses for run in aligned]),
            epochs=np.concatenate([run.epochs for run in aligned]),
            lengths=tuple(length for run in aligned for length in run.lengths),
            signals={name: _stack([run.signals[name] for run in aligned]) for name in sorted(shared)},
            recipe=recipe,
        )

    def take_rows(self, rows: np.ndarray) -> "Trajectories":
        """Keeps some rows.

        Args:
            rows (`np.ndarray`): int64, row numbers in the source dataset, all of them recorded.
        """
        where = np.searchsorted(self.rows, rows)
        if (self.rows[np.minimum(where, len(self.rows) - 1)] != rows).any():
            raise InputError(f"rows {_some(np.setdiff1d(rows, self.rows))} were not recorded")
        return dataclasses.replace(
            self,
            losses=np.asarray(self.losses)[:, where],
            labels=self.labels[where],
            rows=self.rows[where],
            signals={name: np.asarray(values)[:, where] for name, values in self.signals.items()},
            ids=None if self.ids is None else self.ids.take(pa.array(where)),
        )

    def attach(self, dataset: Dataset, signals: Sequence[str] = ()) -> Dataset:
        """Adds the column `loss_trajectory` to the dataset it was recorded on; no row is rewritten.

        Args:
            dataset (`datasets.Dataset`):
                The recorded dataset, in the recorded order; with recorded ids any part and order of it.
            signals (`Sequence[str]`, *optional*):
                Further signals to add, as `<signal>_trajectory`.

        Returns:
            `datasets.Dataset`: with fixed-size lists of L float32, null for rows that were held out as validation.

        Raises:
            InputError: if it is another dataset, or was shuffled, filtered or relabelled, saying in what it differs;
                if a signal was not recorded.
        """
        where = self.positions(dataset)
        added = {"loss_trajectory": self.losses}
        for signal in signals:
            if signal not in self.signals:
                raise InputError(
                    f"the signal {signal!r} was not recorded (there are: {', '.join(self.signals) or 'none'}): record "
                    f"with --signals {signal}"
                )
            added[f"{signal}_trajectory"] = self.signals[signal]
        return with_columns(dataset, {name: tables.trajectory_column(table, where) for name, table in added.items()})

    def positions(self, dataset: Dataset) -> np.ndarray:
        """For each row of a dataset its place among the recorded rows, or -1: int64; checks that it is the dataset.

        Raises:
            InputError: as [`Trajectories.attach`].
        """
        recorded = self.recipe.get("dataset") or {}
        column = recorded.get("id_column")
        if column is not None and self.ids is not None:
            where = self._by_id(dataset, column)
        else:
            if "content" in recorded:
                check_identity(dataset, recorded)
            elif len(dataset) <= int(self.rows[-1]):
                raise InputError(
                    f"the dataset has {len(dataset)} rows, but row {int(self.rows[-1])} was recorded: give the "
                    "dataset as it was recorded"
                )
            where = np.full(len(dataset), -1, dtype=np.int64)
            where[self.rows] = np.arange(len(self.rows))
        if recorded.get("label_column") and column is not None:
            found = find_label_column(dataset, recorded["label_column"])
            labels = read_labels(dataset, found, recorded.get("names"))
            known = where >= 0
            wrong = np.flatnonzero(known)[labels[known] != self.labels[where[known]]]
            if wrong.size:
                raise InputError(
                    f"{wrong.size} rows have another label in column {found!r} than when they were recorded (rows "
                    f"{_some(wrong)}): give the dataset as it was recorded"
                )
        return where

    def _by_id(self, dataset: Dataset, column: str) -> np.ndarray:
        ids = read_column(dataset, column)
        if pc.count_distinct(ids).as_py() < len(ids):
            raise InputError(f"column {column!r} has ids that occur twice or are null: rows are joined by unique ids")
        try:
            found = pc.index_in(ids, value_set=self.ids.cast(ids.type))
        except pa.ArrowInvalid as error:
            raise InputError(f"column {column!r} holds {ids.type}, the recorded ids are {self.ids.type}") from error
        where = np.asarray(pc.fill_null(found, -1).to_numpy(), dtype=np.int64)
        if len(where) and (where < 0).all():
            raise InputError(f"no id of column {column!r} was recorded: give the dataset that was, or its id column")
        return where

    def score(
        self, dataset: Dataset, *, preset: str | None = None, balance: selection.Balance = "class", **family: Any
    ) -> Dataset:
        """Adds `loss_trajectory`, `ltc_score` and `ltc_rank` at once; no image is decoded and no row rewritten.

        Args:
            dataset (`datasets.Dataset`): As for [`Trajectories.attach`].
            preset (`str`, *optional*): `"ltc"` or `"cld"`, as for [`ltc_scores`].
            balance (`str`, *optional*, defaults to `"class"`): As for [`rank_coreset`].
            **family: `of`, `aggregate`, `scope`, as for [`ltc_scores`].

        Returns:
            `datasets.Dataset`
        """
        where = self.positions(dataset)
        scores = scoring.ltc_scores(self, preset=preset, **family)
        values = np.where(where >= 0, scores[where], np.nan).astype(np.float32)
        columns: dict[str, tuple[Any, object]] = {
            "loss_trajectory": tables.trajectory_column(self.losses, where),
            "ltc_score": (pa.array(values, mask=np.isnan(values)), Value("float32")),
        }
        label_column = (self.recipe.get("dataset") or {}).get("label_column")
        return selection.rank_coreset(with_columns(dataset, columns), balance=balance, label_column=label_column)

    def to_dataset(self) -> DatasetDict:
        """The trajectories as columns: splits `train` and `validation` with `row`, `label`, `loss_trajectory`, ....

        Returns:
            `datasets.DatasetDict`: one row a sample, ids in a column `id` where there are any.
        """
        return tables.to_dataset(self)

    @classmethod
    def from_dataset(
        cls,
        dataset: DatasetDict,
        *,
        epochs: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        recipe: dict[str, Any] | None = None,
    ) -> "Trajectories":
        """Back from what [`Trajectories.to_dataset`] made, or from columns of the same names of any origin.

        Args:
            dataset (`datasets.DatasetDict`): Splits `train` and `validation`.
            epochs (`Sequence[int]`, *optional*): Epoch of each checkpoint; 0, 1, ... if not given.
            lengths (`Sequence[int]`, *optional*): Checkpoints of each run; one run if not given.
            recipe (`dict`, *optional*): The recipe.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: for a split or column that is missing, a row without a trajectory or with one of another
                length, and rows that occur twice.
        """
        columns = tables.read_dataset(dataset)
        count = len(columns["losses"])
        return cls(
            **columns,
            epochs=np.arange(count) if epochs is None else np.asarray(epochs, dtype=np.int64),
            lengths=(count,) if lengths is None else tuple(lengths),
            recipe=recipe or {},
        )

    def to_parquet(self, folder: str | Path) -> None:
        """Writes `train.parquet`, `validation.parquet` and `recipe.json`, for any tool that reads Parquet.

        Args:
            folder (`str` or `Path`): A new or empty folder.
        """
        tables.write_parquet(self, Path(folder))

    @classmethod
    def from_parquet(cls, folder: str | Path) -> "Trajectories":
        """Reads what [`Trajectories.to_parquet`] wrote.

        Args:
            folder (`str` or `Path`): The folder.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: for a file that is missing or damaged, naming it.
        """
        dataset, recipe = tables.read_parquet(Path(folder))
        epochs, lengths = recipe.pop("epochs"), recipe.pop("lengths")
        return cls.from_dataset(dataset, epochs=epochs, lengths=lengths, recipe=recipe)

    @property
    def _loss_name(self) -> str:
        return next(name for name in LOSSES if name not in self.signals)

    def _take(self, checkpoints: np.ndarray) -> "Trajectories":
        ends = np.cumsum(self.lengths)
        taken = np.searchsorted(ends, checkpoints, side="right")
        return dataclasses.replace(
            self,
            losses=self.losses[checkpoints],
            validation_losses=self.validation_losses[checkpoints],
            epochs=self.epochs[checkpoints],
            lengths=tuple(int(count) for count in np.bincount(taken, minlength=len(ends)) if count),
            signals={name: values[checkpoints] for name, values in self.signals.items()},
        )


def write_rows(folder: Path, run: Trajectories) -> None:
    """Writes which rows a run directory is about."""
    rundir.write_arrays(
        folder / rundir.ROWS,
        {
            "train_rows": run.rows,
            "train_labels": run.labels,
            "validation_rows": run.validation_rows,
            "validation_labels": run.validation_labels,
        },
    )
    if run.ids is not None:
        with rundir.replacing(folder / IDS) as temporary:
            pq.write_table(pa.table({"id": run.ids}), temporary)


def _read_ids(path: Path) -> pa.Array | None:
    if not (path / IDS).exists():
        return None
    return pq.read_table(path / IDS).column("id").combine_chunks()


def _epochs_of(path: Path, recipe: Mapping[str, Any]) -> list[int]:
    found = rundir.published_epochs(path)
    planned = recipe.get("epochs") or recipe.get("planned_epochs") or found
    last = recipe["epochs"][-1] if recipe.get("epochs") else (found[-1] if found else -1)
    for epoch in planned:
        if epoch <= last and epoch not in found:
            raise InputError(
                f"no file {str(rundir.epoch_path(path, epoch))!r}, though the run recorded epoch {epoch}: put it "
                "back, or record again into another --output-dir"
            )
    if foreign := [epoch for epoch in found if epoch not in planned]:
        raise InputError(
            f"{str(rundir.epoch_path(path, foreign[0]))!r} is of no epoch that this run records: take it away"
        )
    if not found:
        raise InputError(f"no epoch in {str(path)!r} is recorded yet: run the same hf-ltc record command again")
    return found


def _losses_of(names: Sequence[str], wanted: str | None, path: Path) -> str:
    have = [name for name in LOSSES if name in names]
    if wanted is None and have:
        return have[0]
    if f"{wanted}_loss" not in have:
        raise InputError(
            f"{str(path)!r} has no {wanted or 'training'} losses, it has {', '.join(have) or 'none'}: record with "
            f"--losses {wanted or 'training'}"
        )
    return f"{wanted}_loss"


def _differs(first: Trajectories, other: Trajectories) -> str | None:
    keys = ("rows", "labels", "content", "label_column")
    one, two = ({key: (run.recipe.get("dataset") or {}).get(key) for key in keys} for run in (first, other))
    if different := [key for key in keys if one[key] != two[key]]:
        return f"they were recorded on different datasets ({', '.join(different)} differ)"
    if not np.array_equal(first.validation_rows, other.validation_rows) or not np.array_equal(
        first.validation_labels, other.validation_labels
    ):
        return "they have different validation samples: record with the same --validation-seed and split"
    return None


def _stack(tables: Sequence[Any]) -> Any:
    if all(isinstance(table, rundir.EpochTable) for table in tables) and len({table.name for table in tables}) == 1:
        return rundir.EpochTable(
            [path for table in tables for path in table.paths], tables[0].name, tables[0].shape[1]
        )
    return tables[0] if len(tables) == 1 else np.concatenate([np.asarray(table) for table in tables])


def _some(rows: np.ndarray) -> str:
    return ", ".join(str(int(row)) for row in rows[:_NAMED]) + (", ..." if len(rows) > _NAMED else "")
