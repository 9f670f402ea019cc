"""The command `report`: a page that shows what was recorded."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ..coresets.order import Balance
from ..recipe import Recipe
from ..utils.settings import option
from .command import (
    BASELINE_NAMES,
    DATASET_HELP,
    LOSSES_HELP,
    VALIDATION_HELP,
    Command,
    Losses,
    Results,
    VariantOptions,
    recorded_split,
    recorded_validation,
    selection_option,
    warn_of_unfinished,
)
from .parsing import Flag, LocalPath, argument
from .push import Push, repository_name

PAGE = "report.html"


@dataclass(frozen=True, kw_only=True)
class Report(Command):
    """Write a page that shows which rows are kept, dropped and probably wrong: one HTML file."""

    run: LocalPath = argument("RUN", "run directory of hf-ltc record, with --signals margin predicted")
    output: LocalPath | None = option(None, f"the HTML file; RUN/{PAGE} if not given", metavar="FILE")
    dataset: str | None = option(None, DATASET_HELP)
    validation_split: str | None = option(None, VALIDATION_HELP)
    evaluation: LocalPath | None = option(None, "results.json of hf-ltc evaluate, to show as well", metavar="RESULTS")
    dataset_name: str | None = option(None, "what the page calls a dataset that is not on the Hub")
    variant: VariantOptions = dataclasses.field(default_factory=VariantOptions)
    losses: Losses | None = option(None, LOSSES_HELP)
    balance: Balance = selection_option("balance")
    typical: float | None = selection_option("typical")
    pictures: Flag = option(False, "also write pictures (PNG), which hf-ltc push puts on the card")
    baseline: list[str] = option([], f"known scores to show as well: {BASELINE_NAMES}")

    PARAMETERS: ClassVar = {"path": "output", "validation": "validation_split", "baselines": "baseline"}
    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        from ..report.page.pictures import check_pictures
        from ..report.page.write import check_page, write_report
        from ..trajectories.value import Trajectories

        run = Trajectories.load(self.run, losses=self.losses)
        warn_of_unfinished(self.run)
        recipe = Recipe.from_dict(run.recipe)
        file = check_page(self.output if self.output is not None else Path(self.run) / PAGE)
        if self.pictures:
            check_pictures(file.parent)
        train = recorded_split(recipe.dataset, self.dataset)
        variant: dict[str, Any] = self.variant.given()
        write_report(
            run,
            train,
            file,
            validation=recorded_validation(recipe, self.dataset, self.validation_split),
            evaluation=self.evaluation,
            dataset_name=self.dataset_name,
            balance=self.balance,
            typical=self.typical,
            baselines=self.baseline,
            pictures=self.pictures,
            **variant,
        )
        size = file.stat().st_size
        text = [f"Wrote {file} ({size / 1e6:.1f} MB): open it in a browser; it needs no network."]
        if "predicted" not in run.signals:
            text.append("It suggests no labels: record with `RecordConfig.signals` predicted for that.")
        pushing = Push(
            run=self.run,
            repo_id=repository_name(recipe.dataset),
            fractions=[0.1],
            dataset=self.dataset,
            report=True,
            private=True,
            variant=self.variant,
            losses=self.losses,
            balance=None if self.balance == "class" else self.balance,
            typical=self.typical,
        )
        return Results({"output": str(file), "bytes": size, "rows": len(run)}, text, [pushing])
