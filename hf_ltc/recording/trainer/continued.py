"""How a recording by a Trainer goes on where it was stopped."""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerState, TrainingArguments

from ...recipe import Recipe
from ...trajectories import run_dir
from ...utils import files
from ...utils.errors import InputError, LTCWarning

# Which rows a step trains on, and after which steps losses are recorded: names in the recipe and in messages.
_STEPS = {
    "steps_per_epoch": "steps an epoch were",
    "processes": "processes were",
    "per_device_train_batch_size": "`per_device_train_batch_size` was",
    "gradient_accumulation_steps": "`gradient_accumulation_steps` was",
    "record_every_steps": "`record_every_steps` was",
}
# Under which the Trainer's checkpoints, which keep a dictionary for callbacks, tell whose they are.
_MARK = "hf_ltc"
CHECKPOINT = "checkpoint"


def begin_anew(path: Path, before: int, now: int, processes: PartialState) -> None:
    """Deletes what was recorded of a training that ran out of memory, and that the Trainer begins again."""
    lost = max(run_dir.published_epochs(path), default=0)
    processes.wait_for_everyone()
    if processes.is_main_process:
        gone = f", without the {lost} epochs recorded so far" if lost else ""
        warnings.warn(
            f"there was no memory for batches of {before}, and the Trainer begins again with {now}, from the weights "
            f"that it has by now: the recording starts over with it{gone}; to record a training from the first "
            f"weights, give `per_device_train_batch_size` {now} and another `output_dir`",
            LTCWarning,
            stacklevel=3,
        )
        (path / files.RECIPE).unlink(missing_ok=True)
        for name in (run_dir.TRAJECTORIES, CHECKPOINT):
            shutil.rmtree(path / name, ignore_errors=True)
    processes.wait_for_everyone()


def write_checkpoint(path: Path, step: int, values: Mapping[str, Any], trainer_dir: Path) -> None:
    """Writes what the callback keeps with a checkpoint of the Trainer, and deletes what belongs to none any more."""
    # By a file of Python's, whose errors say why, which those of torch's own do not.
    with files.replacing(_checkpoint(path, step)) as temporary, temporary.open("wb") as file:
        torch.save(values, file)
    for old in (path / CHECKPOINT).glob("step-*.pt"):
        other = int(old.stem.removeprefix("step-"))
        # The Trainer has rotated its own away.
        if other != step and not (trainer_dir / f"checkpoint-{other}").exists():
            old.unlink()


def read_checkpoint(path: Path, step: int) -> dict[str, Any]:
    """What the callback wrote with a checkpoint of the Trainer.

    Raises:
        InputError: if it is not there.
    """
    file = _checkpoint(path, step)
    if not file.is_file():
        raise InputError(
            f"cannot resume at step {step}: there is no {str(file)!r}, which the callback writes with every "
            "checkpoint of the Trainer: restore it, or train again with another output_dir"
        )
    return torch.load(file, map_location="cpu", weights_only=True)


def _checkpoint(path: Path, step: int) -> Path:
    return path / CHECKPOINT / f"step-{step:08d}.pt"


def check_resumed(path: Path, state: TrainerState, was: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a training that resumes is the one recorded, with epochs that begin and end at the same steps.

    Raises:
        InputError: if it is not, with the old values and the new ones.
    """
    where = f"cannot resume the recording in {str(path)!r} at step {state.global_step}"
    marks: Any = state.stateful_callbacks
    if "id" in was and marks.get(_MARK) != {"training": was["id"]}:
        raise InputError(
            f"{where}: the Trainer's checkpoint is of another training than the one recorded there; resume from one "
            "of its own, or train from the start with another `output_dir` of the callback"
        )
    steps = [(shown, was.get(name), now[name]) for name, shown in _STEPS.items()]
    differ = [f"{shown} {old}, now {new}" for shown, old, new in steps if old != new]
    if differ:
        raise InputError(
            f"{where}: {'; '.join(differ)}, so that what it records next would be losses of other passes over the "
            "rows, or after other steps; set them as they were, or train from the start with another `output_dir` of "
            "the callback"
        )


def check_inside(
    path: Path, step: int, steps: int, was: Mapping[str, Any], now: Mapping[str, Any], args: TrainingArguments
) -> None:
    """Checks that an epoch that was stopped inside will continue with the rows that it has not had.

    Raises:
        InputError: if it will not.
    """
    differ = [f"{name} was {was[name]}, now {now[name]}" for name in now if name in was and was[name] != now[name]]
    if args.ignore_data_skip:
        differ = ["`ignore_data_skip` is True, and begins it with its first rows again"]
    if differ:
        raise _inside(path, step, steps, "; ".join(differ))


def tell(path: Path, training: dict[str, Any], state: TrainerState, processes: PartialState) -> None:
    """Writes how a training continues into the recipe, and which one it is into the state that the Trainer saves."""
    recipe = path / files.RECIPE
    if processes.is_main_process:
        # Where it was ended before its last step, it is finished no more.
        kept = {name: value for name, value in files.read_json(recipe).items() if name != "epochs"}
        files.write_json(recipe, {**kept, "training": training})
    processes.wait_for_everyone()
    # All processes have the main one's.
    training["id"] = Recipe.read(recipe).training.id
    marks: Any = state.stateful_callbacks
    marks[_MARK] = {"training": training["id"]}


class RestOfEpoch:
    """The rows that an epoch has left after it was stopped inside.

    Args:
        path (`Path`): The run directory, for messages.
        step (`int`): The step at which it was stopped.
        training (`Mapping[str, Any]`): As of [`steps_of`].
        seen (`torch.Tensor`): bool `(N,)`, the rows that it has had, on the device.
    """

    def __init__(self, path: Path, step: int, training: Mapping[str, Any], seen: torch.Tensor) -> None:
        self.path, self.step, self.training, self.seen = path, step, training, seen
        # Several processes fill the last batches up with the first rows of the epoch.
        processes = training["processes"]
        self.repeated, self.may_repeat = 0, processes * training["per_device_train_batch_size"] * (processes > 1)

    def check(self, positions: torch.Tensor) -> None:
        """Checks the rows of a batch, int64 `(B,)`.

        Raises:
            InputError: if rows come that the epoch has had.
        """
        self.repeated += int(self.seen[positions].sum())
        if self.repeated > self.may_repeat:
            why = "its sampler draws another order, and gives rows again that it has had"
            raise _inside(self.path, self.step, self.training["steps_per_epoch"], why)


def _inside(path: Path, step: int, steps: int, why: str) -> InputError:
    return InputError(
        f"cannot resume the recording in {str(path)!r} at step {step}, inside of epoch {step // steps + 1}: {why}, so "
        "that it would hold rows of two passes; set that as it was, resume from a checkpoint of the Trainer at an "
        'epoch\'s end (save_strategy="epoch"), or train from the start with another `output_dir` of the callback'
    )
