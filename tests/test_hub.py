"""Coresets on the Hub: the real clients against a small Hub on loopback."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, load_dataset

from .hub_server import Client, Hub


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def client(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One process for all that does not need a fresh cache."""
    with Client(hub, tmp_path_factory.mktemp("client")) as running:
        yield running


def _loaded(repo_id: str, *arguments: Any, **options: Any) -> Any:
    loaded = load_dataset(repo_id, *arguments, split="train", **options)
    return loaded.with_format("arrow")[:].to_pylist(), loaded.features, loaded.cache_files


def _push_plain(dataset: Dataset, repo_id: str, **options: Any) -> str:
    return dataset.push_to_hub(repo_id, **options).oid


def test_the_hub_serves_what_the_real_clients_push(hub: Hub, client: Client, tmp_path: Path, small: DatasetDict):
    oid = client(_push_plain, small["train"], "me/plain", num_shards=3)
    assert oid == hub.dataset("me/plain").head
    with Client(hub, tmp_path) as fresh:
        rows, features, files = fresh(_loaded, "me/plain", revision=oid)
    assert features == small["train"].features
    assert rows == small["train"].with_format("arrow")[:].to_pylist()
    assert oid in files[0]["filename"]
