"""What each command prints as the next one works as it stands, in a shell, from the recording to the Hub."""

import contextlib
import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Value, load_from_disk

from hf_ltc.cli.main import main
from tests.hub_server import Client, Hub

pytest_plugins = ["tests.hub_fixtures"]
_QUICK = "--model test_resnet --epochs 3 --batch-size 32 --learning-rate 0.02 --no-augment"


def two_labels(rows: Dataset) -> Dataset:
    """As CIFAR-100 has them: two columns of classes, neither of which is called label."""
    coarse = [label % 2 for label in rows["label"]]
    kind = ClassLabel(names=["even", "odd"])
    return (
        rows.rename_columns({"image": "img", "label": "fine"}).add_column("coarse", coarse).cast_column("coarse", kind)
    )


def text_labels(rows: Dataset) -> Dataset:
    names = rows.features["label"].names
    return rows.remove_columns("label").add_column("kind of digit", [f"no. {names[i]}" for i in rows["label"]])


def shell(line: str, client: Client, folder: Path) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        line, shell=True, cwd=folder, env={**os.environ, **client.environment, "PATH": path},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stderr}"
    return done.stdout


def run_here(line: str, folder: Path) -> str:
    """The same in a process that has the imports behind it."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(shlex.split(line)[1:]) == 0
    return said.getvalue()


def following(said: str) -> str:
    (line,) = [line.removeprefix("Next: ") for line in said.splitlines() if line.startswith("Next: ")]
    return line


def run_python(said: str, client: Client, folder: Path) -> Dataset:
    """The rows that the statement which is printed loads."""
    (line,) = [line for line in said.splitlines() if line.startswith("Next, in Python: ")]
    statement = line.removeprefix("Next, in Python: ") + "; coreset.save_to_disk('as said')"
    shell(f"{shlex.quote(sys.executable)} -c {shlex.quote(statement)}", client, folder)
    return load_from_disk(folder / "as said")


def test_the_printed_chain_with_two_label_columns_two_runs_and_names_that_shells_read(
    hub: Hub, client: Client, small: DatasetDict, tmp_path: Path
):
    data = DatasetDict(
        {name: two_labels(rows.select(range(80 if name == "train" else 20))) for name, rows in small.items()}
    )
    data.save_to_disk(tmp_path / "my data" / "it's $5")
    record = f'hf-ltc record --dataset "my data/it\'s \\$5" --label-column fine {_QUICK} --runs 2'
    said = shell(f"{record} --output-dir='-a $run'", client, tmp_path)
    scoring = following(said)
    assert scoring == "hf-ltc score './-a $run' --output './-a $run-scored'"
    selecting = following(shell(scoring, client, tmp_path))
    # From here on in a process that has the imports behind it, split as a shell does.
    said = client(run_here, selecting, tmp_path)
    # Of 70 rows 10% would be fewer than the classes.
    (folder,) = [path for path in tmp_path.iterdir() if path.name.endswith("-30pct")]
    coreset = load_from_disk(folder)
    # By the classes that were recorded: of ten, no two rows of one before there is one of each.
    assert len(set(coreset["fine"][:])) == 10
    evaluating = following(said)
    assert evaluating.startswith("hf-ltc evaluate")
    said = client(run_here, following(client(run_here, evaluating, tmp_path)), tmp_path)
    assert hub.dataset("me/it-s-5-ltc").private
    assert run_python(said, client, tmp_path)["ltc_score"][:] == coreset["ltc_score"][:]


def test_the_printed_chain_with_labels_of_text_another_score_and_no_test_rows(
    hub: Hub, client: Client, small: DatasetDict, tmp_path: Path
):
    text_labels(small["train"]).save_to_disk(tmp_path / "texts")
    record = f"hf-ltc record --dataset texts --label-column 'kind of digit' {_QUICK} --output-dir '~runs/texts/'"
    scoring = following(client(run_here, record, tmp_path))
    assert scoring == f"hf-ltc score '{tmp_path}/~runs/texts' --output '{tmp_path}/~runs/texts-scored'"
    # The same with another score variant, by the score alone, and classes as they come.
    selecting = following(client(run_here, f"{scoring} --preset ltc --balance none --typical 0", tmp_path))
    said = client(run_here, selecting, tmp_path)
    coreset = load_from_disk(tmp_path / "~runs" / "texts-scored-10pct")
    assert coreset.features["kind of digit"] == Value("string")
    scores = [score for score in load_from_disk(tmp_path / "~runs" / "texts-scored")["ltc_score"] if score is not None]
    assert sorted(coreset["ltc_score"][:]) == sorted(scores)[-len(coreset) :]
    # Nothing to test models on.
    pushing = following(said)
    assert pushing.startswith("hf-ltc push '~runs/texts' texts-ltc ") and "--typical 0" in pushing
    client(run_here, pushing, tmp_path)
    assert hub.dataset("me/texts-ltc").private
