"""Everything that the page shows, gathered from a recording and its dataset."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from ...coresets.choose import Selection
from ...coresets.order import Balance, coreset_order
from ...evaluation.results import Evaluation
from ...recipe import Recipe
from ...scores.ltc import ltc_scores, score_variant
from ...scores.scorers import baseline_scores
from ...scores.typical_rows import usual_typical
from ...scores.typicality import typicality_for
from ...training.pixels.image_files import GreyRange
from ...trajectories.value import Trajectories
from ..audit import ISSUE, KINDS, OK, Findings, find
from .numbers import (
    Histograms,
    LossLines,
    RankingLines,
    class_means,
    data_map,
    epoch_grid,
    loss_lines,
    mean_over_runs,
    ranking_lines,
    score_histograms,
)
from .previews import Previews, clipped, encodable, previews
from .rows import BUDGETS, ClassRows, budget_sizes, class_rows, kept_counts, map_rows, suspect_rows

# Rows that are shown since one that is listed is nearly the same.
_ALIKE = 500
# Rows of more than so many are not compared for near-duplicates, which takes longer than all else on the page.
MOST_COMPARED = 50_000
# Characters of the name of a class.
_LONGEST = 200


@dataclass(frozen=True, eq=False)
class Ranked:
    """What is known of each recorded row, `(N,)` each."""

    labels: np.ndarray
    suggested: np.ndarray  # -1 where nothing is
    scores: np.ndarray  # NaN where there is none
    ranks: np.ndarray
    kinds: np.ndarray  # as numbers of KINDS
    groups: np.ndarray  # of near-duplicates, -1 where a row is in none
    quality: np.ndarray
    probability: np.ndarray
    variability: np.ndarray
    conflicts: np.ndarray  # the correlation of conflicting rows, NaN for others
    known: dict[str, np.ndarray]  # baselines


@dataclass(frozen=True, eq=False)
class Contents:
    """What the page shows.

    Args:
        recipe ([`Recipe`]): How the recording was made.
        variant (`dict[str, str]`): The score variant.
        selection ([`Selection`]): How rows are ranked.
        names (`list[str]`): Of the classes.
        ranked ([`Ranked`]): All rows.
        sizes (`list[int]`): Rows that each budget keeps.
        kept (`np.ndarray`): int64 `(B, C)`, of each class.
        classes (`list[ClassRows]`): Rows of each class that are shown.
        suspects, points (`np.ndarray`): Odd rows that are listed, and points of the data map.
        shown (`np.ndarray`): int64 `(S,)`, all rows of which more than numbers are shown.
        numbers (`np.ndarray`): int64 `(S,)`, their numbers in the recorded dataset.
        previews ([`Previews`]): Their images or texts, by position among the rows shown.
        grid (`np.ndarray`): int64 `(E,)`, the epochs at which losses are drawn.
        epochs, runs (`int`): How many were recorded.
        trajectories (`np.ndarray`): float32 `(E, S)`, their losses.
        validation, validation_classes (`np.ndarray`): Mean validation losses, `(E,)` and `(E, C)`.
        losses, ranking, histograms: As [`loss_lines`], [`ranking_lines`] and [`score_histograms`] give them.
        compared (`bool`): Whether near-duplicates were looked for, where the features for that were recorded.
        evaluation ([`Evaluation`], *optional*): What models reach on the rows kept.
    """

    recipe: Recipe
    variant: dict[str, str]
    selection: Selection
    names: list[str]
    ranked: Ranked
    sizes: list[int]
    kept: np.ndarray
    classes: list[ClassRows]
    suspects: np.ndarray
    points: np.ndarray
    shown: np.ndarray
    numbers: np.ndarray
    previews: Previews
    grid: np.ndarray
    epochs: int
    trajectories: np.ndarray
    runs: int
    validation: np.ndarray
    validation_classes: np.ndarray
    losses: LossLines
    ranking: RankingLines
    histograms: Histograms
    compared: bool
    evaluation: Evaluation | None

    def __len__(self) -> int:
        return len(self.ranked.labels)


def gather(
    run: Trajectories,
    dataset: Dataset,
    validation: Dataset | None,
    evaluation: Evaluation | None,
    *,
    preset: str | None,
    variant: Mapping[str, Any],
    balance: Balance,
    typical: float | None,
    baselines: Sequence[str],
    id_column: str | None,
) -> Contents:
    """Gathers what the page shows; the arguments are those of [`write_report`]."""
    member = score_variant(preset=preset, **variant)
    selection = Selection(balance=balance, typical=typical).decided(usual_typical(run))
    # Before the dataset is looked at: whether all that is asked for was recorded.
    known = {name: baseline_scores(run, name) for name in baselines}
    recipe = Recipe.from_dict(run.recipe)
    found = find(run, dataset, validation, duplicates=len(run) <= MOST_COMPARED, id_column=id_column)
    ranked, at = _ranked(run, found, member, selection, known), found.places
    labels, odd = ranked.labels, ranked.kinds != KINDS.index(OK)
    names = _class_names(run, recipe)
    sizes = budget_sizes(len(run))
    classes = class_rows(labels, ranked.ranks, ranked.scores, ranked.conflicts, odd)
    suspects = suspect_rows(ranked.kinds, ranked.quality, labels, KINDS.index(OK))
    points = map_rows(len(run))
    alike = np.isin(ranked.groups, ranked.groups[suspects]) & (ranked.groups >= 0)
    chosen = [suspects, np.flatnonzero(alike)[:_ALIKE], *(each.all for each in classes)]
    needed = np.unique(np.concatenate(chosen)).astype(np.int64)
    shown = np.union1d(needed, points)
    made = previews(dataset, recipe.dataset, _there(at[needed]), _there(at[points]), grey_range=_grey_range(recipe))
    grid = epoch_grid(run)
    means, of_classes = class_means(run, len(names), grid)
    parts = {
        "kept": ranked.ranks < sizes[BUDGETS.index(0.1)],
        "label issues": ranked.kinds == KINDS.index(ISSUE),
        "conflicting": np.isfinite(ranked.conflicts),
    }
    return Contents(
        recipe=recipe,
        variant=member,
        selection=selection,
        names=names,
        ranked=ranked,
        sizes=sizes,
        kept=kept_counts(labels, ranked.ranks, sizes, len(names)),
        classes=classes,
        suspects=suspects,
        points=points,
        shown=shown,
        numbers=run.rows[shown],
        previews=_by_position(made, at[shown]),
        grid=grid,
        epochs=len(np.unique(run.epochs)),
        runs=len(run.lengths),
        trajectories=mean_over_runs(run, run.losses, shown, grid),
        validation=means,
        validation_classes=of_classes,
        losses=loss_lines(run, grid, parts),
        ranking=ranking_lines(run, member),
        histograms=score_histograms(ranked.scores, labels, ranked.ranks, sizes, len(names)),
        compared=run.features is None or len(run) <= MOST_COMPARED,
        evaluation=evaluation,
    )


def _ranked(
    run: Trajectories,
    found: Findings,
    variant: Mapping[str, str],
    selection: Selection,
    known: dict[str, np.ndarray],
) -> Ranked:
    scores = ltc_scores(run, **variant)
    typicality = typicality_for(run, selection.typical) if selection.typical else None
    ranks = coreset_order(
        scores,
        run.labels,
        run.rows,
        balance=selection.balance,
        typicality=typicality,
        typical=selection.typical or 0.0,
    )
    probability, variability = data_map(run)
    return Ranked(
        labels=run.labels,
        suggested=found.suggested,
        scores=scores,
        ranks=ranks,
        kinds=found.kinds,
        groups=found.groups,
        quality=found.quality,
        probability=probability,
        variability=variability,
        conflicts=np.where(found.conflicts, ltc_scores(run, preset="das"), np.nan),
        known=known,
    )


def _class_names(run: Trajectories, recipe: Recipe) -> list[str]:
    """The names of all classes, of those without one their number."""
    names = [clipped(encodable(name if name.strip() else repr(name)), _LONGEST) for name in recipe.dataset.names or []]
    count = 1 + max(int(labels.max(initial=-1)) for labels in (run.labels, run.validation_labels))
    return names + [str(number) for number in range(len(names), count)]


def _grey_range(recipe: Recipe) -> GreyRange | None:
    found = recipe.training.grey_range
    return None if found is None else (found[0], found[1])


def _there(places: np.ndarray) -> np.ndarray:
    """The rows that are in the dataset; of rows joined by id some may not be."""
    return places[places >= 0]


def _by_position(made: Previews, places: np.ndarray) -> Previews:
    known = {position: made.values[place] for position, place in enumerate(places.tolist()) if place in made.values}
    return replace(made, values=known)
