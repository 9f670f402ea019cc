"""A Hub and its clients: the same processes for all tests, and no repositories where a module begins."""

from collections.abc import Iterator
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from tests import hub_clients
from tests.hub_server import Client, Hub


@pytest.fixture(scope="session")
def running_hub() -> Iterator[Hub]:
    with Hub() as running:
        yield running


@pytest.fixture(scope="module")
def hub(running_hub: Hub) -> Hub:
    """A Hub without repositories."""
    running_hub.clear()
    return running_hub


@pytest.fixture(scope="session")
def client(running_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """One process for all that does not need a fresh cache: to start one takes seconds."""
    with Client(running_hub, tmp_path_factory.mktemp("client")) as running:
        yield running


@pytest.fixture(scope="session")
def visitor(running_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Another one, which never pushes: what it loads of a repository is in no cache of it."""
    with Client(running_hub, tmp_path_factory.mktemp("visitor")) as running:
        yield running


@pytest.fixture
def no_faults_left(hub: Hub) -> Iterator[None]:
    yield
    left = [fault for fault in hub.faults if fault.times]
    hub.faults.clear()
    assert not left, "a fault that was asked for did not happen"


@pytest.fixture(scope="module")
def rows(small: DatasetDict) -> Dataset:
    return small["train"]


@pytest.fixture(scope="module")
def run(rows: Dataset) -> Any:
    return hub_clients.recorded(rows)


@pytest.fixture(scope="module")
def scored(rows: Dataset, run: Any) -> Dataset:
    return run.score(rows)
