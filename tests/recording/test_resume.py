"""Recording again into the folder of a run: killed or not it ends the same, and nothing else goes on with it."""

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hf_ltc.recording.record import record
from hf_ltc.trajectories import run_dir
from hf_ltc.trajectories.value import Trajectories
from hf_ltc.utils import files
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start
from tests.recording.runs import record_from_disk, saved, settings, snapshot, wait_for


def test_a_finished_run_is_returned_as_it_is(small, tmp_path):
    record(settings(tmp_path / "run"), small["train"])
    before = snapshot(tmp_path / "run")
    record(settings(tmp_path / "run", num_workers=1), small["train"])
    assert snapshot(tmp_path / "run") == before


def test_another_configuration_or_dataset_is_refused(small, tmp_path):
    train = small["train"]
    record(settings(tmp_path / "run"), train)
    before = snapshot(tmp_path / "run")
    with pytest.raises(InputError, match=r"`learning_rate` was 0\.05, now 0\.2"):
        record(settings(tmp_path / "run", learning_rate=0.2), train)
    with pytest.raises(InputError, match="another dataset: its rows differs"):
        record(settings(tmp_path / "run"), train.select(range(140)))
    with pytest.raises(InputError, match="another dataset: its labels differs"):
        record(settings(tmp_path / "run"), train.shuffle(seed=1))
    with pytest.raises(InputError, match="other validation samples"):
        record(settings(tmp_path / "run"), train, small["test"])
    with pytest.raises(InputError, match=r"holds a single run: give another one for `runs` 2"):
        record(settings(tmp_path / "run", runs=2), train)
    assert snapshot(tmp_path / "run") == before


def test_a_run_whose_images_were_read_in_another_way_is_not_continued(small, tmp_path):
    record(settings(tmp_path / "run"), small["train"])
    path = tmp_path / "run" / files.RECIPE
    recipe = files.read_json(path)
    # As recipes were written before there were two ways.
    del recipe["training"]["decoding"]
    files.write_json(path, recipe)
    record(settings(tmp_path / "run"), small["train"])
    del recipe["epochs"]
    files.write_json(path, recipe)
    before = snapshot(tmp_path / "run")
    with pytest.raises(InputError, match=r"run' holds a run begun by another version.*give another `output_dir`"):
        record(settings(tmp_path / "run"), small["train"])
    assert snapshot(tmp_path / "run") == before


def test_seeds_of_another_configuration_are_refused(small, tmp_path):
    record(settings(tmp_path / "runs", runs=2), small["train"])
    before = snapshot(tmp_path / "runs")
    with pytest.raises(InputError, match=r"`epochs` was 2, now 3.*`learning_rate` was 0\.05, now 0\.01"):
        record(settings(tmp_path / "runs", runs=2, seed=2, epochs=3, learning_rate=0.01), small["train"])
    with pytest.raises(InputError, match="holds several runs"):
        record(settings(tmp_path / "runs"), small["train"])
    assert snapshot(tmp_path / "runs") == before


def test_where_the_dataset_is_kept_does_not_matter(small, tmp_path):
    first = record(settings(tmp_path / "run"), small["train"], source={"path": "/a", "split": "train"})
    again = record(settings(tmp_path / "run"), small["train"], source={"path": "/b"})
    np.testing.assert_array_equal(first.losses, again.losses)


def test_an_epoch_file_that_is_gone_is_named_before_going_on(small, tmp_path):
    process = start(record_from_disk, saved(small, tmp_path), vars(settings(tmp_path / "run", epochs=60)))
    wait_for(run_dir.epoch_path(tmp_path / "run", 3), process)
    process[0].kill()
    finish(process)
    gone = run_dir.epoch_path(tmp_path / "run", 1)
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(InputError, match=r"no file .*epoch-00001"):
        record(settings(tmp_path / "run", epochs=60), small["train"])
    gone.write_bytes(content[:-8])
    with pytest.raises(InputError, match=r"cannot read .*epoch-00001"):
        record(settings(tmp_path / "run", epochs=60), small["train"])


def test_two_commands_do_not_write_into_one_run(small, tmp_path):
    process = start(record_from_disk, saved(small, tmp_path), vars(settings(tmp_path / "run", epochs=500)))
    wait_for(run_dir.epoch_path(tmp_path / "run", 1), process)
    with pytest.raises(InputError, match="is being recorded into by another process"):
        record(settings(tmp_path / "run", epochs=500), small["train"])
    assert process[0].is_alive()
    process[0].kill()
    finish(process)


@pytest.mark.parametrize("missing", ["checkpoint", "model"])
def test_what_resuming_needs_is_named_when_it_is_gone(small, tmp_path, missing):
    process = start(record_from_disk, saved(small, tmp_path), vars(settings(tmp_path / "run", epochs=60)))
    wait_for(run_dir.epoch_path(tmp_path / "run", 2), process)
    process[0].kill()
    finish(process)
    checkpoint = max((tmp_path / "run" / "checkpoint").glob("epoch-*"))
    if missing == "checkpoint":
        shutil.rmtree(tmp_path / "run" / "checkpoint")
    else:
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(InputError, match=str(tmp_path / "run")):
        record(settings(tmp_path / "run", epochs=60), small["train"])


def dying_recorder(data, config, call):
    """Records, and is killed by the kernel at the n-th call that puts a file in its place."""
    calls = iter(range(call + 1))

    def dying(function):
        def called(*arguments, **options):
            if next(calls, None) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return called

    os.replace, os.link, os.fsync = dying(os.replace), dying(os.link), dying(os.fsync)
    record_from_disk(data, config)


KILLED = {"epochs": 4, "losses": "both", "signals": ["margin"]}


@pytest.fixture(scope="module")
def uninterrupted(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    data = saved(small, folder)
    for name in ("first", "second"):
        # The first start has the imports before it, which later ones do not wait for.
        begun = time.monotonic()
        assert finish(start(record_from_disk, data, vars(settings(folder / name, **KILLED)))) == [0]
    assert snapshot(folder / "first") == snapshot(folder / "second")
    return data, snapshot(folder / "first"), time.monotonic() - begun


def check_published(folder, whole, known):
    """Published epochs are complete, right, and never written again."""
    for path in (folder / "trajectories").glob("epoch-*"):
        name = str(path.relative_to(folder))
        assert hashlib.sha256(path.read_bytes()).hexdigest() == whole[name]
        assert known.setdefault(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns


def test_killed_at_twenty_random_moments_it_ends_bit_by_bit_the_same(uninterrupted, tmp_path):
    data, whole, duration = uninterrupted
    generator = random.Random(0)
    killed, number = 0, 0
    known = {}
    folder = tmp_path / "run-0"
    while killed < 20:
        process = start(record_from_disk, data, vars(settings(folder, **KILLED)))
        process[0].join(generator.uniform(0, duration))
        process[0].kill()
        (code,) = finish(process)
        assert code in (0, -signal.SIGKILL)
        killed += code != 0
        check_published(folder, whole, known)
        if code == 0:
            assert snapshot(folder) == whole
            number += 1
            folder = tmp_path / f"run-{number}"
    assert finish(start(record_from_disk, data, vars(settings(folder, **KILLED)))) == [0]
    assert snapshot(folder) == whole


@pytest.mark.parametrize("first", range(3))
def test_killed_while_a_file_is_put_in_its_place(uninterrupted, tmp_path, first):
    data, whole, _ = uninterrupted
    known = {}
    folder = tmp_path / "run"
    codes = []
    # Each start dies one or some steps further on, so that all kinds of steps are cut off.
    for call in range(first, 60, 7):
        codes += finish(start(dying_recorder, data, vars(settings(folder, **KILLED)), call))
        if folder.exists():
            check_published(folder, whole, known)
        if codes[-1] == 0:
            break
    assert codes.count(-signal.SIGKILL) >= 3
    if codes[-1] != 0:
        assert finish(start(record_from_disk, data, vars(settings(folder, **KILLED)))) == [0]
    assert snapshot(folder) == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_between_steps_and_say_how_to_go_on(small, tmp_path, number):
    arguments = ["record", "--dataset", saved(small, tmp_path), "--model", "test_resnet", "--epochs", "2000"]
    arguments += ["--batch-size", "32", "--output-dir", str(tmp_path / "run")]
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_ltc", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 120
    while not run_dir.epoch_path(tmp_path / "run", 2).exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}" in said.splitlines()[-1]
    assert "run the same command again" in said.splitlines()[-1]
    assert "Traceback" not in said
    Trajectories.load(tmp_path / "run")


def short_of_space(data, config, said):
    """Records where no file can be larger than 100 kB: losses fit, checkpoints do not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        record_from_disk(data, config)
    except InputError as error:
        Path(said).write_text(str(error))


def test_without_space_it_says_so_and_keeps_what_it_has(uninterrupted, tmp_path):
    data, whole, _ = uninterrupted
    folder = tmp_path / "run"
    said = tmp_path / "said"
    assert finish(start(short_of_space, data, vars(settings(folder, **KILLED)), str(said))) == [0]
    (line,) = said.read_text().splitlines()
    assert line.startswith(f"cannot write '{folder / 'checkpoint' / 'epoch-00001'}'")
    assert "File too large" in line
    check_published(folder, whole, {})
    assert run_dir.published_epochs(folder) == [0]
    assert finish(start(record_from_disk, data, vars(settings(folder, **KILLED)))) == [0]
    assert snapshot(folder) == whole


@pytest.mark.parametrize("world", [1, 2])
def test_killed_in_the_second_of_two_runs_it_ends_the_same(uninterrupted, tmp_path, world):
    data, _, _ = uninterrupted
    config = {**KILLED, "runs": 2}
    assert set(finish(start(record_from_disk, data, vars(settings(tmp_path / "whole", **config)), world=world))) == {0}
    processes = start(record_from_disk, data, vars(settings(tmp_path / "run", **config)), world=world)
    wait_for(run_dir.epoch_path(tmp_path / "run" / "seed-1", 1), processes)
    for process in processes:
        process.kill()
    finish(processes)
    assert not (tmp_path / "run" / "recipe.json").exists()
    assert set(finish(start(record_from_disk, data, vars(settings(tmp_path / "run", **config)), world=world))) == {0}
    assert snapshot(tmp_path / "run") == snapshot(tmp_path / "whole")


def stopped_recording(data, config, folder):
    try:
        record_from_disk(data, config)
    except KeyboardInterrupt as stopped:
        (Path(folder) / f"said-{os.environ['RANK']}").write_text(str(stopped))


def test_a_signal_to_both_processes_stops_both(small, tmp_path):
    data = saved(small, tmp_path)
    config = vars(settings(tmp_path / "run", epochs=500, losses="both"))
    processes = start(stopped_recording, data, config, str(tmp_path), world=2)
    wait_for(run_dir.epoch_path(tmp_path / "run", 2), processes)
    for process in processes:
        os.kill(process.pid, signal.SIGTERM)
    assert finish(processes, timeout=120) == [0, 0]
    assert all("run the same command again" in (tmp_path / f"said-{rank}").read_text() for rank in (0, 1))


def refused_recording(data, config, said):
    with pytest.raises(InputError) as error:
        record_from_disk(data, config)
    Path(f"{said}-{os.environ.get('RANK', 0)}").write_text(str(error.value))


def test_two_processes_killed_end_bit_by_bit_the_same(uninterrupted, tmp_path):
    data, _, duration = uninterrupted
    assert finish(start(record_from_disk, data, vars(settings(tmp_path / "whole", **KILLED)), world=2)) == [0, 0]
    whole = snapshot(tmp_path / "whole")
    generator = random.Random(1)
    known = {}
    for _ in range(4):
        processes = start(record_from_disk, data, vars(settings(tmp_path / "run", **KILLED)), world=2)
        processes[0].join(generator.uniform(0.3, 1.2) * duration)
        for process in processes:
            process.kill()
        finish(processes)
        if (tmp_path / "run").exists():
            check_published(tmp_path / "run", whole, known)
    assert finish(start(record_from_disk, data, vars(settings(tmp_path / "run", **KILLED)), world=2)) == [0, 0]
    assert snapshot(tmp_path / "run") == whole
    # Begun on two, and not ended: as many rows a step on one or three are none of the same training.
    recipe = files.read_json(tmp_path / "run" / "recipe.json")
    files.write_json(tmp_path / "run" / "recipe.json", {k: v for k, v in recipe.items() if k != "epochs"})
    before = snapshot(tmp_path / "run")
    for world in (1, 3):
        config = vars(settings(tmp_path / "run", **KILLED))
        assert (
            finish(start(refused_recording, data, config, str(tmp_path / f"by-{world}"), world=world)) == [0] * world
        )
        for rank in range(world):
            (line,) = (tmp_path / f"by-{world}-{rank}").read_text().splitlines()
            assert f"it ran on 2 processes, now on {world}" in line and "give another `output_dir`" in line
    assert snapshot(tmp_path / "run") == before
