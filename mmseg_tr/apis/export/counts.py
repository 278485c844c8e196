"""The fixed form of an adaptive method, its mean over pictures of the test set: for where an image must not decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor, nn

from mmseg_tr.analysis.network import reduction_of
from mmseg_tr.apis.build import own_shape
from mmseg_tr.apis.config import require_sections
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.inference import enlarge_to_window, window_anchors
from mmseg_tr.nn.vit import ViT
from mmseg_tr.reduction import ALGM


def fixed_settings(config: Config, model: nn.Module, number: int) -> dict[str, Any]:
    """Settings of the model's method that fix how much it merges: its mean over windows of the test set, rounded.

    number: how many pictures, spread evenly over the set. Raises ConfigError for a method that images do not decide or
    that has no fixed form, DatasetError for a missing dataset.
    """
    reduction = find_adaptive(model)
    require_sections(config, 'test_dataloader')
    dataset = build_dataset(config.test_dataloader.dataset)
    number = min(number, len(dataset))
    pictures = (dataset[index * len(dataset) // number] for index in range(number))
    settings = average_settings(model, reduction, _windows(config, model, pictures))
    return dict(config.model.backbone.reduction) | settings


def find_adaptive(model: nn.Module) -> ALGM:
    """The method of a model that images decide and that has a fixed form. Raises ConfigError where there is none."""
    reduction = reduction_of(model)
    if not isinstance(reduction, ALGM) or reduction.counts is not None:
        raise ConfigError(
            'average is for methods that let each image decide how many tokens remain; the method of this model has '
            'nothing to average: leave it out.',
            parameters=['average'],
        )
    return reduction


@torch.inference_mode()
def average_settings(model: nn.Module, reduction: ALGM, batches: Iterable[Tensor]) -> dict[str, Any]:
    """Numbers of the fixed form: mean windows that join in the first layer, mean tokens that leave in later ones."""
    vit = next(module for module in model.modules() if isinstance(module, ViT))
    totals, images = dict.fromkeys(reduction.layers, 0), 0
    for batch in batches:
        tokens = vit.forward_tokens(batch)
        images += len(batch)
        before = (tokens.num_prefix + tokens.grid[0] * tokens.grid[1]) * len(batch)
        for step in tokens.steps:
            after = sum(step.merge.lengths)
            totals[step.layer] += before - after
            before = after
    totals[reduction.layers[0]] /= reduction.window[0] * reduction.window[1] - 1
    return dict(counts=tuple(round(total / images) for total in totals.values()))


def _windows(config: Config, model: nn.Module, pictures: Iterable[dict]) -> Iterator[Tensor]:
    """The windows that a test would run, (n, C, H, W) per picture."""
    size, test_cfg = own_shape(config), config.model.get('test_cfg') or {}
    stride = test_cfg.get('stride') or size
    for picture in pictures:
        image = model.data_preprocessor(pseudo_collate([picture]), False)['inputs']
        image = enlarge_to_window(image, max(size))
        anchors = window_anchors(tuple(image.shape[-2:]), size, stride)
        yield torch.cat([image[..., y : y + size[0], x : x + size[1]] for y, x in anchors])
