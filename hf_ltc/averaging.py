"""Weights averaged over the steps of a training."""

from itertools import chain

from timm.utils import ModelEmaV3
from torch import nn


class AveragedWeights(ModelEmaV3):
    """An exponential moving average of weights and buffers, those that have several names once a step.

    timm's own goes through the state dict, where a tensor under two names is averaged twice, faster than asked for.
    """

    def apply_update_(self, model: nn.Module, decay: float) -> None:
        pairs = list(zip(*(list(chain(each.parameters(), each.buffers())) for each in (self.module, model))))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._foreach_lerp_([average for average, _ in floating], [new for _, new in floating], weight=1 - decay)
        for average, new in pairs:
            if not average.is_floating_point():
                average.copy_(new)
