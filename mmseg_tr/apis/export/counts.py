"""Fixed counts for an adaptive method: its mean over pictures of the test set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tr.analysis.network import find_backbone, reduction_of
from mmseg_tr.apis.build import fit_to, own_shape
from mmseg_tr.apis.config import require_sections
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.preprocess import preprocess
from mmseg_tr.engine.windows import windows_of
from mmseg_tr.errors import ConfigError


def average_settings(config: Config, model: nn.Module, number: int) -> dict[str, Any]:
    """Return settings that fix how much the model's method merges: its mean over windows of the test set.

    number: how many pictures, spread evenly over the set. Raises ConfigError for a method that images do not decide or
    that has no fixed form, DatasetError for a missing dataset.
    """
    require_sections(config, 'test_dataloader')
    dataset = build_dataset(config.test_dataloader.dataset)
    number = min(number, len(dataset))
    pictures = (dataset[index * len(dataset) // number] for index in range(number))
    try:
        return fixed_settings(model, _windows(config, model, pictures))
    except ConfigError as error:
        raise ConfigError(f'average is for methods that let images decide: {error}', parameters=['average']) from error


@torch.inference_mode()
def fixed_settings(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Any]:
    """Return settings of the fixed form that merges as much as the model's method on average over these images.

    Raises ConfigError for a method without such a form, before it looks at an image.
    """
    reduction = reduction_of(model)
    if reduction is None:
        raise ConfigError('the network has no token-reduction method.')
    backbone = find_backbone(model)
    return reduction.fixed_by(backbone.forward_tokens(batch) for batch in batches).settings()


def _windows(config: Config, model: nn.Module, pictures: Iterable[dict]) -> Iterator[Tensor]:
    """Yield the windows of a test, (n, C, H, W) per picture; of whole pictures the middle, cropped to a window."""
    shape = own_shape(config)
    for picture in pictures:
        image = preprocess(model, [picture])['inputs']
        windows = windows_of(model, image)
        if windows.size == shape:
            yield torch.cat([windows.crop(number) for number in range(len(windows.anchors))])
        else:
            yield fit_to(image, model, shape)
