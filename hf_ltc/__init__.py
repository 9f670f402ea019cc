"""Train on less of your Hugging Face dataset: record loss trajectories, score rows by LTC, keep the coreset."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .agreement import reliability
    from .baselines import BaselineScorer, baseline_scores
    from .callback import TrajectoryCallback
    from .checkpoints import record_checkpoints
    from .config import EvaluateConfig, RecordConfig
    from .errors import InputError, LTCWarning
    from .evaluation import evaluate_coresets
    from .explanations import explain, explain_validation
    from .hub import push_coreset
    from .loading import load_coreset
    from .order import coreset_order
    from .record_call import record
    from .recording import TrajectoryRecorder
    from .scoring import LTCScorer, ltc_scores
    from .selection import in_coreset, rank_coreset, select_coreset, split_coreset
    from .summary import describe_coreset
    from .trajectories import Trajectories

__all__ = [
    "BaselineScorer",
    "EvaluateConfig",
    "InputError",
    "LTCScorer",
    "LTCWarning",
    "RecordConfig",
    "Trajectories",
    "TrajectoryCallback",
    "TrajectoryRecorder",
    "baseline_scores",
    "coreset_order",
    "describe_coreset",
    "evaluate_coresets",
    "explain",
    "explain_validation",
    "in_coreset",
    "load_coreset",
    "ltc_scores",
    "push_coreset",
    "rank_coreset",
    "record",
    "record_checkpoints",
    "reliability",
    "select_coreset",
    "split_coreset",
]

# Imported when first used: torch and its like take seconds, which a scorer in a worker or a --help need not wait for.
_MODULES = {
    "BaselineScorer": "baselines",
    "EvaluateConfig": "config",
    "InputError": "errors",
    "LTCScorer": "scoring",
    "LTCWarning": "errors",
    "RecordConfig": "config",
    "Trajectories": "trajectories",
    "TrajectoryCallback": "callback",
    "TrajectoryRecorder": "recording",
    "baseline_scores": "baselines",
    "coreset_order": "order",
    "describe_coreset": "summary",
    "evaluate_coresets": "evaluation",
    "explain": "explanations",
    "explain_validation": "explanations",
    "in_coreset": "selection",
    "load_coreset": "loading",
    "ltc_scores": "scoring",
    "push_coreset": "hub",
    "rank_coreset": "selection",
    "record": "record_call",
    "record_checkpoints": "checkpoints",
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
