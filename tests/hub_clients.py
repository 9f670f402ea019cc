"""What the clients of the Hub run in processes of their own, and what they work on."""

import resource
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, load_dataset

from hf_ltc import InputError, Trajectories, load_coreset, push_coreset
from hf_ltc.data.identity import dataset_identity
from hf_ltc.trajectories.on_hub import push_source_model

CHECKPOINTS = 17


def recorded(
    rows: Dataset,
    *,
    seed: int = 0,
    runs: int = 1,
    held: int = 30,
    ids: str | None = None,
    checkpoints: int = CHECKPOINTS,
    **recipe: Any,
):
    """A recording of a dataset as `record` gives it, with losses from a generator: no model is trained."""
    draw = np.random.default_rng(seed)
    labels = np.asarray(rows.with_format(None)["label"])
    order = draw.permutation(len(rows))
    held_out, kept = np.sort(order[:held]), np.sort(order[held:])
    length = checkpoints * runs
    fall = np.linspace(2, 0.2, checkpoints, dtype=np.float32).repeat(runs).reshape(checkpoints, runs).T.reshape(-1, 1)
    losses = fall + draw.random((length, len(kept)), dtype=np.float32)
    losses[:, 3] = 1.0
    known: dict[str, Any] = {
        "config": {"model": "resnet10t", "epochs": checkpoints - 1, "seed": seed, "losses": "training"},
        "dataset": {**dataset_identity(rows, "label"), "names": rows.features["label"].names},
        "training": {"image_size": 8, "validation_rows": held},
        "hardware": {"device": "cpu"},
        "seconds": {"training": 1.5},
        **recipe,
    }
    known["dataset"]["id_column"] = ids
    return Trajectories(
        losses=losses,
        validation_losses=fall + draw.random((length, held), dtype=np.float32),
        labels=labels[kept],
        validation_labels=labels[held_out],
        rows=kept,
        validation_rows=held_out,
        epochs=np.tile(np.arange(checkpoints), runs),
        lengths=(checkpoints,) * runs,
        signals={"margin": draw.random((length, len(kept)), dtype=np.float32)},
        ids=None if ids is None else pa.array(np.asarray(rows[ids])[kept]),
        recipe=known,
    )


def content(rows: Dataset) -> list[dict[str, Any]]:
    """Rows as they are stored: images as their bytes."""
    return rows.with_format("arrow")[:].to_pylist()


def without_paths(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows whose images are bytes alone: of the path only the name is pushed."""
    return [
        {name: value["bytes"] if isinstance(value, dict) else value for name, value in row.items()} for row in rows
    ]


def push(scored: Dataset, repo_id: str, *arguments: Any, **options: Any) -> str:
    return push_coreset(scored, repo_id, *arguments, **options).revision


def push_model(run: str, repo_id: str) -> str:
    return push_source_model(run, repo_id).revision


def push_rows(rows: Dataset | DatasetDict, repo_id: str, **options: Any) -> str:
    return rows.push_to_hub(repo_id, **options).oid


def push_from_disk(run: str, rows: str, repo_id: str, *arguments: Any, **options: Any) -> str:
    trajectories = Trajectories.load(run)
    return push(
        trajectories.score(Dataset.load_from_disk(rows)), repo_id, *arguments, trajectories=trajectories, **options
    )


def load(repo_id: str, *arguments: Any, **options: Any) -> tuple[list[dict[str, Any]], Any]:
    options.setdefault("split", "train")
    rows = load_dataset(repo_id, *arguments, **options)
    return content(rows), rows.features


def load_by_budget(repo_id: str, *arguments: Any, **options: Any) -> tuple[list[dict[str, Any]], Any]:
    rows = load_coreset(repo_id, *arguments, **options)
    return content(rows), rows.features


def stream(repo_id: str, config: str, count: int, **options: Any) -> list[dict[str, Any]]:
    rows = load_dataset(repo_id, config, split="train", streaming=True, **options)
    return list(rows.take(count))


def complaint(function: Callable[..., Any], *arguments: Any, **options: Any) -> str | None:
    """What an [`InputError`] says; `None` if there is none. Waits before a retry are cut short."""
    with mock.patch("time.sleep"):
        try:
            function(*arguments, **options)
        except InputError as error:
            return str(error)
    return None


def complaint_where_files_are_small(limit: int, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """The same on a disk with no room: no file can grow beyond a limit."""
    with limited_files(limit):
        return complaint(function, *arguments, **options)


@contextmanager
def limited_files(limit: int):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def labeled(count: int, classes: int = 10) -> Dataset:
    """Rows without images."""
    names = [f"class {number}" for number in range(classes)]
    rows = Dataset.from_dict(
        {"text": [f"row {i}" for i in range(count)], "label": [i % classes for i in range(count)]}
    )
    return rows.cast_column("label", ClassLabel(names=names))
