"""What the fields of a recording have to be, each by itself and together."""

import numpy as np

from ..scores.kernels import run_spans
from ..scores.protocol import RecordedColumns
from ..utils.errors import InputError
from .run_dir import LOSSES


def check_fields(run: RecordedColumns) -> None:
    """Checks that the tables of a [`Trajectories`] go together, and that its rows and epochs are in order.

    Raises:
        InputError: naming the field, and what it should be.
    """
    checkpoints, n, q = len(run.epochs), len(run.rows), len(run.validation_labels)
    shapes = {"losses": (run.losses, n), "validation_losses": (run.validation_losses, q)}
    shapes |= {name: (table, n) for name, table in run.signals.items()}
    for name, (table, columns) in shapes.items():
        rows, found = tuple(table.shape)
        if (rows, found) != (checkpoints, columns):
            wanted = f"{name} has shape ({rows}, {found}), not"
            if rows == columns != found:
                raise InputError(f"{wanted} (checkpoints, samples): it seems transposed, give {name}.T")
            raise InputError(f"{wanted} ({checkpoints}, {columns})")
    if sum(run.lengths) != checkpoints or min(run.lengths, default=1) < 1:
        raise InputError(f"lengths {run.lengths} must be 1 or more each and sum to {checkpoints} checkpoints")
    for name, values, count in (
        ("labels", run.labels, n),
        ("validation_rows", run.validation_rows, q),
        ("ids", run.rows if run.ids is None else run.ids, n),
    ):
        if len(values) != count:
            raise InputError(f"{name} has {len(values)} values for {count} samples")
    if (np.diff(run.rows, prepend=-1) <= 0).any():
        raise InputError(
            "rows must be 0 or more and increasing: order rows, labels, ids, losses and signals by row number"
        )
    for start, stop in run_spans(run.lengths):
        if (np.diff(run.epochs[start:stop]) <= 0).any():
            raise InputError(
                f"epochs {run.epochs[start:stop].tolist()} must be increasing within a run: order epochs, losses "
                "and signals by epoch"
            )
    if run.loss_name not in LOSSES or run.loss_name in run.signals:
        raise InputError(
            f"loss_name is {run.loss_name!r}: it must be {' or '.join(LOSSES)}, and of no signal "
            f"({', '.join(run.signals) or 'none'})"
        )
