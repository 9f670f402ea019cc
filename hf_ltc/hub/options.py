"""The options of a push, checked before any work."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from ..coresets.choose import Selection, coreset_size
from ..data.parquet import size_in_bytes
from ..utils.errors import InputError
from .repository import check_repo_id
from .repository_recipe import check_score_column


def check_push(
    repo_id: str,
    fractions: Sequence[float],
    sizes: Sequence[int],
    *,
    scores_only: bool,
    full: bool,
    splits: Mapping[str, Dataset] | None,
    max_shard_size: int | str,
    score_column: str,
    **selection: Any,
) -> Selection:
    """Checks the options of [`push_coreset`] that need no row and no network; returns how rows are chosen.

    Raises:
        InputError: for one that cannot be pushed by.
    """
    check_repo_id(repo_id)
    if unknown := set(selection) - set(Selection().to_dict()):
        raise InputError(
            f"push_coreset has no option {sorted(unknown)[0]!r}: it has {', '.join(Selection().to_dict())}"
        )
    options = Selection(**selection)
    check_score_column(score_column)
    for name, budgets in (("fractions", fractions), ("sizes", sizes)):
        if isinstance(budgets, str | int | float):
            raise InputError(f"`{name}` is {budgets!r}: give a list, such as [{budgets!r}]")
    # How many rows may be chosen is not known yet.
    for fraction in fractions:
        coreset_size(sys.maxsize, fraction=fraction)
    for size in sizes:
        coreset_size(sys.maxsize, size=size)
    if not fractions and not sizes and not full and not scores_only:
        raise InputError("nothing to push: give budgets as `fractions` (or `sizes`), or `full`, or `scores_only`")
    if scores_only and (full or splits):
        raise InputError("`scores_only` pushes no rows, so it goes neither with `full` nor with `splits`")
    if full and not options.is_nested:
        raise InputError(
            "`full` is an order that begins with each coreset: with `coverage` or `min_per_class` there is none, so "
            "leave `full` out"
        )
    size_in_bytes(max_shard_size)
    return options
