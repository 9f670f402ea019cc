"""What scores need from a recording, and the errors that name its faults."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from datasets import Dataset

from ..data.inputs import loss_table
from ..recipe import Recipe
from ..utils.errors import InputError, listed, some_rows
from .absent import absent_from_runs, all_finite
from .kernels import run_spans


class Validated(Protocol):
    """What a recording says of its N rows and of Q validation samples, but for the rows' losses."""

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


# Runs of fewer epochs are short: their scores are not weighted, and their images are ranked without typical rows
# (docs/results.md, "Short recordings of images").
LEAST_EPOCHS = 15


@runtime_checkable
class Recorded(Validated, Protocol):
    """What LTC needs from a recording ([`Trajectories`]): L checkpoints of N rows and of Q validation samples."""

    @property
    def losses(self) -> Any: ...  # float32 (L, N), an array or read from disk epoch by epoch


class RecordedColumns(Recorded, Protocol):
    """All that a recording has: per-sample metrics, ids of its rows, its runs, and its way back to the dataset."""

    @property
    def signals(self) -> Mapping[str, Any]: ...  # float32 (L, N) each
    @property
    def ids(self) -> Any: ...  # pyarrow.Array (N,), or None
    @property
    def loss_name(self) -> str: ...
    @property
    def features(self) -> Any: ...  # RowFeatures, or None
    @property
    def runs(self) -> Sequence["RecordedColumns"]: ...
    def take_rows(self, rows: np.ndarray) -> "RecordedColumns": ...
    def positions(
        self, dataset: Dataset, *, identity: Mapping[str, Any] | None = None
    ) -> np.ndarray: ...  # int64 (len(dataset),), -1 for rows that were not recorded


@dataclass(frozen=True, eq=False)
class PlainLosses:
    """Two tables of losses, as a recording of one run that knows no more."""

    losses: np.ndarray
    validation_losses: np.ndarray
    labels: np.ndarray
    validation_labels: np.ndarray
    rows: np.ndarray
    validation_rows: np.ndarray
    epochs: np.ndarray
    lengths: tuple[int, ...]
    recipe: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, losses: Any, validation_losses: Any) -> "PlainLosses":
        """Checks the tables, `(L, N)` and `(L, Q)`, of any framework.

        Raises:
            InputError: for what are no tables of numbers, and for tables of different checkpoints.
        """
        train, held = loss_table(losses, "losses"), loss_table(validation_losses, "validation_losses")
        if len(train) != len(held):
            turned = train.shape[1] == held.shape[1]
            fix = "they seem transposed, give losses.T and validation_losses.T" if turned else "give both of the same"
            raise InputError(
                f"`losses` has shape {train.shape} and `validation_losses` {held.shape}: their rows are checkpoints, "
                f"{fix}"
            )
        n, q = train.shape[1], held.shape[1]
        return cls(
            losses=train,
            validation_losses=held,
            labels=np.zeros(n, dtype=np.int64),
            validation_labels=np.zeros(q, dtype=np.int64),
            rows=np.arange(n),
            validation_rows=np.full(q, -1),
            epochs=np.arange(len(train)),
            lengths=(len(train),),
        )


def require_recorded(value: Any, name: str = "trajectories") -> None:
    """Checks that what was given is a recording.

    Args:
        value: What was given.
        name (`str`, *optional*, defaults to `"trajectories"`): The parameter that it was given as.

    Raises:
        InputError: if it is anything else, such as its path.
    """
    if not isinstance(value, Recorded):
        place = repr(str(value)) if isinstance(value, str | os.PathLike) else "RUN"
        raise InputError(f"`{name}` is a {type(value).__name__}, not a recording: give Trajectories.load({place})")


def check_recorded(trajectories: Recorded) -> None:
    require_recorded(trajectories)
    check_checkpoints(trajectories)


def check_checkpoints(trajectories: Validated) -> None:
    """Checks that there are checkpoints and validation samples enough for a correlation."""
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


def require_classes(trajectories: Validated, what: str, instead: str) -> None:
    """Checks that the rows have classes, which those of language models have only where a column was named.

    Args:
        trajectories ([`Trajectories`]): The recording.
        what (`str`): What needs them, for the message.
        instead (`str`): What to do without, for the message.
    """
    if Recipe.from_dict(trajectories.recipe).dataset.classes == 0:
        raise InputError(f"the rows of this recording have no classes, which {what}: {instead}")


def check_finite(trajectories: Validated, table: Any, losses: np.ndarray, lengths: Sequence[int]) -> None:
    if not all_finite(losses, lengths):
        raise losses_not_finite(trajectories, table)


def losses_not_finite(trajectories: Validated, table: Any) -> InputError:
    if table is trajectories.validation_losses:
        return not_finite(trajectories, table, trajectories.validation_rows, "validation losses")
    return not_finite(trajectories, table, trajectories.rows, "losses")


def not_finite(trajectories: Validated, table: Any, rows: np.ndarray, name: str) -> InputError:
    """The error that names the first epoch with values that are not finite, and their rows.

    Args:
        trajectories ([`Trajectories`]): The recording.
        table (`np.ndarray`): `(L, N)`, one of its tables.
        rows (`np.ndarray`): `(N,)`, the rows of that table.
        name (`str`): What is in the table.

    Returns:
        `InputError`
    """
    absent = absent_from_runs(table, trajectories.lengths)
    for run, (start, stop) in enumerate(run_spans(trajectories.lengths)):
        for t in range(start, stop):
            bad = np.flatnonzero(~np.isfinite(np.asarray(table[t])) & ~absent[run])
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


def shown_classes(trajectories: Validated, classes: np.ndarray) -> str:
    names = Recipe.from_dict(trajectories.recipe).dataset.names
    shown = listed(classes, lambda c: repr(names[c]) if names and c < len(names) else str(c), count="classes")
    return f"{'class' if len(classes) == 1 else 'classes'} {shown}"


def losses_digest(run: Recorded) -> str:
    """Tells a recording from any other, to the bit: SHA-256 in hexadecimal.

    Args:
        run ([`Trajectories`]): The recording.
    """
    whole = hashlib.sha256()
    for values in (run.rows, run.labels, run.validation_labels):
        whole.update(np.ascontiguousarray(values, dtype="<i8").tobytes())
    for t in range(len(run.epochs)):
        for table in (run.losses, run.validation_losses):
            whole.update(np.ascontiguousarray(table[t], dtype="<f4").tobytes())
    return whole.hexdigest()


def is_short(trajectories: Validated) -> bool:
    """Whether a run was trained for fewer than 15 epochs, however few of them were recorded.

    Where nothing tells how many they were, its checkpoints count.
    """
    recipe = Recipe.from_dict(trajectories.recipe)
    trained = [_trained(trajectories.epochs[start:stop], recipe) for start, stop in run_spans(trajectories.lengths)]
    return min(trained, default=0) < LEAST_EPOCHS


def _trained(epochs: np.ndarray, recipe: Recipe) -> float:
    """For how many epochs the last checkpoint of a run was trained."""
    # The numbers of checkpoints may be of steps, unless so many epochs were asked for.
    known = min(recipe.config.epochs or 0, int(epochs.max(initial=0)))
    return max(known, int((epochs > 0).sum()))
