"""Fixtures of the tests of trajectories."""

import pytest

from tests.trajectories.recordings import make


@pytest.fixture
def saved(tmp_path):
    make(ids=True).save(tmp_path / "run")
    return tmp_path / "run"
