"""The code blocks of a page, run in order as a reader would, in a folder where the quick start has been done."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import SkipTest

from datasets import DatasetDict
from sybil import Document, Example
from sybil.parsers.markdown import CodeBlockParser, SkipParser

from hf_ltc.cli.main import main
from tests.texts import docstrings

# What the pages record and train, at a size for tests.
_SMALLER = (
    (re.compile(r"^hf-ltc record (?!.*--epochs )", re.MULTILINE), "hf-ltc record --epochs 30 "),
    (re.compile(r"^hf-ltc record (?!.*--(model|text-column) )", re.MULTILINE), "hf-ltc record --model resnet18 "),
    (re.compile(r"^hf-ltc evaluate (?!.*--iterations )", re.MULTILINE), "hf-ltc evaluate --iterations 30 "),
    (re.compile(r"--mixed-precision bf16"), ""),
    (re.compile(r"--image-size \d+"), "--image-size 16"),
    (re.compile(r"(--epochs |\bepochs=)\d+"), r"\g<1>2"),
    (re.compile(r"(--iterations |\biterations=)\d+"), r"\g<1>5"),
    (re.compile(r"(--seeds |\bseeds=)\d+"), r"\g<1>1"),
    (re.compile(r"train\[:\d+\]"), "train[:120]"),
    (re.compile(r"(?:\b(?:resnet18|resnet10t|vgg11_bn|swin_tiny|densenet121)\b ?)+"), "test_resnet "),
)


def smaller(code: str) -> str:
    for pattern, replacement in _SMALLER:
        code = pattern.sub(replacement, code)
    return code


def datasets_of_pages(small: DatasetDict) -> dict[str, DatasetDict]:
    """Small datasets under the names and with the columns of those on the Hub that the pages record."""
    digits = small.rename_columns({"image": "img", "label": "fine_label"})
    texts = docstrings(160).remove_columns("name")
    return {
        "uoft-cs/cifar100": digits,
        "zalando-datasets/fashion_mnist": small,
        "fancyzhx/ag_news": DatasetDict(train=texts.select(range(120)), test=texts.select(range(120, len(texts)))),
    }


def run_page(page: Path, folder: Path) -> list[str]:
    """Runs the blocks of a page.

    Args:
        page (`Path`): A Markdown file.
        folder (`Path`): Where they run.

    Returns:
        `list[str]`: Of each block why it was not run, or nothing.
    """
    parsers = [CodeBlockParser("python", _python), CodeBlockParser("bash", _shell), SkipParser()]
    document = Document.parse(str(page), *parsers)
    reasons = []
    with contextlib.chdir(folder):
        for example in document:
            is_block = isinstance(example.parsed, str)
            try:
                example.evaluate()
            except SkipTest as skipped:
                reasons.append(str(skipped))
            except BaseException as error:
                # By its text: an error of any library goes to the process of the test.
                raise AssertionError(f"{page.name}, line {example.line}: {type(error).__name__}: {error}") from None
            else:
                reasons += [""] * is_block
    return reasons


def _python(example: Example) -> None:
    code = compile("\n" * example.line + smaller(example.parsed), example.path, "exec")
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, example.namespace)


def _shell(example: Example) -> None:
    for line in smaller(example.parsed.replace("\\\n", " ")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["hf-ltc"]:
            # In a process that has the imports behind it.
            said = io.StringIO()
            with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
                code = main(words[1:])
            assert code == 0, f"{line}\n{said.getvalue()}"
        elif words:
            path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
            done = subprocess.run(
                ["bash", "-euc", line], env=os.environ | {"PATH": path}, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
