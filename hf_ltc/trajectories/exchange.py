"""Trajectories as a `DatasetDict`, as Parquet files and on the Hub, and back."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from datasets import DatasetDict

from ..scores.protocol import RecordedColumns
from ..utils.files import local
from . import tables
from .run_dir import LOSSES

if TYPE_CHECKING:
    from ..hub.repository import Pushed


class ExchangeMixin:
    """The methods of [`Trajectories`] for those who work with columns, Parquet files or the Hub.

    Run directories, which recording writes, are [`Trajectories.load`] and [`Trajectories.save`].
    """

    def to_dataset(self: RecordedColumns, *, features: bool = False, projection: str | None = None) -> DatasetDict:
        """The trajectories as columns: splits `train` and `validation` with `row`, `label`, `loss_trajectory`, ....

        Args:
            features (`bool`, *optional*, defaults to `False`): As for [`Trajectories.attach`].
            projection (`str`, *optional*): As for [`Trajectories.attach`]; both splits share one map.

        Returns:
            `datasets.DatasetDict`: one row per sample, with its id in a column `id` if there are ids.

        Raises:
            InputError: if the features were not recorded.
        """
        return tables.to_dataset(self, features, projection)

    @classmethod
    def from_dataset(
        cls,
        dataset: DatasetDict,
        *,
        epochs: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
        recipe: dict[str, Any] | None = None,
        loss_name: str = LOSSES[0],
    ) -> Self:
        """Makes a recording from the result of [`Trajectories.to_dataset`], or from any columns with the same names.

        Args:
            dataset (`datasets.DatasetDict`): Splits `train` and `validation`.
            epochs (`Sequence[int]`, *optional*): Epoch of each checkpoint; 0, 1, ... if not given.
            lengths (`Sequence[int]`, *optional*): Checkpoints of each run; one run if not given.
            recipe (`dict`, *optional*): The recipe.
            loss_name (`str`, *optional*, defaults to `"training_loss"`): Which losses `loss_trajectory` holds.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: for a missing split or column, a row without a trajectory or with one of another length, and
                rows that occur twice.
        """
        fields = tables.read_dataset(dataset, epochs, lengths)
        return cls(**{**fields, "recipe": recipe or {}, "loss_name": loss_name})

    def to_parquet(self: RecordedColumns, folder: str | Path) -> None:
        """Writes `train.parquet`, `validation.parquet` and `recipe.json`, for any tool that reads Parquet.

        Args:
            folder (`str` or `Path`): A new or empty folder.
        """
        tables.write_parquet(self, local(folder, "folder"))

    @classmethod
    def from_parquet(cls, folder: str | Path) -> Self:
        """Reads what [`Trajectories.to_parquet`] wrote.

        Args:
            folder (`str` or `Path`): The folder.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: for a file that is missing or damaged, naming it.
        """
        dataset, recipe = tables.read_parquet(local(folder, "folder"))
        return cls.from_dataset(dataset, **recipe.pop(tables.LAYOUT, {}), recipe=recipe)

    def push_to_hub(
        self: RecordedColumns, repo_id: str, *, private: bool | None = None, token: str | None = None
    ) -> "Pushed":
        """Pushes the trajectories to a dataset repository, as its configuration `trajectories`, with recipe and card.

        Args:
            repo_id (`str`): The repository, created if it does not exist; it may hold coresets too.
            private (`bool`, *optional*): Whether a new repository is private.
            token (`str`, *optional*): Access token; the one that is logged in if not given.

        Returns:
            [`Pushed`]: its `revision` is the commit.

        Raises:
            InputError: if the Hub refuses, cannot be reached, or has something else under this name.
        """
        from .on_hub import push_trajectories

        return push_trajectories(self, repo_id, private=private, token=token)

    @classmethod
    def from_hub(cls, repo_id: str, *, revision: str | None = None, token: str | None = None) -> Self:
        """Loads what [`Trajectories.push_to_hub`] pushed.

        Args:
            repo_id (`str`): The repository.
            revision (`str`, *optional*): A branch or commit; the newest if not given.
            token (`str`, *optional*): Access token; the one that is logged in if not given.

        Returns:
            [`Trajectories`]

        Raises:
            InputError: if there is no such repository, or if its files do not match its recipe.
        """
        from .on_hub import load_trajectories

        return load_trajectories(cls.from_dataset, repo_id, revision=revision, token=token)
