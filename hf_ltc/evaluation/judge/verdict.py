"""What proxies say of several coresets, and which one is kept.

It is an ordered choice and no contest: among many candidates, the highest of their accuracies is luck to a good part.
"""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# Chosen on digits, Fashion-MNIST and CIFAR-100, with two proxies (benchmarks/judge.py says how often the choice is
# right): of the highest accuracy alone, luck takes back what the choice gains.
MARGIN = 0.015
# Standard errors: above the share of the most frequent class, and of a difference that is said to be no chance.
_CLEARLY, _CHANCE = 3.0, 2.0


@dataclass(frozen=True)
class Judged:
    """What the proxies of one candidate reached: its name, and an accuracy in [0, 1] for each seed."""

    name: str
    accuracies: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.mean(self.accuracies)


@dataclass(frozen=True)
class Judgement:
    """What proxies say of several coresets of a size; `str` makes a paragraph of it.

    Args:
        candidates (`tuple[Judged, ...]`): In order of preference.
        rows (`int`): Rows of the coresets.
        pool (`int`): Candidate rows.
        model (`str`): The model.
        steps (`int`): Optimizer steps of each proxy.
        tested (`int`): Rows that they are tested on.
        chance (`float`): The share of the most frequent class among these.
        margin (`float`): By how much another one has to be ahead.
        seed (`int`): The first seed of the proxies, of the rows held out for them, and of the draws.
        seconds (`float`): What all of it took.
        recording_seconds (`float`, *optional*): What the recording took, if that is known.
    """

    candidates: tuple[Judged, ...]
    rows: int
    pool: int
    model: str
    steps: int
    tested: int
    chance: float
    margin: float
    seed: int
    seconds: float
    recording_seconds: float | None = None

    @cached_property
    def is_told(self) -> bool:
        """Whether the proxies tell anything: those of one candidate at least are clearly above chance."""
        return any(above_chance(each.mean, self.chance, self.tested) for each in self.candidates)

    @cached_property
    def kept(self) -> str:
        """The candidate to keep; the first one if they tell nothing."""
        means = [each.mean for each in self.candidates]
        return self.candidates[preferred(means, self.margin) if self.is_told else 0].name

    @cached_property
    def error(self) -> float | None:
        """The standard error of the difference of two candidates over seeds of the proxies; `None` for one proxy."""
        count = len(self.candidates[0].accuracies)
        if count < 2:
            return None
        variance = statistics.mean(statistics.variance(each.accuracies) for each in self.candidates)
        return math.sqrt(2 * variance / count)

    @property
    def share(self) -> float | None:
        """What it took, as a share of what the recording did."""
        return self.seconds / self.recording_seconds if self.recording_seconds else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with what follows from them and the paragraph."""
        values = {
            **dataclasses.asdict(self),
            "candidates": [{**dataclasses.asdict(each), "mean": each.mean} for each in self.candidates],
            "kept": self.kept,
            "cannot_tell": not self.is_told,
            "error": self.error,
            "share": self.share,
            "text": str(self),
        }
        return json.loads(json.dumps(values))

    def __str__(self) -> str:
        first, kept = self.candidates[0], next(each for each in self.candidates if each.name == self.kept)
        count = len(first.accuracies)
        models = f"{count} fresh {self.model} models" if count > 1 else f"one fresh {self.model}"
        said = [
            f"Judged at {100 * self.rows / self.pool:.3g}% of the candidate rows by {models} for each choice, trained "
            f"for {self.steps:,} steps and tested on {self.tested:,} rows that no choice had: "
            + ", ".join(map(_reached, self.candidates))
        ]
        noise = "" if self.error is None else f" (standard error of a difference {100 * self.error:.1f})"
        points = f"{100 * self.margin:g} points"
        if not self.is_told:
            said.append(
                f"Cannot tell: none is clearly above the share of the most frequent class, {self.chance:.1%}{noise}. "
                f"{first.name} is kept as it is; train for more steps (`judge_steps`)"
            )
        elif kept is not first:
            gap = kept.mean - first.mean
            doubt = ", which may be chance" if self.error is not None and gap < _CHANCE * self.error else ""
            said.append(
                f"{kept.name} is kept: it is ahead of {first.name} by {100 * gap:.1f} points, more than {points}"
                f"{noise}{doubt}"
            )
        elif others := self.candidates[1:]:
            best = max(others, key=lambda each: each.mean)
            gap = 100 * (best.mean - first.mean)
            where = f"{best.name} is {abs(gap):.1f} {'ahead' if gap > 0 else 'behind'}"
            said.append(f"{first.name} is kept: no other is ahead by more than {points}; {where}{noise}")
        share = "" if self.share is None else f", {self.share:.0%} of the recording"
        said.append(f"It took {self.seconds:,.0f} s{share}")
        return ". ".join(said) + "."


def _reached(one: Judged) -> str:
    each = ", ".join(f"{100 * value:.1f}" for value in one.accuracies)
    return f"{one.name} {one.mean:.1%}" + (f" ({each})" if len(one.accuracies) > 1 else "")


def preferred(accuracies: Sequence[float], margin: float = MARGIN) -> int:
    """The candidate to keep: the first, in order of preference, that none is ahead of by more than a margin.

    Args:
        accuracies (`Sequence[float]`): Of each candidate, the preferred one first.
        margin (`float`, *optional*, defaults to `0.015`): By how much another one has to be ahead.

    Returns:
        `int`: its position.
    """
    # Accuracies are shares of rows: a difference that is the margin is not more than it, however it is rounded.
    least = max(accuracies) - margin - 1e-9
    return next(i for i, accuracy in enumerate(accuracies) if accuracy >= least)


def above_chance(accuracy: float, chance: float, rows: int) -> bool:
    """Whether an accuracy is clearly above that of a constant answer.

    Args:
        accuracy (`float`): The share of rows that are right.
        chance (`float`): The share of the most frequent class.
        rows (`int`): Rows of the test.

    Returns:
        `bool`: whether it is by more than three of the standard errors that a binomial share of `chance` has.
    """
    return accuracy - chance > _CLEARLY * math.sqrt(chance * (1 - chance) / rows)
