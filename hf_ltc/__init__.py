"""Train on less of your Hugging Face dataset: record loss trajectories, score rows by LTC, keep the coreset."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .config import EvaluateConfig, RecordConfig
    from .coresets.order import coreset_order
    from .coresets.select import in_coreset, rank_coreset, select_coreset, split_coreset
    from .coresets.summary import describe_coreset
    from .evaluation.evaluate import evaluate_coresets
    from .hub.load import load_coreset
    from .hub.push import push_coreset
    from .recording.checkpoints import record_checkpoints
    from .recording.record import record
    from .recording.recorder import TrajectoryRecorder
    from .recording.trainer_callback import TrajectoryCallback
    from .scores.explain import explain, explain_validation
    from .scores.ltc import ltc_scores
    from .scores.scorers import BaselineScorer, LTCScorer, baseline_scores
    from .training.models import load_model
    from .trajectories.compare import reliability
    from .trajectories.value import Trajectories
    from .utils.errors import InputError, LTCWarning

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
    "load_model",
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
    "BaselineScorer": "scores.scorers",
    "EvaluateConfig": "config",
    "InputError": "utils.errors",
    "LTCScorer": "scores.scorers",
    "LTCWarning": "utils.errors",
    "RecordConfig": "config",
    "Trajectories": "trajectories.value",
    "TrajectoryCallback": "recording.trainer_callback",
    "TrajectoryRecorder": "recording.recorder",
    "baseline_scores": "scores.scorers",
    "coreset_order": "coresets.order",
    "describe_coreset": "coresets.summary",
    "evaluate_coresets": "evaluation.evaluate",
    "explain": "scores.explain",
    "explain_validation": "scores.explain",
    "in_coreset": "coresets.select",
    "load_coreset": "hub.load",
    "load_model": "training.models",
    "ltc_scores": "scores.ltc",
    "push_coreset": "hub.push",
    "rank_coreset": "coresets.select",
    "record": "recording.record",
    "record_checkpoints": "recording.checkpoints",
    "reliability": "trajectories.compare",
    "select_coreset": "coresets.select",
    "split_coreset": "coresets.select",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hf_ltc' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
