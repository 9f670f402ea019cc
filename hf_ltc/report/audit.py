"""Which rows of a recorded dataset are worth a look: wrong labels, copies, rows that contradict others."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, Features, Value

from ..data.labels import InputColumns
from ..data.shared_rows import input_columns, shared_rows
from ..recipe import Recipe
from ..scores.protocol import require_classes, require_recorded
from ..trajectories.align import dataset_places, held_out_rows
from ..trajectories.value import Trajectories
from ..utils.errors import InputError, require
from .duplicates import SIMILARITY, near_duplicates
from .suspicion import (
    PREDICTED,
    conflicting,
    correct_share,
    late_votes,
    wrong_label_count,
    wrong_label_quality,
)

OK, ISSUE, AMBIGUOUS, CONFLICTING, SHARED = "ok", "label issue", "ambiguous", "conflicting", "shared with validation"
DUPLICATE = "near-duplicate"
# The first that is true of a row is its kind.
KINDS = (ISSUE, SHARED, DUPLICATE, CONFLICTING, AMBIGUOUS, OK)
# Given its label in at least a quarter of the late epochs, and in at most three.
_UNDECIDED = (0.25, 0.75)


def audit(
    trajectories: Trajectories,
    dataset: Dataset | None = None,
    validation: Dataset | None = None,
    *,
    fraction: float | None = None,
    similarity: float = SIMILARITY,
    duplicates: bool = True,
    id_column: str | None = None,
) -> Dataset:
    """Finds, among the recorded rows, labels that are probably wrong, near-duplicates and other conspicuous rows.

    ```python
    config = RecordConfig(signals=["margin", "predicted"], features=True, ...)
    table = audit(record(config, train), train)
    worst = table.sort("label_quality").select(range(100))
    ```

    The table has one row for each recorded row, in their order, with the columns

    - `row`, int64: its number in the recorded dataset; and `id`, where ids were recorded;
    - `label`: its given label;
    - `suggested_label`: the class that the source model predicted most often in the second half of the epochs; null if
      `RecordConfig.signals` had no `predicted`;
    - `label_quality`, float32 in [0, 1]: the share of the other rows whose label is more likely to be wrong, as ranked
      by [`wrong_label_quality`]; 0 for the row whose label is most likely to be wrong;
    - `is_label_issue`, bool: whether it is among the rows with the lowest quality. Their number is `fraction`, or else
      the number of rows whose losses rise while the validation losses fall (see [`wrong_label_count`]);
    - `near_duplicate_group`, int64: the number, from 0, of its group of rows that look nearly the same to the source
      model (see [`near_duplicates`]); null for all other rows, and if features were not recorded
      (`RecordConfig.features`);
    - `kind`, string: the first of these that applies: `label issue`; `shared with validation`, a validation sample has
      the same image or text; `near-duplicate`; `conflicting`, its losses move against those of the validation samples
      (see [`conflicting`]); `ambiguous`, the model predicts its label in a quarter to three quarters of the late
      epochs; or `ok`.

    `label_quality` and `is_label_issue` mean the same as in cleanlab.

    Args:
        trajectories ([`Trajectories`]): The recording.
        dataset (`datasets.Dataset`, *optional*):
            The recorded dataset. Without it, rows are not compared with the validation samples.
        validation (`datasets.Dataset`, *optional*): The validation samples, if they are a separate split.
        fraction (`float`, *optional*): Share of the rows to report as label issues, in (0, 1).
        similarity (`float`, *optional*, defaults to `0.5`): As for [`near_duplicates`].
        duplicates (`bool`, *optional*, defaults to `True`):
            Whether to search for near-duplicates, if features were recorded. The time grows with the square of the
            number of rows.
        id_column (`str`, *optional*): As for [`Trajectories.attach`].

    Returns:
        `datasets.Dataset`: N rows.

    Raises:
        InputError: for a dataset that was not recorded, and as [`ltc_scores`].
    """
    found = find(
        trajectories,
        dataset,
        validation,
        fraction=fraction,
        similarity=similarity,
        duplicates=duplicates,
        id_column=id_column,
    )
    names = Recipe.from_dict(trajectories.recipe).dataset.names
    label = ClassLabel(names=names) if names else Value("int64")
    columns: dict[str, tuple[Any, Any]] = {
        "row": (pa.array(trajectories.rows), Value("int64")),
        **({} if trajectories.ids is None else {"id": (trajectories.ids, Value(str(trajectories.ids.type)))}),
        "label": (pa.array(trajectories.labels), label),
        "suggested_label": (pa.array(found.suggested, mask=found.suggested < 0), label),
        "label_quality": (pa.array(found.quality, pa.float32()), Value("float32")),
        "is_label_issue": (pa.array(found.issues), Value("bool")),
        "near_duplicate_group": (pa.array(found.groups, mask=found.groups < 0), Value("int64")),
        "kind": (pa.array(KINDS).take(pa.array(found.kinds)), Value("string")),
    }
    features = Features({name: feature for name, (_, feature) in columns.items()})
    return Dataset(pa.table([values for values, _ in columns.values()], schema=features.arrow_schema))


@dataclass(frozen=True, eq=False)
class Findings:
    """What an audit finds of each recorded row, `(N,)` each.

    Args:
        places (`np.ndarray`): int64, where it stands in the dataset, -1 if it is not there.
        suggested (`np.ndarray`): int64, the suggested label, -1 where there is none.
        quality (`np.ndarray`): float, as [`wrong_label_quality`] gives it.
        issues (`np.ndarray`): bool, whether its label is called wrong.
        groups (`np.ndarray`): int64, of near-duplicates, -1 for none.
        conflicts (`np.ndarray`): bool, as [`conflicting`] gives it.
        kinds (`np.ndarray`): int64, its place in [`KINDS`].
    """

    places: np.ndarray
    suggested: np.ndarray
    quality: np.ndarray
    issues: np.ndarray
    groups: np.ndarray
    conflicts: np.ndarray
    kinds: np.ndarray


def find(
    run: Trajectories,
    dataset: Dataset | None,
    validation: Dataset | None,
    *,
    fraction: float | None = None,
    similarity: float = SIMILARITY,
    duplicates: bool = True,
    id_column: str | None = None,
) -> Findings:
    """What [`audit`] makes a table of; the arguments are its."""
    require_recorded(run)
    require_classes(run, "an audit looks through", "see the scores with hf-ltc score and select")
    require(fraction is None or 0 < fraction < 1, "fraction", fraction, "inside (0, 1)")
    require(0 < similarity < 1, "similarity", similarity, "inside (0, 1)")
    shared, places = np.zeros(len(run), dtype=bool), np.full(len(run), -1)
    if dataset is not None:
        places = dataset_places(run, dataset, id_column)
        shared = _shared(run, dataset, places, validation, id_column)
    votes = late_votes(run)
    names = Recipe.from_dict(run.recipe).dataset.names
    winner = np.full(len(run), -1) if votes is None else votes.winner
    if names and winner.max(initial=-1) >= len(names):
        raise InputError(
            f"the signal {PREDICTED!r} has class {winner.max()}, and the dataset has {len(names)} classes: record the "
            "numbers of its classes"
        )
    quality = wrong_label_quality(run)
    count = wrong_label_count(run) if fraction is None else round(fraction * len(quality))
    issues = np.zeros(len(quality), dtype=bool)
    issues[np.argsort(quality, kind="stable")[:count]] = True
    given = correct_share(run, votes)
    undecided = (given >= _UNDECIDED[0]) & (given <= _UNDECIDED[1])
    groups = np.full(len(run), -1)
    if duplicates and run.features is not None:
        groups = near_duplicates(run.features.of(run.rows), similarity)
    conflicts = conflicting(run)
    is_kind = [issues, shared, groups >= 0, conflicts, undecided]
    kinds = np.select(is_kind, range(len(is_kind)), KINDS.index(OK))
    return Findings(places, winner, quality, issues, groups, conflicts, kinds)


def _shared(
    run: Trajectories, dataset: Dataset, at: np.ndarray, validation: Dataset | None, id_column: str | None
) -> np.ndarray:
    """Which recorded rows, of which `at` says where they stand, have the image or text of a validation sample."""
    found = np.zeros(len(run), dtype=bool)
    recorded = Recipe.from_dict(run.recipe).dataset

    def compare(rows: np.ndarray, samples: Dataset) -> None:
        places = np.searchsorted(run.rows, rows)
        places = places[at[places] >= 0]
        mine = dataset.select(at[places])
        columns = [(name, name) for name in InputColumns.of(recorded).names]
        if not columns or not {name for name, _ in columns} <= {*mine.column_names} & {*samples.column_names}:
            columns = input_columns(mine, samples, recorded.label_column, id_column or recorded.id_column)
        # Of many rows not all are looked for: those that are found from the other side are the first of their kind.
        found[places[shared_rows(mine, samples, columns)[0]]] = True
        found[places[shared_rows(samples, mine, columns)[1]]] = True

    if validation is not None:
        if len(validation) != len(run.validation_labels):
            raise InputError(
                f"`validation` has {len(validation):,} rows, and {len(run.validation_labels):,} validation samples "
                "were recorded: give those, or leave it out"
            )
        compare(run.rows, validation)
    elif held_out_rows(run, dataset, at) is not None:
        # Where validation samples rotate, those of one run are rows of another.
        rotate = np.isin(run.validation_rows, run.rows).any()
        for one in run.runs if rotate else [run]:
            compare(one.rows, dataset.select(one.validation_rows))
    return found
