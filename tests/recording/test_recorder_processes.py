"""A loop of one's own, begun on two processes and gone on with on others: whole epochs, each row under its number."""

import numpy as np
import pytest
import torch
from accelerate import PartialState

from hf_ltc.recording.recorder import TrajectoryRecorder
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start

# Numbers of a selection, in no order, which no number of processes here divides.
ROWS = np.random.default_rng(0).permutation(40)[:23]
HELD = np.setdiff1d(np.arange(40), ROWS)[:5]


def loss(rows, epoch):
    return (np.asarray(rows) * 0.25 + epoch).astype(np.float32)


def recorder(folder, state=None):
    return TrajectoryRecorder(
        folder, rows=ROWS, labels=ROWS % 3, validation_rows=HELD, validation_labels=HELD % 3, accelerator=state
    )


def add(made, epoch, part=slice(None), state=None):
    rank, world = (0, 1) if state is None else (state.process_index, state.num_processes)
    rows = ROWS[part][rank::world]
    made.update(rows, loss(rows, epoch))


def add_held(made, epoch, state=None):
    rank, world = (0, 1) if state is None else (state.process_index, state.num_processes)
    made.update(HELD[rank::world], loss(HELD[rank::world], epoch), split="validation")


def begins(folder):
    """Two epochs, and half of a third, whose state is kept."""
    state = PartialState(cpu=True)
    made = recorder(f"{folder}/run", state)
    for epoch in range(2):
        with made.epoch():
            add(made, epoch, state=state)
            add_held(made, epoch, state)
    add(made, 2, slice(12), state)
    kept = made.state_dict()
    if state.is_main_process:
        torch.save(kept, f"{folder}/state.pt")
    state.wait_for_everyone()


def goes_on(folder):
    """The next epoch, on as many processes as there are; a state of other processes is refused on each of them."""
    state = PartialState(cpu=True)
    made = recorder(f"{folder}/run", state)
    stored = torch.load(f"{folder}/state.pt", weights_only=True)
    with pytest.raises(InputError, match=f"begun on 2 processes, and now {state.num_processes} continue it"):
        made.load_state_dict(stored)
    epoch = made.next_epoch
    with made.epoch():
        add(made, epoch, state=state)
        add_held(made, epoch, state)


def ends(folder):
    """On two processes again, in the middle of an epoch."""
    state = PartialState(cpu=True)
    made = recorder(f"{folder}/run", state)
    epoch = made.next_epoch
    with made.epoch():
        made.load_state_dict(torch.load(f"{folder}/half.pt", weights_only=True))
        add(made, epoch, slice(12, None), state)
        add_held(made, epoch, state)
    made.finish()


def test_other_processes_go_on_with_whole_epochs(tmp_path):
    assert finish(start(begins, str(tmp_path), world=2)) == [0, 0]
    goes_on(tmp_path)
    assert finish(start(goes_on, str(tmp_path), world=3)) == [0, 0, 0]
    # Half of an epoch, as two processes keep it.
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    state["train"][0] += 2 * state["train"][1]
    torch.save(state, tmp_path / "half.pt")
    assert finish(start(ends, str(tmp_path), world=2)) == [0, 0]
    assert run_dir.published_epochs(tmp_path / "run") == [0, 1, 2, 3, 4]
    run = Trajectories.load(tmp_path / "run")
    np.testing.assert_array_equal(run.rows, np.sort(ROWS))
    np.testing.assert_array_equal(run.labels, np.sort(ROWS) % 3)
    np.testing.assert_array_equal(run.losses, [loss(np.sort(ROWS), epoch) for epoch in range(5)])
    np.testing.assert_array_equal(run.validation_losses, [loss(HELD, epoch) for epoch in range(5)])


def test_the_state_of_another_recorder_is_refused(tmp_path):
    other = TrajectoryRecorder(tmp_path / "other", rows=3, labels=[0, 1, 0], validation_labels=[0, 1])
    with pytest.raises(InputError, match="the state is of another recorder"):
        recorder(tmp_path / "run").load_state_dict(other.state_dict())
