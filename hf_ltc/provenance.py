"""What a recording or an evaluation runs on and with, for its recipe."""

import os
import platform
from importlib.metadata import version
from typing import Any

import torch
from accelerate import Accelerator

_PACKAGES = ("hf_ltc", "accelerate", "datasets", "numpy", "timm", "torch", "torchvision", "transformers")


def versions() -> dict[str, str]:
    """Of Python and of the packages that a result may depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def hardware(accelerator: Accelerator) -> dict[str, Any]:
    """The device, the processes and the machine."""
    cuda = accelerator.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(accelerator.device) if cuda else accelerator.device.type,
        "processes": accelerator.num_processes,
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "system": platform.system(),
        "mixed_precision": accelerator.mixed_precision,
    }
