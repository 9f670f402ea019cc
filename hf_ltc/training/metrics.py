"""Losses and further metrics of each sample in a pass over the rows, kept on the device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..config import SIGNALS
from ..utils.errors import InputError, as_input_error, some_rows
from ..utils.processes import Processes


class LossBuffer:
    """The values of one epoch and split, on the device: float32 `(names + 1, N)`, with their counts in the last row.

    Row numbers stay int64 and never share a tensor with losses, which low precision would round.

    Args:
        names (`Sequence[str]`): What is recorded for each row.
        rows (`int`): N.
        device (`torch.device`): Where the values are made.
    """

    def __init__(self, names: Sequence[str], rows: int, device: torch.device | str = "cpu") -> None:
        self.names = list(names)
        # Written to in the caller's mode and in others: what inference mode makes can only be written to there.
        with torch.inference_mode(False):
            self.table = torch.zeros((len(self.names) + 1, rows), dtype=torch.float32, device=device)

    def add(self, positions: torch.Tensor, *values: torch.Tensor) -> None:
        """Adds the values of some rows, one float32 `(B,)` for each name; nothing waits for the device."""
        block = torch.stack([*(value.float() for value in values), torch.ones_like(values[0], dtype=torch.float32)])
        self.table.index_add_(1, positions, block)

    def collect(self, accelerator: Processes | None, epoch: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Joins the processes' values in one collective and checks that every row is there.

        A row recorded more than once, as by samplers that pad, gets the mean of its values.

        Args:
            accelerator (`Accelerator` or `PartialState`, *optional*): The processes; this one alone if not given.
            epoch (`int`): The epoch, for messages.
            rows (`np.ndarray`): int64 `(N,)`, the row numbers, for messages.

        Returns:
            `dict[str, np.ndarray]`: float32 `(N,)` for each name, the same on every process.

        Raises:
            InputError: for rows without a value and for values that are not finite, naming the epoch and the rows.
        """
        if accelerator is not None and accelerator.num_processes > 1:
            torch.distributed.all_reduce(self.table)
        counts = self.table[-1]
        if missing := _where(counts == 0):
            raise InputError(
                f"epoch {epoch}: {len(missing)} of {len(rows)} rows have no recorded loss (rows "
                f"{some_rows(rows[missing])}): every row has to be passed to update once an epoch or more (is the "
                "last batch dropped, or a sampler leaving rows out?)"
            )
        self.table[:-1] /= counts
        for name, values in zip(self.names, self.table):
            if bad := _where(~torch.isfinite(values)):
                raise InputError(
                    f"epoch {epoch}: {name} of {len(bad)} of {len(rows)} rows is not finite (rows "
                    f"{some_rows(rows[bad])}): the training has diverged, so lower `learning_rate` and record into "
                    "another `output_dir`; the epochs before are kept"
                )
        # A copy: on the CPU the array would be cleared with the buffer.
        host = self.table[:-1].to("cpu", copy=True).numpy()
        # A state that is kept between two epochs has nothing of the one before.
        self.clear()
        return dict(zip(self.names, host))

    def clear(self) -> None:
        self.table.zero_()


def per_sample_metrics(names: Sequence[str], logits: torch.Tensor, labels: torch.Tensor) -> list[torch.Tensor]:
    """Metrics of samples beside their loss, from float32 logits.

    Args:
        names (`Sequence[str]`): `margin`, the logit of the label minus the highest other one (Pleiss et al., arXiv
            2001.10528); `correct`, 1 where the label's logit is the highest (Toneva et al., arXiv 1812.05159); `el2n`,
            the L2 norm of p - y (Paul et al., arXiv 2107.07075).
        logits (`torch.Tensor`): float32 `(B, C)`.
        labels (`torch.Tensor`): int64 `(B,)`.

    Returns:
        `list[torch.Tensor]`: float32 `(B,)` for each name.
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
    """Values of samples, float32 `(B,)` on the device of their positions.

    Raises:
        InputError: for values that are not numbers, or not one per sample.
    """
    fix = "give one number a sample"
    with as_input_error(f"{name} cannot be read as numbers", fix, (TypeError, ValueError, RuntimeError)):
        found = torch.as_tensor(values).detach()
    if found.is_complex() or found.dtype == torch.bool:
        raise InputError(f"`{name}` is {found.dtype}: {fix}")
    if found.shape != positions.shape:
        raise InputError(
            f"{name} has shape {tuple(found.shape)} for {len(positions)} rows: give one value a sample, as "
            'cross_entropy(..., reduction="none") does'
        )
    return found.to(positions.device, torch.float32)
