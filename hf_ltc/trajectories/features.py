"""Features of a recorded dataset: what the source model saw of each row, as a file of the run directory."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import LargeList, List, Value

from ..utils import files
from ..utils.errors import InputError, require, some_rows

FEATURES = "features.safetensors"
_TRAIN, _VALIDATION = "train", "validation"
# Rows that a projection is fitted to, and that are projected at once.
_FITTED, _BLOCK = 2**15, 2**15


@dataclass(frozen=True, eq=False)
class RowFeatures:
    """The penultimate features of a recording's rows and validation samples, by the number of the row.

    Read from disk when they are used. They are those of one source model, of several runs of the first: what two
    models see cannot be compared.

    Args:
        path (`Path`): The file.
        rows (`np.ndarray`): int64 `(N,)`, the recorded rows, increasing.
        validation_rows (`np.ndarray`): int64 `(Q,)`, the validation samples, -1 if from another split.
    """

    path: Path
    rows: np.ndarray
    validation_rows: np.ndarray

    @classmethod
    def find(
        cls, folder: Path, run: str | None, rows: np.ndarray, validation_rows: np.ndarray
    ) -> "RowFeatures | None":
        """The features in a run directory; `None` if it has none.

        Raises:
            InputError: for a file that is damaged or of another run, naming it.
        """
        path = folder / FEATURES
        if not path.exists():
            return None
        counts = {_TRAIN: len(rows), _VALIDATION: len(validation_rows)}
        with files.opened(path) as content:
            found = {name: content.get_slice(name).get_shape()[0] for name in list(content.keys())}
            marks = files.marks_of(content)
        if found != counts or marks.get("run") != run:
            raise files.unreadable(path, f"it is of run {marks.get('run')}, this is run {run}")
        return cls(path, rows, validation_rows)

    @cached_property
    def size(self) -> int:
        """D, how many numbers a sample has."""
        with files.opened(self.path) as content:
            return int(content.get_slice(_TRAIN).get_shape()[1])

    @property
    def validation(self) -> np.ndarray:
        """Those of the validation samples: float16 `(Q, D)`."""
        return files.read_arrays(self.path, [_VALIDATION])[_VALIDATION]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows of the dataset, held out or not: float16 `(n, D)`.

        Args:
            rows (`np.ndarray`): int64 `(n,)`, row numbers in the recorded dataset.

        Raises:
            InputError: for rows that have none.
        """
        known = np.concatenate([self.rows, self.validation_rows])
        order = np.argsort(known, kind="stable")
        at = order[np.minimum(np.searchsorted(known[order], rows), len(known) - 1)]
        if len(gone := rows[known[at] != rows]):
            raise InputError(f"rows {some_rows(gone)} have no features in {str(self.path)!r}: they were not recorded")
        stored = files.read_arrays(self.path, [_TRAIN, _VALIDATION])
        made = np.empty((len(rows), stored[_TRAIN].shape[1]), dtype=np.float16)
        inside = at < len(self.rows)
        made[inside] = stored[_TRAIN][at[inside]]
        made[~inside] = stored[_VALIDATION][at[~inside] - len(self.rows)]
        return made

    def save(self, folder: Path, run: str | None, rows: np.ndarray, validation_rows: np.ndarray) -> None:
        """Writes those of some rows and validation samples into another run directory."""
        is_split = (validation_rows < 0).any()
        arrays = {_TRAIN: self.of(rows), _VALIDATION: self.validation if is_split else self.of(validation_rows)}
        write_features(folder, arrays, run)


def write_features(folder: Path, arrays: Mapping[str, Any], run: str | None) -> None:
    """Writes the features of the `train` rows and of the `validation` samples into a run directory."""
    files.write_arrays(folder / FEATURES, arrays, {} if run is None else {"run": run})


def require_features(found: RowFeatures | None) -> RowFeatures:
    """Checks that a recording has features.

    Raises:
        InputError: if it has none.
    """
    if found is None:
        raise InputError(
            "the features of the rows were not recorded: give `RecordConfig.features`, with which a finished run gets "
            "them too"
        )
    return found


def feature_columns(
    features: np.ndarray, known: np.ndarray, whole: bool, projection: str | None
) -> dict[str, tuple[Any, Any]]:
    """Features as columns, with the feature of each: `features`, and `projection_x` and `projection_y`.

    Args:
        features (`np.ndarray`): float16 `(n, D)`, of the rows that have them.
        known (`np.ndarray`): bool `(R,)`, which of the rows of the columns these are, n in all.
        whole (`bool`): Whether the features themselves are wanted.
        projection (`str`, *optional*): As for [`projected`].

    Returns:
        `dict`: columns of R values; null where there are no features.
    """
    columns: dict[str, tuple[Any, Any]] = {}
    if whole:
        size = features.shape[1]
        # As float32, which every reader of Parquet knows.
        flat = pa.array(features.astype(np.float32).reshape(-1))
        if known.all():
            columns["features"] = pa.FixedSizeListArray.from_arrays(flat, size), List(Value("float32"), length=size)
        else:
            # Not of a fixed size, of which pyarrow 25 and older cannot read nulls.
            offsets = pa.array(np.append(0, np.cumsum(known) * size), pa.int64(), mask=np.append(~known, False))
            columns["features"] = pa.LargeListArray.from_arrays(offsets, flat), LargeList(Value("float32"))
    if projection is not None:
        for name, values in zip(("projection_x", "projection_y"), projected(features, projection).T):
            column = np.zeros(len(known), dtype=np.float32)
            column[known] = values
            columns[name] = pa.array(column, mask=~known), Value("float32")
    return columns


def projected(features: np.ndarray, method: str = "pca") -> np.ndarray:
    """Two numbers for each sample, so that samples that are alike to the model are near each other on a map.

    Args:
        features (`np.ndarray`): `(n, D)`.
        method (`str`, *optional*, defaults to `"pca"`): `"pca"`, of 32,768 rows if there are more, or `"umap"`,
            which takes about a minute for 5,000 rows and needs the package umap-learn.

    Returns:
        `np.ndarray`: float32 `(n, 2)`.

    Raises:
        InputError: for another method, for fewer than three samples, and for UMAP where it is not installed.
    """
    require(method in ("pca", "umap"), "projection", method, "one of pca, umap")
    if len(features) < 3:
        raise InputError(f"`projection` {method!r} of {len(features)} rows: it takes three or more")
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError as error:
            raise InputError("`projection` 'umap' needs a package: pip install umap-learn, or give 'pca'") from error
        # Of one process, without which the same rows would give another map.
        umap = UMAP(metric="cosine", random_state=0, n_jobs=1)
        return np.asarray(umap.fit_transform(features.astype(np.float32)), np.float32)
    from sklearn.decomposition import PCA

    some = features[np.unique(np.linspace(0, len(features) - 1, _FITTED).astype(np.int64))].astype(np.float32)
    # A model whose features have one dimension has no second one.
    pca = PCA(min(2, features.shape[1]), svd_solver="full" if min(some.shape) < 500 else "randomized", random_state=0)
    pca.fit(some)
    made = np.zeros((len(features), 2), dtype=np.float32)
    for left in range(0, len(features), _BLOCK):
        part = pca.transform(features[left : left + _BLOCK].astype(np.float32))
        made[left : left + _BLOCK, : part.shape[1]] = part
    return made
