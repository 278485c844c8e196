"""Metadata of an exported file: how to prepare its input, and what its output means."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tr.apis.build import network_input
from mmseg_tr.apis.config import reduction_settings
from mmseg_tr.apis.meta import classes_of
from mmseg_tr.nn.labels import THRESHOLD
from mmseg_tr.version import __version__

SIDE = 32  # of the plain pictures that are shown to the preprocessing


def describe(config: Config, model: nn.Module, checkpoint: str, shape: tuple[int, int], output: str) -> dict[str, str]:
    """Return metadata of the exported file: texts, JSON where a value is not a text.

    size: [height, width] of the images. mean, std, color_order, channels: see normalisation(). classes: names in the
    order of the output's numbers. threshold: of the sigmoid, for one output channel. output: 'logits' or 'labels'.
    """
    found: dict[str, Any] = dict(producer=f'mmseg_tr {__version__}', output=output, size=list(shape))
    found |= normalisation(config, model)
    head = getattr(model, 'decode_head', None)
    if head is not None:
        found['classes'] = classes_of(config, model, checkpoint).names
    if getattr(head, 'out_channels', None) == 1:
        found['threshold'] = getattr(head, 'threshold', THRESHOLD)
    reduction = reduction_settings(config.model.get('backbone') or {})
    if reduction:
        found['reduction'] = reduction
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in found.items()}


def normalisation(config: Config, model: nn.Module) -> dict[str, Any]:
    """Return how pixels become the network's input: dict(channels=3, color_order='RGB', mean=[...], std=[...]).

    Found by running plain pictures through the config's pipeline and the model's own
    preprocessing. mean and std are left out where the input is not (pixel - mean) / std, color_order without three
    channels.
    """
    black, grey, white, red = (
        _shown(config, model, color) for color in ((0, 0, 0), (128, 128, 128), (255, 255, 255), (255, 0, 0))
    )
    scale = (white - black) / 255
    found: dict[str, Any] = dict(channels=len(black))
    if len(black) == 3:
        follows = torch.isclose(red, white) & ~torch.isclose(black, white)
        order = {(True, False, False): 'RGB', (False, False, True): 'BGR'}.get(tuple(follows.tolist()))
        found |= dict(color_order=order) if order else {}
    if (scale > 0).all() and torch.allclose(grey, black + 128 * scale, atol=1e-4 * float(scale.max() * 255)):
        found |= dict(mean=_rounded(-black / scale), std=_rounded(1 / scale))
    return found


def _shown(config: Config, model: nn.Module, color: tuple[int, int, int]) -> Tensor:
    """Return the channels of the network's input for a picture of one color, (C,) float64."""
    picture = np.full((SIDE, SIDE, 3), color, np.uint8)
    return network_input(config, model, picture).double().mean((0, 2, 3)).cpu()


def _rounded(values: Tensor) -> list[float]:
    return [float(f'{value:.6g}') + 0.0 for value in values.tolist()]
