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
from tests.helpers import names, refused


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
    # Nor could the process write what it ran for `make coverage`.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(file), how],
        capture_output=True, text=True, check=True, timeout=120, env=environment,
    )  # fmt: skip
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
