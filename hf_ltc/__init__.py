"""Train on less of your Hugging Face dataset: record loss trajectories, score rows by LTC, keep the coreset."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agreement import reliability
    from .config import RecordConfig
    from .errors import InputError
    from .recording import TrajectoryRecorder
    from .scoring import LTCScorer, ltc_scores
    from .selection import coreset_order, in_coreset, rank_coreset, select_coreset, split_coreset
    from .source_run import record
    from .trajectories import Trajectories

__all__ = [
    "InputError",
    "LTCScorer",
    "RecordConfig",
    "Trajectories",
    "TrajectoryRecorder",
    "coreset_order",
    "in_coreset",
    "ltc_scores",
    "rank_coreset",
    "record",
    "reliability",
    "select_coreset",
    "split_coreset",
]

# Imported when first used: torch and its like take seconds, which a scorer in a worker or a --help need not wait for.
_MODULES = {
    "InputError": "errors",
    "LTCScorer": "scoring",
    "RecordConfig": "config",
    "Trajectories": "trajectories",
    "TrajectoryRecorder": "recording",
    "coreset_order": "selection",
    "in_coreset": "selection",
    "ltc_scores": "scoring",
    "rank_coreset": "selection",
    "record": "source_run",
    "reliability": "agreement",
    "select_coreset": "selection",
    "split_coreset": "selection",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hf_ltc' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
