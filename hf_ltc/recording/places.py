"""Where the rows of a batch stand among the recorded ones, by number or by id."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ..data.inputs import as_array
from ..utils.errors import InputError, as_input_error, listed


class Places:
    """The position of a row number or id among the recorded ones."""

    def __init__(self, numbers: np.ndarray, ids: pa.Array | None, device: torch.device) -> None:
        self.device = device
        self.of_id = None if ids is None else {key: place for place, key in enumerate(ids.to_pylist())}
        self.order = np.argsort(numbers)
        self.numbers = numbers[self.order]

    def __call__(self, rows: Any) -> torch.Tensor:
        if self.of_id is not None:
            keys = rows.tolist() if isinstance(rows, torch.Tensor | np.ndarray) else list(rows)
            with as_input_error("rows are no ids", "give one id a sample", TypeError):
                places = np.array([self.of_id.get(key, -1) for key in keys], dtype=np.int64)
        else:
            asked = as_array(rows, "rows")
            if asked.ndim != 1:
                raise InputError(f"rows have shape {asked.shape}: give one number a sample")
            if len(asked) and asked.dtype.kind not in "iu":
                raise InputError(f"rows are {asked.dtype}: row numbers are integers, which floats would round")
            at = np.minimum(np.searchsorted(self.numbers, asked), len(self.numbers) - 1)
            places = np.where(self.numbers[at] == asked, self.order[at], -1)
            keys = asked.tolist()
        if (places < 0).any():
            unknown = [key for key, place in zip(keys, places) if place < 0]
            raise InputError(
                f"update got rows that the recorder was not made for: {listed(unknown)} ({len(unknown)} in all)"
            )
        return torch.from_numpy(places).to(self.device)
