"""Processes that fail together, with the same message, and stop when they are told to."""

import logging
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import gather_object
from accelerate.utils.environment import get_cpu_distributed_information
from tqdm.auto import tqdm

from .errors import InputError

# The processes of a training or of another pass over rows; an accelerator has a precision too.
Processes: TypeAlias = Accelerator | PartialState
logger = logging.getLogger(__name__)
# What makes accelerate join processes, as launchers of torch and of several MPIs set it.
_JOINING = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "PMI_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "ACCELERATE_USE_DEEPSPEED",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_MEGATRON_LM",
)


@contextmanager
def together(accelerator: Processes | None) -> Iterator[None]:
    """Work of which a part may fail on one process alone: then all raise its [`InputError`], and none waits forever.

    Args:
        accelerator (`Accelerator` or `PartialState`, *optional*): The processes, all of which have to come here.
    """
    problem = None
    try:
        yield
    except InputError as error:
        if accelerator is None or accelerator.num_processes == 1:
            raise
        problem = str(error)
    if accelerator is not None and accelerator.num_processes > 1:
        found = [each for each in gather_object([problem]) if each]
        if found:
            raise InputError(found[0])


@contextmanager
def heard(process: int) -> Iterator[None]:
    """Logs the [`InputError`] of another process than the first, whose line would be the only one.

    Args:
        process (`int`): The number of this process.
    """
    try:
        yield
    except InputError as error:
        if process:
            logger.error("process %d: %s", process, error)
        raise


@contextmanager
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """Work in which one process may fail while others are in a collective, which then ends with an error of its own.

    Of another process than the main one, whose line would be the only one, the [`InputError`] is logged. What the
    others raise is an [`InputError`] too, which says that it was not they that failed.

    Args:
        accelerator (`accelerate.Accelerator`): The processes.
    """
    try:
        with heard(accelerator.process_index):
            yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _is_broken_off(error):
            raise
        raise InputError(
            "stopped because another process failed or was killed: see what that one printed; finished epochs are "
            "kept, and the same command continues after the last of them"
        ) from error


def _is_broken_off(error: RuntimeError) -> bool:
    """Whether an error is that of a collective whose other processes are gone."""
    # Gloo's errors have no type of their own, but name the file of its code that they come from.
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


def rank() -> tuple[int, int]:
    """The number of this process among those that a launcher started, 0 for the first, and how many there are."""
    mine = get_cpu_distributed_information()
    return mine.rank, mine.world_size


@contextmanager
def apart() -> Iterator[None]:
    """Of several processes that a launcher started each on its own: an `Accelerator` made in the block joins none.

    It gets the device of the process's number on this machine. So work can be spread over processes in whole pieces,
    where a launcher would have them share each one.
    """
    local_rank = get_cpu_distributed_information().local_rank
    taken = {name: os.environ.pop(name) for name in _JOINING if name in os.environ}
    try:
        if torch.cuda.is_available():
            torch.cuda.set_device(local_rank % torch.cuda.device_count())
        yield
    finally:
        os.environ |= taken


def progress_bar(state: Processes, desc: str, unit: str, total: int, **options: Any) -> tqdm:
    """A progress bar, which the first process draws where it writes to a terminal.

    Args:
        state (`Accelerator` or `PartialState`): The processes.
        desc (`str`): What is going on.
        unit (`str`): What is counted.
        total (`int`): How many there are.
        **options: More for `tqdm`.
    """
    hidden = None if state.is_main_process else True
    return tqdm(desc=desc, unit=unit, total=total, disable=hidden, **options)


@contextmanager
def stoppable(folder: Path, kept: str = "epochs") -> Iterator[Callable[[], None]]:
    """Turns SIGINT and SIGTERM into a stop between two steps, where no file is half written.

    Args:
        folder (`Path`): The run directory, for the message.
        kept (`str`, *optional*, defaults to `"epochs"`): What is in it once finished, likewise.

    Yields:
        `Callable[[], None]`: to be called between steps; raises `KeyboardInterrupt` once a signal has come.
    """
    caught: list[int] = []

    def stop() -> None:
        if caught:
            raise KeyboardInterrupt(
                f"stopped by {signal.Signals(caught[0]).name}: finished {kept} are in {str(folder)!r}; run the same "
                "command again to continue after the last of them"
            )

    def handle(number: int, _: Any) -> None:
        caught.append(number)

    try:
        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:
        # Only the main thread can handle signals; elsewhere they keep their meaning.
        before = {}
    try:
        yield stop
    except Exception:
        # Another process may have stopped first, and left this one in a collective that cannot end.
        stop()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
