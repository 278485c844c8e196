"""How many windows and tokens ALGM merges on average: fixed counts for where an image must not decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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


def average_counts(config: Config, model: nn.Module, number: int) -> tuple[int, ...]:
    """What ALGM merges per window of the config's test set, rounded: its setting `counts`.

    number: how many pictures, spread evenly over the set. Raises ConfigError for another method and for counts that are
    fixed already, DatasetError for a set that is not there.
    """
    reduction = reduction_of(model)
    if not isinstance(reduction, ALGM) or reduction.counts is not None:
        raise ConfigError('--average-counts is for ALGM whose images decide: leave it out here.')
    if number < 1:
        raise ConfigError(f'--average-counts {number} must be 1 or more.')
    require_sections(config, 'test_dataloader')
    dataset = build_dataset(config.test_dataloader.dataset)
    number = min(number, len(dataset))
    pictures = (dataset[index * len(dataset) // number] for index in range(number))
    vit = next(module for module in model.modules() if isinstance(module, ViT))
    return mean_merges(vit, _windows(config, model, pictures))


def _windows(config: Config, model: nn.Module, pictures: Iterable[dict]) -> Iterator[Tensor]:
    """The windows that a test would run, (n, 3, H, W) per picture."""
    size, test_cfg = own_shape(config), config.model.get('test_cfg') or {}
    stride = test_cfg.get('stride') or size
    for picture in pictures:
        image = model.data_preprocessor(pseudo_collate([picture]), False)['inputs']
        image = enlarge_to_window(image, max(size))
        anchors = window_anchors(tuple(image.shape[-2:]), size, stride)
        yield torch.cat([image[..., y : y + size[0], x : x + size[1]] for y, x in anchors])


@torch.inference_mode()
def mean_merges(vit: ViT, batches: Iterable[Tensor]) -> tuple[int, ...]:
    """Mean number of windows that join in ALGM's first layer, and of tokens that leave in each later one."""
    algm, totals, images = vit.reduction, dict.fromkeys(vit.reduction.layers, 0), 0
    for batch in batches:
        tokens = vit.forward_tokens(batch)
        images += len(batch)
        before = (tokens.num_prefix + tokens.grid[0] * tokens.grid[1]) * len(batch)
        for step in tokens.steps:
            after = sum(step.merge.lengths)
            totals[step.layer] += before - after
            before = after
    totals[algm.layers[0]] /= algm.window[0] * algm.window[1] - 1
    return tuple(round(total / images) for total in totals.values())
