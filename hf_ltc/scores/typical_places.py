"""How many typical rows of each class come first, by arithmetic alone."""

import numpy as np

from ..config import TYPICAL_SHARE


def typical_places(counts: np.ndarray, typical: float, by_class: bool = True) -> np.ndarray:
    """How many typical rows come first in classes of some numbers of rows.

    Args:
        counts (`np.ndarray`): int `(C,)`.
        typical (`float`): As for [`rank_coreset`].
        by_class (`bool`, *optional*, defaults to `True`): Whether these are classes, not all rows.

    Returns:
        `np.ndarray`: int64 `(C,)`, at least one.
    """
    places = (typical if typical <= 1 else TYPICAL_SHARE) * counts
    if typical > 1 and by_class:
        places = np.minimum(places, typical)
    return np.maximum(1, np.rint(places)).astype(np.int64)
