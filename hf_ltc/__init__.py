"""Train on less of your Hugging Face dataset: record loss trajectories, score rows by LTC, keep the coreset."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .cli.demo import digits as digits
    from .config import EvaluateConfig as EvaluateConfig
    from .config import RecordConfig as RecordConfig
    from .coresets.order import coreset_order as coreset_order
    from .coresets.ray.data import coreset_bounds as coreset_bounds
    from .coresets.select import in_coreset as in_coreset
    from .coresets.select import rank_coreset as rank_coreset
    from .coresets.select import select_coreset as select_coreset
    from .coresets.select import split_coreset as split_coreset
    from .coresets.summary import describe_coreset as describe_coreset
    from .coresets.weights import weight_rows as weight_rows
    from .data.identity import dataset_identity as dataset_identity
    from .data.load import load_split as load_split
    from .evaluation.evaluate import evaluate_coresets as evaluate_coresets
    from .hub.load import load_coreset as load_coreset
    from .hub.push import push_coreset as push_coreset
    from .recording.checkpoints import record_checkpoints as record_checkpoints
    from .recording.record import record as record
    from .recording.recorder import TrajectoryRecorder as TrajectoryRecorder
    from .recording.trainer.callback import TrajectoryCallback as TrajectoryCallback
    from .report.apply import apply_audit as apply_audit
    from .report.apply import undo_audit as undo_audit
    from .report.audit import audit as audit
    from .report.page.write import write_report as write_report
    from .scores.explain import explain as explain
    from .scores.explain import explain_validation as explain_validation
    from .scores.ltc import ltc_scores as ltc_scores
    from .scores.scorers import BaselineScorer as BaselineScorer
    from .scores.scorers import LTCScorer as LTCScorer
    from .scores.scorers import baseline_scores as baseline_scores
    from .scores.typicality import ltc_typicality as ltc_typicality
    from .training.inputs import load_encoder as load_encoder
    from .training.models import load_model as load_model
    from .trajectories.compare import reliability as reliability
    from .trajectories.on_hub import push_source_model as push_source_model
    from .trajectories.summary import LossSummary as LossSummary
    from .trajectories.value import Trajectories as Trajectories
    from .utils.errors import InputError as InputError
    from .utils.errors import LTCWarning as LTCWarning

# Imported when first used: torch and its like take seconds, which a scorer in a worker or a --help need not wait for.
_MODULES = {
    "BaselineScorer": "scores.scorers",
    "EvaluateConfig": "config",
    "InputError": "utils.errors",
    "LTCScorer": "scores.scorers",
    "LTCWarning": "utils.errors",
    "LossSummary": "trajectories.summary",
    "RecordConfig": "config",
    "Trajectories": "trajectories.value",
    "TrajectoryCallback": "recording.trainer.callback",
    "TrajectoryRecorder": "recording.recorder",
    "apply_audit": "report.apply",
    "audit": "report.audit",
    "baseline_scores": "scores.scorers",
    "coreset_bounds": "coresets.ray.data",
    "coreset_order": "coresets.order",
    "dataset_identity": "data.identity",
    "describe_coreset": "coresets.summary",
    "digits": "cli.demo",
    "evaluate_coresets": "evaluation.evaluate",
    "explain": "scores.explain",
    "explain_validation": "scores.explain",
    "in_coreset": "coresets.select",
    "load_coreset": "hub.load",
    "load_encoder": "training.inputs",
    "load_model": "training.models",
    "load_split": "data.load",
    "ltc_scores": "scores.ltc",
    "ltc_typicality": "scores.typicality",
    "push_coreset": "hub.push",
    "push_source_model": "trajectories.on_hub",
    "rank_coreset": "coresets.select",
    "record": "recording.record",
    "record_checkpoints": "recording.checkpoints",
    "reliability": "trajectories.compare",
    "select_coreset": "coresets.select",
    "split_coreset": "coresets.select",
    "undo_audit": "report.apply",
    "weight_rows": "coresets.weights",
    "write_report": "report.page.write",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'hf_ltc' has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
