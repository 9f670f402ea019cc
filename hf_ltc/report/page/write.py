"""Writes the page of a recording."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ...coresets.order import Balance
from ...data.inputs import require_dataset
from ...evaluation.results import Evaluation
from ...scores.protocol import require_classes, require_recorded
from ...trajectories.value import Trajectories
from ...utils import files
from ...utils.errors import InputError, require
from ...utils.files import local
from .contents import gather
from .facts import dataset_title, doubts, left_out, recorded_facts
from .html import GENERATOR, page
from .pictures import check_pictures, write_pictures

_HEAD = 1024


def write_report(
    trajectories: Trajectories,
    dataset: Dataset,
    path: str | Path,
    *,
    validation: Dataset | None = None,
    evaluation: Evaluation | str | Path | None = None,
    dataset_name: str | None = None,
    preset: str | None = None,
    balance: Balance = "class",
    typical: float | None = None,
    baselines: Sequence[str] = (),
    pictures: bool = False,
    id_column: str | None = None,
    **variant: Any,
) -> Path:
    """Writes a page that shows what a recording found: one HTML file that needs no network.

    ```python
    run = record(RecordConfig(signals=["margin", "predicted"], ...), train)
    write_report(run, train, "report.html")
    ```

    It shows the losses and the reliability of the recording, the distribution of scores, the data map, what each
    budget keeps of each class, with the images (or texts) at its edge, and the rows whose label is probably wrong. It
    contains small copies of some images, so share it only with people who may see them. Paths and access tokens are
    left out.

    Args:
        trajectories ([`Trajectories`]): The recording.
        dataset (`datasets.Dataset`): The recorded dataset, as for [`Trajectories.attach`].
        path (`str` or `Path`): The file; only an earlier page of this function is overwritten.
        validation (`datasets.Dataset`, *optional*): The validation samples, if they are a separate split.
        evaluation ([`Evaluation`], `str` or `Path`, *optional*):
            What [`evaluate_coresets`] returned, or its `results.json`.
        dataset_name (`str`, *optional*): Name of the dataset on the page, if it is not on the Hub.
        preset (`str`, *optional*): As for [`ltc_scores`].
        balance (`str`, *optional*, defaults to `"class"`): As for [`rank_coreset`].
        typical (`float`, *optional*): As for [`Trajectories.score`].
        baselines (`Sequence[str]`, *optional*): Known scores to show as well, as for [`baseline_scores`].
        pictures (`bool`, *optional*, defaults to `False`):
            Also write pictures next to it: `rows_kept_and_dropped.png`, `data_map.png` and `losses.png`; only those of
            an earlier page are overwritten.
        id_column (`str`, *optional*): As for [`Trajectories.attach`].
        **variant: `of`, `aggregate`, `scope`, `weighting`, as for [`ltc_scores`].

    Returns:
        `Path`: the file.

    Raises:
        InputError: as [`audit`] and [`ltc_scores`], and for a path that cannot be written.
    """
    require_recorded(trajectories)
    require_classes(trajectories, "the page shows", "see the scores with hf-ltc score and select")
    require_dataset(dataset, "dataset")
    is_list = not isinstance(baselines, str) and len(set(baselines)) == len(baselines)
    require(is_list, "baselines", baselines, "a list of different names")
    file = check_page(path)
    if pictures:
        check_pictures(file.parent)
    if isinstance(evaluation, str | Path):
        evaluation = Evaluation.load(evaluation)
    contents = gather(
        trajectories,
        dataset,
        validation,
        evaluation,
        preset=preset,
        variant=variant,
        balance=balance,
        typical=typical,
        baselines=baselines,
        id_column=id_column,
    )
    text = page(
        contents,
        dataset_title(contents.recipe, dataset_name),
        recorded_facts(contents),
        doubts(trajectories, contents),
        left_out(contents),
    )
    with files.replacing(file) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    if pictures:
        write_pictures(contents, file.parent)
    return file


def check_page(path: str | Path, name: str = "path") -> Path:
    """Checks that a page may be written to a file: a new one, or one that is such a page.

    Args:
        path (`str` or `Path`): The file.
        name (`str`, *optional*, defaults to `"path"`): The parameter that it was given as.

    Raises:
        InputError: for any other file, and for a folder.
    """
    file = local(path, name)
    if file.is_dir():
        inside = str(file / "report.html")
        raise InputError(f"`{name}` {str(path)!r} is a folder: give a file, such as {inside!r}")
    if file.exists():
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
        if f'content="{GENERATOR}'.encode() not in head:
            raise InputError(f"`{name}` {str(path)!r} exists and is no report: give another file, or delete it")
    return file
