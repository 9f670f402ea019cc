"""Dataclasses as command lines: read as transformers' parser reads them, and written as they are read."""

import dataclasses
import shlex
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import HfArgumentParser

from hf_ltc.cli.evaluate import Evaluate
from hf_ltc.cli.main import COMMANDS, _parser
from hf_ltc.cli.parsing import Parser, command_line, dashed, parsed
from hf_ltc.cli.push import Push
from hf_ltc.cli.record import Record
from hf_ltc.cli.score import Score
from hf_ltc.cli.select import Select
from hf_ltc.config import DataConfig, EvaluateConfig, RecordConfig

# What argparse takes for an option is none of a value that stands apart.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
WORD = TEXT.filter(lambda text: not text.startswith("-"))
SHARES = st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0, 1e-05]), min_size=1, max_size=3, unique=True)


def read(line: str) -> Any:
    options = _parser().parse_args(dashed(shlex.split(line)[1:]))
    return parsed(options, options.command)


@st.composite
def option_words(draw: st.DrawFn, config: type) -> list[str]:
    """Some options of a dataclass, in the spellings that people use."""
    words = []
    for field in draw(st.lists(st.sampled_from(dataclasses.fields(config)), max_size=6)):
        option = f"--{field.name}"
        option = option.replace("_", "-") if draw(st.booleans()) else option
        default = field.default if field.default is not dataclasses.MISSING else None
        if isinstance(default, bool):
            forms = [[option], [option, "no"], [f"{option}=True"], [option, "maybe"]]
            forms += [[option.replace("--", "--no-" if "_" not in option else "--no_", 1)]] * default
            words += draw(st.sampled_from(forms))
            continue
        value = draw(st.sampled_from(["1", "0.5", "-2", "cosine", "a b", "", "margin", "none"]))
        words += draw(st.sampled_from([[option, value], [f"{option}={value}"], [option, value, "el2n"]]))
    return words


@pytest.mark.parametrize("config", [RecordConfig, EvaluateConfig, DataConfig])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_options_are_read_as_transformers_reads_them(config: type, data: st.DataObject):
    class Quiet(HfArgumentParser):
        def error(self, message):
            raise ValueError

    words = data.draw(option_words(config))
    words += ["--dataset", "d"] if config is DataConfig else []
    parser = Parser(prog="hf-ltc")
    parser.add_options(config, {})
    try:
        wanted = vars(Quiet(config, allow_abbrev=False).parse_args(words))
    except ValueError:
        with pytest.raises(SystemExit):
            parser.parse_args(dashed(words))
        return
    assert vars(parser.parse_args(dashed(words))) == wanted


COMMAND = st.one_of(
    st.builds(
        Record,
        data=st.builds(DataConfig, dataset=TEXT, validation_split=st.none() | TEXT),
        config=st.builds(
            RecordConfig,
            seed=st.integers(0, 9),
            learning_rate=st.sampled_from([0.1, 3e-05, 0]),
            signals=st.lists(st.sampled_from(["margin", "el2n"]), unique=True),
            augment=st.booleans(),
            compile=st.booleans(),
        ),
    ),
    st.builds(
        Select, scored=WORD, output=TEXT, fraction=st.just(0.25), label_column=st.none() | TEXT,
        coverage=st.sampled_from([None, "beta"]), exclude_negative=st.booleans(), min_per_class=st.integers(-2, 2),
    ),
    st.builds(Push, run=WORD, repo_id=WORD, fractions=SHARES, private=st.booleans(), evaluation=st.none() | TEXT),
    st.builds(
        Evaluate,
        runs=st.lists(WORD, min_size=1, max_size=3),
        config=st.builds(EvaluateConfig, fractions=SHARES, full=st.booleans(), balance=st.sampled_from(["none"])),
    ),
)  # fmt: skip


@given(command=COMMAND)
@example(command=Record(data=DataConfig(dataset="d", validation_split="-*"), config=RecordConfig()))
@settings(max_examples=150, deadline=None)
def test_the_line_of_a_command_gives_that_command(command: Any):
    line = command_line(command)
    found = read(line)
    # Folders are read as they are called.
    assert command_line(found) == command_line(read(command_line(found)))
    assert type(found) is type(command) and len(shlex.split(line)) == len(shlex.split(command_line(found)))
    for field in dataclasses.fields(command):
        if field.name not in ("run", "runs", "scored", "output", "evaluation"):
            assert getattr(found, field.name) == getattr(command, field.name), line


def test_words_are_quoted_and_defaults_left_out():
    selecting = Select(scored="-x", output="a b", label_column="-l", fraction=0.1, keep="highest")
    assert command_line(selecting) == "hf-ltc select ./-x --fraction 0.1 --output 'a b' --label-column=-l"
    assert read(command_line(selecting)) == selecting
    pushing = Push(run="r", repo_id="me/x", fractions=[0.1, 1.0], private=True)
    assert command_line(pushing) == "hf-ltc push r me/x --fractions 0.1 1 --private"
    odd = Score(run="it's $HOME `a` \\ *", output="o")
    assert shlex.split(command_line(odd))[2] == "it's $HOME `a` \\ *"
    line = command_line(Evaluate(runs=["-a", "b"], config=EvaluateConfig(full=False)))
    assert line == "hf-ltc evaluate ./-a b --no-full"


def test_options_of_old_releases_are_understood():
    assert dashed(["score", "a_b", "--score_column", "c_d", "--no_full", "--x_y=a_b", "--", "--e_f"]) == [
        "score", "a_b", "--score-column", "c_d", "--no-full", "--x-y=a_b", "--", "--e_f",
    ]  # fmt: skip
    assert read("hf-ltc evaluate run --no_full") == read("hf-ltc evaluate run --no-full")


HEAVY = "torch", "transformers", "datasets", "accelerate", "timm", "pyarrow", "pandas", "sklearn"


@pytest.mark.parametrize("command", ["", *(command.__name__.lower() for command in COMMANDS)])
def test_help_loads_nothing_that_takes_seconds(command: str):
    said = f"import sys; sys.argv = ['hf-ltc', *{[command] * bool(command)!r}, '--help']\n"
    said += "import hf_ltc, hf_ltc.cli.main\ncode = hf_ltc.cli.main.main()\n"
    said += f"print(code, sorted(sys.modules.keys() & set({HEAVY!r})))"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: hf-ltc") and done.stdout.endswith("\n0 []\n")
