"""Batches from worker processes: through shared memory if it has room, else through a pipe; and how their end is told.

PyTorch's loader puts tensors into shared memory in a thread of the worker. Where /dev/shm is full, as Docker's 64 MB
soon are, that thread fails, the batch is lost, and the loader waits for it forever.

Pickles go through the pipe between a worker and the process that started it, as all that PyTorch's loader sends does.
None is written to a file, and none is read from one.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info

from ..utils.errors import InputError, as_input_error, one_line


def sendable(pixels: torch.Tensor) -> torch.Tensor | np.ndarray:
    """Moves a tensor into shared memory, where a worker sends it.

    Args:
        pixels (`torch.Tensor`): On the CPU.

    Returns:
        `torch.Tensor` or `np.ndarray`: the tensor; an array, which goes through the pipe, where there is no room.
    """
    if get_worker_info() is None:
        return pixels
    try:
        return pixels.share_memory_()
    except (RuntimeError, OSError):
        return pixels.numpy()


@dataclass(frozen=True)
class Sending:
    """A collate function whose batches, of any kind, arrive in any case; [`received`] opens them.

    Args:
        collate (`Callable`): The function.
    """

    collate: Callable[[list[Any]], Any]

    def __call__(self, rows: list[Any]) -> Any:
        batch = self.collate(rows)
        if get_worker_info() is None:
            return batch
        try:
            return _Packed(bytes(ForkingPickler.dumps(batch)))
        except (RuntimeError, OSError):
            return _Packed(pickle.dumps(batch, pickle.HIGHEST_PROTOCOL))


@dataclass(frozen=True)
class _Packed:
    content: bytes


def received(loader: DataLoader[Any]) -> Iterator[Any]:
    """The batches of a loader.

    Args:
        loader (`torch.utils.data.DataLoader`): A loader whose batches [`Sending`] makes, or that does not need it.

    Raises:
        InputError: if the workers cannot be started.
    """
    fix = "they need room in /dev/shm, so make room there (docker run --shm-size), or give `num_workers` 0"
    with as_input_error(f"cannot start {loader.num_workers} worker processes", fix, OSError):
        batches = iter(loader)
    for batch in batches:
        yield pickle.loads(batch.content) if isinstance(batch, _Packed) else batch


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
