"""Rows that are nearly the same as others, by the features of the source model: arrays in, arrays out."""

import numpy as np

# Chosen by benchmarks/duplicates.py.
SIMILARITY = 0.83
# Of each row so many others are looked at; of more that are alike, each is near one of the first.
_NEIGHBORS = 10
# The share of the variance whose directions count: the others, as of units that are never active, are rounding.
_VARIANCE = 0.9999
# Rows that these directions are found by, and rows that are compared with all at once.
_FITTED, _BLOCK = 2**15, 2**14


def near_duplicates(features: np.ndarray, similarity: float = SIMILARITY) -> np.ndarray:
    """Groups of rows of which each is nearly the same as another one: int64 `(N,)`, from 0, or -1 for rows of none.

    Rows are compared by the cosine of their whitened features: centered, and with the same variance in all directions
    (Jégou and Chum, ECCV 2012), without which rows of one class are all alike to the model that tells classes apart.
    Labels do not count, so that copies with different labels are found. All pairs are compared, by scikit-learn's
    search for neighbors, in memory that grows with the rows.

    Args:
        features (`np.ndarray`): `(N, D)`.
        similarity (`float`, *optional*, defaults to `0.83`): The least cosine of near-duplicates, inside (0, 1).
    """
    count = len(features)
    if count < 2 or (features == features[0]).all():
        # A model to which all rows are the same tells nothing of them.
        return np.full(count, -1)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import NearestNeighbors

    vectors = _whitened(features)
    # Of unit vectors, whose distances tell their cosines, and are found faster.
    search = NearestNeighbors(n_neighbors=min(_NEIGHBORS + 1, count), algorithm="brute").fit(vectors)
    found = []
    for left in range(0, count, _BLOCK):
        distances, places = search.kneighbors(vectors[left : left + _BLOCK])
        near = distances**2 <= 2 - 2 * similarity
        found.append((left + np.nonzero(near)[0], places[near]))
    one, other = (np.concatenate(ends) for ends in zip(*found))
    pairs = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(count, count))
    _, group = connected_components(pairs, directed=False)
    alone = np.bincount(group)[group] == 1
    # Numbered in the order of their first rows.
    groups = np.full(count, -1)
    _, first, inverse = np.unique(group[~alone], return_index=True, return_inverse=True)
    groups[~alone] = np.argsort(np.argsort(first))[inverse]
    return groups


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
