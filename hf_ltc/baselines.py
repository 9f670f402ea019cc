"""Known scores that one recording feeds beside LTC: mean and final loss, forgetting, EL2N, AUM, Dyn-Unc, TDDS, DUAL.

Each is a function of one signal of one run, `(K, N)`: its K checkpoints after training epochs, without that of the
untrained model, which no paper uses. [`baseline_scores`] takes the mean over the runs of a recording, as the papers do
over seeds, and [`BaselineScorer`] is the same for `map`. The probability of the true class is exp(-loss).
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .batchrows import read_rows
from .errors import InputError
from .passes import run_spans
from .scoring import RecordedColumns, not_finite, require_recorded
from .uncertainty import uncertainty

# Elements of a table that are worked on at once.
_BLOCK = 2**22


def mean_loss(losses: np.ndarray) -> np.ndarray:
    """The mean loss over epochs. Low: learned early and well; the lowest are kept.

    That clean and easy rows are those whose loss falls early is from Arpit et al., A Closer Look at Memorization in
    Deep Networks, ICML 2017 (arXiv 1706.05394).

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return losses.mean(axis=0, dtype=np.float64)


def final_loss(losses: np.ndarray) -> np.ndarray:
    """The loss after the last epoch; the lowest are kept.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return losses[-1].astype(np.float64)


def forgetting(correct: np.ndarray) -> np.ndarray:
    """Forgetting events: how often a row classified correctly was not at its next presentation; the highest are kept.

    Toneva et al., An Empirical Study of Example Forgetting during Deep Neural Network Learning, ICLR 2019 (arXiv
    1812.05159). Rows that were never learned count as forgotten infinitely often there; here they have K, which is
    more events than K presentations can hold.

    Args:
        correct (`np.ndarray`): `(K, N)`, 1 where the row was classified correctly, else 0.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    learned = correct > 0.5
    events = np.count_nonzero(learned[:-1] & ~learned[1:], axis=0)
    return np.where(learned.any(axis=0), events, len(correct)).astype(np.float64)


def el2n(norms: np.ndarray) -> np.ndarray:
    """EL2N: the mean L2 norm of p - y, early in training; the highest are kept.

    Paul et al., Deep Learning on a Data Diet, NeurIPS 2021 (arXiv 2107.07075): the mean over ten seeds, early in
    training. By default over epochs 1 to 10, as Zheng et al., Coverage-centric Coreset Selection, ICLR 2023 (arXiv
    2210.15809), take it of a single run.

    Args:
        norms (`np.ndarray`): `(K, N)`, the norms after each epoch.

    Returns:
        `np.ndarray`: float64 `(N,)`, in [0, sqrt(2)].
    """
    return norms.mean(axis=0, dtype=np.float64)


def aum(margin: np.ndarray) -> np.ndarray:
    """AUM, the area under the margin: the label's logit less the highest other one, on average; the highest are kept.

    Pleiss et al., Identifying Mislabeled Data using the Area Under the Margin Ranking, NeurIPS 2020 (arXiv
    2001.10528): the mean over epochs. What has the lowest is probably mislabelled.

    Args:
        margin (`np.ndarray`): `(K, N)`, margins of logits.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return margin.mean(axis=0, dtype=np.float64)


def dyn_unc(losses: np.ndarray, window: int = 10) -> np.ndarray:
    """Dyn-Unc: how uncertain the true class's probability is within sliding windows of epochs; the highest are kept.

    He et al., Large-scale Dataset Pruning with Dynamic Uncertainty, CVPR workshops 2024 (arXiv 2306.05175): the mean
    of the standard deviations of J successive probabilities (J - 1 in the denominator) over the first K - J windows.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.
        window (`int`, *optional*, defaults to `10`): J, in recorded checkpoints.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return uncertainty(losses, 0, len(losses), window)


def dual(losses: np.ndarray, window: int = 10) -> np.ndarray:
    """DUAL: uncertainty times difficulty of the true class within sliding windows, early on; the highest are kept.

    Cho et al., Lightweight Dataset Pruning without Full Training via Example Difficulty and Prediction Uncertainty,
    ICML 2025 (arXiv 2502.06905): the mean over all windows of J epochs of the probability's standard deviation (J - 1
    in the denominator) times one less its mean. By default over epochs 1 to 30, as there on CIFAR. Its sampling at
    small budgets is `select_coreset(..., coverage="beta")`.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.
        window (`int`, *optional*, defaults to `10`): J, in recorded checkpoints.

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    return np.mean([deviation * (1 - mean) for deviation, mean in _windows(losses, window)], axis=0)


def tdds(losses: np.ndarray, window: int = 10, decay: float = 0.9) -> np.ndarray:
    """TDDS: how much the size of loss changes varies within sliding windows, recent ones first; the highest are kept.

    Zhang et al., Spanning Training Progress: Temporal Dual-Depth Scoring for Enhanced Dataset Pruning, CVPR 2024
    (arXiv 2311.13613): in each window of J epochs the norm of the J - 1 absolute loss changes less their mean,
    averaged exponentially over windows, in which the last weighs `decay`. The loss changes here are the label's;
    the paper's experiments weigh all classes by their predicted probability (a KL divergence), for which whole
    predicted distributions would have to be recorded.

    Args:
        losses (`np.ndarray`): `(K, N)`, natural-log cross-entropy.
        window (`int`, *optional*, defaults to `10`): J, in recorded checkpoints.
        decay (`float`, *optional*, defaults to `0.9`): Weight of the last window, inside (0, 1].

    Returns:
        `np.ndarray`: float64 `(N,)`.
    """
    changes = np.abs(np.diff(losses.astype(np.float64), axis=0))
    averaged = np.zeros(losses.shape[1])
    for start in range(len(losses) - window + 1):
        part = changes[start : start + window - 1]
        averaged *= 1 - decay
        averaged += decay * np.linalg.norm(part - part.mean(axis=0), axis=0)
    return averaged


def random(rows: np.ndarray, seed: int = 0) -> np.ndarray:
    """Random scores: of a row's number and the seed alone, so the same in any batch, order, process or machine.

    The SplitMix64 generator (Steele et al., Fast Splittable Pseudorandom Number Generators, OOPSLA 2014), whose n-th
    number can be had without those before it.

    Args:
        rows (`np.ndarray`): int64 `(N,)`, row numbers.
        seed (`int`, *optional*, defaults to `0`): 0 or more.

    Returns:
        `np.ndarray`: float64 `(N,)`, uniform in [0, 1).
    """
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    mixed = state + (np.asarray(rows).astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)) * 2.0**-53


@dataclass(frozen=True)
class Baseline:
    """A baseline: how it is computed and which rows it keeps.

    Args:
        function (`Callable`): Of one run's signal `(K, N)`, and its options.
        signal (`str`, *optional*): What it needs: `"loss"`, which is always there, or a recorded signal.
        keeps (`str`): Which scores are kept: `"highest"` or `"lowest"`.
        epochs (`tuple[int, int or None]`): First and last epoch it looks at by default; `None`: the last.
        more_than_window (`int`): Checkpoints it needs beyond its window.
    """

    function: Callable[..., np.ndarray]
    signal: str | None
    keeps: Literal["highest", "lowest"]
    epochs: tuple[int, int | None] = (1, None)
    more_than_window: int = 0


BASELINES: dict[str, Baseline] = {
    "mean_loss": Baseline(mean_loss, "loss", "lowest"),
    "final_loss": Baseline(final_loss, "loss", "lowest"),
    "forgetting": Baseline(forgetting, "correct", "highest"),
    "el2n": Baseline(el2n, "el2n", "highest", (1, 10)),
    "aum": Baseline(aum, "margin", "highest"),
    "dyn_unc": Baseline(dyn_unc, "loss", "highest", more_than_window=1),
    "tdds": Baseline(tdds, "loss", "highest"),
    "dual": Baseline(dual, "loss", "highest", (1, 30)),
    "random": Baseline(random, None, "highest"),
}


def baseline_scores(
    trajectories: RecordedColumns, name: str, *, epochs: tuple[int, int | None] | None = None, **options: Any
) -> np.ndarray:
    """Scores every recorded row by a baseline.

    Args:
        trajectories ([`Trajectories`]): The recording; of several runs the score is the mean over them.
        name (`str`): One of [`BASELINES`]: `"mean_loss"`, `"final_loss"`, `"forgetting"`, `"el2n"`, `"aum"`,
            `"dyn_unc"`, `"tdds"`, `"dual"`, `"random"`.
        epochs (`tuple[int, int or None]`, *optional*):
            First and last epoch to look at; the baseline's own if not given.
        **options: Options of the baseline's function, e.g. `window=10`.

    Returns:
        `np.ndarray`: float32 `(N,)`; `BASELINES[name].keeps` says whether the highest or the lowest are kept.

    Raises:
        InputError: for an unknown name or option, a signal that was not recorded, values that are not finite, and
            fewer checkpoints than the baseline needs.
    """
    scorer = BaselineScorer.from_trajectories(trajectories, name, epochs=epochs, **options)
    baseline = BASELINES[name]
    if baseline.signal is None:
        return baseline.function(trajectories.rows, **dict(scorer.options)).astype(np.float32)
    table = trajectories.losses if baseline.signal == "loss" else trajectories.signals[baseline.signal]
    n = len(trajectories.rows)
    scores = np.empty(n, dtype=np.float32)
    width = max(1, _BLOCK // scorer.length)
    for left in range(0, n, width):
        part = slice(left, left + width)
        runs = [np.stack([np.asarray(table[t])[part] for t in run]) for run in scorer.checkpoints]
        if not all(np.isfinite(run).all() for run in runs):
            raise not_finite(trajectories, table, trajectories.rows, _plural(baseline.signal))
        scores[part] = scorer.score(runs)
    return scores


@dataclass(frozen=True)
class BaselineScorer:
    """Adds a baseline's score to batches of rows: a callable for `map` of any engine, picklable and without state.

    It reads one trajectory column (`loss_trajectory`, or `<signal>_trajectory`), of the kinds of batches that
    [`LTCScorer`] takes, and gives back what that gives.

    `"random"` needs row numbers: map with `with_indices=True`, or have them in a column (`row_column`), which is
    right for shuffled datasets too.

    Make one with [`BaselineScorer.from_trajectories`].

    Args:
        name (`str`): One of [`BASELINES`].
        checkpoints (`tuple[tuple[int, ...], ...]`): Positions in the trajectory that are used, for each run.
        length (`int`): Length of the trajectory.
        options (`tuple[tuple[str, Any], ...]`): Options of the baseline's function.
        column (`str`): The column that is added.
        row_column (`str`, *optional*): The column with the row numbers, for `"random"`.
    """

    name: str
    checkpoints: tuple[tuple[int, ...], ...]
    length: int
    options: tuple[tuple[str, Any], ...]
    column: str
    row_column: str | None = None

    @classmethod
    def from_trajectories(
        cls,
        trajectories: RecordedColumns,
        name: str,
        *,
        epochs: tuple[int, int | None] | None = None,
        column: str | None = None,
        row_column: str | None = None,
        **options: Any,
    ) -> "BaselineScorer":
        """Makes the scorer of a recording.

        Args:
            trajectories ([`Trajectories`]): The recording.
            name (`str`): One of [`BASELINES`].
            epochs (`tuple[int, int or None]`, *optional*):
                First and last epoch to look at; the baseline's own if not given.
            column (`str`, *optional*): The column that it adds; `<name>_score` if not given.
            row_column (`str`, *optional*): For `"random"`, the column with the row numbers.
            **options: Options of the baseline's function.

        Returns:
            [`BaselineScorer`]

        Raises:
            InputError: as [`baseline_scores`].
        """
        require_recorded(trajectories)
        if not isinstance(name, str) or name not in BASELINES:
            raise InputError(f"no baseline {name!r}: there are {', '.join(map(repr, BASELINES))}")
        baseline = BASELINES[name]
        settings = _settings(name, baseline, options)
        if baseline.signal not in (None, "loss") and baseline.signal not in trajectories.signals:
            raise InputError(
                f"{name} needs the signal {baseline.signal!r}, which was not recorded (there are: "
                f"{', '.join(trajectories.signals) or 'none'}): record again with `RecordConfig.signals` "
                f"{baseline.signal}"
            )
        first, last = epochs or baseline.epochs
        used: list[tuple[int, ...]] = []
        for start, stop in run_spans(trajectories.lengths):
            number = trajectories.epochs[start:stop]
            wanted = (number >= max(first, 1)) & (number <= (np.inf if last is None else last))
            used.append(tuple((start + np.flatnonzero(wanted)).tolist()))
            need = settings.get("window", 1) + baseline.more_than_window
            if baseline.signal is not None and len(used[-1]) < need:
                smaller = " or a smaller window" if need > 1 else ""
                raise InputError(
                    f"{name} needs {need} checkpoints or more, but only {len(used[-1])} were recorded "
                    f"{_between(first, last)}: give other epochs{smaller}, or record more epochs"
                )
        length = len(trajectories.epochs)
        return cls(name, tuple(used), length, tuple(settings.items()), column or f"{name}_score", row_column)

    @property
    def keeps(self) -> str:
        """Which scores are kept: `"highest"` or `"lowest"`."""
        return BASELINES[self.name].keeps

    def score(self, runs: Sequence[np.ndarray]) -> np.ndarray:
        """The mean of the baseline over runs.

        Args:
            runs (`Sequence[np.ndarray]`): `(K, N)` for each run, the signal at the checkpoints that are used.

        Returns:
            `np.ndarray`: float32 `(N,)`.
        """
        function, options = BASELINES[self.name].function, dict(self.options)
        return np.mean([function(run, **options) for run in runs], axis=0).astype(np.float32)

    def __call__(self, batch: Any, indices: Any = None) -> Any:
        """Scores the rows of a batch.

        Args:
            batch (`Mapping`, `pyarrow.Table`, or frame of pandas or polars): A row, or a batch of rows.
            indices (`int` or `Sequence[int]`, *optional*): Row numbers, which `with_indices=True` gives.

        Returns:
            `{column: scores}` of a mapping: float32, `None` where there is no score; else the table with the column.

        Raises:
            InputError: without the trajectory column, or for trajectories of another length or that are not finite.
        """
        signal = BASELINES[self.name].signal
        if signal is None:
            # Held-out rows cannot be chosen, by chance no more than otherwise.
            rows = read_rows(batch, "loss_trajectory", self.length)
            numbers = self._row_numbers(batch, indices)[rows.present]
            scores = random(numbers, **dict(self.options)).astype(np.float32)
            return rows.with_scores(batch, self.column, scores)
        column = f"{signal}_trajectory"
        mend = None if signal == "loss" else f"attach it, scored = run.attach(dataset, signals=[{signal!r}])"
        rows = read_rows(batch, column, self.length, mend)
        runs = [rows.values[list(run)] for run in self.checkpoints]
        if not all(np.isfinite(run).all() for run in runs):
            raise rows.not_finite(column)
        return rows.with_scores(batch, self.column, self.score(runs))

    def _row_numbers(self, batch: Any, indices: Any) -> np.ndarray:
        if self.row_column is not None:
            indices = batch[self.row_column]
        elif indices is None:
            raise InputError("random scores are made of row numbers: map with with_indices=True, or give row_column")
        return np.asarray(indices, dtype=np.int64).reshape(-1)


def _settings(name: str, baseline: Baseline, options: Mapping[str, Any]) -> dict[str, Any]:
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(baseline.function).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    if unknown := [key for key in options if key not in defaults]:
        known = f"it has {', '.join(defaults)}" if defaults else "it has none but epochs"
        raise InputError(f"{name} has no option {unknown[0]!r}: {known}")
    settings = {**defaults, **options}
    if settings.get("window", 2) < 2:
        raise InputError(f"`window` is {settings['window']!r}: it must be 2 or more")
    if not 0 < settings.get("decay", 1) <= 1:
        raise InputError(f"`decay` is {settings['decay']!r}: it must be inside (0, 1]")
    if settings.get("seed", 0) < 0:
        raise InputError(f"`seed` is {settings['seed']!r}: it must be 0 or more")
    return settings


def _windows(losses: np.ndarray, window: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Deviation and mean of the true class's probability in each window of successive checkpoints."""
    probability = np.exp(-losses.astype(np.float64))
    parts = [probability[start : start + window] for start in range(len(losses) - window + 1)]
    return [(part.std(axis=0, ddof=1), part.mean(axis=0)) for part in parts]


def _between(first: int, last: int | None) -> str:
    return f"from epoch {max(first, 1)} on" if last is None else f"in epochs {max(first, 1)} to {last}"


def _plural(signal: str | None) -> str:
    return "losses" if signal == "loss" else f"values of {signal}"
