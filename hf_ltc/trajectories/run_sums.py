"""Running sums in a run directory: those of all epochs so far are in the file of the newest one."""

from pathlib import Path
from typing import Any

import numpy as np

from ..scores.running_sums import RunningSums
from ..utils.errors import InputError
from ..utils.files import RECIPE, marks_of, opened, read_arrays, read_json
from .run_dir import (
    SUMS_OF,
    VALIDATION_LOSS,
    EpochTable,
    epoch_path,
    opened_run,
    published_epochs,
    rows_of_run,
    seed_folders,
    write_epoch,
)

# What stands before their names in the file.
_SUM = "sum."


def has_sums(path: Path) -> bool:
    """Whether a run directory, or the first of several in it, has running sums in place of trajectories."""
    for folder in (path, *seed_folders(path)):
        if (folder / RECIPE).exists():
            return SUMS_OF in read_json(folder / RECIPE)
    return False


def read_summary(path: Path) -> dict[str, Any]:
    """Reads a run directory of one run with running sums: the fields of [`LossSummary`].

    Args:
        path (`Path`): The run directory.

    Raises:
        InputError: for a recording of trajectories, and a file that is missing, truncated or of another run.
    """
    values, table, epochs, _ = opened_run(path)
    if SUMS_OF not in values:
        raise InputError(f"{str(path)!r} has trajectories and no running sums: load it with Trajectories.load")
    paths, samples = [epoch_path(path, epoch) for epoch in epochs], len(table["validation_labels"])
    return {
        **rows_of_run(path, values, table, epochs),
        "sums": (read_sums(paths[-1]),),
        "validation_losses": np.asarray(EpochTable(paths, VALIDATION_LOSS, samples)),
        "loss_name": values[SUMS_OF],
    }


def read_sums(path: Path) -> RunningSums:
    """The running sums in the file of an epoch, which can be added to."""
    found = read_arrays(path, [_SUM + name for name in RunningSums.names()])
    return RunningSums(**{name.removeprefix(_SUM): np.array(values) for name, values in found.items()})


def sums_to_write(sums: RunningSums) -> dict[str, np.ndarray]:
    """The arrays that [`read_sums`] reads."""
    return {_SUM + name: values for name, values in sums.arrays().items()}


def drop_older_sums(folder: Path) -> None:
    """Leaves the validation losses alone in the files of all epochs but the newest."""
    # From the newest on, as those before were done with the epochs before.
    for epoch in reversed(published_epochs(folder)[:-1]):
        path = epoch_path(folder, epoch)
        with opened(path) as content:
            marks, names = marks_of(content), list(content.keys())
        if not any(name.startswith(_SUM) for name in names):
            break
        write_epoch(path, read_arrays(path, [VALIDATION_LOSS]), marks)
