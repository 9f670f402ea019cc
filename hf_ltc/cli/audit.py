"""The command `audit`: the rows of a recorded dataset that are worth a look."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import option
from ..recipe import Recipe
from .command import (
    AUDIT,
    AUDITED,
    DATASET_HELP,
    LOSSES_HELP,
    VALIDATION_HELP,
    Command,
    Losses,
    Results,
    check_output,
    recorded_split,
    recorded_validation,
    save,
)
from .parsing import LocalPath, argument

if TYPE_CHECKING:
    from datasets import Dataset

# Rows on screen.
_SHOWN = 20
# Characters of a class name on screen.
_LONGEST = 24


@dataclass(frozen=True, kw_only=True)
class Audit(Command):
    """Find rows whose label is probably wrong, and rows that contradict the validation samples."""

    run: LocalPath = argument("RUN", "run directory of hf-ltc record, with --signals margin predicted")
    output: LocalPath | None = option(None, f"folder for the table, {AUDITED}", metavar="FOLDER")
    dataset: str | None = option(None, DATASET_HELP)
    validation_split: str | None = option(None, VALIDATION_HELP)
    fraction: float | None = option(None, "share of the rows to call label issues; estimated if not given")
    losses: Losses | None = option(None, LOSSES_HELP)

    PARAMETERS: ClassVar = {"validation": "validation_split"}
    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        import numpy as np

        from ..report.audit import KINDS, audit
        from ..trajectories.value import Trajectories

        run = Trajectories.load(self.run, losses=self.losses)
        recipe = Recipe.from_dict(run.recipe)
        folder = None
        if self.output is not None:
            folder = check_output(self.output, AUDIT, self.run, self.dataset or recipe.dataset.path)
        train = recorded_split(recipe.dataset, self.dataset)
        validation = recorded_validation(recipe, self.dataset, self.validation_split)
        table = audit(run, train, validation, fraction=self.fraction)
        counted = Counter(table["kind"][:])
        counts = {kind: counted[kind] for kind in KINDS}
        worst = table.select(np.argsort(table["label_quality"][:], kind="stable")[:_SHOWN])
        values: dict[str, Any] = {"output": self.output, "rows": len(table), "kinds": counts, "worst": worst.to_list()}
        text = [
            f"Of {len(table):,} rows " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) + ".",
            f"The {len(worst)} whose label is most probably wrong:",
            _as_text(worst),
        ]
        if table.data.column("suggested_label").null_count == len(table):
            text.append("No label is suggested: record with `RecordConfig.signals` predicted for that.")
        following: list[Command | str] = []
        if folder is not None:
            made = {"fraction": self.fraction, "rows": len(table), "kinds": counts}
            save(table, folder, {**run.recipe, AUDIT: made})
            path = str(folder / AUDITED)
            text.append(f"In {self.output}: {AUDITED}, one row for each row that was recorded.")
            following.append(f"import datasets; table = datasets.Dataset.from_parquet({path!r})")
        return Results(values, text, following)


def _as_text(table: "Dataset") -> str:
    """The rows as columns of text, with the names of classes."""
    import pandas as pd

    frame = table.to_pandas()
    for name in ("label", "suggested_label"):
        names = getattr(table.features[name], "names", None)
        frame[name] = [
            _shown(names[int(each)] if names else int(each)) if pd.notna(each) else "" for each in frame[name]
        ]
    if "id" in frame:
        frame["id"] = [_shown(each) for each in frame["id"]]
    return frame.drop(columns="is_label_issue").to_string(index=False, float_format="{:.4f}".format)


def _shown(name: Any) -> str:
    """A name from the data as printable text on one line."""
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(name).split()))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
