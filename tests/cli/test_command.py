"""What commands have in common: a dataset takes the place of its earlier one whole, or not at all; names."""

import fcntl
import gc
import os
import signal
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset, List, Value, load_from_disk

from hf_ltc.cli.command import CORESET, SCORED, check_output, importing, recipe_beside, save
from hf_ltc.cli.main import main
from hf_ltc.cli.push import repository_name
from hf_ltc.recipe import Identity
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start


def rows(value: int, count: int = 10) -> Dataset:
    table = pa.table({"value": pa.array([value] * count), "x": pa.array([[0.0] * 8] * count, pa.list_(pa.float32()))})
    return Dataset(table).cast_column("x", List(Value("float32")))


def saved(folder: Path) -> tuple[int, int, int]:
    """What is there: the values, all alike, how many, and what the recipe says."""
    dataset = load_from_disk(str(folder))
    (value,) = set(dataset["value"][:])
    return value, len(dataset), recipe_beside(folder)[SCORED]["value"]


def put(folder: Path, value: int, count: int = 10) -> None:
    save(rows(value, count), check_output(str(folder), SCORED), {SCORED: {"value": value}})


def put_again_and_again(folder: Path) -> None:
    for value in range(1, 1000):
        put(folder, value, 20_000)


def test_a_killed_process_leaves_one_whole_dataset(tmp_path: Path):
    """Killed at any moment, that of the exchange among them; what it left is taken away by the next."""
    folder = tmp_path / "scored"
    put(folder, 0, 20_000)
    for moment in (0.05, 0.11, 0.17):
        (process,) = processes = start(put_again_and_again, folder)
        first = saved(folder)[0]
        while saved_or_none(folder) in (None, first) and process.is_alive():
            time.sleep(0.005)
        time.sleep(moment)
        os.kill(process.pid, signal.SIGKILL)
        assert finish(processes) == [-signal.SIGKILL]
        value, count, said = saved(folder)
        assert (count, said) == (20_000, value)
    put(folder, 7)
    assert saved(folder) == (7, 10, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["scored"]


def saved_or_none(folder: Path) -> int | None:
    # Between two reads another dataset may have come.
    try:
        return int(recipe_beside(folder)[SCORED]["value"])
    except (InputError, OSError):
        return None


def test_without_an_exchange_the_old_one_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As on file systems that cannot exchange two names: here killed between the two renames."""
    folder = tmp_path / "scored"
    put(folder, 1)
    monkeypatch.setattr(files, "_RENAME_EXCHANGE", 1 << 20)
    put(folder, 2)
    assert saved(folder) == (2, 10, 2) and [path.name for path in tmp_path.iterdir()] == ["scored"]
    os.rename(folder, tmp_path / ".scored.old")
    check_output(str(folder), SCORED)
    assert saved(folder) == (2, 10, 2)


def test_what_fails_leaves_what_was_there(tmp_path: Path):
    folder = tmp_path / "scored"
    put(folder, 1)
    with pytest.raises(ZeroDivisionError), files.replacing(folder) as temporary:
        rows(2).save_to_disk(str(temporary))
        1 / 0  # noqa: B018
    assert saved(folder) == (1, 10, 1) and [path.name for path in tmp_path.iterdir()] == ["scored"]


def test_only_what_the_same_command_saved_is_replaced(tmp_path: Path):
    folder = tmp_path / "scored"
    for name in (f"{folder}/", str(folder)):
        put(Path(name), 1)
        assert saved(folder) == (1, 10, 1)
    (tmp_path / "empty").mkdir()
    put(tmp_path / "empty", 2)
    (tmp_path / "link").symlink_to(folder)
    put(tmp_path / "link", 3)
    assert (tmp_path / "link").is_symlink() and saved(folder) == (3, 10, 3)
    # A cache of the user's is no reason to keep it, anything else is.
    load_from_disk(str(folder)).map(lambda row: row, load_from_cache_file=False)
    put(folder, 4)
    (folder / "notes.txt").write_text("mine")
    rows(1).save_to_disk(str(tmp_path / "theirs"))
    (tmp_path / "file").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for name, kind, message in [
        ("scored", SCORED, "holds 'notes.txt' next to an earlier result"),
        ("scored", CORESET, "exists already: give another folder"),
        ("theirs", SCORED, "exists already: give another folder"),
        ("file", SCORED, "exists already: give another folder"),
    ]:
        with pytest.raises(InputError, match=message):
            check_output(str(tmp_path / name), kind)
    for read in (folder, folder / "inside"):
        with pytest.raises(InputError, match="which is read: give another folder"):
            check_output(f"{folder}/", SCORED, str(read))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_output_that_another_process_writes_is_left_to_it(tmp_path: Path):
    folder = tmp_path / "scored"
    put(folder, 1)
    (process,) = processes = start(put_again_and_again, folder)
    try:
        message = None
        while message is None and process.is_alive():
            try:
                check_output(str(folder), SCORED)
            except InputError as error:
                message = str(error)
        assert message is not None and "is being written by another process: wait for it" in message
    finally:
        process.kill()
        finish(processes)


def test_what_is_taken_away_before_it_is_locked_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process takes a new folder for one that a killed process left, and comes again while it is written."""
    folder, made, taken = tmp_path / "scored", Path.mkdir, []

    def make(path: Path, *arguments: object, **options: object) -> None:
        made(path, *arguments, **options)
        if files.is_temporary(path, folder) and len(taken) < 2:
            taken.append(path)
            check_output(str(folder), SCORED)
            assert not path.exists()

    monkeypatch.setattr(Path, "mkdir", make)
    put(folder, 1)
    assert len(taken) == 2 and saved(folder) == (1, 10, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["scored"]


def test_a_folder_is_waited_for_until_it_is_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another process has just locked it to take it away."""
    folder, made, waited = tmp_path / "scored", Path.mkdir, []

    def make(path: Path, *arguments: object, **options: object) -> None:
        made(path, *arguments, **options)
        if files.is_temporary(path, folder) and not waited:
            descriptor = os.open(path, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)

            def take_away() -> None:
                path.rmdir()
                os.close(descriptor)

            waited.append(threading.Timer(0.2, take_away))
            waited[0].start()

    monkeypatch.setattr(Path, "mkdir", make)
    put(folder, 1)
    assert waited and saved(folder) == (1, 10, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["scored"]


def test_select_into_what_it_reads_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    put(tmp_path / "scored", 1)
    for output in (tmp_path / "scored", f"{tmp_path}/scored/", tmp_path):
        assert main(["select", str(tmp_path / "scored"), "--size", "1", "--output", str(output)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("hf-ltc: error: --output ") and "which is read" in line
    assert saved(tmp_path / "scored") == (1, 10, 1)


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ({"repo_id": "uoft-cs/cifar100"}, "cifar100-ltc"),
        ({"path": "/data/my images (1)/"}, "my-images-1-ltc"),
        ({"path": "/data/--x..y__z"}, "x-y-z-ltc"),
        ({"path": "/data/图像"}, "coreset-ltc"),
        ({}, "coreset-ltc"),
    ],
    ids=str,
)
def test_a_repository_is_named_after_its_dataset(dataset: dict[str, str], name: str):
    assert repository_name(Identity(**dataset)) == name


def test_nothing_looks_for_garbage_while_modules_are_imported():
    assert gc.isenabled()
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    # Once a process: what is made later may be garbage.
    assert gc.get_freeze_count()
