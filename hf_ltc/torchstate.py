"""What torch does by default, apart from what a caller has set."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def usual_torch() -> Iterator[None]:
    """Models are made in float32 and can be trained, whatever default dtype, `no_grad` or `inference_mode` is set."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_default_dtype(before)
