"""The folder of an evaluation: which settings and recordings its trials are of."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..scores.protocol import losses_digest
from ..trajectories.value import Trajectories
from ..utils import files
from ..utils.errors import InputError

SETTINGS = "evaluation.json"
# What proxies said of coresets, which may stand beside an evaluation.
JUDGEMENTS = "judgements.json"
# Raised where trials of a name come to mean other rows: 6 since images whose validation loss rises are ranked by
# typicality alone.
FORMAT = 6


def named_recordings(folder: Path, runs: Mapping[str, Trajectories]) -> dict[str, tuple[Trajectories, str]]:
    """Recordings and their digests, by the name under which the folder knows each already, if it does.

    The command line names recordings so that their names differ, which depends on what else is given: a recording
    keeps its trials under whichever name it is given next.
    """
    path = folder / SETTINGS
    stored = files.read_json(path) if path.exists() else {}
    known = {name: each["digest"] for name, each in stored["sources"].items()} if _is_ours(stored) else {}
    digests = {name: losses_digest(run) for name, run in runs.items()}
    free = [name for name, digest in known.items() if digests.get(name) != digest]
    names = {}
    for name, digest in digests.items():
        names[name] = name
        if known.get(name) == digest:
            continue
        if same := [other for other in free if known[other] == digest]:
            names[name] = same[0]
            free.remove(same[0])
        elif name in known:
            raise _of_other_settings(
                folder, [f"the recording {name!r} is another one: name both in one call to compare them"]
            )
    return {names[name]: (run, digests[name]) for name, run in runs.items()}


def check_folder(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Checks that a folder is free, or of these settings; returns the settings that it holds, if any."""
    path = folder / SETTINGS
    if folder.exists() and not folder.is_dir():
        raise InputError(f"`output_dir` {str(folder)!r} is a file: give a folder")
    if not path.exists():
        if folder.is_dir() and any(not _is_beside(entry) for entry in folder.iterdir()):
            raise InputError(
                f"`output_dir` {str(folder)!r} holds other files and no {SETTINGS}: give a folder of its own to an "
                "evaluation"
            )
        return None
    stored = files.read_json(path)
    if differ := _differences(stored, settings):
        raise _of_other_settings(folder, differ)
    return stored


def check_free(folder: Path) -> None:
    """Checks that a folder is free, or of an evaluation.

    Raises:
        InputError: for any other.
    """
    if not (folder / SETTINGS).exists():
        check_folder(folder, {})


def _is_beside(entry: Path) -> bool:
    return entry.name.startswith(".") or entry.name == JUDGEMENTS


def _of_other_settings(folder: Path, differ: Sequence[str]) -> InputError:
    return InputError(
        f"`output_dir` {str(folder)!r} holds results of other settings ({'; '.join(differ)}): give another "
        "`output_dir`, or those settings to continue in it"
    )


def claim(folder: Path, settings: dict[str, Any], trials: Sequence[str]) -> None:
    """Writes into the folder that it is of these settings, and adds these trials; any process may come first."""
    with locked(folder):
        stored = check_folder(folder, settings)
        before = {"sources": {}, "cells": []} if stored is None else stored
        merged = {
            **(stored or settings),
            "sources": {**before["sources"], **settings["sources"]},
            "cells": list(dict.fromkeys([*before["cells"], *trials])),
        }
        if merged != stored:
            files.write_json(folder / SETTINGS, merged)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    with files.locked(folder / f".{SETTINGS}.lock"):
        yield


def _is_ours(stored: Mapping[str, Any]) -> bool:
    return stored.get("format") == FORMAT


def _differences(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    if not _is_ours(stored):
        return [f"they are of format {stored.get('format')!r}, now {wanted['format']}"]
    told = {
        **wanted["config"],
        **{name: wanted[name] for name in ("iterations", "epochs", "image_size", "image_column")},
        **{name: wanted.get(name) for name in ("text_column", "text_pair_column")},
    }
    was = {**stored["config"], **stored}
    differ = [
        f"`{name}` was {was.get(name)!r}, now {value!r}" for name, value in told.items() if was.get(name) != value
    ]
    for name, what in (("train", "the recorded dataset"), ("test", "the test rows")):
        keys = [key for key, value in wanted[name].items() if stored[name].get(key) != value]
        differ += [f"{what}: {', '.join(keys)}"] if keys else []
    differ += ["the candidate rows"] if stored["pool"] != wanted["pool"] else []
    differ += [
        f"the recording {name!r} is another one"
        for name, each in wanted["sources"].items()
        if stored["sources"].get(name, each)["digest"] != each["digest"]
    ]
    return differ
