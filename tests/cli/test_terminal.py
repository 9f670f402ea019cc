"""What commands say where the terminal can show little, or nobody reads: nothing that was done is lost."""

import json
import logging
import os
import subprocess
import sys
import warnings
from contextlib import suppress

import pytest

from hf_ltc import InputError, LTCWarning
from hf_ltc.cli.demo import digits
from hf_ltc.cli.main import main
from hf_ltc.cli.terminal import heard_news

RECORD = "record --dataset data --model test_resnet --epochs 2 --batch-size 32 --num-workers 0 --output-dir"
# As in a container: what is printed is written at once, and meets a closed pipe then and not at the end.
UNBUFFERED = {"PYTHONUNBUFFERED": "1"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """60 digits and a recording of them."""
    folder = tmp_path_factory.mktemp("terminal")
    digits()[0].select(range(60)).save_to_disk(folder / "data")
    assert main([*RECORD.replace(" data ", f" {folder}/data ").split(), str(folder / "run")]) == 0
    return folder


def shell(folder, line, code=0, **environment):
    """What a line of bash prints; its exit code is that of the first command of a pipe."""
    hf_ltc = f'hf-ltc() {{ {sys.executable} -m hf_ltc "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-c", f"{hf_ltc}{line}\nexit ${{PIPESTATUS[0]}}"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == code, done
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize(
    "line, environment", [("score --help", {}), ("compare run run --json", UNBUFFERED)], ids=["help", "results"]
)
def test_a_reader_that_has_gone_ends_a_command_as_it_ends_others(place, line, environment):
    done = shell(place, f"hf-ltc {line} | sleep 0", 141, **environment)
    assert done.stderr == b""


@pytest.mark.parametrize(
    "name, streams, code",
    [("pipe", "2>&1 | head -n 1", 141), ("errors", "2>&1 >out | sleep 0", 0), ("closed", ">&- 2>&-", 0)],
)
def test_work_goes_on_without_readers(place, name, streams, code):
    # datasets draws its bars into a pipe too.
    shell(place, f"hf-ltc score run --output {name}-scored {streams}", code)
    assert (place / f"{name}-scored" / "state.json").is_file()
    if name == "pipe":
        shell(place, f"hf-ltc {RECORD} {name} {streams}", code, **UNBUFFERED)
        assert json.loads((place / name / "recipe.json").read_text())["epochs"] == [0, 1, 2]


def test_a_full_disk_under_the_output_is_told(place):
    done = shell(place, "hf-ltc compare run run >/dev/full", 1)
    assert done.stderr.decode() == "hf-ltc: error: cannot write the output (No space left on device)\n"


def test_what_the_terminal_has_not_is_shown_escaped(place):
    done = shell(place, "hf-ltc score run --output 'scöred'", PYTHONIOENCODING="ascii")
    assert r"sc\xf6red" in done.stdout.decode("ascii")
    error = shell(place, "hf-ltc score 'nö' --output x", 2, PYTHONIOENCODING="ascii").stderr.decode("ascii")
    assert error == "hf-ltc: error: no run directory 'n\\xf6': make one with hf-ltc record\n"


@pytest.mark.parametrize(
    "locale, word",
    [
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, "dätä"),
        ({"PYTHONUTF8": "1"}, "$'d\\xe4ta'"),
    ],
    ids=["an encoding without the characters", "bytes of another encoding"],
)
def test_a_name_that_is_no_text_here_is_one_line(place, locale, word):
    (said,) = shell(place, f"hf-ltc evaluate run {word}", 2, **locale).stderr.decode("ascii").splitlines()
    assert said.startswith("hf-ltc: error: RUN 'd") and "set LC_ALL=C.UTF-8" in said and r"\udc" in said


def test_news_and_warnings_are_lines_in_the_words_of_a_command(capsys):
    log = logging.getLogger("hf_ltc.anything")
    with heard_news({"runs": "--runs"}, speaks=True):
        log.info("epoch 1 of 3")
        log.error("process 1: `runs` is 0")
        for _ in range(2):
            warnings.warn("more `runs`, or `rows`", LTCWarning, stacklevel=1)
        with pytest.raises(DeprecationWarning):
            warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert capsys.readouterr().err.splitlines() == [
        "epoch 1 of 3",
        "hf-ltc: process 1: --runs is 0",
        *["hf-ltc: warning: more --runs, or `rows`"] * 2,
    ]
    with heard_news({}, speaks=False):
        warnings.warn("said by another process", LTCWarning, stacklevel=1)
        log.error("process 1: fails")
    assert capsys.readouterr().err == "hf-ltc: process 1: fails\n"
    for error in (InputError, KeyboardInterrupt, None):
        with suppress(InputError, KeyboardInterrupt), heard_news({}, speaks=True, late=True):
            warnings.warn("scores are odd", LTCWarning, stacklevel=1)
            assert capsys.readouterr().err == ""
            if error is not None:
                raise error
        assert capsys.readouterr().err == ("" if error is InputError else "hf-ltc: warning: scores are odd\n")
    log.info("nobody asked")
    assert capsys.readouterr().err == ""
    with pytest.warns(LTCWarning):
        warnings.warn("as Python has it", LTCWarning, stacklevel=1)


def test_an_interruption_says_something(monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    monkeypatch.setattr("hf_ltc.cli.record.Compare.execute", interrupted)
    assert main(["compare", "one", "two"]) == 130
    assert capsys.readouterr().err == "hf-ltc: stopped\n"
