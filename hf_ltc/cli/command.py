"""What commands have in common: the datasets that they read and save, their results, and what to run next."""

import dataclasses
import fcntl
import gc
import os
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from ..config import TYPICAL_ROWS, TYPICAL_SHARE, EvaluateConfig
from ..coresets.choose import Selection
from ..recipe import Identity, Recipe
from ..scores.baselines import BASELINES
from ..utils import files
from ..utils.errors import InputError, LTCWarning
from ..utils.files import expanded, local
from ..utils.settings import option

if TYPE_CHECKING:
    from datasets import Dataset

    from ..report.apply import Applied

# Keys of what each command adds to the recipe beside the rows.
SCORED, CORESET, AUDIT = "score", "coreset", "audit"
# What an audit saves, and, put to use, the new dataset and the list of its changes.
AUDITED, APPLIED, CHANGES = "audit.parquet", "dataset", "changes.parquet"
# In that of a coreset what was compared.
JUDGED = "judge"
_SAVED = ("state.json", "dataset_info.json", AUDITED, CHANGES, files.RECIPE)
# Options of several commands.
Losses = Literal["training", "evaluation"]
DATASET_HELP = "the recorded dataset, if it is elsewhere now"
LOSSES_HELP = "which losses to use, if both were recorded"
VALIDATION_HELP = "split of the validation samples, if it is not that of the train rows; as recorded if not given"
BASELINE_NAMES = ", ".join(BASELINES)
# Of benchmarks/judge.py and judge_texts.py.
HOW_OFTEN = (
    "This is only advice: in our benchmarks, such models saw which of two coresets is better in 89 of 96 comparisons "
    "of images with a true difference, and in 91 of 130 of texts. Longer training may disagree."
)
_SELECTION_HELP = {
    "balance": (
        "how classes share a coreset; if not given, as in the folder of hf-ltc score, if there is one, or else class, "
        "or none for rows without classes"
    ),
    "balance_column": "column to balance by instead of the classes, such as the source of a row",
    "keep": "keep the rows with the highest or the lowest scores",
    "coverage": "sample over the whole range of scores, or over clusters of trajectories (S2L)",
    "min_per_class": "keep at least this many rows of each class",
    "exclude_negative": "never choose rows with a negative score",
    "seed": "seed for the sampling of --coverage",
    "typical": (
        "how many rows of each class come first, of those with a typicality: a share in [0, 1], or a number of 2 or "
        f"more, a tenth of the class at most; 0 for none; if not given, {TYPICAL_ROWS} with images (1, all rows, if "
        f"their validation loss rises) and {TYPICAL_SHARE} with texts"
    ),
}


@dataclass(frozen=True)
class Results:
    """What a command found.

    Args:
        values (`dict`): For `--json`.
        text (`list[str]`): The same as lines, which name parameters as errors do (see [`InputError`]).
        following (`list[Command | str]`): What to run next: commands, and statements of Python.
    """

    values: dict[str, Any]
    text: list[str]
    following: "list[Command | str]" = dataclasses.field(default_factory=list)


class Command(ABC):
    """A command: a dataclass of its options, whose docstring is its help."""

    # Parameters of the functions that it calls, and the fields whose options give them, where the names differ.
    PARAMETERS: ClassVar[Mapping[str, str]] = {}
    # Whether it is so short that its warnings can wait for the results.
    IS_SHORT: ClassVar[bool] = False

    @abstractmethod
    def execute(self) -> Results | None:
        """Runs the command; `None` in all processes but the first, which have nothing to print."""


@dataclass(frozen=True)
class VariantOptions:
    """Which score variant; options that are not given come from the preset, or from the default variant."""

    preset: Literal["ltc", "cld", "das", "weighted-das"] | None = option(None, "name of a score variant")
    of: Literal["differences", "levels"] | None = option(None, "what is correlated")
    aggregate: Literal["correlations", "losses"] | None = option(None, "what is averaged over validation samples")
    scope: Literal["dataset", "class"] | None = option(
        None, "which validation samples a row is compared with: all, or those of its class"
    )
    weighting: Literal["none", "uncertainty"] | None = option(None, "whether to weight scores by uncertainty")

    def given(self) -> dict[str, str]:
        """The options that were given, as for [`ltc_scores`]."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @classmethod
    def of_variant(cls, variant: Mapping[str, Any]) -> Self:
        """The options that give a score variant."""
        from ..scores.ltc import DEFAULT

        return cls(**{name: value for name, value in variant.items() if value != DEFAULT[name]})


@contextmanager
def importing() -> Iterator[None]:
    """Imports of torch and its like take two thirds of the time if nothing looks for garbage among their objects."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # They live as long as the process, and need not be looked at again.
            gc.freeze()
        if was_enabled:
            gc.enable()


def selection_option(name: str) -> Any:
    """A field of a command that is an option of [`Selection`]: with its default, and one help in all commands."""
    return option(getattr(Selection, name), _SELECTION_HELP[name])


def balance_option(name: str) -> Any:
    """A field of a command for `balance` or `balance_column`, which depend on the rows where they are not given."""
    return option(None, _SELECTION_HELP[name])


def balance_given(balance: str | None, column: str | None, dataset: "Dataset") -> tuple[str | None, str | None]:
    """What `balance` and `label_column` of [`select_coreset`] are by the two options, `None` for what is not given.

    Raises:
        InputError: if they do not go together, or a dataset cannot be balanced by the column.
    """
    from ..coresets.scored import check_values

    if column is None:
        return balance, None
    if balance not in (None, "class"):
        raise InputError(
            f"`balance_column` {column!r} takes the place of the classes, and `balance` is {balance!r}: leave one of "
            "them out"
        )
    check_values(dataset, column, "balance_column")
    return "class", column


def as_scored(given: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Options that `select` or `push` was not given, as hf-ltc score ranked the rows.

    Args:
        given (`Mapping[str, Any]`): All options of the command.
        recipe (`Mapping[str, Any]`): The recipe beside the rows.

    Returns:
        `dict[str, Any]`: those of `balance`, `balance_column` and `typical` to take.
    """
    from ..coresets.scored import usual_balance

    made = recipe.get(SCORED)
    if not isinstance(made, Mapping):
        return {}
    taken: dict[str, Any] = {}
    if given["typical"] is None and given["score_column"] == "ltc_score" and given["keep"] == "highest":
        taken["typical"] = made.get("typical")
    if given["balance"] is given["balance_column"] is given.get("label_column") is None:
        if (column := made.get("balance_column")) is not None:
            taken["balance_column"] = column
        elif made.get("balance") != usual_balance(Recipe.from_dict(recipe).dataset)[0]:
            taken["balance"] = made.get("balance")
    return taken


def warn_of_unfinished(*runs: str) -> None:
    """Warns of recordings that were interrupted, as what is there is loaded all the same.

    Args:
        *runs (`str`): Run directories.
    """
    from ..trajectories import run_dir

    for path in map(Path, dict.fromkeys(runs)):
        seeds = run_dir.seed_folders(path)
        left = [folder for folder in seeds or [path] if not run_dir.is_finished(folder)]
        if left:
            has = (
                f"{len(seeds) - len(left)} of {len(seeds)} runs"
                if seeds
                else f"epochs up to {max(run_dir.published_epochs(path))}"
            )
            warnings.warn(
                f"the recording in {str(path)!r} is not finished, and this is of the {has} that are there: run the "
                "same hf-ltc record command again to finish it",
                LTCWarning,
                stacklevel=2,
            )


def recorded_split(source: Identity, dataset: str | None, split: str | None = None) -> "Dataset":
    """The recorded dataset, or another split of it.

    Args:
        source ([`Identity`]): What the recipe says of it.
        dataset (`str`, *optional*): Where it is now, if elsewhere.
        split (`str`, *optional*): The split; the recorded one if not given.
    """
    from ..data.load import load_split

    place = dataset or source.path or source.repo_id
    if place is None:
        raise InputError("the run directory does not say which dataset it recorded: give it with `dataset`")
    return load_split(place, split or source.split or "train", name=source.config, revision=source.revision)


def recorded_validation(recipe: Recipe, dataset: str | None, split: str | None = None) -> "Dataset | None":
    """The validation samples, where they are a split of the recorded dataset.

    Args:
        recipe ([`Recipe`]): The recipe of the recording.
        dataset (`str`, *optional*): Where the recorded dataset is now, if elsewhere.
        split (`str`, *optional*): The split; the recorded one if not given.
    """
    recorded = recipe.validation
    if split is None and recorded.split is None:
        return None
    try:
        found = recorded_split(recipe.dataset, dataset, split or recorded.split)
    except InputError:
        if split is not None:
            raise
        # It is of another dataset, which only Python code can give.
        return None
    # A recipe may name a split of which only a slice was used.
    return found if split is not None or len(found) == recorded.rows else None


def has_test_rows(source: Identity, dataset: str | None) -> bool:
    """Whether the recorded dataset has a split to test models on."""
    try:
        recorded_split(source, dataset, EvaluateConfig().test_split)
    except InputError:
        return False
    return True


def beside(path: str, suffix: str) -> str:
    """A folder beside another, of its name and a suffix."""
    place = Path(path)
    # "." and ".." are no names to add to.
    place = place.resolve() if place.name in ("", "..") else place
    return str(place.with_name(f"{place.name}{suffix}"))


def check_output(output: str, kind: str, *inputs: str | None) -> Path:
    """Checks that a command may save its rows in a folder: it is new, empty, or what the same command saved.

    Args:
        output (`str`): The folder.
        kind (`str`): `SCORED`, `CORESET` or `AUDIT`.
        *inputs (`str`, *optional*): What the command reads, which is never replaced.

    Returns:
        `Path`: the folder, of a link what it points to.

    Raises:
        InputError: for any other folder, and if another process is writing there.
    """
    path = local(output, "output").resolve()
    for given in inputs:
        if given is not None and Path(expanded(given)).resolve().is_relative_to(path):
            raise InputError(f"`output` {output!r} holds {given!r}, which is read: give another folder")
    files.restore(path)
    for left in _unfinished(path):
        try:
            with _held(left) as alone:
                if alone:
                    shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError as error:
            raise InputError(f"`output` {output!r} is being written by another process: wait for it") from error
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return path
    if not path.is_dir() or _kind(path) != kind:
        raise InputError(f"`output` {output!r} exists already: give another folder, or delete it")
    # The caches of `datasets` are Arrow files too.
    there = [file for file in path.rglob("*") if file != path / APPLIED or not file.is_dir()]
    strange = sorted(file.name for file in there if file.name not in _SAVED and file.suffix != ".arrow")
    if strange:
        raise InputError(
            f"`output` {output!r} holds {strange[0]!r} next to an earlier result: give another folder, or delete it"
        )
    if (path / CHANGES).exists():
        raise InputError(
            f"`output` {output!r} holds a dataset that an earlier audit made, and {CHANGES}, by which that is taken "
            "back: give another folder, or delete it"
        )
    return path


def save(dataset: "Dataset", path: Path, recipe: dict[str, Any], applied: "Applied | None" = None) -> None:
    """Saves a dataset with its recipe, an audit as one Parquet file, with what was made by it; until all is on disk,
    the earlier one stays."""
    # Locked until it is in its place.
    with ExitStack() as held, files.replacing(path) as temporary:
        held.enter_context(_made(temporary))
        if AUDIT in recipe:
            dataset.to_parquet(str(temporary / AUDITED))
            if applied is not None:
                applied.dataset.save_to_disk(str(temporary / APPLIED))
                applied.changes.to_parquet(str(temporary / CHANGES))
        else:
            dataset.save_to_disk(str(temporary))
        files.write_json(temporary / files.RECIPE, recipe)


def recipe_beside(folder: str | Path) -> dict[str, Any]:
    """The recipe beside saved rows; empty for rows that no command saved."""
    path = Path(folder) / files.RECIPE
    return files.read_json(path) if path.is_file() else {}


def _kind(path: Path) -> str | None:
    if not any((path / name).is_file() for name in ("state.json", AUDITED)):
        return None
    recipe = recipe_beside(path)
    return next((kind for kind in (AUDIT, CORESET, SCORED) if kind in recipe), None)


def _unfinished(path: Path) -> list[Path]:
    """Folders that killed processes left behind, or that others are writing."""
    if not path.parent.is_dir():
        return []
    return [left for left in path.parent.iterdir() if files.is_temporary(left, path) and left.is_dir()]


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Makes a folder, locked while it is written; a killed process gives its lock up.

    Until it is locked, it looks like one that a killed process left, and another process may take it away.
    """
    while True:
        folder.mkdir()
        with _held(folder, wait=True) as alone:
            if alone is not None:
                yield
                return


@contextmanager
def _held(folder: Path, wait: bool = False) -> Iterator[bool | None]:
    """Locks a folder. False on file systems without locks; nothing if the folder is gone once it is locked.

    Raises:
        BlockingIOError: if another process has the lock, and is not waited for.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield _lock(descriptor, folder, wait)
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path, wait: bool) -> bool | None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    try:
        # Another one may have its name by now.
        return True if os.path.samestat(os.fstat(descriptor), os.stat(folder)) else None
    except FileNotFoundError:
        return None
