"""Small timm networks with random weights, for comparison with ours."""

from __future__ import annotations

import torch
from torch import nn

from mmseg_tr.nn.encoders import timm


def shaken(model: nn.Module, seed: int = 0, by: float = 0.1) -> nn.Module:
    """The model with random numbers added to every parameter, so that none (LayerScale, biases) is without effect."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)
    return model.eval()


def timm_vit(name: str, **kwargs) -> nn.Module:
    """timm's own network of that name, without classifier."""
    return shaken(timm.create_model(name, num_classes=0, **kwargs))


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
