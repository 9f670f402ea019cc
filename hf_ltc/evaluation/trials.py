"""Trials: each is done once, by one process or several, and those left are done after an interruption."""

import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import Timeout
from tqdm.auto import tqdm

from ..utils import files
from ..utils.errors import InputError

logger = logging.getLogger(__name__)
# Seconds between looks at trials that other processes are at.
_WAIT = 1.0


@dataclass(frozen=True)
class Trial:
    """One model, trained on the rows that one method chose."""

    model: str
    method: str
    seed: int
    rows: int
    fraction: float | None = None
    source: str | None = None

    @property
    def name(self) -> str:
        parts = [_file_name(self.model), self.method]
        parts += [_file_name(self.source)] if self.source is not None else []
        parts += [f"{self.fraction!r}"] if self.fraction is not None else []
        return "+".join([*parts, f"seed{self.seed}"])


def _file_name(name: str) -> str:
    """A name as part of a file's; one that cannot be it as it is gets a digest, so that no two share a file."""
    plain = re.sub(r"[^\w.-]+", "-", name)[-40:]
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def run_trials(
    folder: Path,
    trials: Mapping[str, Callable[[], dict[str, Any]]],
    description: str = "trials",
    *,
    needed: Sequence[str] = (),
    stop: Callable[[], Any] = lambda: None,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Does the trials that have no result yet, and waits for those that other processes are at.

    A trial's result is written whole or not at all, as `NAME.json`; one that was interrupted is done again. Any number
    of processes may work on the same folder, each at a trial that no other has taken. If a process ends before its
    trial has a result, another process takes the trial.

    Args:
        folder (`Path`): Where results are kept; made if it is not there.
        trials (`Mapping[str, Callable[[], dict]]`): What to do by name, in the order in which it is done; a name is
            that of a file.
        description (`str`, *optional*, defaults to `"trials"`): For the progress bar.
        needed (`Sequence[str]`, *optional*): What every result must have; one without it is of another version.
        stop (`Callable[[], Any]`, *optional*): Called before each trial and while waiting; it may raise to stop.
        progress (`bool`, *optional*, defaults to `True`): Draw a progress bar with the time left, or print a line a
            trial where none can be drawn, as in the log of a job.

    Returns:
        `dict[str, dict]`: the results by name, in the order given.

    Raises:
        InputError: for a result that cannot be read or written, naming the file. What a trial raises is raised as it
            is.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.unwritable(folder, error) from error
    paths = {name: folder / f"{name}.json" for name in trials}
    # First those that are there, so that one that will not do is refused at once.
    found = {name: _read(path, needed) for name, path in paths.items() if path.exists()}
    started, there = time.monotonic(), len(found)
    shown = None if progress else True
    with tqdm(total=len(trials), initial=there, desc=description, unit="trial", disable=shown) as bar:
        while len(found) < len(trials):
            before = len(found)
            for name, work in trials.items():
                stop()
                if name in found or not _is_done(paths[name], work):
                    continue
                found[name] = _read(paths[name], needed)
                bar.update()
                if bar.disable and progress:
                    # At the pace of all processes together, as the bar has it.
                    pace = (time.monotonic() - started) / (len(found) - there)
                    left = tqdm.format_interval(pace * (len(trials) - len(found)))
                    said = f"{description}: {len(found)} of {len(trials)} done, {left} left ({name})"
                    logger.info(said)
            if len(found) == before:
                time.sleep(_WAIT)
    return {name: found[name] for name in trials}


def done_trials(folder: Path, needed: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The results in a folder that can be used, whoever asked for them, by name and in the order of the names.

    Args:
        folder (`Path`): As for [`run_trials`].
        needed (`Sequence[str]`, *optional*): Likewise.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        with suppress(InputError):
            found[path.name.removesuffix(".json")] = _read(path, needed)
    return found


def _is_done(path: Path, work: Callable[[], dict[str, Any]]) -> bool:
    """Does a trial unless another process has done it, or is at it: then it is not done yet."""
    if path.exists():
        return True
    try:
        lock = files.locked(path.with_name(path.name.removesuffix(".json") + ".lock"), timeout=0)
    except Timeout:
        return False
    try:
        # Another process may have finished between the look and the lock.
        if not path.exists():
            files.write_json(path, work())
        # Once the result is there nobody needs the lock. A process that ends before leaves it to the next one: the
        # system takes it back.
        Path(lock.lock_file).unlink(missing_ok=True)
    finally:
        lock.release()
    return True


def _read(path: Path, needed: Sequence[str]) -> dict[str, Any]:
    try:
        result = files.read_json(path)
        missing = [name for name in needed if name not in result]
        reason = f"it has no {missing[0]!r}: of another version?" if missing else ""
    except InputError as error:
        reason = str(error.__cause__ or error)
    if reason:
        raise InputError(f"cannot use the result {str(path)!r} ({reason}): delete it, and its trial is done again")
    return result
