"""Files of a run directory: whole or not at all, never rewritten, and named when they cannot be read or written."""

import errno
import fcntl
import json
import os
import re
import stat
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from filelock import Timeout
from safetensors import SafetensorError
from safetensors.numpy import save_file

from hf_ltc.evaluation.trials import run_trials
from hf_ltc.trajectories import run_dir
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError


def names(folder):
    """What is in a folder, hidden files included."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def refused(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def write_text(path, text="new"):
    with files.replacing(path) as temporary:
        temporary.write_text(text)


WRITERS = {
    "text": write_text,
    "json": lambda path: files.write_json(path, {"new": 1}),
    "arrays": lambda path: files.write_arrays(path, {"new": np.zeros(3)}),
}


def test_replacing_makes_folders_and_takes_the_place_of_the_old_file(tmp_path):
    file = tmp_path / "a" / "b" / "file"
    write_text(file, "old")
    write_text(file, "new")
    assert file.read_text() == "new"
    assert names(tmp_path) == ["a", "a/b", "a/b/file"]


def test_nothing_is_seen_of_a_file_before_it_is_whole(tmp_path):
    file = tmp_path / "file"
    write_text(file, "old")
    with files.replacing(file) as temporary:
        temporary.write_text("ne")
        assert temporary.parent == file.parent
        assert file.read_text() == "old"
    assert file.read_text() == "ne"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, InputError])
@pytest.mark.parametrize("folder", [False, True])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error, folder):
    file = tmp_path / "file"
    write_text(file, "old")
    with pytest.raises(error, match="halfway"), files.replacing(file) as temporary:
        if folder:
            temporary.mkdir()
            (temporary / "part").write_text("new")
        else:
            temporary.write_text("new")
        raise error("halfway")
    assert names(tmp_path) == ["file"]
    assert file.read_text() == "old"


def test_a_folder_can_be_put_in_place(tmp_path):
    with files.replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("new")
    assert names(tmp_path) == ["folder", "folder/part"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with (
        pytest.raises(InputError, match=r"cannot write '.*/file' \(No such file"),
        files.replacing(tmp_path / "file"),
    ):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_in_place_of_the_folder_is_named(tmp_path, writer):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(
        InputError, match=r"cannot write '.*/run/part/file' \((File exists|Not a directory)\)"
    ) as error:
        WRITERS[writer](tmp_path / "run" / "part" / "file")
    assert "): give another folder; what was written before is intact" in refused(error)
    assert names(tmp_path) == ["run"]
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_in_place_of_the_file_is_named(tmp_path, writer):
    (tmp_path / "file" / "kept").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write '.*/file' \(Is a directory\)") as error:
        WRITERS[writer](tmp_path / "file")
    refused(error)
    assert names(tmp_path) == ["file", "file/kept"]


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from hf_ltc.trajectories import run_dir
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
path, how = Path(sys.argv[1]), sys.argv[2]
try:
    if how == "json":
        files.write_json(path, {"new": "x" * 10_000})
    else:
        files.write_arrays(path, {"new": np.zeros(10_000)})
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["json", "arrays"])
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_full_disk_leaves_the_old_file_and_is_named(tmp_path, how):
    # A limit of the size of files stands for a disk without room: writing fails halfway.
    file = tmp_path / "file"
    write_text(file, "old")
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(file), how], capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stderr == ""
    (line,) = ran.stdout.splitlines()
    assert line.startswith(f"cannot write {str(file)!r} (")
    assert "File too large" in line
    assert names(tmp_path) == ["file"]
    assert file.read_text() == "old"


def test_json_and_back(tmp_path):
    value = {"number": 1, "share": 0.5, "text": "Müll", "list": [1, {"a": None}], "nested": {"b": True}}
    files.write_json(tmp_path / "file.json", value)
    assert files.read_json(tmp_path / "file.json") == value
    assert "Müll" in (tmp_path / "file.json").read_text(encoding="utf-8")


def test_json_has_no_nan(tmp_path):
    value = {"nan": float("nan"), "list": [float("inf"), 1.0, (-float("inf"),)], "numpy": np.float64("nan")}
    files.write_json(tmp_path / "file.json", value)

    def reject(constant):
        raise AssertionError(constant)

    text = (tmp_path / "file.json").read_text()
    assert json.loads(text, parse_constant=reject) == {"nan": None, "list": [None, 1.0, [None]], "numpy": None}


@pytest.mark.parametrize("content, reason", [(None, "No such file"), (b"{", "not JSON"), (b"[1]", "a JSON list, not")])
def test_json_that_cannot_be_read_is_named(tmp_path, content, reason):
    if content is not None:
        (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot read '.*file.json' \({reason}") as error:
        files.read_json(tmp_path / "file.json")
    refused(error)


def test_arrays_and_back(tmp_path):
    arrays = {
        "losses": np.array([0.1, np.nan, np.inf], dtype=np.float32),
        "rows": np.arange(4, dtype=np.int64),
        "turned": np.arange(6.0).reshape(2, 3).T,
        "empty": np.zeros((0, 3), np.float32),
    }
    files.write_arrays(tmp_path / "file", arrays, {"epoch": "3"})
    found = files.read_arrays(tmp_path / "file")
    assert found.keys() == arrays.keys()
    for name, values in arrays.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    assert files.read_arrays(tmp_path / "file", ["rows"]).keys() == {"rows"}
    with files.opened(tmp_path / "file") as content:
        assert files.marks_of(content) == {"epoch": "3"}


def test_arrays_that_cannot_be_read_are_named(tmp_path):
    file = tmp_path / "file"
    with pytest.raises(InputError, match=r"cannot read '.*file' \(.*No such file") as error:
        files.read_arrays(file)
    refused(error)
    files.write_arrays(file, {"a": np.zeros(2), "b": np.zeros(2)})
    with pytest.raises(InputError, match=r"cannot read '.*file' \(it has no c, d, only a, b\)"):
        files.read_arrays(file, ["a", "c", "d"])
    whole = file.read_bytes()
    for size in range(0, len(whole), 7):
        file.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cannot read '.*file' \(truncated or not safetensors") as error:
            files.read_arrays(file)
        refused(error)
    with pytest.raises(InputError, match="cannot read"):
        files.read_arrays(tmp_path)


def test_epochs_and_seeds_by_their_names(tmp_path):
    assert run_dir.published_epochs(tmp_path) == []
    assert run_dir.seed_folders(tmp_path) == []
    for epoch in (100_000, 3, 0, 12):
        files.write_arrays(run_dir.epoch_path(tmp_path, epoch), {})
    folder = tmp_path / run_dir.TRAJECTORIES
    for other in (
        ".epoch-00004.safetensors.ab.tmp",
        "epoch-4.safetensors",
        "epoch-00005.txt",
        "xepoch-00006.safetensors",
    ):
        (folder / other).write_text("")
    assert run_dir.epoch_path(tmp_path, 3).name == "epoch-00003.safetensors"
    assert run_dir.published_epochs(tmp_path) == [0, 3, 12, 100_000]
    for name in (*(f"seed-{seed}" for seed in range(20, 0, -3)), "seed-x", "seed-1.old", "seeds"):
        (tmp_path / name).mkdir()
    assert [path.name for path in run_dir.seed_folders(tmp_path)] == [f"seed-{seed}" for seed in range(2, 21, 3)]


def no_links(*_):
    raise OSError("no links here")


@pytest.mark.parametrize("links", [True, False])
def test_publish_puts_a_file_in_place(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    pending, final = tmp_path / "pending", tmp_path / "run" / "epoch"
    pending.write_text("losses")
    run_dir.publish(pending, final)
    assert final.read_text() == "losses"
    assert pending.read_text() == "losses"
    assert names(tmp_path) == ["pending", "run", "run/epoch"]


@pytest.mark.parametrize("links", [True, False])
def test_publish_never_rewrites(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    pending, final = tmp_path / "pending", tmp_path / "run" / "epoch"
    pending.write_text("losses")
    run_dir.publish(pending, final)
    before = final.stat()
    run_dir.publish(pending, final)
    (tmp_path / "other").write_text("other losses")
    run_dir.publish(tmp_path / "other", final)
    after = final.stat()
    assert final.read_text() == "losses"
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert names(tmp_path) == ["other", "pending", "run", "run/epoch"]


def test_publish_names_what_it_cannot_write(tmp_path):
    (tmp_path / "pending").write_text("losses")
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match=r"cannot write '.*/run/epoch'"):
        run_dir.publish(tmp_path / "pending", tmp_path / "run" / "epoch")
    with pytest.raises(InputError, match=r"cannot write '.*/epoch'"):
        run_dir.publish(tmp_path / "nothing", tmp_path / "epoch")
    assert names(tmp_path) == ["pending", "run"]


@pytest.fixture
def table(tmp_path):
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    paths = [tmp_path / f"{t}" for t in range(6)]
    for path, row in zip(paths, values):
        files.write_arrays(path, {"loss": row, "other": -row})
    return run_dir.EpochTable(paths, "loss", 4), values


def test_an_epoch_table_is_the_array(table):
    epochs, values = table
    assert epochs.shape == values.shape
    assert epochs.dtype == np.float32
    assert len(epochs) == 6
    np.testing.assert_array_equal(np.asarray(epochs), values)
    assert np.asarray(epochs, dtype=np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.stack(list(epochs)), values)
    for t in (0, 3, -1, np.int64(2)):
        np.testing.assert_array_equal(epochs[t], values[t])
    with pytest.raises(IndexError):
        epochs[6]


@pytest.mark.parametrize(
    "taken", [slice(1, 4), slice(None, None, -2), np.array([5, 0, 2]), np.arange(6) % 2 == 0, [], [3]], ids=str
)
def test_epochs_of_a_table_are_a_table(table, taken):
    epochs, values = table
    part = epochs[taken]
    assert isinstance(part, run_dir.EpochTable)
    wanted = values[np.array(taken, dtype=int) if isinstance(taken, list) else taken]
    assert part.shape == wanted.shape
    np.testing.assert_array_equal(np.asarray(part), wanted)


def test_an_epoch_table_reads_when_asked_for(table):
    epochs, values = table
    epochs.paths[2].unlink()
    np.testing.assert_array_equal(epochs[3], values[3])
    with pytest.raises(InputError, match=r"cannot read '.*/2'"):
        np.asarray(epochs)


@pytest.mark.parametrize("row", [np.zeros(3, np.float32), np.zeros(4, np.float64), np.zeros((4, 1), np.float32)])
def test_an_epoch_of_another_shape_is_named(table, row):
    epochs, _ = table
    files.write_arrays(epochs.paths[1], {"loss": row})
    with pytest.raises(
        InputError, match=r"cannot read '.*/1' \(loss is float.*, not float32\[4\]: of another run"
    ) as e:
        epochs[1]
    refused(e)


def test_a_folder_for_a_run_is_new_empty_or_its_own(tmp_path):
    def never(_):
        return False

    files.check_free(tmp_path / "new", never)
    files.check_free(tmp_path, never)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"`output_dir` '.*' holds other files"):
        files.check_free(tmp_path, never)
    files.check_free(tmp_path, lambda path: path == tmp_path)
    with pytest.raises(InputError, match=r"`output_dir` '.*file' is a file: give a folder"):
        files.check_free(tmp_path / "file", lambda _: True)


WRITER = textwrap.dedent(
    """
    import sys, itertools
    from pathlib import Path
    from hf_ltc.trajectories import run_dir
    from hf_ltc.utils import files
    print("ready", flush=True)
    for number in itertools.count():
        files.write_json(Path(sys.argv[1]), {"numbers": [number] * 20_000})
    """
)


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    file = tmp_path / "file.json"
    files.write_json(file, {"numbers": [-1]})
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "ready\n"
            first = file.stat().st_ino
            while file.stat().st_ino == first:
                assert writer.poll() is None
            writer.kill()
        numbers = files.read_json(file)["numbers"]
        assert len(numbers) == 20_000
        assert len(set(numbers)) == 1
    left = [Path(name).suffix for name in names(tmp_path)]
    assert set(left) <= {".json", ".tmp"}


@pytest.mark.parametrize("metadata", [None, {}, {"hf_ltc": "{"}, {"hf_ltc": "[1]"}, {"other": "1"}])
def test_a_file_of_another_tool_has_no_marks(tmp_path, metadata):
    save_file({"loss": np.zeros(2)}, tmp_path / "file", metadata=metadata)
    with files.opened(tmp_path / "file") as content:
        assert files.marks_of(content) == {}


def test_the_same_arrays_make_the_same_bytes(tmp_path):
    arrays = {name: np.full(3, ord(name)) for name in "badc"}
    marks = {name: name for name in "zyxw"}
    files.write_arrays(tmp_path / "one", arrays, marks)
    files.write_arrays(tmp_path / "two", dict(reversed(arrays.items())), dict(reversed(marks.items())))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


# modes, reasons and locks


@pytest.mark.parametrize("umask, file, folder", [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)])
def test_the_umask_decides_who_may_read(tmp_path, umask, file, folder):
    before = os.umask(umask)
    try:
        for writer, write in WRITERS.items():
            write(tmp_path / "run" / writer)
        with files.replacing(tmp_path / "run" / "whole") as temporary:
            (temporary / "part").mkdir(parents=True)
            with tempfile.NamedTemporaryFile(dir=temporary, delete=False) as private:
                assert stat.S_IMODE(os.stat(private.name).st_mode) == 0o600
            save_file({"a": np.ones(2)}, temporary / "part" / "a.safetensors")
        (tmp_path / "run" / "pending").write_bytes(b"")
        (tmp_path / "run" / "pending").chmod(0o600)
        run_dir.publish(tmp_path / "run" / "pending", tmp_path / "run" / "published")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*")}
    assert len(modes) > 5
    assert modes == {path: folder if path.is_dir() else file for path in modes}


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "full"), "(No space left on device): make room there or give another folder"),
        (OSError(errno.EDQUOT, ""), "(Disk quota exceeded): make room there or give another folder"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "(No space left on device): make room"),
        (OSError("[Errno 28] Error writing bytes to file"), "(No space left on device): make room"),
        (PermissionError(errno.EACCES, "no"), "(Permission denied): give a folder that you may write to"),
        (OSError(errno.EROFS, ""), "(Read-only file system): give a folder that you may write to"),
        (OSError(errno.EIO, ""), "(Input/output error): give another folder"),
        (SafetensorError(""), "(SafetensorError): give another folder"),
        (SafetensorError("\n\n  Some tensors\n share memory"), "(Some tensors share memory): give another folder"),
        (OSError(), "(OSError): give another folder"),
        (OSError(errno.ENOLCK, ""), "(No locks available): its file system does not lock files"),
        (NotImplementedError(), "(NotImplementedError): its file system does not lock files"),
    ],
    ids=repr,
)
def test_an_error_has_its_reason_and_what_helps_against_it(tmp_path, error, said):
    with pytest.raises(InputError) as raised:
        raise files.unwritable(tmp_path / "file", error)
    assert refused(raised).startswith(f"cannot write {str(tmp_path / 'file')!r} {said}")


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.ENOLCK, "(No locks available): its file system does not lock files"),
        (errno.EOPNOTSUPP, "(Operation not supported): its file system does not lock files"),
        (errno.EIO, "(Input/output error): give another folder"),
        # Which filelock takes for a lock that another process holds.
        (errno.EACCES, "(Permission denied): its file system does not lock files"),
        (errno.EPERM, "(Operation not permitted): its file system does not lock files"),
        (errno.EAGAIN, "(Resource temporarily unavailable): give another folder"),
    ],
)
def test_a_file_system_that_does_not_lock_is_told(tmp_path, monkeypatch, number, said):
    def refuses(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuses)
    for timeout in (0, -1):
        with pytest.raises(InputError, match=re.escape(f"cannot lock {str(tmp_path / 'lock')!r} {said}")):
            files.locked(tmp_path / "lock", timeout)
    with pytest.raises(InputError, match="cannot lock"):
        run_trials(tmp_path / "cells", {"a": dict})


def test_a_lock_is_held_until_it_is_released(tmp_path):
    with files.locked(tmp_path / "new" / "lock"), pytest.raises(Timeout):
        files.locked(tmp_path / "new" / "lock", timeout=0)
    files.locked(tmp_path / "new" / "lock", timeout=0).release()


def test_a_name_of_no_encoding_is_written_and_read_as_it_is(tmp_path):
    files.write_json(tmp_path / "recipe.json", {"path": "d\udce4ta", "name": "dätä 猫"})
    assert "dätä 猫" in (tmp_path / "recipe.json").read_text(encoding="utf-8")
    assert files.read_json(tmp_path / "recipe.json") == {"path": "d\udce4ta", "name": "dätä 猫"}
