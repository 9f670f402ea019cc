"""Losses and further metrics of each sample in a pass over the rows, kept on the device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..config import CLASS_SIGNALS, SIGNALS
from ..utils.errors import InputError, as_input_error, some_rows
from ..utils.processes import Processes


class LossBuffer:
    """The values of one epoch and split, on the device.

    Class numbers are in `classes`, int32 `(k, N)`, -1 where there is none yet; all other values in `table`, float32
    `(names - k + 1, N)`, with the counts in the last row. Row numbers stay int64 and never share a tensor with losses,
    which low precision would round.

    Args:
        names (`Sequence[str]`): What is recorded for each row.
        rows (`int`): N.
        device (`torch.device`): Where the values are made.
    """

    def __init__(self, names: Sequence[str], rows: int, device: torch.device | str = "cpu") -> None:
        self.names = list(names)
        self._is_class = [name in CLASS_SIGNALS for name in self.names]
        # Written to in the caller's mode and in others: what inference mode makes can only be written to there.
        with torch.inference_mode(False):
            count = sum(self._is_class)
            self.table = torch.zeros((len(self.names) - count + 1, rows), dtype=torch.float32, device=device)
            self.classes = torch.full((count, rows), -1, dtype=torch.int32, device=device)

    def add(self, positions: torch.Tensor, *values: torch.Tensor) -> None:
        """Adds the values of some rows, one float32 `(B,)` for each name, of class numbers an integer one; nothing
        waits for the device."""
        summed = [value.float() for value, is_class in zip(values, self._is_class) if not is_class]
        block = torch.stack([*summed, torch.ones_like(values[0], dtype=torch.float32)])
        self.table.index_add_(1, positions, block)
        numbers = [value for value, is_class in zip(values, self._is_class) if is_class]
        for row, classes in zip(self.classes, numbers):
            row.scatter_reduce_(0, positions, classes.to(torch.int32), "amax")

    def collect(self, accelerator: Processes | None, epoch: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Joins the processes' values, in one collective without class numbers, and checks that every row is there.

        A row recorded more than once, as by samplers that pad, gets the mean of its values, and of several class
        numbers the highest.

        Args:
            accelerator (`Accelerator` or `PartialState`, *optional*): The processes; this one alone if not given.
            epoch (`int`): The epoch, for messages.
            rows (`np.ndarray`): int64 `(N,)`, the row numbers, for messages.

        Returns:
            `dict[str, np.ndarray]`: float32 `(N,)` for each name, the same on every process; of class numbers int32.

        Raises:
            InputError: for rows without a value, for values that are not finite and for negative class numbers, naming
                the epoch and the rows.
        """
        if accelerator is not None and accelerator.num_processes > 1:
            torch.distributed.all_reduce(self.table)
            if len(self.classes):
                torch.distributed.all_reduce(self.classes, torch.distributed.ReduceOp.MAX)
        counts = self.table[-1]
        if missing := _where(counts == 0):
            raise InputError(
                f"epoch {epoch}: {len(missing)} of {len(rows)} rows have no recorded loss (rows "
                f"{some_rows(rows[missing])}): every row has to be passed to update once an epoch or more (is the "
                "last batch dropped, or a sampler leaving rows out?)"
            )
        self.table[:-1] /= counts
        means = [name for name, is_class in zip(self.names, self._is_class) if not is_class]
        numbers = [name for name, is_class in zip(self.names, self._is_class) if is_class]
        for name, classes in zip(numbers, self.classes):
            if bad := _where(classes < 0):
                raise InputError(
                    f"epoch {epoch}: {name} of {len(bad)} of {len(rows)} rows is negative (rows "
                    f"{some_rows(rows[bad])}): give the numbers of classes, from 0"
                )
        for name, values in zip(means, self.table):
            if bad := _where(~torch.isfinite(values)):
                raise InputError(
                    f"epoch {epoch}: {name} of {len(bad)} of {len(rows)} rows is not finite (rows "
                    f"{some_rows(rows[bad])}): the training has diverged, so lower `learning_rate` and record into "
                    "another `output_dir`; the epochs before are kept"
                )
        # Copies: on the CPU the arrays would be cleared with the buffer.
        host = [each.to("cpu", copy=True).numpy() for each in (self.table[:-1], self.classes)]
        # A state that is kept between two epochs has nothing of the one before.
        self.clear()
        return {**dict(zip(means, host[0])), **dict(zip(numbers, host[1]))}

    def clear(self) -> None:
        self.table.zero_()
        self.classes.fill_(-1)


def per_sample_metrics(
    names: Sequence[str], logits: torch.Tensor, labels: torch.Tensor, outputs: torch.Tensor | None = None
) -> list[torch.Tensor]:
    """Metrics of samples beside their loss, from float32 logits.

    Args:
        names (`Sequence[str]`): `margin`, the logit of the label minus the highest other one (Pleiss et al., arXiv
            2001.10528); `correct`, 1 where the label's logit is the highest (Toneva et al., arXiv 1812.05159); `el2n`,
            the L2 norm of p - y (Paul et al., arXiv 2107.07075); `predicted`, the number of the class whose logit is
            the highest, of equal ones the first.
        logits (`torch.Tensor`): float32 `(B, C)`.
        labels (`torch.Tensor`): int64 `(B,)`.
        outputs (`torch.Tensor`, *optional*):
            int64, increasing, the column of each class among the logits; they are the classes if not given.

    Returns:
        `list[torch.Tensor]`: float32 `(B,)` for each name; of `predicted` int64.
    """
    if not names:
        return []
    own = logits.gather(1, labels[:, None])
    margin = (own - logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True)).squeeze(1)
    made = []
    for name in names:
        if name == "margin":
            made.append(margin)
        elif name == "correct":
            made.append((margin > 0).float())
        elif name == "predicted":
            # Classes that no row has may have no logit, and logits no class.
            of_classes = logits
            if outputs is not None:
                # Without a mask as index, whose number of columns the device would be asked for.
                there = logits[:, outputs.clamp(max=logits.shape[1] - 1)]
                of_classes = there.masked_fill(outputs >= logits.shape[1], -torch.inf)
            made.append(of_classes.argmax(1))
        else:
            error = logits.softmax(1)
            error = error.scatter_add(1, labels[:, None], -torch.ones_like(own))
            made.append(error.norm(dim=1))
    return made


def check_metrics(names: Sequence[str]) -> None:
    """Checks the names of per-sample metrics.

    Raises:
        InputError: for one that is unknown.
    """
    for name in names:
        if name not in SIGNALS:
            raise InputError(f"`signals` has {name!r}: it must be of {', '.join(SIGNALS)}")


def _where(mask: torch.Tensor) -> list[int]:
    return torch.nonzero(mask).flatten().tolist() if bool(mask.any()) else []


def sample_values(values: Any, positions: torch.Tensor, name: str) -> torch.Tensor:
    """Values of samples, float32 `(B,)` on the device of their positions; class numbers int64.

    Raises:
        InputError: for values that are not numbers, or not one per sample, and class numbers that are no integers.
    """
    fix = "give one number a sample"
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        # torch reads no array backwards, and none of another byte order or of long doubles.
        values = values.astype(np.float64 if values.dtype.kind == "f" else np.int64, order="C")
    with as_input_error(f"{name} cannot be read as numbers", fix, (TypeError, ValueError, RuntimeError)):
        found = torch.as_tensor(values).detach()
    if found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"`{name}` is {found.dtype}: {fix}")
    if found.shape != positions.shape:
        raise InputError(
            f"{name} has shape {tuple(found.shape)} for {len(positions)} rows: give one value a sample, as "
            'cross_entropy(..., reduction="none") does'
        )
    if name not in CLASS_SIGNALS:
        return found.to(positions.device, torch.float32)
    if found.is_floating_point():
        raise InputError(
            f"`{name}` is {found.dtype}: give class numbers, which are integers, as logits.argmax(1) does"
        )
    return found.to(positions.device, torch.int64)
