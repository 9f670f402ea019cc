"""The recipe of a repository on the Hub: what `recipe.json` says of its coresets, trajectories and files."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np

from ..coresets.choose import Selection
from ..recipe import Identity, Recipe, Section, Values
from ..utils.errors import InputError, one_line
from ..utils.files import finite
from ..utils.public import public_recipe

FORMAT = 1
RECIPE = "recipe.json"
TRAJECTORIES = "trajectories"
SPLITS = "splits"
# Keys of an identity that say where a dataset is.
ORIGIN = ("repo_id", "config", "split", "revision")


def config_name(kind: str, scorer: str) -> str:
    """The configuration of a coreset repository that holds `"scores"` or the `"full"` order of a scorer."""
    return kind if scorer == "ltc" else f"{kind}-{scorer}"


def scorer_name(score_column: str) -> str:
    """The short name of a scorer: that of its column without `_score`."""
    return score_column.removesuffix("_score")


def check_score_column(score_column: str) -> None:
    """Checks that folders on the Hub can be named by a score.

    Raises:
        InputError: if its name has what is part of paths or patterns.
    """
    if not scorer_name(score_column) or re.search(r"[<>:/\\|?*\[\]\x00-\x1f]", score_column):
        raise InputError(
            f"`score_column` is {score_column!r}: folders on the Hub are named by it, whose names have none "
            "of < > : / \\ | ? * [ ]: rename the column"
        )


def budget_name(scorer: str, fraction: float | None, size: int | None) -> str:
    """The configuration that holds a coreset, e.g. `coreset-10pct`, `coreset-el2n-500rows`."""
    budget = f"{round(100 * fraction, 6):g}pct" if fraction is not None else f"{size}rows"
    return config_name("coreset", scorer) + f"-{budget}"


@dataclass(frozen=True, kw_only=True)
class Summary(Section):
    """What a card shows of a coreset: [`CoresetSummary`] as JSON."""

    score_range: list[float] | None = None
    classes: Mapping[str, float] = field(default_factory=dict)
    pool_classes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Coreset(Section):
    """The coreset of one budget. Its rows are in a configuration of this name if they are `stored`."""

    fraction: float | None
    size: int
    stored: bool
    digest: str
    # Not in recipes of older versions.
    features: str | None = None
    identity: Values
    summary: Summary
    # What it was compared with by hf-ltc select --judge, if it was.
    judge: Values = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Variant(Section):
    """A score variant."""

    of: str
    aggregate: str
    scope: str
    # Not in recipes from before there was a weighting, which is "none" then.
    weighting: str | None = None

    @property
    def choices(self) -> dict[str, str]:
        """The choices of [`ltc_scores`]."""
        choices = {"of": self.of, "aggregate": self.aggregate, "scope": self.scope}
        return {**choices, "weighting": self.weighting or "none"}


@dataclass(frozen=True, kw_only=True)
class Trained(Section):
    """The accuracies of models trained on some rows, as the user states them."""

    rows: Any
    number: int | None = None
    model: Any
    accuracy: list[float]
    protocol: Any = None

    @classmethod
    def given(cls, row: Values) -> Self:
        """Reads an entry of `evaluation` of [`push_coreset`].

        Raises:
            InputError: if rows, model or accuracy is missing, or an accuracy is not in [0, 1].
        """
        if missing := [name for name in ("rows", "model", "accuracy") if name not in row]:
            raise InputError(f"`evaluation` {dict(row)!r} has no {missing[0]!r}: give rows, model and accuracy")
        try:
            accuracies = np.asarray(row["accuracy"], dtype=np.float64)
        except (TypeError, ValueError):
            accuracies = np.empty(0)
        if accuracies.ndim != 1 or not len(accuracies) or not ((accuracies >= 0) & (accuracies <= 1)).all():
            raise InputError(
                f"in `evaluation` accuracy is {row['accuracy']!r}: give a list of one number in [0, 1] for each seed"
            )
        return cls.from_dict(public_recipe({**row, "accuracy": accuracies.tolist()}))


@dataclass(frozen=True, kw_only=True)
class Entry(Section):
    """What a repository holds by one scorer: the scores, and the coresets chosen by them."""

    score_column: str
    rank_column: str
    # Null for rows without classes.
    label_column: str | None
    id_column: str | None
    selection: Values
    dataset: Identity
    pool: int
    held_out: int
    flat: int
    digest: str
    family: Variant | None = None
    run: Recipe = field(default_factory=Recipe)
    configs: Mapping[str, Coreset]
    trajectories: bool
    scores: str
    full: str | None
    full_features: str | None = None
    evaluation: list[Trained] | None = None
    splits: list[str] | None = None

    @property
    def options(self) -> Selection:
        """How rows are chosen."""
        return Selection.from_dict(self.selection)


@dataclass(frozen=True, kw_only=True)
class Layout(Section):
    """Which epochs and runs the checkpoints of trajectories are of, and which losses they are."""

    epochs: list[float]
    lengths: list[float]
    loss_name: str


@dataclass(frozen=True, kw_only=True)
class TrajectoriesEntry(Section):
    """The trajectories in a repository."""

    dataset: Identity = field(default_factory=Identity)
    rows: int
    validation_rows: int
    layout: Layout
    digest: str
    run: Recipe = field(default_factory=Recipe)


@dataclass(frozen=True, kw_only=True)
class RepositoryRecipe(Section):
    """What `recipe.json` of a repository says.

    Args:
        format (`int`): Version of the format.
        coresets (`Mapping[str, Entry]`): The coresets of each scorer.
        trajectories ([`TrajectoriesEntry`], *optional*): The trajectories.
        run ([`Recipe`]): How a source model was recorded, in its repository.
        card (`Mapping`): The metadata of the card as the last push wrote them.
        files (`Mapping[str, str]`): SHA-256 of each pushed file; empty in recipes of older versions.
    """

    format: int = FORMAT
    coresets: Mapping[str, Entry] = field(default_factory=dict)
    trajectories: TrajectoriesEntry | None = None
    run: Recipe = field(default_factory=Recipe)
    card: Values = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, text: str, repo_id: str) -> Self:
        """Reads the text of the file.

        Raises:
            InputError: if it is damaged or of another format.
        """
        try:
            recipe = json.loads(text)
        except ValueError as error:
            raise InputError(
                f"{RECIPE} of {repo_id!r} is not JSON ({error}): its owner can restore an earlier revision"
            ) from error
        if not isinstance(recipe, dict) or recipe.get("format") != FORMAT:
            found = recipe.get("format") if isinstance(recipe, dict) else type(recipe).__name__
            raise InputError(
                f"{RECIPE} of {repo_id!r} has format {found!r}, this version reads {FORMAT}: update hf_ltc, or give a "
                "repository that hf-ltc push wrote"
            )

        def damaged(reason: str) -> InputError:
            return InputError(
                f"{RECIPE} of {repo_id!r} is damaged ({reason}): its owner can restore an earlier revision"
            )

        found = cls.from_dict(recipe, damaged)
        for scorer, entry in found.coresets.items():
            try:
                _ = entry.options
            except (InputError, TypeError) as error:
                raise damaged(f"'coresets.{scorer}.selection' cannot be used: {one_line(error)}") from error
        return found

    def to_json(self) -> str:
        """The text of the file."""
        return as_json(self.to_dict())

    @property
    def configs(self) -> set[str]:
        """All configurations in the repository that hf_ltc wrote."""
        owned = {TRAJECTORIES} if self.trajectories is not None else set()
        for entry in self.coresets.values():
            owned |= {name for name, made in entry.configs.items() if made.stored} | {entry.scores}
            owned |= {entry.full} if entry.full else set()
        return owned

    @property
    def folders(self) -> set[str]:
        """The folders that hold the files of these configurations, and of their further splits."""
        return self.configs | {config_name(SPLITS, scorer) for scorer in self.coresets}

    def with_entry(self, scorer: str, entry: Entry, repo_id: str) -> tuple[Self, list[str]]:
        """Adds what is pushed by one scorer; also returns which of its configurations are deleted.

        If the scores are the same as before, other budgets and all that is known of them stay.

        Raises:
            InputError: if there are coresets of another dataset.
        """
        for name, other in self.coresets.items():
            if not _of_one_dataset(other.dataset, entry.dataset):
                raise InputError(
                    f"{repo_id!r} holds coresets by {name!r} of another dataset: push to another repository"
                )
        before = self.coresets.get(scorer)
        removed: list[str] = []
        if before is not None and _of_one_score(before, entry):
            entry = _joined(before, entry)
        elif before is not None:
            was = [name for name, made in before.configs.items() if made.stored]
            was += [before.full] if before.full else []
            removed = [name for name in was if name not in entry.configs and name != entry.full]
        return replace(self, coresets={**self.coresets, scorer: entry}), removed


def _of_one_dataset(one: Identity, other: Identity) -> bool:
    shared = one.content.keys() & other.content.keys()
    same_content = all(one.content[column] == other.content[column] for column in shared)
    return same_content and (one.rows, one.labels) == (other.rows, other.labels)


def _of_one_score(one: Entry, other: Entry) -> bool:
    # The ranks are part of the digest. How many typical rows come first is said in several ways: by older recipes not
    # at all, and where the recording is not known as the share that they are at most.
    first, second = (replace(each.options, typical=None) for each in (one, other))
    return one.digest == other.digest and first == second and one.dataset.features == other.dataset.features


def _joined(before: Entry, entry: Entry) -> Entry:
    """Joins what is pushed with what was pushed before of the same scores."""
    kept = {name for name, made in before.configs.items() if made.stored}
    judged = {name: made.judge for name, made in before.configs.items()}
    configs = {
        name: replace(made, stored=made.stored or name in kept, judge=made.judge or judged.get(name, {}))
        for name, made in entry.configs.items()
    }
    dataset = entry.dataset
    if dataset.repo_id is None:
        known: dict[str, Any] = {name: getattr(before.dataset, name) for name in ORIGIN}
        dataset = replace(dataset, **{name: value for name, value in known.items() if value is not None})
    return replace(
        entry,
        selection=before.selection if entry.run == Recipe() else entry.selection,
        family=entry.family or before.family,
        run=before.run if entry.run == Recipe() else entry.run,
        configs={**before.configs, **configs},
        full=entry.full or before.full,
        full_features=entry.full_features or before.full_features,
        evaluation=entry.evaluation or before.evaluation,
        splits=sorted({*(entry.splits or []), *(before.splits or [])}),
        dataset=dataset,
    )


def as_json(values: Any) -> str:
    """Plain values as the text of a JSON file."""
    return json.dumps(finite(values), indent=2, ensure_ascii=False) + "\n"
