"""How an interrupted run resumes: from its checkpoint, and only in a run directory that holds the same run."""

import json
import logging
import shutil
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from ..config import RESUME_MAY_CHANGE, RecordConfig
from ..data.identity import WHERE
from ..recipe import TURN, Recipe
from ..training import loop
from ..trajectories import run_dir
from ..trajectories.summary import load_recording
from ..utils import files
from ..utils.errors import InputError, as_input_error
from ..utils.processes import together
from .recorder import TrajectoryRecorder

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint"
_PENDING = "losses.safetensors"


def is_finished(folder: Path, recipe: Mapping[str, Any], *but: str) -> bool:
    """Whether a run directory holds this run, complete; checks that it holds no other."""
    path = folder / files.RECIPE
    if not path.exists():
        return False
    stored, wanted = Recipe.read(path), Recipe.from_dict(json.loads(json.dumps(recipe, default=str)))
    differ = _differences(stored, wanted, {*RESUME_MAY_CHANGE, *but})
    if differ:
        raise InputError(
            f"`output_dir` {str(folder)!r} holds a run with other settings ({'; '.join(differ)}): give another "
            "`output_dir`, or the settings of that run to resume it"
        )
    finished = stored.epochs is not None
    if not finished and not but and stored.training.decoding != wanted.training.decoding:
        raise InputError(
            f"`output_dir` {str(folder)!r} holds a run begun by another version of hf_ltc, which read the pixels of "
            "images a little differently: finish it with that version, or give another `output_dir`"
        )
    return finished


def resume(path: Path, state: loop.TrainingState, accelerator: Accelerator, config: RecordConfig) -> dict[str, float]:
    """Restores a state from the newest checkpoint of a run, if there is one; returns the seconds taken by then."""
    folder = path / CHECKPOINT
    newest = max(folder.glob("epoch-*"), default=None)
    published = run_dir.published_epochs(path)
    if newest is None:
        if published and published[-1] > 0:
            raise InputError(
                f"{str(path)!r} has epochs up to {published[-1]} but no {str(folder / 'epoch-*')!r} to "
                "resume from: restore it, or record again into another folder"
            )
        return {}
    fix = "restore its files, or record again into another `output_dir`"
    with as_input_error(f"cannot resume from {str(newest)!r}", fix):
        loop.load_checkpoint(newest, state, accelerator)
        seconds: dict[str, float] = json.loads((newest / "seconds.json").read_text(encoding="utf-8"))
    with together(accelerator):
        if accelerator.is_main_process:
            _publish(newest, path, state.epoch)
            _check_published(path, config, state.epoch)
            logger.info("resuming %s after epoch %d of %d", path, state.epoch, config.epochs)
    return seconds


def write_checkpoint(
    path: Path,
    state: loop.TrainingState,
    accelerator: Accelerator,
    recorder: TrajectoryRecorder,
    arrays: Mapping[str, np.ndarray],
    seconds: Mapping[str, float],
) -> None:
    """Writes a checkpoint with the epoch's losses in it, and only then publishes them: both or none survive."""
    folder = path / CHECKPOINT
    final = folder / f"epoch-{state.epoch:05d}"
    with files.replacing(final) as temporary:
        temporary.mkdir()
        loop.save_checkpoint(temporary, state, accelerator)
        (temporary / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
        if arrays:
            recorder.write(state.epoch, arrays, temporary / _PENDING)
    _publish(final, path, state.epoch)
    for old in folder.glob("epoch-*"):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)


def _check_published(path: Path, config: RecordConfig, last: int) -> None:
    """Checks that the epochs before a resume are all there and whole: a hole could not be filled later."""
    published = run_dir.published_epochs(path)
    for epoch in config.recorded_epochs():
        if epoch <= last and epoch not in published:
            raise InputError(
                f"no file {str(run_dir.epoch_path(path, epoch))!r}, though the run recorded epoch {epoch}: "
                "restore it, or record again into another folder"
            )
    if published:
        load_recording(path)


def _differences(stored: Recipe, wanted: Recipe, may_differ: Set[str]) -> list[str]:
    was, now = stored.config.to_dict(), wanted.config.to_dict()
    differ = [
        f"`{name}` was {was.get(name)!r}, now {value!r}"
        for name, value in now.items()
        if name not in may_differ and was.get(name) != value
    ]
    was, now = stored.dataset.to_dict(), wanted.dataset.to_dict()
    differ += [
        f"another dataset: its {name} differs"
        for name, value in now.items()
        if name not in WHERE and was.get(name) != value
    ]
    was, now = stored.validation.to_dict(), wanted.validation.to_dict()
    if stored.validation.rotates != wanted.validation.rotates:
        differ.append(f"`rotate_validation` was {stored.validation.rotates}, now {wanted.validation.rotates}")
    else:
        # Each seed has its turn, of which one may hold a row more out.
        own = {TURN, "held_out"} if TURN in now and "seed" in may_differ else set()
        if any(was.get(name) != now.get(name) for name in (was.keys() | now.keys()) - own):
            differ.append("other validation samples")
    if (was_kept := run_dir.stored_as(stored.more)) != wanted.config.more["store"]:
        differ.append(f"`store` was {was_kept!r}, now {wanted.config.more['store']!r}")
    if (one := stored.training.processes) != (other := wanted.training.processes):
        differ.append(f"it ran on {one} processes, now on {other}")
    return differ


def _publish(checkpoint: Path, run: Path, epoch: int) -> None:
    if (checkpoint / _PENDING).exists():
        run_dir.publish(checkpoint / _PENDING, run_dir.epoch_path(run, epoch))
