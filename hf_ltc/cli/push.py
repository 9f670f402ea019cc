"""The command `push`: a coreset to the Hub."""

import dataclasses
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..coresets.choose import Selection
from ..coresets.order import Balance, Keep
from ..recipe import Identity, Recipe
from ..utils.errors import InputError
from ..utils.settings import option
from .command import (
    CORESET,
    DATASET_HELP,
    JUDGED,
    LOSSES_HELP,
    SCORED,
    Command,
    Losses,
    Results,
    VariantOptions,
    as_scored,
    balance_given,
    balance_option,
    recipe_beside,
    recorded_split,
    recorded_validation,
    selection_option,
    warn_of_unfinished,
)
from .parsing import Flag, LocalPath, argument

if TYPE_CHECKING:
    from datasets import Dataset

    from ..hub.repository import Pushed
    from ..trajectories.value import Trajectories

_FRACTIONS = (0.1, 0.3, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class Push(Command):
    """Push coresets, scores, recipe and card to a dataset repository on the Hub."""

    run: LocalPath = argument("RUN", "run directory of hf-ltc record")
    repo_id: str = argument("REPO_ID", "dataset repository, OWNER/NAME; created if it does not exist")
    fractions: list[float] = option([], "budgets, as shares in (0, 1]")
    sizes: list[int] = option([], "budgets, as numbers of rows")
    scores_only: Flag = option(False, "push no rows: they are taken from the source dataset when loaded")
    full: Flag = option(False, "push the whole dataset in coreset order too")
    trajectories: Flag = option(False, "add the loss trajectories to the scores")
    splits: list[str] = option([], "further splits of the dataset, such as test")
    held_out: Flag = option(False, "push rows held out of training as split validation")
    dataset: str | None = option(None, DATASET_HELP)
    source: str | None = option(None, "Hub id of the dataset, if recorded from disk", metavar="REPO_ID")
    dataset_name: str | None = option(None, "what the card calls a dataset that is not on the Hub")
    scored: LocalPath | None = option(None, "folder of the scored dataset, for scores other than ltc_score")
    judged: LocalPath | None = option(
        None, "folder of hf-ltc select --judge: push what it kept, and the comparison", metavar="CORESET"
    )
    score_column: str = option("ltc_score", "the score to choose by")
    keep: Keep = selection_option("keep")
    license: str | None = option(None, "license of the rows; that of the source dataset if not given")
    evaluation: LocalPath | None = option(None, "results.json of hf-ltc evaluate, for the card", metavar="RESULTS")
    report: Flag = option(False, "push the page of hf-ltc report too, with pictures for the card")
    space: str | None = option(None, "make a static Space of this page, as private as REPO_ID", metavar="OWNER/NAME")
    private: Flag = option(False, "make a new repository private")
    source_model: str | None = option(None, "push the source model there too", metavar="REPO_ID")
    max_shard_size: str = option("500MB", "largest size of a Parquet file")
    variant: VariantOptions = dataclasses.field(default_factory=VariantOptions)
    losses: Losses | None = option(None, LOSSES_HELP)
    balance: Balance | None = balance_option("balance")
    balance_column: str | None = balance_option("balance_column")
    typical: float | None = selection_option("typical")

    PARAMETERS: ClassVar = {
        "with_trajectories": "trajectories",
        "trajectories": "run",
        "fraction": "fractions",
        "size": "sizes",
    }
    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        if self.judged is not None:
            return self._as_judged()
        # Without a folder the rows are ranked here.
        taken = {} if self.scored is None else as_scored(vars(self), recipe_beside(self.scored))
        return dataclasses.replace(self, **taken)._push({}, None)

    def _as_judged(self) -> Results:
        """Pushes what hf-ltc select --judge kept, by the options in the recipe beside it."""
        told = recipe_beside(str(self.judged)).get(CORESET)
        if not isinstance(told, Mapping) or not isinstance(told.get(JUDGED), Mapping):
            raise InputError(f"no judged coreset {self.judged!r}: make one with hf-ltc select SCORED --judge")
        fields = {each.name: each.default for each in dataclasses.fields(self)}
        own = {name: told[name] for name in ("score_column", "keep", "balance", "typical")}
        for name, value in own.items():
            if (given := getattr(self, name)) not in (value, fields[name]):
                raise InputError(
                    f"`{name}` {given!r} is not what {self.judged!r} was chosen by, {value!r}: leave it out"
                )
        if self.evaluation is not None and told["coverage"] is not None:
            raise InputError(
                f"`evaluation` has no models trained on rows drawn like those of {self.judged!r}: leave it out"
            )
        if not self.fractions and not self.sizes:
            own |= {"sizes": [told["size"]]} if told["fraction"] is None else {"fractions": [told["fraction"]]}
        drawn = {name: told[name] for name in ("coverage", "min_per_class", "exclude_negative")}
        # Of what is not drawn the seed was that of the models which judged it.
        drawn |= {"seed": told["seed"]} if told["coverage"] is not None else {}
        return dataclasses.replace(self, **own)._push(drawn, told[JUDGED])

    def _push(self, drawn: Mapping[str, Any], judgement: Mapping[str, Any] | None) -> Results:
        from ..coresets.scored import usual_balance
        from ..hub.options import check_push
        from ..hub.push import push_coreset
        from ..hub.repository import check_repo_id
        from ..hub.space import check_space, push_space
        from ..report.page.facts import dataset_title
        from ..report.page.pictures import ROWS
        from ..trajectories.align import dataset_places, held_out_rows
        from ..trajectories.on_hub import push_source_model, source_model_folder
        from ..trajectories.value import Trajectories

        # All names are checked before any work is done.
        for name in ("repo_id", "source", "source_model", "space"):
            if (given := getattr(self, name)) is not None:
                check_repo_id(given, name)
        if self.source_model is not None:
            source_model_folder(self.run)
        run = Trajectories.load(self.run, losses=self.losses)
        warn_of_unfinished(self.run)
        recipe = Recipe.from_dict(run.recipe)
        source = recipe.dataset
        scored = self._scored(run, source)
        if judgement is not None and self.score_column not in scored.column_names:
            scored = _with_scores_of(scored, run, judgement["kept"], judgement["seed"])
        given = balance_given(self.balance, self.balance_column, scored)
        balance, label_column = usual_balance(source, *given)
        splits = {name: recorded_split(source, self.dataset, name) for name in self.splits}
        if self.held_out:
            if "validation" in splits or not (run.validation_rows >= 0).any():
                raise InputError("--held-out: no rows were held out of training, or --splits has a validation already")
            if set(run.validation_rows.tolist()) & set(run.rows.tolist()):
                raise InputError("--held-out: the validation samples rotate over runs, so they are candidate rows too")
            held = held_out_rows(run, scored, dataset_places(run, scored))
            if held is None:
                raise InputError(
                    "--held-out: rows are joined by id, which those held out have none of, and they stand elsewhere "
                    "in this dataset than when they were recorded: give the dataset as it was recorded, or leave "
                    "--held-out out"
                )
            splits["validation"] = scored.select(held)
        options = {
            "scores_only": self.scores_only,
            "full": self.full,
            "splits": splits,
            "max_shard_size": self.max_shard_size,
            "score_column": self.score_column,
            "balance": balance,
            "keep": self.keep,
            "typical": self.typical,
            **drawn,
        }
        check_push(self.repo_id, self.fractions, self.sizes, **options)
        self._check_page(drawn)
        private = self.private or None
        if self.space is not None:
            check_space(self.space, dataset=self.repo_id, private=private)
        evaluation, pictures = self._evaluation(run, scored)
        with tempfile.TemporaryDirectory(prefix="hf_ltc-") as folder:
            page = self._page(run, recipe, scored, Path(folder))
            if self.report:
                pictures += sorted(Path(folder).glob("*.png"))
            given = {picture.name for picture in pictures} | ({ROWS} if self.scores_only else set())
            pictures += [picture for picture in sorted(Path(self.run).glob("*.png")) if picture.name not in given]
            pushed = push_coreset(
                scored,
                self.repo_id,
                self.fractions,
                self.sizes,
                trajectories=run,
                with_trajectories=self.trajectories,
                pictures=pictures,
                report=page if self.report else None,
                evaluation=evaluation,
                source={"repo_id": self.source} if self.source else None,
                dataset_name=self.dataset_name,
                license=self.license,
                private=private,
                variant=self._variant(),
                judgement=judgement,
                label_column=label_column,
                **options,
            )
            # After the coreset, which may be refused.
            space = None
            if self.space is not None and page is not None:
                title = dataset_title(recipe, self.dataset_name or self.source)
                space = push_space(page, self.space, title=title, dataset=pushed.repo_id, private=private)
        values: dict[str, Any] = {
            "repo_id": pushed.repo_id,
            "url": pushed.url,
            "revision": pushed.revision,
            "configs": list(pushed.configs),
        }
        text = [str(pushed)]
        if space is not None:
            values["space"] = {"repo_id": space.repo_id, "url": space.url, "revision": space.revision}
            text.append(str(space))
        if self.source_model:
            model = push_source_model(self.run, self.source_model, dataset_name=self.dataset_name, private=private)
            values["source_model"] = {"repo_id": model.repo_id, "url": model.url, "revision": model.revision}
            text.append(str(model))
        return Results(values, text, [self._loading(pushed, scored)])

    def _page(self, run: "Trajectories", recipe: Recipe, scored: "Dataset", folder: Path) -> Path | None:
        """The page of what is pushed, with its pictures, if one is asked for."""
        from ..coresets.scored import decided
        from ..hub.cards import REPORT
        from ..report.page.write import write_report

        if not self.report and self.space is None:
            return None
        chosen = decided(scored, self.score_column, Selection(typical=self.typical), recipe.dataset)
        return write_report(
            run,
            scored,
            folder / REPORT,
            validation=recorded_validation(recipe, self.dataset),
            evaluation=self.evaluation,
            dataset_name=self.dataset_name or self.source,
            balance=self.balance or "class",
            typical=chosen.typical,
            pictures=self.report,
            **(self._variant() or {}),
        )

    def _check_page(self, drawn: Mapping[str, Any]) -> None:
        """Checks that a page, if one is asked for, would show the rows that are pushed."""
        if not self.report and self.space is None:
            return
        option = "report" if self.report else "space"
        if self.score_column != "ltc_score":
            raise InputError(
                f"`{option}` shows the order by ltc_score, and `score_column` is {self.score_column!r}: leave one out"
            )
        if self.balance_column is not None:
            raise InputError(
                f"`{option}` shows the order by class, and `balance_column` is {self.balance_column!r}: leave one out"
            )
        if self.scores_only:
            raise InputError(f"`{option}` shows rows, and `scores_only` pushes none: leave one of them out")
        if self.keep != "highest":
            raise InputError(f"`{option}` shows the highest scores first, and `keep` is {self.keep!r}: leave one out")
        for name in ("coverage", "min_per_class", "exclude_negative"):
            if drawn.get(name):
                raise InputError(
                    f"`{option}` shows the order by score alone, and {self.judged!r} was chosen with {name} "
                    f"{drawn[name]!r}: leave `{option}` out"
                )
        if self._variant() is None:
            raise InputError(
                f"`{option}` shows the order by a score variant, and {self.scored!r} does not say which it has: name "
                f"it as `preset`, or leave `{option}` out"
            )

    def _scored(self, run: "Trajectories", source: Identity) -> "Dataset":
        from datasets import load_from_disk

        if self.scored is None:
            train = recorded_split(source, self.dataset)
            balance, column = balance_given(self.balance, self.balance_column, train)
            return run.score(train, balance=balance, label_column=column, typical=self.typical, **self.variant.given())
        if not (Path(self.scored) / "state.json").is_file():
            raise InputError(f"no scored dataset {self.scored!r}: make one with hf-ltc score, or Dataset.save_to_disk")
        return load_from_disk(self.scored)

    def _variant(self) -> Mapping[str, str] | None:
        """The score variant that is pushed, where it is known: by the options, or kept by hf-ltc score."""
        from ..scores.ltc import score_variant

        if self.score_column != "ltc_score":
            return None
        given = self.variant.given()
        if given or self.scored is None:
            return score_variant(**given)
        made = recipe_beside(self.scored).get(SCORED)
        variant = made.get("family") if isinstance(made, Mapping) else None
        # Without a weighting it was made before there was one.
        return {"weighting": "none", **variant} if isinstance(variant, Mapping) else None

    def _evaluation(self, run: "Trajectories", scored: "Dataset") -> tuple[list[dict[str, Any]], list[Path]]:
        """What models reached on the rows that are pushed, for the card, and the picture of it."""
        from ..coresets.scored import decided
        from ..evaluation.pictures import PICTURE
        from ..evaluation.results import Evaluation, card_rows
        from ..hub.repository_recipe import scorer_name
        from ..scores.ltc import score_variant
        from ..scores.protocol import losses_digest
        from ..scores.typical_rows import typical_of

        if self.evaluation is None:
            return [], []
        if self.balance_column is not None:
            raise InputError(
                f"`evaluation` has no coresets balanced by a column, and `balance_column` is {self.balance_column!r}: "
                "leave one of them out"
            )
        path = Path(self.evaluation)
        is_variant = self.score_column == "ltc_score"
        scorer = score_variant(**self.variant.given()) if is_variant else scorer_name(self.score_column)
        picture = path.with_name(PICTURE)
        recorded = Recipe.from_dict(run.recipe).dataset
        options = decided(scored, self.score_column, Selection(keep=self.keep, typical=self.typical), recorded)
        rows = card_rows(
            Evaluation.load(path),
            losses_digest(run),
            scorer,
            self.balance or "class",
            options.typical or 0.0,
            typical_of(run),
        )
        return rows, [picture] if picture.is_file() else []

    def _loading(self, pushed: "Pushed", scored: "Dataset") -> str:
        """The statement that loads what was pushed."""
        from ..data.columns import read_column
        from ..hub.repository_recipe import scorer_name

        first = pushed.configs[0]
        if first.startswith("coreset"):
            return f"import datasets; coreset = datasets.load_dataset({pushed.repo_id!r}, {first!r}, split='train')"
        pool = len(scored) - read_column(scored, self.score_column).null_count
        budget = f"fraction={(self.fractions or [some_fraction(pool, 1)])[0]:g}"
        scorer = scorer_name(self.score_column)
        budget += "" if scorer == "ltc" else f", scorer={scorer!r}"
        return f"import hf_ltc; coreset = hf_ltc.load_coreset({pushed.repo_id!r}, {budget})"


def _with_scores_of(scored: "Dataset", run: "Trajectories", name: str, seed: int) -> "Dataset":
    """Adds the scores that hf-ltc select --judge chose rows by, of which the run directory has the values."""
    import numpy as np

    from ..evaluation.judge.choices import OTHERS, with_scores_of
    from ..trajectories.combine import place_rows

    if name not in OTHERS:
        return scored
    where = run.positions(scored)
    rows = np.flatnonzero(where >= 0)
    return with_scores_of(scored, place_rows(run, rows, where[rows]), name, seed)[0]


def some_fraction(pool: int, classes: int, least: float = 0.0) -> float:
    """A budget that can have a row of each class, and is not below `least`."""
    budgets = [least, *(fraction for fraction in _FRACTIONS if fraction > least)]
    return next((fraction for fraction in budgets if round(fraction * pool) >= classes), 1.0)


def repository_name(source: Identity) -> str:
    """A valid repository name for the coresets of a dataset, without the owner, who is the logged-in user then."""
    name = Path(source.repo_id or source.path or "").name
    stem = re.sub("[^A-Za-z0-9]+", "-", name)[:80].strip("-")
    return f"{stem or 'coreset'}-ltc"
