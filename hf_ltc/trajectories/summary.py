"""A recording without trajectories: running sums of each row, from which it is scored at any time."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Value

from ..coresets import order
from ..coresets.choose import Selection
from ..data.columns import LTC_SCORE, rank_name, typicality_name
from ..recipe import Recipe
from ..scores import reliability
from ..scores.kernels import run_spans
from ..scores.ltc import is_weighted, score_variant, validation_references, variant_of_all
from ..scores.odds import hash_factors
from ..scores.protocol import check_checkpoints
from ..scores.running_sums import RunningSums, correlations, mean_validation_losses
from ..scores.typical_rows import usual_typical
from ..scores.typicality import typicality_by_sums
from ..utils.errors import InputError
from ..utils.files import local
from . import run_dir
from .align import row_places
from .combine import differs
from .ranked import ranked_by_score, score_columns
from .run_dir import LOSSES
from .run_sums import has_sums, read_summary
from .value import Trajectories

_NEEDED = (
    "the recording has running sums and no trajectories (`RecordConfig.store` summary), which this needs: record with "
    "`RecordConfig.store` trajectories"
)


@dataclass(frozen=True, eq=False)
class LossSummary:
    """What `RecordConfig(store="summary")` keeps of a recording: sums for each row, for any number of epochs.

    It gives the same scores by mean validation losses (`aggregate="losses"`, weighted or not), typicality and ranks as
    the trajectories. You can load it while the recording is still running, after any epoch.

    Args:
        sums (`tuple[RunningSums, ...]`): The sums of each run.
        validation_losses (`np.ndarray`): float32 `(L, Q)`, at all checkpoints.
        labels, validation_labels, rows, validation_rows, epochs, lengths, ids, recipe, loss_name:
            As in [`Trajectories`].
    """

    sums: tuple[RunningSums, ...]
    validation_losses: np.ndarray
    labels: np.ndarray
    validation_labels: np.ndarray
    rows: np.ndarray
    validation_rows: np.ndarray
    epochs: np.ndarray
    lengths: tuple[int, ...]
    ids: Any = None
    recipe: dict[str, Any] = field(default_factory=dict)
    loss_name: str = LOSSES[0]

    def __len__(self) -> int:
        return len(self.rows)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            """Says of a method of [`Trajectories`] why there is none."""
            why = f": {_NEEDED}" if name in dir(Trajectories) else ""
            raise AttributeError(f"LossSummary has no {name!r}{why}")

    @property
    def losses(self) -> Any:
        """A summary has no losses: always raises an `InputError`."""
        raise InputError(_NEEDED)

    @property
    def runs(self) -> list["LossSummary"]:
        """The runs, one by one."""
        recipes = Recipe.from_dict(self.recipe).runs or []
        if len(recipes) != len(self.sums):
            recipes = [self.recipe] * len(self.sums)
        return [
            dataclasses.replace(
                self,
                sums=(sums,),
                validation_losses=self.validation_losses[start:stop],
                epochs=self.epochs[start:stop],
                lengths=(stop - start,),
                recipe=dict(recipe),
            )
            for sums, (start, stop), recipe in zip(self.sums, run_spans(self.lengths), recipes, strict=True)
        ]

    @classmethod
    def load(cls, path: str | Path) -> "LossSummary":
        """Loads a run directory: the sums so far of an unfinished run, the finished seeds of several.

        Args:
            path (`str` or `Path`): The run directory.

        Returns:
            [`LossSummary`]

        Raises:
            InputError: for a recording of trajectories, and a file that is missing, truncated or of another run.
        """
        path = local(path, "path")
        if not (seeds := run_dir.seed_folders(path)):
            return cls(**read_summary(path))
        done = [cls.load(seed) for seed in seeds if run_dir.is_finished(seed)]
        if not done:
            raise InputError(f"no run in {str(path)!r} is finished yet: run the same hf-ltc record command again")
        together = cls.together(done)
        return dataclasses.replace(together, recipe=run_dir.read_shared_recipe(path, len(done)) or together.recipe)

    @classmethod
    def together(cls, runs: Sequence["LossSummary"]) -> "LossSummary":
        """Joins runs that differ only in the seed.

        Raises:
            InputError: if the runs have different datasets, rows, validation samples or kinds of losses.
        """
        first = runs[0]
        if any(not np.array_equal(run.rows, first.rows) for run in runs):
            raise InputError("the runs have different rows: record them with the same `RecordConfig.validation_seed`")
        for number, run in enumerate(runs[1:], 1):
            if problem := differs(first, run):
                raise InputError(f"run {number} cannot be joined with run 0: {problem}")
        recipe = {**first.recipe, "runs": [run.recipe for run in runs]} if len(runs) > 1 else first.recipe
        return dataclasses.replace(
            first,
            sums=tuple(sums for run in runs for sums in run.sums),
            validation_losses=np.concatenate([run.validation_losses for run in runs]),
            epochs=np.concatenate([run.epochs for run in runs]),
            lengths=tuple(length for run in runs for length in run.lengths),
            recipe=recipe,
        )

    def scores(
        self,
        *,
        of: str | None = None,
        aggregate: str | None = None,
        scope: str | None = None,
        weighting: str | None = None,
        preset: str | None = None,
    ) -> np.ndarray:
        """The scores that [`ltc_scores`] computes from trajectories.

        Args:
            of, aggregate, scope, weighting, preset: As for [`ltc_scores`]; `aggregate` is `"losses"`.

        Returns:
            `np.ndarray`: float32 `(N,)`.

        Raises:
            InputError: for `aggregate="correlations"`, and as [`ltc_scores`].
        """
        member = score_variant(of, aggregate, scope, weighting, preset=preset)
        if member["aggregate"] != "losses":
            raise InputError(
                "`aggregate` 'correlations' needs trajectories, and the recording has running sums "
                "(`RecordConfig.store` summary): score with `aggregate` losses, or record with `RecordConfig.store` "
                "trajectories"
            )
        check_checkpoints(self)
        # For what it says of validation samples that no score can come from.
        validation_references(self, member)
        groups = self.labels if member["scope"] == "class" else None
        weighted = is_weighted(self, member)
        found, defined = np.zeros(len(self)), np.zeros(len(self))
        for sums, (start, stop) in zip(self.sums, run_spans(self.lengths)):
            classes = sums.means.shape[1] - 1
            means = np.stack(
                [
                    mean_validation_losses(losses, self.validation_labels, classes)
                    for losses in self.validation_losses[start:stop]
                ]
            )
            one = correlations(sums, means, member["of"], groups)
            if weighted:
                one *= np.sqrt(sums.uncertainty())
            known = ~np.isnan(one)
            np.add(found, one, out=found, where=known)
            defined += known
        with np.errstate(invalid="ignore"):
            found /= defined
        return np.clip(found, -1, 1).astype(np.float32)

    def typicality(self, typical: float = 1.0) -> np.ndarray:
        """The typicality that [`ltc_typicality`] computes from trajectories: float32 `(N,)`. With several runs it is
        another draw with the same odds.

        Args:
            typical (`float`, *optional*, defaults to `1.0`): As for [`rank_coreset`]; the others have none.
        """
        probability, dual = np.zeros(len(self)), np.zeros(len(self))
        turns, hashed = hash_factors(len(self.sums)), np.zeros(len(self), dtype=np.uint64)
        turns[0] = 1
        for sums, length, turn in zip(self.sums, self.lengths, turns):
            mean, score = sums.typical()
            probability += mean * (length / sum(self.lengths))
            dual += score / len(self.sums)
            hashed += sums.hashed * turn
        return typicality_by_sums(probability, dual, hashed, self.labels, typical)

    def mean_losses(self) -> np.ndarray:
        """The mean loss of each row, like the baseline `"mean_loss"`: float32 `(N,)`."""
        return np.mean([sums.mean_losses() for sums in self.sums], axis=0).astype(np.float32)

    def reliability(self, **variant: Any) -> reliability.Reliability:
        """How far the scores of its runs agree; see [`reliability`].

        Args:
            **variant: As for [`ltc_scores`].

        Warns:
            LTCWarning: for a reliability below 0.5.
        """
        if len(self.sums) < 2:
            raise InputError(
                "reliability needs two runs or more of different seeds: record with `RecordConfig.runs` 2 or more"
            )
        found = reliability.reliability_of(self.scores_by_run(**variant), self.labels)
        reliability.warn_of_reliability(found)
        return found

    def scores_by_run(self, **variant: Any) -> list[np.ndarray]:
        """The scores of each run.

        Args:
            **variant: As for [`ltc_scores`].
        """
        member = variant_of_all(self.runs, **variant)
        return [run.scores(**member) for run in self.runs]

    def positions(
        self, dataset: Dataset, id_column: str | None = None, *, identity: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """As [`Trajectories.positions`]."""
        return row_places(self, dataset, id_column, identity)

    def score(
        self,
        dataset: Dataset,
        *,
        preset: str | None = None,
        balance: order.Balance | str | None = None,
        label_column: str | None = None,
        typical: float | None = None,
        id_column: str | None = None,
        **variant: Any,
    ) -> Dataset:
        """Adds `ltc_score`, `ltc_typicality` and `ltc_rank`, as [`Trajectories.score`] does.

        Args:
            dataset (`datasets.Dataset`): The recorded dataset.
            preset (`str`, *optional*): `"cld"`, `"das"` or `"weighted-das"`, as for [`ltc_scores`].
            balance, label_column, typical: As for [`Trajectories.score`].
            id_column (`str`, *optional*): As for [`Trajectories.attach`].
            **variant: `of`, `aggregate`, `scope`, `weighting`, as for [`ltc_scores`].

        Returns:
            `datasets.Dataset`

        Raises:
            InputError: as [`Trajectories.attach`] and [`LossSummary.scores`].

        Warns:
            LTCWarning: as [`Trajectories.score`].
        """
        first = Selection(typical=typical).typical or usual_typical(self)
        where = self.positions(dataset, id_column)
        found = {LTC_SCORE: self.scores(preset=preset, **variant)}
        if first:
            found[typicality_name(LTC_SCORE)] = self.typicality(first)
        columns = score_columns(found, where)
        # Flat rows have a rank and rows held out have none, though neither has a score: told by ranks that are there.
        columns[rank_name(LTC_SCORE)] = (pa.array(np.zeros(len(where), np.int32), mask=where < 0), Value("int32"))
        options: dict[str, Any] = {"balance": balance, "label_column": label_column, "typical": typical}
        ranked, kept = ranked_by_score(dataset, columns, where, self, **options)
        variant = {"preset": preset, **variant}
        runs = self.runs
        agreed = reliability.reliability_of(self.scores_by_run(**variant), self.labels) if len(runs) > 1 else None
        doubts = reliability.doubts_of(self.mean_losses(), kept, self.labels, runs, variant)
        reliability.warn_of_doubts(agreed, doubts, stacklevel=3)
        return ranked


def load_recording(path: str | Path, losses: str | None = None, mmap: bool = False) -> Trajectories | LossSummary:
    """Loads a run directory, as [`Trajectories`] or as [`LossSummary`], whichever was recorded.

    Args:
        path (`str` or `Path`): The run directory.
        losses, mmap: As for [`Trajectories.load`]; there is one kind of loss in running sums.
    """
    path = local(path, "path")
    if not has_sums(path):
        return Trajectories.load(path, losses=losses, mmap=mmap)
    summary = LossSummary.load(path)
    if losses is not None and f"{losses}_loss" != summary.loss_name:
        raise InputError(
            f"`losses` is {losses!r}, and {str(path)!r} has running sums of its {summary.loss_name}: leave it out"
        )
    return summary
