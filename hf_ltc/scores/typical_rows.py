"""How many typical rows a coreset begins with."""

from collections.abc import Mapping

from ..config import TYPICAL_ROWS, TYPICAL_SHARE
from ..recipe import Identity, Recipe
from .protocol import Validated, is_short
from .rise import find_rise

# Of the rows with a score; some may have no odds, such as those of huge losses.
_ALL = 0.99


def usual_typical(trajectories: Validated) -> float:
    """How many typical rows of each class a coreset of a recording begins with, where nothing else is said.

    All rows where the mean validation loss of images rises, see [`typical_of`]. Otherwise none where images were
    recorded for fewer than 15 epochs: a tenth of them was worse than the score alone, and 25 of
    each class are no better (benchmarks/coresets.py, weight). None for language models either. The odds are of a
    label's probability among the classes. By the mean probability of its tokens instead, the first texts are the
    easiest to predict, and worth less to a language model than random ones (benchmarks/language.py).

    Args:
        trajectories ([`Trajectories`] or [`LossSummary`]): The recording.

    Returns:
        `float`: as `typical` of [`rank_coreset`].
    """
    recorded = Recipe.from_dict(trajectories.recipe).dataset
    if recorded.classes == 0 or recorded.is_of_language_model:
        return 0.0
    found = typical_of(trajectories)
    return 0.0 if found != 1 and is_short(trajectories) and not recorded.is_text else found


def typical_of(trajectories: Validated) -> float:
    """How many there are where coresets of a recording begin with any.

    All rows are ranked by typicality where the mean validation loss of images rises: scores that follow it may put the
    wrong rows first, and typicality does not look at it (benchmarks/coresets.py, validation).

    Args:
        trajectories ([`Trajectories`] or [`LossSummary`]): The recording.

    Returns:
        `float`: as `typical` of [`rank_coreset`].
    """
    recorded = Recipe.from_dict(trajectories.recipe).dataset
    return 1.0 if _is_of_images(recorded) and find_rise(trajectories) else some_typical(recorded)


def some_typical(recorded: Identity) -> float:
    """The same of a dataset, of whose validation losses nothing is known: few only if it is known to be of images."""
    return TYPICAL_ROWS if _is_of_images(recorded) else TYPICAL_SHARE


def usual_by_column(known: int, scored: int, recorded: Identity | None = None) -> float:
    """The same of a scored dataset, which says it by the rows that have a typicality.

    Args:
        known, scored (`int`): How many rows have a typicality, and a score.
        recorded ([`Identity`], *optional*): The recorded dataset, if it is known. The order is the same without, since
            of images only the rows that may come first have a typicality.

    Returns:
        `float`: 1 for all rows, if all have one but a few that have no odds.
    """
    if scored and known >= _ALL * scored:
        return 1.0
    return TYPICAL_SHARE if recorded is None else some_typical(recorded)


def _is_of_images(recorded: Identity) -> bool:
    has_images = recorded.image_column or any(
        isinstance(feature, Mapping) and feature.get("_type") == "Image" for feature in recorded.features.values()
    )
    return bool(has_images) and not recorded.is_text
