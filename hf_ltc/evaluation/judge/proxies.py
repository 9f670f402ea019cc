"""Small models that are trained on several coresets, and the coreset that is kept by their accuracies.

A coreset is judged by what it is for: a proxy, the source model for at most a quarter of the target's steps and few in
any case, is trained on it.
All are tested on the same rows: the validation samples, and a fifth of each class that no coreset is chosen from.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from accelerate import Accelerator

from ...data.splits import hold_out
from ...training.inputs import Batches
from ...training.loop import TrainingConfig, steps_per_epoch
from ...utils.errors import InputError, require
from ...utils.processes import progress_bar
from ..target import train_on
from .verdict import MARGIN, Judged, Judgement

PROXIES = 2
# Of each class; the coresets that are judged are of the same share of the others.
_HELD = 0.2
# Of the target's steps, and the bounds: proxies of fewer steps have hardly left chance. Of more they cost more than
# the recording, as there are eight of them, and with 125 they were right (benchmarks/judge.py).
_PART, _FEWEST, _MOST = 0.25, 100, 150

Choose = Callable[[np.ndarray, int, int], np.ndarray]
"""Chooses rows: of the given candidate rows, int64 and increasing, so many, with a seed; int64, increasing."""


@dataclass(frozen=True)
class Proxy:
    """The models that are trained on each coreset.

    Args:
        model (`str`): As for [`create_classifier`].
        classes (`int`): Number of classes.
        training ([`TrainingConfig`]): How they are trained: `iterations` are the steps; each has a seed of its own.
        stem (`str`, *optional*, defaults to `"auto"`): As for [`create_classifier`].
        pretrained (`bool`, *optional*, defaults to `False`): As for [`create_classifier`].
    """

    model: str
    classes: int
    training: TrainingConfig
    stem: str = "auto"
    pretrained: bool = False


def proxy_steps(training: TrainingConfig, rows: int) -> int:
    """Optimizer steps of a proxy if they are not given: a quarter of the target's, at least 100 and at most 150.

    The target is trained like the source model, for the steps of its epochs on all candidate rows, whatever the
    budget: as [`evaluate_coresets`] trains by its protocol of iterations.

    Args:
        training ([`TrainingConfig`]): How it is trained; `iterations` are the target's steps, if they are known.
        rows (`int`): Candidate rows.
    """
    target = training.iterations or training.epochs * steps_per_epoch(rows, training, 1)
    return min(max(round(_PART * target), _FEWEST), _MOST)


def judge(
    candidates: Mapping[str, Choose],
    size: int,
    proxy: Proxy,
    pool: Batches,
    validation: Batches | None = None,
    *,
    accelerators: Callable[[], Accelerator] = Accelerator,
    proxies: int = PROXIES,
    margin: float = MARGIN,
    seed: int = 0,
    recording_seconds: float | None = None,
) -> Judgement:
    """Compares coresets of a size by models that are trained on coresets of the same share of four fifths of the rows.

    Args:
        candidates (`Mapping[str, Choose]`): How each chooses rows, by name, in order of preference.
        size (`int`): Rows of the coresets that are compared.
        proxy ([`Proxy`]): The models.
        pool ([`Batches`]): The candidate rows.
        validation ([`Batches`], *optional*): Further rows that no coreset has, to test on.
        accelerators (`Callable`, *optional*): Makes the `accelerate.Accelerator` of each model, of this process alone.
        proxies (`int`, *optional*, defaults to `2`): Models for each candidate, with seeds `seed`, `seed + 1`, ...
        margin (`float`, *optional*, defaults to `0.015`): As for [`preferred`].
        seed (`int`, *optional*, defaults to `0`): Also of the rows held out.
        recording_seconds (`float`, *optional*): For the result.

    Returns:
        [`Judgement`]

    Raises:
        InputError: if no rows are left to choose or to test on, or an option is out of range.
    """
    require(proxies >= 1, "proxies", proxies, "1 or more")
    require(margin >= 0, "margin", margin, "0 or more")
    steps = proxy.training.iterations
    require(steps is not None and steps >= 1, "judge_steps", steps, "1 or more")
    assert steps is not None
    started, labels = time.perf_counter(), pool.labels.cpu().numpy()
    if size >= len(labels):
        raise InputError(
            f"all {len(labels):,} candidate rows are kept: there is nothing to judge, so lower the budget"
        )
    stay, held = _held_out(labels, seed)
    tests = [part for part in (pool.take(held), validation) if part is not None and len(part)]
    if not tests:
        raise InputError(
            "there is nothing to judge by: no validation samples are at hand, and no class has two candidate rows"
        )
    tested = np.concatenate([part.labels.cpu().numpy() for part in tests])
    # At least the two rows that a batch norm needs.
    share, seeds = max(2, round(size * len(stay) / len(labels))), range(seed, seed + proxies)
    reached: dict[str, list[float]] = {name: [] for name in candidates}
    with progress_bar(accelerators(), "judging", "model", len(candidates) * proxies) as bar:
        for number in seeds:
            for name, choose in candidates.items():
                training = replace(proxy.training, seed=number)
                found = train_on(
                    proxy.model,
                    pool.take(choose(stay, share, number)),
                    tests,
                    proxy.classes,
                    training,
                    accelerators(),
                    stem=proxy.stem,
                    pretrained=proxy.pretrained,
                )
                reached[name].append(found)
                bar.update()
    return Judgement(
        candidates=tuple(Judged(name, tuple(found)) for name, found in reached.items()),
        rows=size,
        pool=len(labels),
        model=proxy.model,
        steps=steps,
        tested=len(tested),
        chance=float(np.bincount(tested).max() / len(tested)),
        margin=margin,
        seed=seed,
        seconds=round(time.perf_counter() - started, 2),
        recording_seconds=recording_seconds,
    )


def check_size(size: int, pool: int) -> None:
    """Checks that a coreset of so many rows leaves any of the candidate rows."""
    if size >= pool:
        raise InputError(f"all {pool:,} candidate rows are kept, so there is nothing to judge: lower the budget")


def _held_out(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that coresets are chosen from, and the fifth of each class that is held out; never its only row."""
    several = np.flatnonzero(np.bincount(labels)[labels] > 1)
    if not len(several):
        return np.arange(len(labels)), several
    _, held = hold_out(labels[several], _HELD, len(labels), seed)
    return np.setdiff1d(np.arange(len(labels)), several[held]), several[held]
