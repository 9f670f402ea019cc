"""Rows that are nearly the same as others, by the features of the source model: arrays in, arrays out."""

import warnings

import numpy as np
from tqdm.auto import tqdm

from ..utils.errors import LTCWarning

# Chosen by benchmarks/duplicates.py: the least similarity, and the cosine from which rows are the same anyway.
SIMILARITY, _SAME = 0.5, 0.95
# Of each row so many others are looked at; of more that are alike, each is near one of the first.
_NEIGHBORS = 10
# The share of the variance whose directions count: the others, as of units that are never active, are rounding.
_VARIANCE = 0.9999
# With fewer directions, or where half of the rows have such a mean cosine with their neighbors, chance makes rows
# alike: of 5,000 random ones 93% have near-duplicates in 6 directions, 19% in 8 and 2% in 10, and half of them mean
# cosines above 0.94, 0.88 and 0.83. Of features of real digits it is 0.43.
_DIRECTIONS, _CROWDED = 8, 0.85
# Rows that these directions are found by, and rows that are compared with all at once.
_FITTED, _BLOCK = 2**15, 2**14


def near_duplicates(features: np.ndarray, similarity: float = SIMILARITY) -> np.ndarray:
    """Groups of rows of which each is nearly the same as another one: int64 `(N,)`, from 0, or -1 for rows of none.

    Rows are compared by the cosine of their whitened features: centered, and with the same variance in all directions
    (Jégou and Chum, ECCV 2012), without which rows of one class are all alike to the model that tells classes apart.
    It is measured against what is usual where the rows are: twice the cosine, less the mean cosine of either row with
    its ten nearest neighbors (CSLS: Conneau et al., arXiv 1710.04087). Rows with a cosine of 0.95 are near-duplicates
    anyway: of those with many copies the nearest neighbors are copies too. Labels do not count, so that copies with
    different labels are found. All pairs are compared, by scikit-learn's search for neighbors, in memory that grows
    with the rows and in time that grows with their square.

    In features of few directions, as of a model that sees nothing but classes, most rows are near to others. There
    only rows with equal features are found.

    Args:
        features (`np.ndarray`): `(N, D)`.
        similarity (`float`, *optional*, defaults to `0.5`): The least similarity of near-duplicates, inside (0, 1).

    Warns:
        LTCWarning: where only equal features are looked for.
    """
    count = len(features)
    if count < 2 or (features == features[0]).all():
        # A model to which all rows are the same tells nothing of them.
        return np.full(count, -1)
    vectors = _whitened(features)
    directions = vectors.shape[1]
    group = _near(vectors, similarity) if directions >= _DIRECTIONS else None
    if group is None:
        warnings.warn(
            f"to the source model most rows are near to others, by features that differ in {directions} directions: "
            "only rows with equal features are called near-duplicates",
            LTCWarning,
            stacklevel=2,
        )
        group = np.unique(features, axis=0, return_inverse=True)[1].reshape(-1)
    alone = np.bincount(group)[group] == 1
    # Numbered in the order of their first rows.
    groups = np.full(count, -1)
    _, first, inverse = np.unique(group[~alone], return_index=True, return_inverse=True)
    groups[~alone] = np.argsort(np.argsort(first))[inverse]
    return groups


def _near(vectors: np.ndarray, similarity: float) -> np.ndarray | None:
    """A group for each row, of which many have one row; `None` where most rows are near to their neighbors."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    cosines, places = _nearest(vectors)
    usual = cosines.mean(axis=1)
    if np.median(usual) >= _CROWDED:
        return None
    scaled = 2 * cosines - usual[:, None] - usual[places]
    near = (scaled >= similarity) | (cosines >= max(_SAME, similarity))
    one, other = np.nonzero(near)[0], places[near]
    pairs = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(len(vectors), len(vectors)))
    return connected_components(pairs, directed=False)[1]


def _whitened(features: np.ndarray) -> np.ndarray:
    """Unit vectors of the whitened features, float32 `(N, d)`."""
    from sklearn.decomposition import PCA

    some = np.unique(np.linspace(0, len(features) - 1, _FITTED).astype(np.int64))
    pca = PCA(_VARIANCE, whiten=True, svd_solver="full").fit(features[some].astype(np.float32))
    vectors = np.empty((len(features), pca.n_components_), dtype=np.float32)
    for left in range(0, len(features), _BLOCK):
        part = pca.transform(features[left : left + _BLOCK].astype(np.float32))
        length = np.linalg.norm(part, axis=1, keepdims=True)
        vectors[left : left + _BLOCK] = part / np.maximum(length, np.finfo(np.float32).tiny)
    return vectors


def _nearest(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cosines of each unit vector with its nearest ones, float32 `(N, k)`, and where these are, int64."""
    from sklearn.neighbors import NearestNeighbors

    count = len(vectors)
    wanted = min(_NEIGHBORS, count - 1)
    # By distance, which of unit vectors tells the cosine, and is faster.
    search = NearestNeighbors(n_neighbors=wanted + 1, algorithm="brute").fit(vectors)
    cosines, places = np.empty((count, wanted), dtype=np.float32), np.empty((count, wanted), dtype=np.int64)
    blocks = range(0, count, _BLOCK)
    for left in tqdm(blocks, desc="near-duplicates", unit="block", leave=False, disable=None):
        distances, found = search.kneighbors(vectors[left : left + _BLOCK])
        # Each is its own neighbor, if it has not so many copies that it is not among them.
        own = found == left + np.arange(len(found))[:, None]
        own[~own.any(axis=1), -1] = True
        cosines[left : left + _BLOCK] = (1 - distances**2 / 2)[~own].reshape(-1, wanted)
        places[left : left + _BLOCK] = found[~own].reshape(-1, wanted)
    return cosines, places
