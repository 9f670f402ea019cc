"""The run directory: which rows a run is about, the losses of its epochs, and its recipe, as files."""

import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..config import CLASS_SIGNALS, Store
from ..recipe import Recipe
from ..scores.protocol import RecordedColumns
from ..utils.errors import InputError, one_line
from ..utils.files import (
    RECIPE,
    marks_of,
    opened,
    read_arrays,
    read_json,
    read_slice,
    replacing,
    unreadable,
    write_arrays,
    write_json,
)
from .compact import COMPACT, compacted, is_compact, restored
from .features import RowFeatures

FORMAT = 1
# Of runs with compact losses, which versions that do not know them then refuse.
COMPACT_FORMAT = 2
ROWS = "rows.safetensors"
TRAJECTORIES = "trajectories"
LOSSES = ("training_loss", "evaluation_loss")
_INTEGERS = (np.dtype(np.int16), np.dtype(np.int32))
_EPOCH = re.compile(r"epoch-(\d{5,})\.safetensors")
_SEED = re.compile(r"seed-(\d+)")


def clear_unfinished(folder: Path) -> None:
    """Deletes the temporary files that killed processes left in a run directory."""
    for temporary in [*folder.glob(".*.tmp"), *(folder / TRAJECTORIES).glob(".*.tmp")]:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def epoch_path(run: Path, epoch: int) -> Path:
    """Where the losses of one epoch are."""
    return run / TRAJECTORIES / f"epoch-{epoch:05d}.safetensors"


def published_epochs(run: Path) -> list[int]:
    """The epochs whose files are there, increasing."""
    folder = run / TRAJECTORIES
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _EPOCH.fullmatch(name)))


def seed_folders(run: Path) -> list[Path]:
    """The runs of a run directory that holds several, by seed."""
    found = [(int(match[1]), path) for path in run.glob("seed-*") if (match := _SEED.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def publish(pending: Path, path: Path) -> None:
    """Moves a finished epoch file to its place, unless there is one already."""
    if path.exists():
        return
    with replacing(path) as temporary:
        try:
            os.link(pending, temporary)
        except OSError:
            # Some file systems have no links.
            shutil.copyfile(pending, temporary)


class EpochTable(Sequence[np.ndarray]):
    """A per-sample metric of a run directory, or of several, `(L, N)` float32: each epoch is read when it is used.

    Args:
        paths (`Sequence[Path]`): The epoch files.
        name (`str`): The metric, e.g. `"training_loss"`.
        columns (`int`): N, the rows of every epoch.
    """

    def __init__(self, paths: Sequence[Path], name: str, columns: int) -> None:
        self.paths, self.name = list(paths), name
        self.shape = (len(self.paths), columns)
        self.dtype = np.dtype(np.float32)
        # For each epoch how many values its file has, and which of them each column is, -1 for none; or all in order.
        self._stored: list[tuple[int, np.ndarray | None]] = [(columns, None)] * len(self.paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Any) -> Any:
        """An epoch, a table of some epochs, or, of `[:, left:right]`, all epochs of some columns as an array."""
        if isinstance(key, tuple):
            slices = [type(each) for each in key] == [slice, slice]
            if not slices or key[0] != slice(None) or key[1].step not in (None, 1):
                raise IndexError(f"of columns, a table on disk reads [:, left:right] alone, not {key}")
            return self._columns(*key[1].indices(self.shape[1])[:2])
        if not isinstance(key, int | np.integer):
            chosen = np.arange(len(self))[key]
            return self._with([self.paths[t] for t in chosen], [self._stored[t] for t in chosen], self.shape[1])
        return self._epoch(int(key), 0, self.shape[1])

    def _columns(self, left: int, right: int) -> np.ndarray:
        table = np.empty((len(self), max(0, right - left)), dtype=np.float32)
        for epoch in range(len(self)):
            table[epoch] = self._epoch(epoch, left, right)
        return table

    def _epoch(self, epoch: int, left: int, right: int) -> np.ndarray:
        path, (size, where) = self.paths[epoch], self._stored[epoch]
        places, first, last = None, left, right
        if where is not None:
            # In the file, all between the first and the last of these columns.
            places = where[left:right]
            known = places[places >= 0]
            first, last = (int(known.min()), int(known.max()) + 1) if len(known) else (0, 0)
        values, shape = read_slice(path, self.name, first, last)
        if self.name in CLASS_SIGNALS and values.dtype in _INTEGERS:
            values = values.astype(np.float32)
        if self.name in LOSSES and values.dtype == np.uint8:
            values = restored(values)
        if shape != [size] or values.dtype != self.dtype:
            raise unreadable(path, f"{self.name} is {values.dtype}{shape}, not float32[{size}]: of another run?")
        return values if places is None else placed(values, np.where(places < 0, -1, places - first))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        table = self._columns(0, self.shape[1])
        return table if dtype is None else table.astype(dtype, copy=False)

    def take(self, places: np.ndarray) -> "EpochTable":
        """The columns at some places, in the order of these; of -1 a column of NaN."""
        # One array for all epochs of a run.
        of_run: dict[int, np.ndarray] = {}
        for _, where in self._stored:
            of_run.setdefault(id(where), places if where is None else np.where(places < 0, -1, where[places]))
        stored = [(size, of_run[id(where)]) for size, where in self._stored]
        return self._with(self.paths, stored, len(places))

    @classmethod
    def joined(cls, parts: Sequence["EpochTable"]) -> "EpochTable":
        """The epochs of several tables with the same columns."""
        paths = [path for part in parts for path in part.paths]
        return parts[0]._with(paths, [stored for part in parts for stored in part._stored], parts[0].shape[1])

    def _with(
        self, paths: Sequence[Path], stored: Sequence[tuple[int, np.ndarray | None]], columns: int
    ) -> "EpochTable":
        table = EpochTable(paths, self.name, columns)
        table._stored = list(stored)
        return table


def placed(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The last axis of float32 values at some places; NaN where the place is -1."""
    gone = places < 0
    if gone.all():
        return np.full((*values.shape[:-1], len(places)), np.nan, dtype=np.float32)
    found = values[..., places].astype(np.float32, copy=False)
    if gone.any():
        found[..., gone] = np.nan
    return found


VALIDATION_LOSS = "validation_loss"
# The key in the recipe of a run that keeps running sums: which losses they are of.
SUMS_OF = "sums_of"
IDS = "ids.parquet"


def read_run(path: Path, losses: str | None = None, mmap: bool = False) -> dict[str, Any]:
    """Reads a run directory of one run: the fields of [`Trajectories`].

    Args:
        path (`Path`): The run directory.
        losses (`str`, *optional*): `"training"` or `"evaluation"`, where both were recorded; training by default.
        mmap (`bool`, *optional*, defaults to `False`): Leave the losses on disk, and read them epoch by epoch.

    Returns:
        `dict[str, Any]`

    Raises:
        InputError: for a file that is missing, truncated or of another run, naming it.
    """
    values, table, epochs, names = opened_run(path)
    if SUMS_OF in values:
        raise InputError(
            f"{str(path)!r} has running sums and no trajectories (`RecordConfig.store` summary): score it with hf-ltc "
            "score or LossSummary.load, or record with `RecordConfig.store` trajectories"
        )
    epoch_paths = [epoch_path(path, epoch) for epoch in epochs]
    name = _losses_of(names, losses, path)
    count = {True: len(table["validation_labels"]), False: len(table["train_rows"])}
    read = {
        metric: EpochTable(epoch_paths, metric, count[metric == VALIDATION_LOSS])
        for metric in names
        if not metric.startswith("validation_") or metric == VALIDATION_LOSS
    }
    arrays: dict[str, Any] = read if mmap else {metric: np.asarray(values) for metric, values in read.items()}
    return {
        **rows_of_run(path, values, table, epochs),
        "losses": arrays.pop(name),
        "validation_losses": arrays.pop(VALIDATION_LOSS),
        "signals": arrays,
        "loss_name": name,
        "features": RowFeatures.find(path, values["run"], table["train_rows"], table["validation_rows"]),
    }


def rows_of_run(
    path: Path, recipe: Mapping[str, Any], table: Mapping[str, np.ndarray], epochs: Sequence[int]
) -> dict[str, Any]:
    """The fields of a value of one run that are the same whatever is kept of its losses."""
    return {
        "labels": table["train_labels"],
        "validation_labels": table["validation_labels"],
        "rows": table["train_rows"],
        "validation_rows": table["validation_rows"],
        "epochs": np.array(epochs, dtype=np.int64),
        "lengths": (len(epochs),),
        "ids": read_ids(path),
        "recipe": recipe,
    }


def stored_as(recipe: Mapping[str, Any]) -> Store:
    """What a recipe says that is kept of the losses."""
    return "summary" if SUMS_OF in recipe else "compact" if COMPACT in recipe else "trajectories"


def opened_run(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray], list[int], list[str]]:
    """The recipe of a run directory, its rows, its epochs, and what the files of these hold."""
    values = read_json(path / RECIPE)
    if (found := values.get("format")) not in (FORMAT, COMPACT_FORMAT):
        raise InputError(
            f"{str(path / RECIPE)!r} has format {found!r}, this version reads "
            f"{FORMAT} and {COMPACT_FORMAT}: load it with the version of hf_ltc that wrote it"
        )
    # Warns at the line that called `Trajectories.load` or `LossSummary.load`.
    recipe = Recipe.load(values, path / RECIPE, stacklevel=4)
    table = read_arrays(path / ROWS, ["train_rows", "train_labels", "validation_rows", "validation_labels"])
    epochs = _epochs_of(path, recipe)
    epoch_paths = [epoch_path(path, epoch) for epoch in epochs]
    for file, epoch in zip(epoch_paths, epochs):
        with opened(file) as content:
            marks, names = marks_of(content), list(content.keys())
        if marks.get("run") != recipe.run or marks.get("epoch") != str(epoch):
            raise InputError(
                f"{str(file)!r} is epoch {marks.get('epoch')} of run {marks.get('run')}, not epoch {epoch} of run "
                f"{recipe.run}: restore the right file, or record again into another folder"
            )
    return values, table, epochs, names


def is_finished(path: Path) -> bool:
    """Whether the recording in a folder is complete."""
    recipe = path / RECIPE
    return recipe.exists() and Recipe.read(recipe).epochs is not None


def read_shared_recipe(path: Path, runs: int) -> dict[str, Any]:
    """The recipe of all runs of a folder, written when the last one is done; empty if it is of another number."""
    if not (path / RECIPE).exists():
        return {}
    recipe = read_json(path / RECIPE)
    seeds = Recipe.load(recipe, path / RECIPE, stacklevel=3).seeds
    return recipe if seeds is None or len(seeds) == runs else {}


def write_run(run: RecordedColumns, folder: Path) -> None:
    """Writes a run directory of one run, which [`read_run`] reads; the recipe last, which makes it one."""
    recipe = {**marked(recipe_to_write(run)), "epochs": run.epochs.tolist()}
    write_rows(folder, run)
    for t, epoch in enumerate(run.epochs.tolist()):
        arrays = {name: values[t] for name, values in {**run.signals, run.loss_name: run.losses}.items()}
        arrays[VALIDATION_LOSS] = run.validation_losses[t]
        if COMPACT in recipe:
            arrays = compacted(arrays, LOSSES)
        write_epoch(epoch_path(folder, epoch), arrays, {"run": recipe["run"], "epoch": str(epoch)})
    if run.features is not None:
        run.features.save(folder, recipe["run"], run.rows, run.validation_rows)
    write_json(folder / RECIPE, recipe)


def write_epoch(path: Path, arrays: Mapping[str, np.ndarray], marks: Mapping[str, str]) -> None:
    """Writes the file of an epoch; class numbers as int16, or as int32 if there are more classes."""
    write_arrays(
        path, {name: _narrow(values) if name in CLASS_SIGNALS else values for name, values in arrays.items()}, marks
    )


def _narrow(numbers: np.ndarray) -> np.ndarray:
    # Those of rows that a run did not record are NaN.
    if not np.isfinite(numbers).all():
        return numbers
    return numbers.astype(_INTEGERS[int(numbers.max(initial=0)) > np.iinfo(np.int16).max])


def recipe_to_write(run: RecordedColumns) -> dict[str, Any]:
    """The recipe of a run, without the mark of compact losses where they were changed since and would be rounded."""
    tables = {**run.signals, run.loss_name: run.losses}
    if COMPACT not in run.recipe or all(is_compact(one) for name in LOSSES for one in tables.get(name, ())):
        return run.recipe
    return {name: value for name, value in run.recipe.items() if name != COMPACT}


def marked(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe with the marks that tell the files of a run from those of others."""
    marks = {"format": FORMAT, "run": uuid.uuid4().hex[:16], **recipe}
    # By what is written now, whatever the recipe comes from.
    return {**marks, "format": COMPACT_FORMAT if COMPACT in recipe else FORMAT}


def write_rows(folder: Path, run: RecordedColumns) -> None:
    """Writes which rows a run directory is about."""
    write_arrays(
        folder / ROWS,
        {
            "train_rows": run.rows,
            "train_labels": run.labels,
            "validation_rows": run.validation_rows,
            "validation_labels": run.validation_labels,
        },
    )
    if run.ids is not None:
        with replacing(folder / IDS) as temporary:
            pq.write_table(pa.table({"id": run.ids}), temporary)


def read_ids(path: Path) -> pa.Array | None:
    if not (path / IDS).exists():
        return None
    try:
        return pq.read_table(path / IDS).column("id").combine_chunks()
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise unreadable(path / IDS, one_line(error)) from error


def _epochs_of(path: Path, recipe: Recipe) -> list[int]:
    found = published_epochs(path)
    # In a recipe of the user's own, to which these are added, a number may stand there.
    done, planned = (said if isinstance(said, list) else [] for said in (recipe.epochs, recipe.planned_epochs))
    planned = done or planned or found
    last = (done or found or [-1])[-1]
    for epoch in planned:
        if epoch <= last and epoch not in found:
            raise InputError(
                f"no file {str(epoch_path(path, epoch))!r}, though the run recorded epoch {epoch}: "
                "restore it, or record again into another folder"
            )
    if foreign := [epoch for epoch in found if epoch not in planned]:
        raise InputError(f"{str(epoch_path(path, foreign[0]))!r} is of no epoch that this run records: delete it")
    if not found:
        raise InputError(f"no epoch in {str(path)!r} is recorded yet: run the same hf-ltc record command again")
    return found


def _losses_of(names: Sequence[str], wanted: str | None, path: Path) -> str:
    have = [name for name in LOSSES if name in names]
    if wanted is not None and f"{wanted}_loss" not in LOSSES:
        raise InputError(f"`losses` is {wanted!r}: it must be training or evaluation")
    if wanted is None and have:
        return have[0]
    if f"{wanted}_loss" not in have:
        raise InputError(
            f"{str(path)!r} has no {wanted or 'training'} losses, it has {', '.join(have) or 'none'}: record with "
            f"`RecordConfig.losses` {wanted or 'training'}"
        )
    return f"{wanted}_loss"
