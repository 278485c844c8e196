"""Mixed-precision training in bfloat16, without loss scaling, on a CPU too, unlike mmengine's AmpOptimWrapper."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner import autocast
from torch import nn

from mmseg_tr.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """OptimWrapper that runs the forward under bfloat16 autocast, on a CPU as well as on a GPU."""

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Return the forward's context: mmengine's own, and autocast."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
