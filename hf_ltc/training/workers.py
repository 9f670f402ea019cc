"""Batches from worker processes: through shared memory if it has room, else through a pipe; and how their end is told.

PyTorch's loader puts tensors into shared memory in a thread of the worker. Where /dev/shm is full, as Docker's 64 MB
soon are, that thread fails, the batch is lost, and the loader waits for it forever.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import recursively_apply
from torch.utils.data import DataLoader, get_worker_info

from ..utils.errors import InputError, as_input_error, one_line


def sendable(tensor: torch.Tensor) -> "torch.Tensor | Piped":
    """Moves a tensor into shared memory, where a worker sends it.

    Args:
        tensor (`torch.Tensor`): On the CPU.

    Returns:
        `torch.Tensor` or [`Piped`]: what goes through the pipe where there is no room; [`received`] opens it.
    """
    if get_worker_info() is None:
        return tensor
    try:
        return tensor.share_memory_()
    except (RuntimeError, OSError):
        # NumPy does not know all of the types.
        content = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
        return Piped(content, tensor.dtype, tensor.shape)


@dataclass(frozen=True, eq=False)
class Piped:
    """A tensor on its way through the pipe: its bytes, uint8, its type and its shape."""

    content: np.ndarray
    dtype: torch.dtype
    shape: torch.Size

    def open(self) -> torch.Tensor:
        return torch.from_numpy(self.content).view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Sending:
    """A collate function whose batches, tensors in lists, tuples and mappings, arrive in any case.

    Args:
        collate (`Callable`): The function.
    """

    collate: Callable[[list[Any]], Any]

    def __call__(self, rows: list[Any]) -> Any:
        return recursively_apply(sendable, self.collate(rows))


def received(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader.

    Args:
        loader (`torch.utils.data.DataLoader`): A loader whose batches are [`sendable`], by [`Sending`] or themselves.

    Raises:
        InputError: if the workers cannot be started.
    """
    fix = "they need room in /dev/shm, so make room there (docker run --shm-size), or give `num_workers` 0"
    with as_input_error(f"cannot start {loader.num_workers} worker processes", fix, OSError):
        batches = iter(loader)
    for batch in batches:
        yield recursively_apply(Piped.open, batch, test_type=lambda each: isinstance(each, Piped))


@contextmanager
def workers_watched() -> Iterator[None]:
    """Turns the end of a worker into one line: the loader raises it wherever the main thread is at that moment.

    Raises:
        InputError: if a worker was killed.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):
            raise
        raise InputError(
            f"a worker process ended before its work ({one_line(error)}): it was killed, or ran out of memory or of "
            "room in /dev/shm; give a lower `num_workers`, 0 for none, and go on"
        ) from error
