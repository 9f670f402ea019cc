"""Starts real processes that have the heavy imports behind them, alone or as the ranks of one recording."""

import multiprocessing
import os
import shutil
import socket
from collections.abc import Callable
from typing import Any

import pytest

needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler, such as g++"
)
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    ["hf_ltc.recording.record", "hf_ltc.recording.trainer.callback", "timm", "tests.processes"]
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _ranked(rank: int, world: int, port: int, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    target(*arguments)


def start(target: Callable[..., Any], *arguments: Any, world: int = 1) -> list[Any]:
    """Starts `world` processes that run `target(*arguments)` as ranks of one job; one process is no rank."""
    if world == 1:
        ranks = [_context.Process(target=target, args=arguments)]
    else:
        port = free_port()
        ranks = [
            _context.Process(target=_ranked, args=(rank, world, port, target, arguments)) for rank in range(world)
        ]
    for process in ranks:
        process.start()
    return ranks


def finish(processes: list[Any], timeout: float = 300) -> list[int | None]:
    """Waits for processes and returns their exit codes."""
    for process in processes:
        process.join(timeout)
    for process in processes:
        if process.is_alive():
            process.kill()
    return [process.exitcode for process in processes]
