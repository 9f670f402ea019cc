"""Processes that fail together, with the same message, and stop when they are told to."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from .errors import InputError


@contextmanager
def together(accelerator: Accelerator | None) -> Iterator[None]:
    """Work of which a part may fail on one process alone: then all raise its [`InputError`], and none waits for ever.

    Args:
        accelerator (`accelerate.Accelerator`, *optional*): The processes, all of which have to come here.
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
def failing_together(accelerator: Accelerator) -> Iterator[None]:
    """Work in which one process may fail while others are in a collective, which then ends with an error of its own.

    Of another process than the main one, whose line would be the only one, the [`InputError`] is printed. What the
    others raise is an [`InputError`] too, which says that it was not they that failed.

    Args:
        accelerator (`accelerate.Accelerator`): The processes.
    """
    try:
        yield
    except InputError as error:
        if not accelerator.is_main_process:
            print(f"hf-ltc: process {accelerator.process_index}: {error}", file=sys.stderr, flush=True)
        raise
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _is_broken_off(error):
            raise
        raise InputError(
            "stopped because another process failed or was killed: see what that one printed; finished epochs are "
            "kept, and the same command goes on after the last of them"
        ) from error


def _is_broken_off(error: RuntimeError) -> bool:
    """Whether an error is that of a collective whose other processes are gone."""
    # Gloo's errors have no type of their own, but name the file of its code that they come from.
    return isinstance(error, torch.distributed.DistError) or "gloo/transport" in str(error)


@contextmanager
def stoppable(folder: Path) -> Iterator[Callable[[], None]]:
    """Turns SIGINT and SIGTERM into a stop between two steps, where no file is half written.

    Args:
        folder (`Path`): The run directory, for the message.

    Yields:
        `Callable[[], None]`: to be called between steps; raises `KeyboardInterrupt` once a signal has come.
    """
    caught: list[int] = []

    def stop() -> None:
        if caught:
            raise KeyboardInterrupt(
                f"stopped by {signal.Signals(caught[0]).name}: finished epochs are in {str(folder)!r}; run the same "
                "command again to go on after the last of them"
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
