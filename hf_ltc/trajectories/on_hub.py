"""Trajectories and source models on the Hub: pushed there, and trajectories loaded from there."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import DatasetDict, load_dataset
from huggingface_hub import CommitOperationAdd

from ..data.parquet import size_in_bytes
from ..hub import cards
from ..hub.commits import Change, commit
from ..hub.load import check_files, disagrees
from ..hub.publish import publish
from ..hub.repository import (
    CARD,
    Pushed,
    Repository,
    check_repo_id,
    explained,
    hub_api,
    open_repository,
    read_repository,
)
from ..hub.repository_recipe import RECIPE, TRAJECTORIES, Layout, RepositoryRecipe, TrajectoriesEntry, as_json
from ..hub.tables import Table
from ..recipe import Recipe
from ..scores.protocol import RecordedColumns, losses_digest
from ..utils.errors import InputError
from ..utils.files import read_json
from ..utils.public import public_recipe
from .run_dir import read_run
from .tables import to_dataset

_WEIGHTS = ("model.safetensors", "averaged_model.safetensors")
_TOKENIZER = "tokenizer/"


def push_trajectories(
    run: RecordedColumns,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    max_shard_size: int | str = "500MB",
) -> Pushed:
    """Pushes trajectories as the configuration `trajectories` of a dataset repository.

    Args:
        run ([`Trajectories`]): The trajectories.
        repo_id (`str`): The repository, made if it is not there; one with coresets will do.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): Access token; the one that is logged in if not given.
        max_shard_size (`int` or `str`, *optional*, defaults to `"500MB"`): Size of a Parquet file at most.

    Returns:
        [`Pushed`]

    Raises:
        InputError: if the Hub refuses, cannot be reached, or holds something else under this name.
    """
    check_repo_id(repo_id)
    size_in_bytes(max_shard_size)
    api = hub_api(token)
    recipe = Recipe.from_dict(public_recipe(run.recipe))
    entry = TrajectoriesEntry(
        dataset=recipe.dataset,
        rows=len(run.rows),
        validation_rows=len(run.validation_labels),
        layout=Layout(epochs=run.epochs.tolist(), lengths=list(run.lengths), loss_name=run.loss_name),
        digest=losses_digest(run),
        run=recipe,
    )
    tables = [Table(TRAJECTORIES, str(split), rows, TRAJECTORIES) for split, rows in to_dataset(run).items()]

    def describe(there: RepositoryRecipe) -> tuple[RepositoryRecipe, list[str]]:
        return replace(there, trajectories=entry), []

    metadata = cards.card_metadata(recipe.dataset, {}, None, None)
    return publish(api, repo_id, tables, describe, metadata=metadata, private=private, max_shard_size=max_shard_size)


def push_source_model(
    run: str | Path,
    repo_id: str,
    *,
    dataset_name: str | None = None,
    private: bool | None = None,
    token: str | None = None,
) -> Pushed:
    """Pushes the source model of a run to a model repository, in one commit.

    Args:
        run (`str` or `Path`): The run directory, or that of one of its seeds.
        repo_id (`str`): The repository; created if it does not exist.
        dataset_name (`str`, *optional*): Name of the dataset on the card, if it is not on the Hub.
        private (`bool`, *optional*): Whether a new repository is private.
        token (`str`, *optional*): Access token; the one that is logged in if not given.

    Returns:
        [`Pushed`]

    Raises:
        InputError: if there is no source model, or as [`push_coreset`].
    """
    check_repo_id(repo_id)
    folder = source_model_folder(run)
    model = folder / "source_model"
    last = float(np.mean(read_run(folder, mmap=True)["validation_losses"][-1]))
    recipe = replace(Recipe.from_dict(public_recipe(read_json(folder / RECIPE))), validation_loss=last)
    if dataset_name is not None:
        recipe = replace(recipe, dataset=replace(recipe.dataset, name=dataset_name))
    settings = public_recipe(read_json(model / "config.json"))
    weights = sorted(model.glob("*.safetensors"))
    averaged = any(path.name.startswith("averaged") for path in weights)
    tokenizer = sorted(path for path in (model / _TOKENIZER).rglob("*") if path.is_file())
    api = hub_api(token)

    def change(there: Repository) -> Change:
        previous = None if there.recipe is None else there.recipe.card
        card = cards.source_model_card(
            there.repo_id, recipe, settings, averaged=averaged, existing=there.card, previous=previous
        )
        whole = RepositoryRecipe(run=recipe, card=cards.model_metadata(recipe))
        texts = {"config.json": as_json(settings), RECIPE: whole.to_json(), CARD: card}
        sent = {addition.path_in_repo for addition in additions}
        gone = tuple(
            path for path in there.files if (path in _WEIGHTS or path.startswith(_TOKENIZER)) and path not in sent
        )
        return Change(texts, "Source model", removed=gone)

    with explained(repo_id, "push to"):
        there = open_repository(api, repo_id, "model", private)
        additions = [CommitOperationAdd(path.name, str(path)) for path in weights]
        additions += [CommitOperationAdd(path.relative_to(model).as_posix(), _public_file(path)) for path in tokenizer]
        return commit(api, there, "model", additions, change, (*_WEIGHTS, _TOKENIZER), ["source model"])


def _public_file(path: Path) -> str | bytes:
    """A file of a tokenizer, of which the settings may name the folder that it was taken from."""
    return as_json(public_recipe(read_json(path))).encode() if path.name == "tokenizer_config.json" else str(path)


def source_model_folder(run: str | Path) -> Path:
    """The run directory, or that of the first of its seeds, that has a source model.

    Raises:
        InputError: if there is none.
    """
    places = [Path(run), *sorted(Path(run).glob("seed-*"))]
    folder = next((path for path in places if (path / "source_model").is_dir()), None)
    if folder is None:
        raise InputError(f"no source model in {str(run)!r}: give a finished run directory of hf-ltc record")
    return folder


def load_trajectories(
    make: Callable[..., Any], repo_id: str, *, revision: str | None = None, token: str | None = None
) -> Any:
    """[`Trajectories.from_hub`]; `make` is [`Trajectories.from_dataset`]."""
    api = hub_api(token)
    with explained(repo_id, "load from"):
        there = read_repository(api, repo_id, revision)
        entry = None if there.recipe is None else there.recipe.trajectories
        if entry is None:
            raise InputError(f"{repo_id!r} has no trajectories: push them with Trajectories.push_to_hub")
        loaded = load_dataset(repo_id, TRAJECTORIES, revision=there.head, token=token)
    layout = {"epochs": entry.layout.epochs, "lengths": entry.layout.lengths, "loss_name": entry.layout.loss_name}
    run = make(DatasetDict(loaded), **layout, recipe=entry.run.to_dict())
    if losses_digest(run) != entry.digest:
        raise disagrees(repo_id, "the losses are not those that its recipe is of")
    check_files(there, TRAJECTORIES, token)
    return run
