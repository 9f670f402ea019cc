"""The command `audit`: the rows of a recorded dataset that are worth a look."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..config import DataConfig, recorded_config
from ..recipe import Recipe
from ..report.duplicates import SIMILARITY
from ..utils.errors import InputError
from ..utils.settings import option
from .command import (
    APPLIED,
    AUDIT,
    AUDITED,
    CHANGES,
    DATASET_HELP,
    LOSSES_HELP,
    VALIDATION_HELP,
    Command,
    Losses,
    Results,
    beside,
    check_output,
    recorded_split,
    recorded_validation,
    save,
    warn_of_unfinished,
)
from .parsing import LocalPath, argument
from .record import Record

if TYPE_CHECKING:
    from datasets import Dataset

Kind = Literal["label issue", "shared with validation", "near-duplicate", "conflicting", "ambiguous"]
# Rows on screen.
_SHOWN = 20
# Characters of a class name on screen.
_LONGEST = 24


@dataclass(frozen=True, kw_only=True)
class Audit(Command):
    """Find rows whose label is probably wrong, near-duplicates, and rows that contradict the validation samples."""

    run: LocalPath = argument("RUN", "run directory of hf-ltc record, with --signals margin predicted --features")
    output: LocalPath | None = option(None, f"folder for the table, {AUDITED}", metavar="FOLDER")
    dataset: str | None = option(None, DATASET_HELP)
    validation_split: str | None = option(None, VALIDATION_HELP)
    fraction: float | None = option(None, "share of the rows to report as label issues; estimated if not given")
    similarity: float = option(SIMILARITY, "minimum similarity of near-duplicates, in (0, 1)")
    apply: Literal["drop", "relabel"] | None = option(
        None,
        f"save a new dataset without these rows, or with their suggested labels, and {CHANGES}, with which "
        "hf_ltc.undo_audit reverts it",
    )
    kinds: list[Kind] = option([], "kinds of rows that `apply` changes; label issue if not given")
    losses: Losses | None = option(None, LOSSES_HELP)

    PARAMETERS: ClassVar = {"validation": "validation_split"}
    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        import numpy as np
        import pyarrow.compute as pc

        from ..report.apply import apply_audit
        from ..report.audit import ISSUE, KINDS, audit
        from ..trajectories.value import Trajectories

        if self.apply is not None and self.output is None:
            raise InputError(f"`apply` {self.apply!r} makes a new dataset: give a folder for it with `output`")
        if self.kinds and self.apply is None:
            raise InputError(f"`kinds` {self.kinds[0]!r} goes with `apply`: give that, or leave it out")
        run = Trajectories.load(self.run, losses=self.losses)
        warn_of_unfinished(self.run)
        recipe = Recipe.from_dict(run.recipe)
        folder = None
        if self.output is not None:
            folder = check_output(self.output, AUDIT, self.run, self.dataset or recipe.dataset.path)
        train = recorded_split(recipe.dataset, self.dataset)
        validation = recorded_validation(recipe, self.dataset, self.validation_split)
        table = audit(run, train, validation, fraction=self.fraction, similarity=self.similarity)
        counted = Counter(table["kind"][:])
        counts = {kind: counted[kind] for kind in KINDS}
        worst = table.select(np.argsort(table["label_quality"][:], kind="stable")[:_SHOWN])
        values: dict[str, Any] = {"output": self.output, "rows": len(table), "kinds": counts, "worst": worst.to_list()}
        text = [
            f"{len(table):,} rows: " + ", ".join(f"{count:,} {kind}" for kind, count in counts.items()) + ".",
            f"The {len(worst)} labels that are most likely wrong:",
            _as_text(worst),
        ]
        if table.data.column("suggested_label").null_count == len(table):
            text.append("No labels are suggested: that needs a recording with `RecordConfig.signals` predicted.")
        if run.features is None:
            text.append(
                "Near-duplicates were not searched for: that needs `RecordConfig.features`, which can be added to a "
                "finished run."
            )
        else:
            values["near_duplicate_groups"] = pc.count_distinct(table.data["near_duplicate_group"]).as_py()
            text.append(f"Near-duplicates are in {values['near_duplicate_groups']:,} groups.")
        if folder is None:
            return Results(values, text)
        made: dict[str, Any] = {"fraction": self.fraction, "similarity": self.similarity, "rows": len(table)}
        text.append(f"Written to {self.output}: {AUDITED}, with one row per recorded row.")
        following: list[Command | str] = [
            f"import datasets; table = datasets.Dataset.from_parquet({str(folder / AUDITED)!r})"
        ]
        applied = None
        if self.apply is not None:
            kinds: list[str] = [*self.kinds] or [ISSUE]
            applied = apply_audit(run, train, table, self.apply, kinds=kinds)
            made |= {"apply": self.apply, "apply_kinds": kinds, "changed": len(applied.changes)}
            values["changed"] = len(applied.changes)
            done = "dropped" if self.apply == "drop" else "relabeled"
            text.append(
                f"{len(applied.changes):,} rows were {done} ({', '.join(kinds)}): {APPLIED} is the new dataset, "
                f"and {CHANGES} lists the changes."
            )
            changed = DataConfig(dataset=str(folder / APPLIED), split=str(applied.dataset.split or "train"))
            following += _recorded_again(recipe, changed, beside(self.run, f"-{self.apply}"))
        save(table, folder, {**run.recipe, AUDIT: {**made, "kinds": counts}}, applied)
        return Results(values, text, following)


def _recorded_again(recipe: Recipe, data: DataConfig, output: str) -> list[Command | str]:
    """The command that records the new dataset as the old one was, if hf-ltc record did that with rows held out."""
    config = recorded_config(recipe)
    if config is None or recipe.validation.split is not None:
        return []
    return [Record(data=data, config=replace(config, output_dir=output))]


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
    return frame.drop(columns=["is_label_issue", "near_duplicate_group"]).to_string(
        index=False, float_format="{:.4f}".format
    )


def _shown(name: Any) -> str:
    """A name from the data as printable text on one line."""
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(name).split()))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
