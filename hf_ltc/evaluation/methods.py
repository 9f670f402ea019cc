"""Ways of choosing rows by name: score variants, baselines, and chance, as rows of a recording."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..config import EvaluateConfig
from ..coresets.choose import Coverage, Selection, choose, mean_probability, rank
from ..coresets.order import Balance, Keep
from ..coresets.sampling import like_trajectories
from ..scores.baselines import BASELINES
from ..scores.ltc import DEFAULT_PRESET, PRESETS, VARIANTS, ltc_scores
from ..scores.protocol import Validated
from ..scores.scorers import baseline_scores
from ..scores.typical_rows import typical_of, usual_typical
from ..scores.typicality import typicality_for
from ..trajectories.value import Trajectories
from ..utils.errors import InputError

FULL, RANDOM = "full", "random"
# What a method is called that orders rows by a score variant, but typical ones first.
_TYPICAL = "typical-"


@dataclass(frozen=True)
class Method:
    """A way of choosing rows.

    Args:
        variant (`dict[str, str]`):
            `of`, `aggregate`, `scope` and `weighting` of a score variant; empty for a baseline.
        baseline (`str`): One of [`BASELINES`]; empty for a score variant.
        keep (`str`): Which scores are kept: `"highest"` or `"lowest"`.
        coverage (`str`, *optional*): As for [`select_coreset`].
        begins_typical (`bool`): Whether typical rows come first, as many as [`typical_of`] says.
    """

    variant: dict[str, str] = field(default_factory=dict)
    baseline: str = ""
    keep: Keep = "highest"
    coverage: Coverage | None = None
    begins_typical: bool = False

    def selection(
        self, run: Validated, balance: Balance = "class", min_per_class: int = 0, seed: int = 0
    ) -> Selection:
        """The options of [`select_coreset`] that keep the same rows by a column of its scores, without a budget."""
        return Selection(
            balance=balance,
            keep=self.keep,
            min_per_class=min_per_class,
            coverage=self.coverage,
            seed=seed,
            typical=self.typical(run),
        )

    def typical(self, run: Validated) -> float:
        """How many typical rows come first among those of a recording, as for [`rank_coreset`]."""
        return typical_of(run) if self.begins_typical else 0.0


def _variant_name(variant: dict[str, str]) -> str:
    return "-".join(value for value in variant.values() if value != "none")


def _methods() -> dict[str, Method]:
    made = {name: Method(variant=variant) for name, variant in PRESETS.items()}
    made |= {_variant_name(variant): Method(variant=variant) for variant in VARIANTS}
    made |= {f"{_TYPICAL}{name}": replace(method, begins_typical=True) for name, method in made.items()}
    made |= {name: Method(baseline=name, keep=baseline.keeps) for name, baseline in BASELINES.items()}
    # As published: CCS (Zheng et al. 2023) by AUM, and DUAL with its draws (Cho et al. 2025).
    made["ccs"] = Method(baseline="aum", keep=BASELINES["aum"].keeps, coverage="stratified")
    # S2L (Yang et al. 2024), within classes where these are balanced.
    made["s2l"] = Method(baseline=RANDOM, coverage="clusters")
    made["dual_beta"] = Method(baseline="dual", keep=BASELINES["dual"].keeps, coverage="beta")
    return made


DEFAULT_METHOD = f"{_TYPICAL}{DEFAULT_PRESET}"
METHODS: dict[str, Method] = _methods()
"""The presets, score variants as `OF-AGGREGATE-SCOPE` or with `-uncertainty`, both with typical rows first as
`typical-NAME`, the baselines, `ccs`, `s2l`, `dual_beta`."""


def members_of(config: EvaluateConfig, runs: Iterable[Trajectories]) -> list[str]:
    """The score variants of an evaluation; if none are said, the order that recordings are ranked by then."""
    if config.members is not None:
        return config.members
    return [DEFAULT_METHOD if all(usual_typical(run) for run in runs) else DEFAULT_PRESET]


def find_method(name: str) -> Method:
    """Looks a method up.

    Raises:
        InputError: for an unknown name.
    """
    if name not in METHODS:
        raise InputError(f"no method {name!r}: there are {', '.join(METHODS)}")
    return METHODS[name]


def methods_of(scorer: Mapping[str, str] | str, typical: float, usual: float) -> list[str]:
    """The names under which a coreset is evaluated.

    Args:
        scorer (`Mapping[str, str]` or `str`): Its score variant, or the name of a baseline.
        typical (`float`): How many typical rows come first, as for [`rank_coreset`].
        usual (`float`): How many do where any do, by [`typical_of`].

    Returns:
        `list[str]`: names of [`METHODS`]; none if no method orders rows so.
    """
    return [
        name
        for name, each in METHODS.items()
        if scorer in (each.variant, name) and typical == (usual if each.begins_typical else 0)
    ]


def method_scores(name: str, run: Trajectories, seed: int = 0) -> np.ndarray:
    """Scores of every recorded row.

    Args:
        name (`str`): One of [`METHODS`].
        run ([`Trajectories`]): The recording; of several seeds the mean of their scores.
        seed (`int`, *optional*, defaults to `0`): Of `"random"`.

    Returns:
        `np.ndarray`: float32 `(N,)`, NaN where a row has none.

    Raises:
        InputError: for an unknown name, or a signal that was not recorded.
    """
    method = find_method(name)
    if method.baseline == RANDOM:
        return baseline_scores(run, RANDOM, seed=seed)
    return baseline_scores(run, method.baseline) if method.baseline else ltc_scores(run, **method.variant)


def kept_early(name: str, run: Trajectories, scores: np.ndarray) -> np.ndarray:
    """How early a method keeps each row of its class, as a number that is higher for earlier ones.

    Args:
        name (`str`): One of [`METHODS`].
        run ([`Trajectories`]): The recording.
        scores (`np.ndarray`): float32 `(N,)`, what [`method_scores`] gave.

    Returns:
        `np.ndarray`: float `(N,)`: the score, with its sign turned where the lowest are kept; or, where typical rows
        come first, the negative rank. NaN where a row has no score.
    """
    method = find_method(name)
    if not method.begins_typical:
        return scores if method.keep == "highest" else -scores
    typical = method.typical(run)
    ranks = rank(scores, run.labels, Selection(typical=typical), None, typicality_for(run, typical))
    return np.where(np.isnan(scores), np.nan, -ranks)


def chosen_rows(
    name: str,
    run: Trajectories,
    size: int,
    *,
    seed: int = 0,
    balance: Balance = "class",
    min_per_class: int = 0,
    scores: Any = None,
    candidates: np.ndarray | None = None,
) -> np.ndarray:
    """The rows that a method keeps.

    Args:
        name (`str`): One of [`METHODS`].
        run ([`Trajectories`]): The recording.
        size (`int`): Rows to keep.
        seed (`int`, *optional*, defaults to `0`): Of the draws, where the method has any.
        balance (`str`, *optional*, defaults to `"class"`): As for [`rank_coreset`], for every method, chance included.
        min_per_class (`int`, *optional*, defaults to `0`): As for [`select_coreset`].
        scores (`np.ndarray`, *optional*): float32 `(N,)`, what [`method_scores`] gave, if it is at hand.
        candidates (`np.ndarray`, *optional*): bool `(N,)`, which rows may be chosen; all if not given.

    Returns:
        `np.ndarray`: int64 `(size,)`, positions among the recorded rows, increasing.

    Raises:
        InputError: for an unknown name, a signal that was not recorded, or a size out of range.
    """
    method = find_method(name)
    if scores is None:
        scores = method_scores(name, run, seed)
    selection = replace(method.selection(run, balance, min_per_class, seed), size=size)
    typicality = typicality_for(run, selection.typical) if selection.typical else None
    losses = np.ascontiguousarray(np.asarray(run.losses).T) if method.coverage in ("beta", "clusters") else None
    # All recorded rows are candidates, those without a score too: their trajectory is flat.
    drawn = {}
    if losses is not None and method.coverage == "beta":
        drawn["probability"] = mean_probability(losses)
    elif losses is not None:
        groups = run.labels if selection.needs_labels else np.zeros(len(run), dtype=np.int64)
        drawn["clusters"] = like_trajectories(losses, groups, selection.clusters, seed)
    kept = choose(scores, run.labels, selection, candidates=candidates, typicality=typicality, **drawn)
    return np.flatnonzero(kept)
