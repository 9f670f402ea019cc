"""Trials: each done once, by one process or several, after interruptions too."""

import json
import os
import signal
import time
from functools import partial
from types import SimpleNamespace

import pytest

from hf_ltc.evaluation.trials import run_trials
from hf_ltc.utils.errors import InputError
from tests.processes import finish, start


def counted(log, name):
    """A trial that says in a file of its own that it was done."""

    def work():
        with open(log, "a") as file:
            file.write(f"{name}\n")
        return {"name": name, "process": os.getpid()}

    return work


def make(log, names="abcd"):
    return {name: counted(log, name) for name in names}


def test_each_trial_is_done_once_in_the_order_given(tmp_path):
    log = tmp_path / "log"
    found = run_trials(tmp_path / "cells", make(log, "cab"))
    assert list(found) == ["c", "a", "b"]
    assert [each["name"] for each in found.values()] == ["c", "a", "b"]
    assert log.read_text().split() == ["c", "a", "b"]
    assert sorted(path.name for path in (tmp_path / "cells").iterdir()) == ["a.json", "b.json", "c.json"]
    # Those that are there are not done again, also where they are some of more.
    assert run_trials(tmp_path / "cells", make(log, "abcd"))["a"] == found["a"]
    assert log.read_text().split() == ["c", "a", "b", "d"]


@pytest.mark.parametrize("error", [OSError("no device"), InputError("no good"), KeyboardInterrupt("stopped")])
def test_what_a_trial_raises_is_raised_and_it_is_done_the_next_time(tmp_path, error):
    def fails():
        raise error

    log = tmp_path / "log"
    with pytest.raises(type(error)) as raised:
        run_trials(tmp_path / "cells", {**make(log, "a"), "b": fails, **make(log, "c")})
    assert raised.value is error
    assert log.read_text().split() == ["a"]
    assert list(run_trials(tmp_path / "cells", make(log, "abc"))) == ["a", "b", "c"]
    assert log.read_text().split() == ["a", "b", "c"]
    assert not list((tmp_path / "cells").glob("*.lock"))


@pytest.mark.parametrize(
    "content, reason",
    [("{", "not JSON|delimiter|property name"), ("[1]", "a JSON list"), ('{"b": 1}', "it has no 'a'")],
)
def test_a_result_that_cannot_be_used_is_named_before_anything_is_done(tmp_path, content, reason):
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "two.json").write_text(content)
    log = tmp_path / "log"
    with pytest.raises(InputError, match=reason) as error:
        run_trials(tmp_path / "cells", make(log, ["one", "two"]), needed=["a"])
    assert str(tmp_path / "cells" / "two.json") in str(error.value) and "delete it" in str(error.value)
    assert not log.exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="cannot write"):
        run_trials(tmp_path / "file" / "cells", make(tmp_path / "log"))


def test_stop_is_asked_before_each_trial(tmp_path):
    def stop():
        if log.exists() and len(log.read_text().split()) == 2:
            raise KeyboardInterrupt("stopped")

    log = tmp_path / "log"
    with pytest.raises(KeyboardInterrupt, match="stopped"):
        run_trials(tmp_path / "cells", make(log), stop=stop)
    assert log.read_text().split() == ["a", "b"]


def test_a_line_a_trial_where_no_bar_is_drawn(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", "hf_ltc")
    now = [0.0]

    def work(name):
        # Each takes 40 s, by a clock of the test's own.
        now[0] += 40
        return {"name": name}

    monkeypatch.setattr("hf_ltc.evaluation.trials.time", SimpleNamespace(monotonic=lambda: now[0]))
    run_trials(tmp_path / "cells", {"a": lambda: work("a")}, progress=False)
    run_trials(tmp_path / "cells", {name: partial(work, name) for name in "abcd"}, "testing")
    assert caplog.messages == [
        "testing: 2 of 4 done, 01:20 left (b)",
        "testing: 3 of 4 done, 00:40 left (c)",
        "testing: 4 of 4 done, 00:00 left (d)",
    ]
    caplog.clear()
    run_trials(tmp_path / "other", make(tmp_path / "log", "ab"), progress=False)
    assert caplog.messages == []


def work_slowly(folder, log, names):
    def slow(name):
        def work():
            time.sleep(0.2)
            return counted(log, name)()

        return work

    run_trials(folder, {name: slow(name) for name in names}, progress=False)


def hang(folder):
    def work():
        (folder / "begun").touch()
        time.sleep(1000)
        return {}

    run_trials(folder, {"a": work}, progress=False)


def test_several_processes_share_the_trials(tmp_path):
    names = list("abcdefgh")
    workers = [start(work_slowly, tmp_path / "cells", tmp_path / "log", names)[0] for _ in range(2)]
    assert finish(workers) == [0, 0]
    assert sorted((tmp_path / "log").read_text().split()) == names
    found = [json.loads((tmp_path / "cells" / f"{name}.json").read_text()) for name in names]
    assert {each["process"] for each in found} == {worker.pid for worker in workers}


def test_a_trial_of_a_killed_process_is_taken_over(tmp_path, monkeypatch):
    (worker,) = start(hang, tmp_path)
    while not (tmp_path / "begun").exists():
        time.sleep(0.05)
    looks = []

    def stop():
        # While the other one is at it, it is waited for; then it is killed.
        looks.append(worker.is_alive())
        if len(looks) == 2:
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()

    monkeypatch.setattr("hf_ltc.evaluation.trials._WAIT", 0.05)
    assert run_trials(tmp_path, make(tmp_path / "log", "a"), stop=stop)["a"]["name"] == "a"
    assert looks[:2] == [True, True]
    assert (tmp_path / "log").read_text().split() == ["a"]
