"""What a recording or an evaluation runs on and with: for its recipe, and set back to what torch does by default."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator

from .. import __version__
from .processes import Processes

_PACKAGES = ("accelerate", "datasets", "numpy", "timm", "torch", "torchvision", "transformers")


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result may depend on."""
    own = {"python": platform.python_version(), "hf_ltc": __version__}
    return own | {name: version(name) for name in _PACKAGES}


def hardware(state: Processes) -> dict[str, Any]:
    """The device, the processes and the machine; and the precision, where that is known too."""
    cuda = state.device.type == "cuda"
    precision = {"mixed_precision": state.mixed_precision} if isinstance(state, Accelerator) else {}
    return {
        "device": torch.cuda.get_device_name(state.device) if cuda else state.device.type,
        "processes": state.num_processes,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        **precision,
    }


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
