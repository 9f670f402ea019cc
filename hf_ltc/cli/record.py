"""Recording, and how far two recordings agree: the commands `record` and `compare`."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ..config import DataConfig, RecordConfig
from ..recipe import Recipe
from ..utils.errors import InputError
from ..utils.settings import option
from .command import (
    BASELINE_NAMES,
    LOSSES_HELP,
    Command,
    Losses,
    Results,
    VariantOptions,
    beside,
    importing,
    selection_option,
    warn_of_unfinished,
)
from .parsing import LocalPath, argument
from .replay import Replay
from .score import Score
from .terminal import is_first

if TYPE_CHECKING:
    from ..scores.reliability import Reliability
    from ..trajectories.value import Trajectories


@dataclass(frozen=True, kw_only=True)
class Record(Command):
    """Train a source model and record every row's loss."""

    data: DataConfig
    config: RecordConfig
    from_recipe: str | None = option(
        None,
        "repeat a recording from its recipe: a run directory, a recipe.json, or a repository of hf-ltc push; add only "
        "options that say where and how fast to run",
    )

    PARAMETERS: ClassVar = {"train": "split", "validation": "validation_split", "name": "dataset_config"}

    def execute(self) -> Results | None:
        with importing():
            from ..data.load import load_split
            from ..recording.record import record
            from ..scores.reliability import Reliability

        data, config = self.data, self.config
        replay = None if self.from_recipe is None else Replay.read(self.from_recipe, data, config)
        if replay is not None:
            data, config = replay.data, replay.config
        if data.dataset is None:
            raise InputError("nothing to record: give `dataset`, or `from_recipe`")
        folder = config.output_dir
        load = partial(load_split, data.dataset, name=data.dataset_config, revision=data.revision)
        train = load(data.split)
        validation = None if data.validation_split is None else load(data.validation_split)
        if replay is not None:
            replay.check(train, validation)
        run = record(config, train, validation, source=data.source())
        if not is_first():
            return None
        recipe = Recipe.from_dict(run.recipe)
        reliability = recipe.reliability.to_dict() or None
        last = run.runs[-1]
        held = len(run.validation_labels)
        # Of rotating ones each run has a part.
        samples = f"{held:,} validation samples" + (" among them" if len(last.validation_labels) < held else "")
        values = {
            "run": folder,
            "rows": len(run),
            "validation_rows": len(run.validation_labels),
            "checkpoints": list(run.lengths),
            "validation_loss": float(last.validation_losses[-1].mean()),
            "seconds": recipe.seconds,
            "reliability": reliability,
        }
        text = [
            f"Recorded {len(run):,} rows and {samples} at "
            f"{' + '.join(map(str, run.lengths))} checkpoints in {sum(recipe.seconds.values()):.0f} s "
            f"(validation loss {values['validation_loss']:.3f}).",
            *([str(Reliability.from_dict(reliability))] if reliability else []),
        ]
        pushing = None
        if replay is not None:
            values["same_losses"], said = replay.compared()
            text += [said] if said else []
            pushing = replay.push()
        return Results(values, text, [pushing or Score(run=folder, output=beside(folder, "-scored"))])


@dataclass(frozen=True, kw_only=True)
class Compare(Command):
    """Reliability of scores between two runs, and overlap of their coresets."""

    run_a: LocalPath = argument("RUN_A", "a run directory")
    run_b: LocalPath = argument("RUN_B", "another one, of the same dataset")
    variant: VariantOptions
    losses: Losses | None = option(None, LOSSES_HELP)
    typical: float | None = selection_option("typical")
    baseline: str | None = option(None, f"compare by a known score instead: {BASELINE_NAMES}")

    IS_SHORT: ClassVar = True

    def execute(self) -> Results:
        from ..coresets.choose import Selection
        from ..coresets.overlap import overlap
        from ..scores.ltc import ltc_scores
        from ..scores.typical_rows import usual_typical
        from ..scores.typicality import typicality_for
        from ..trajectories.compare import reliability

        if self.baseline is not None:
            return self._by_baseline(self.baseline)
        variant = self.variant.given()
        aligned = self._aligned()
        found = reliability(aligned, **variant)
        one, two = (ltc_scores(run, **variant) for run in aligned)
        # All rows only where both are ranked so.
        each = {usual_typical(run) for run in aligned}
        usual = min(each - {1.0} or each)
        typical = Selection(typical=self.typical).decided(usual).typical or 0.0
        keys = [typicality_for(run, typical) for run in aligned] if typical else None
        shared = overlap(one, two, aligned[0].labels, typicality=keys, typical=typical)
        return self._results(found, shared, typical=self.typical, variant=self.variant)

    def _aligned(self) -> "list[Trajectories]":
        """Both runs, with the rows that both recorded."""
        import numpy as np

        from ..trajectories.value import Trajectories

        runs = [Trajectories.load(run, losses=self.losses) for run in (self.run_a, self.run_b)]
        warn_of_unfinished(self.run_a, self.run_b)
        # Checks that they can be compared.
        Trajectories.average(runs)
        both = np.intersect1d(runs[0].rows, runs[1].rows)
        return [run.take_rows(both) for run in runs]

    def _by_baseline(self, name: str) -> Results:
        from ..coresets.overlap import overlap
        from ..scores.baselines import BASELINES
        from ..scores.reliability import reliability_of, warn_of_reliability
        from ..scores.scorers import baseline_scores

        if given := {**self.variant.given(), **({"typical": self.typical} if self.typical else {})}:
            option, value = next(iter(given.items()))
            raise InputError(f"`{option}` {value!r} does not go with `baseline` {name!r}: give one of them")
        runs = self._aligned()
        scores = []
        for path, run in zip((self.run_a, self.run_b), runs):
            try:
                scores.append(baseline_scores(run, name))
            except InputError as error:
                raise InputError(f"{path!r} cannot be compared by `baseline` {name!r}: {error}") from error
        found = reliability_of(scores, runs[0].labels)
        warn_of_reliability(found)
        sign = 1 if BASELINES[name].keeps == "highest" else -1
        one, two = (sign * each for each in scores)
        return self._results(found, overlap(one, two, runs[0].labels), baseline=[name])

    def _results(self, found: "Reliability", shared: dict[float, float], **scored: Any) -> Results:
        text = [str(found)]
        text += [
            f"At {100 * fraction:g}% the coresets share {100 * share:.0f}% of their rows."
            for fraction, share in shared.items()
        ]
        scoring = Score(run=self.run_a, output=beside(self.run_a, "-scored"), losses=self.losses, **scored)
        return Results({**found.to_dict(), "overlap": shared}, text, [scoring])
