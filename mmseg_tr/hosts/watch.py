"""What merges in a network with a method applied, for pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.hosts.state import applied_to, require_applied
from mmseg_tr.nn.backbone import check_single, same_weights
from mmseg_tr.reduction.observe import Merged, watched


@torch.no_grad()
def watch(model: nn.Module, image: Tensor) -> list[Merged]:
    """Return what merges in each layer in a forward of one image, (1, C, H, W), as the network takes it.

    The network itself is not changed. Raises ConfigError where nothing was applied, ValueError for a batch of several
    images.
    """
    require_applied(model)
    check_single(image)
    found: list[Merged] = []
    copied = same_weights(model)
    applied: Any = applied_to(copied)
    applied.method = watched(applied.method, found, applied.depths, image.device)
    copied(image)
    return found
