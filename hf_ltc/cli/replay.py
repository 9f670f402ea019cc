"""A recording done again from its recipe: which settings and which dataset it had."""

import dataclasses
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import DataConfig, RecordConfig, recorded_config
from ..recipe import Recipe
from ..utils import files
from ..utils.errors import InputError, LTCWarning
from ..utils.files import expanded
from .command import VariantOptions
from .push import Push, repository_name

if TYPE_CHECKING:
    from datasets import Dataset

    from ..hub.repository_recipe import Entry, RepositoryRecipe

# Settings that say where and how fast it runs, which may be others.
_MAY_BE_GIVEN = {"dataset", "output_dir", "num_workers", "cache_images", "cache_budget", "report_to"}


@dataclass(frozen=True)
class Replay:
    """A recording that is to be done again.

    Args:
        data ([`DataConfig`]): Its dataset, where it is now.
        config ([`RecordConfig`]): Its settings, into another folder.
        recipe ([`Recipe`]): The recipe.
        folder (`Path`, *optional*): The run directory that the recipe is of.
        entry ([`Entry`], *optional*): What was pushed by it, where the recipe is of a repository.
    """

    data: DataConfig
    config: RecordConfig
    recipe: Recipe
    folder: Path | None
    entry: "Entry | None"

    @classmethod
    def read(cls, place: str, data: DataConfig, config: RecordConfig) -> "Replay":
        """Reads a recipe.

        Args:
            place (`str`): A recipe.json, a folder with one, or a repository on the Hub.
            data ([`DataConfig`]): What was given beside it: at most where the dataset is now.
            config ([`RecordConfig`]): Likewise: the folder, and what does not change what is recorded.

        Raises:
            InputError: for a recipe that does not say how to record again, and settings that contradict it.
        """
        for options in (data, config):
            for field in dataclasses.fields(options):
                value = getattr(options, field.name)
                default = field.default_factory() if callable(field.default_factory) else field.default
                if field.name not in _MAY_BE_GIVEN and value != default:
                    raise InputError(
                        f"`{field.name}` {value!r} goes not with --from-recipe, which says it: leave it out"
                    )
        recipe, folder, entry = _read(place)
        was = recorded_config(recipe)
        if was is None:
            raise InputError(
                f"{place!r} does not say how to record again: it is of a training of your own, not of hf-ltc record"
            )
        if was.rotate_validation and was.runs == 1:
            raise InputError(
                f"{place!r} is one of several runs, which hold other rows out in turn: give that of them all"
            )
        if folder is not None and folder.resolve() == Path(config.output_dir).resolve():
            raise InputError(f"`output_dir` {config.output_dir!r} is the recorded run itself: give a new folder")
        if recipe.validation.content and recipe.validation.split is None:
            raise InputError(
                f"the validation samples of {place!r} were given in Python: record again there, with record(...)"
            )
        source = recipe.dataset
        where = data.dataset or source.path or source.repo_id
        if where is None:
            raise InputError(f"{place!r} does not say where its dataset is: give it with `dataset`")
        given = {name: value for name, value in vars(config).items() if name in _MAY_BE_GIVEN}
        there = DataConfig(where, source.split or "train", recipe.validation.split, source.config, source.revision)
        return cls(there, dataclasses.replace(was, **given), recipe, folder, entry)

    def check(self, train: "Dataset", validation: "Dataset | None") -> None:
        """Checks that the datasets are the recorded ones; warns of what may change the losses all the same.

        Raises:
            InputError: for another dataset, saying in what it differs.
        """
        from ..data.identity import check_identity
        from ..utils.environment import versions
        from ..utils.processes import rank

        for rows, recorded in ((train, self.recipe.dataset), (validation, self.recipe.validation)):
            if rows is not None and recorded.content:
                check_identity(rows, recorded.to_dict())
        now = versions()
        told = [
            f"{name} {was}, now {now[name]}" for name, was in self.recipe.versions.items() if now.get(name, was) != was
        ]
        before, processes = self.recipe.training.processes or 1, rank()[1]
        told += [f"{before} processes, now {processes}"] if before != processes else []
        if told:
            warnings.warn(
                f"it was recorded with {', '.join(told)}: losses may differ a little", LTCWarning, stacklevel=2
            )

    def compared(self) -> tuple[bool | None, str | None]:
        """Whether the new losses are the recorded ones to the bit, where those are at hand, and a sentence on it."""
        import numpy as np

        from ..scores.protocol import losses_digest
        from ..trajectories.value import Trajectories

        if self.folder is None:
            return None, None
        try:
            was = Trajectories.load(self.folder)
        except InputError:
            # A recipe beside no recording, or beside one that is not finished.
            return None, None
        now = Trajectories.load(self.config.output_dir)
        if losses_digest(was) == losses_digest(now):
            return True, f"The losses are those of {self.folder}, to the bit."
        if was.losses.shape != now.losses.shape:
            return (
                False,
                f"The losses are others than those of {self.folder}: {now.losses.shape}, not {was.losses.shape}.",
            )
        most = float(np.nanmax(np.abs(was.losses - now.losses)))
        return False, f"The losses differ from those of {self.folder} by up to {most:.2g}."

    def push(self) -> Push | None:
        """The command that pushes again what the repository holds by the recording."""
        if self.entry is None:
            return None
        options = self.entry.options
        fractions = sorted(made.fraction for made in self.entry.configs.values() if made.fraction is not None)
        return Push(
            run=self.config.output_dir,
            repo_id=repository_name(self.recipe.dataset),
            fractions=fractions or [0.1],
            dataset=self.data.dataset,
            private=True,
            variant=VariantOptions.of_variant(self.entry.family.to_dict() if self.entry.family else {}),
            balance=options.balance,
            typical=options.typical,
        )


def _read(place: str) -> "tuple[Recipe, Path | None, Entry | None]":
    """A recipe, the run directory that it is of, and what was pushed by it."""
    from ..hub.repository_recipe import RepositoryRecipe

    path = Path(expanded(place))
    if path.exists():
        file = path / files.RECIPE if path.is_dir() else path
        if not file.is_file():
            raise InputError(f"the folder {place!r} has no {files.RECIPE}: give a run directory, or a recipe")
        values = files.read_json(file)
        if "coresets" in values or "trajectories" in values:
            return _recorded(RepositoryRecipe.read(json.dumps(values), str(file)), place)
        return Recipe.load(values, file), file.parent, None
    if place.startswith((".", "~", os.sep)) or place.count("/") > 1 or place.endswith(".json"):
        raise InputError(f"no such recipe: {place!r} is neither a file nor a folder nor a repository (OWNER/NAME)")
    return _recorded(_of_hub(place), place)


def _of_hub(repo_id: str) -> "RepositoryRecipe":
    from ..hub.repository import explained, hub_api, read_repository

    with explained(repo_id, "load from"):
        recipe = read_repository(hub_api(None), repo_id, None).recipe
    assert recipe is not None
    return recipe


def _recorded(pushed: "RepositoryRecipe", place: str) -> "tuple[Recipe, Path | None, Entry | None]":
    """The recording that a repository was made of, and what was pushed by it."""
    entries = [entry for entry in pushed.coresets.values() if entry.run != Recipe()]
    runs = [(entry.run, entry) for entry in entries]
    if pushed.trajectories is not None and not runs:
        return pushed.trajectories.run, None, None
    if not runs:
        raise InputError(f"{place!r} does not say how its scores were recorded: ask its owner")
    first, entry = runs[0]
    if any(run.config != first.config or run.dataset != first.dataset for run, _ in runs):
        raise InputError(
            f"{place!r} holds scores of several recordings ({', '.join(pushed.coresets)}): give a recipe.json"
        )
    # What was pushed knows where the dataset is, of which the run may have known a folder alone.
    known: Mapping[str, Any] = {**entry.dataset.to_dict(), **first.dataset.to_dict()}
    return dataclasses.replace(first, dataset=type(first.dataset).from_dict(known)), None, entry
