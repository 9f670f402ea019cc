"""What the page says in words: what was recorded, what is doubtful, and what the page leaves out."""

import re
import warnings
from pathlib import PurePath

import numpy as np

from ...coresets.order import Balance, said_typical
from ...hub.card_values import recording_values
from ...recipe import Recipe
from ...scores.ltc import PRESETS
from ...scores.reliability import warn_of_scores, within_class_spearman
from ...trajectories.value import Trajectories
from ...utils.errors import LTCWarning
from ...utils.public import public_recipe, without_paths
from ..audit import KINDS, OK
from .contents import Contents
from .previews import encodable
from .rows import BUDGETS

_BALANCE: dict[Balance, str] = {
    "class": "balanced by class",
    "proportional": "every class keeps its share",
    "none": "ignoring classes",
}


def dataset_title(recipe: Recipe, given: str | None = None) -> str:
    """What the page calls the dataset: as given, its Hub id, or the last part of its path."""
    known = recipe.dataset
    name = given or known.repo_id or known.name or (PurePath(known.path).name if known.path else "") or "a dataset"
    return encodable(without_paths(name))


def recorded_facts(contents: Contents) -> list[tuple[str, str]]:
    """How it was recorded and scored, as names and values."""
    recipe, selection = Recipe.from_dict(public_recipe(contents.recipe.to_dict())), contents.selection
    preset = next((name for name, each in PRESETS.items() if each == contents.variant), None)
    choices = ", ".join(f"{name} {value}" for name, value in contents.variant.items())
    said = dict(recording_values(recipe))
    if contents.ranking.last is not None:
        # By the scores of this page.
        known = str(contents.ranking.last).removeprefix("Reliability ").removesuffix(".")
        said["reliability"] = f"{known} (Spearman, within classes)"
    said["score"] = f"{preset} ({choices})" if preset else choices
    said["order"] = f"best first, {_BALANCE[selection.balance]}"
    if selection.typical:
        said["order"] += f"; {said_typical(selection.typical, selection.balance)}"
    for name, scores in contents.ranked.known.items():
        found = within_class_spearman(contents.ranked.scores, scores, contents.ranked.labels)
        said[f"correlation with {name}"] = (
            "undefined" if np.isnan(found) else f"{found:.2f} (Spearman, within classes)"
        )
    return [(name, encodable(value)) for name, value in said.items()]


def doubts(run: Trajectories, contents: Contents) -> list[str]:
    """The warnings that scoring gives, as sentences."""
    kept = contents.ranked.ranks < contents.sizes[BUDGETS.index(0.1)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_scores(run, run.runs, contents.variant, kept)
    found = [str(each.message) for each in caught if issubclass(each.category, LTCWarning)]
    if len(run.lengths) < 2:
        found.insert(0, "Only one run was recorded, so it is unknown how much the selection depends on the seed.")
    return [re.sub(r"`(?:RecordConfig\.)?(\w+)`", r"\1", text) for text in found]


def left_out(contents: Contents) -> list[str]:
    """What of the dataset is not on the page, and how the rest was sampled."""
    n, made = len(contents), contents.previews
    classes = len(np.unique(contents.ranked.labels))
    said = []
    if len(contents.points) < n:
        said.append(f"The data map shows {len(contents.points):,} of {n:,} rows, drawn at random.")
    if len(contents.classes) < classes:
        said.append(
            f"Rows are shown for the {len(contents.classes):,} of {classes:,} classes with the most suspicious rows. "
            "Counts cover all classes."
        )
    odd = np.count_nonzero(contents.ranked.kinds != KINDS.index(OK))
    if len(contents.suspects) < odd:
        said.append(f"{len(contents.suspects):,} of {odd:,} suspicious rows are listed; hf-ltc audit lists all.")
    if not contents.compared:
        said.append(f"Near-duplicates are not searched for among {n:,} rows; hf-ltc audit finds them.")
    if contents.losses.rows < n:
        said.append(f"The spread of losses is computed from {contents.losses.rows:,} evenly spaced rows.")
    if contents.ranking.rows < n:
        said.append(f"Reliability and stability are computed from {contents.ranking.rows:,} evenly spaced rows.")
    if len(contents.grid) < contents.epochs:
        said.append(f"Losses are drawn at {len(contents.grid):,} of {contents.epochs:,} recorded epochs.")
    said.append(
        f"Budgets on the slider: {', '.join(f'{100 * fraction:g}' for fraction in BUDGETS)} percent of the rows."
    )
    if made.kind == "image":
        said.append(f"Images are at most {made.side} pixels high and wide, and compressed.")
        without = len(contents.shown) - len(made.values)
        if without - made.unreadable > 0:
            said.append(f"{without - made.unreadable:,} points of the data map have no image, to save space.")
        if made.unreadable:
            said.append(f"{made.unreadable:,} images could not be read.")
    if made.kind == "text" and made.cut:
        said.append("Long texts are shortened.")
    if made.kind == "none":
        said.append("The dataset has neither images nor texts to show.")
    return said
