"""Log what merges during training and testing to mmengine's Visualizer: TensorBoard, WandB, files.

Both hooks run the backbone once more on the first image of a batch, every so many batches, in eval mode and without
gradients, in the main process alone. The run is unaffected: its random numbers, modes and modules stay unchanged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from statistics import fmean
from typing import Any

import numpy as np
import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import autocast
from torch import Tensor, nn

from mmseg_tr.analysis.macs import evaluating
from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.checks import check_integer
from mmseg_tr.reduction.observe import Merged
from mmseg_tr.registry import HOOKS
from mmseg_tr.visualization.merging import STYLES, show_groups
from mmseg_tr.visualization.pixels import Filter, resized

DataBatch = Mapping[str, Any] | None


class MergingHook(Hook):
    """Base of both hooks. interval: training batches between records; test_interval: the same for the others."""

    priority = 'BELOW_NORMAL'  # after the hooks of the run itself

    def __init__(self, interval: int, test_interval: int) -> None:
        for name, value in (('interval', interval), ('test_interval', test_interval)):
            check_integer(f'{type(self).__name__}: {name}', value, 1)
        self.interval, self.test_interval = interval, test_interval

    def before_run(self, runner) -> None:
        """Raise ConfigError for a model whose merging cannot be watched."""
        if find_backbone(runner.model) is None:
            raise ConfigError(
                f'{type(self).__name__} watches mmseg_tr.ViT and mmseg_tr.MiT, and the model has neither: remove it.'
            )

    def look(self, runner, batch: DataBatch, mode: str) -> tuple[np.ndarray, list[Merged]] | None:
        """Return the first picture of a batch, (H, W, 3) uint8 RGB as the network sees it, and what merges in it."""
        inputs = (batch or {}).get('inputs')
        if not is_main_process() or inputs is None or not isinstance(inputs[0], Tensor) or inputs[0].dim() != 3:
            return None  # another process, or test-time augmentation, whose pictures have several sizes
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        with evaluating(model), torch.no_grad(), same_random_numbers(), precision(runner, mode):
            image = prepared(model, batch)
            picture = padded(raw_picture(inputs[0]), image.shape[-2:])
            test_cfg = getattr(model, 'test_cfg', None) or {}
            if mode != 'train' and test_cfg.get('mode') == 'slide':
                place = middle(image.shape[-2:], test_cfg['crop_size'])
                image, picture = image[(..., *place)], picture[place]
            return picture, find_backbone(model).watch(image)


@HOOKS.register_module()
class TokenCountHook(MergingHook):
    """Log the tokens left after each layer, and the share that merged, as scalars.

    custom_hooks = [dict(type='mmseg_tr.TokenCountHook', interval=50)]

    Names: tokens/layer_01 and so on (of methods that merge inside a layer also the part, tokens/layer_01/mlp; of a MiT
    tokens/stage_1_block_01/queries), and tokens/merge_share, 1 - tokens / patches averaged over all of them. Class and
    other prefix tokens are not counted. In training they are of one image each; in validation and testing, under
    val/ and test/, means over the images looked at.
    """

    def __init__(self, interval: int = 50, test_interval: int = 10) -> None:
        super().__init__(interval, test_interval)
        self.seen: list[list[Merged]] = []

    def after_train_iter(self, runner, batch_idx: int, data_batch: DataBatch = None, outputs=None) -> None:
        if not self.every_n_train_iters(runner, self.interval):
            return
        found = self.look(runner, data_batch, 'train')
        if found is not None:
            write_scalars(runner, '', [found[1]], runner.iter + 1)

    def _before_epoch(self, runner, mode: str = 'train') -> None:
        self.seen = []

    def _after_iter(self, runner, batch_idx: int, data_batch: DataBatch = None, outputs=None, mode='train') -> None:
        if batch_idx % self.test_interval == 0 and (found := self.look(runner, data_batch, mode)) is not None:
            self.seen.append(found[1])

    def _after_epoch(self, runner, mode: str = 'train') -> None:
        if mode != 'train':
            write_scalars(runner, f'{mode}/', self.seen, runner.iter)
            self.seen = []


@HOOKS.register_module()
class MergingVisualizationHook(MergingHook):
    """Show merged groups in the Visualizer's image panel: the picture, and next to it the groups of the layers.

    custom_hooks = [dict(type='mmseg_tr.MergingVisualizationHook', interval=500)]

    layers: numbers from 1, by default the last that merges. style: 'mean' (every group in its mean colour, as
    published) or 'outline'. Names: merging_train, merging_val_0, merging_test_0 with the number of the batch.
    """

    def __init__(
        self, interval: int = 500, test_interval: int = 50, layers: Sequence[int] | None = None, style: str = 'mean'
    ) -> None:
        super().__init__(interval, test_interval)
        if style not in STYLES:
            raise ConfigError(f'style={style!r} is unknown: it is one of {", ".join(map(repr, STYLES))}.')
        self.layers, self.style = layers, style

    def after_train_iter(self, runner, batch_idx: int, data_batch: DataBatch = None, outputs=None) -> None:
        if self.every_n_train_iters(runner, self.interval):
            self._draw(runner, data_batch, 'train', 'merging_train', runner.iter + 1)

    def _after_iter(self, runner, batch_idx: int, data_batch: DataBatch = None, outputs=None, mode='train') -> None:
        if batch_idx % self.test_interval == 0:
            self._draw(runner, data_batch, mode, f'merging_{mode}_{batch_idx}', runner.iter)

    def _draw(self, runner, batch: DataBatch, mode: str, name: str, step: int) -> None:
        seen = self.look(runner, batch, mode)
        if seen is None or not seen[1]:
            return
        picture, found = seen
        chosen = [entry for entry in found if entry.layer in self.layers] if self.layers else found[-1:]
        if not chosen:
            layers = ', '.join(map(str, sorted({entry.layer for entry in found})))
            raise ConfigError(f'MergingVisualizationHook: layers={self.layers} merge nothing: give some of {layers}.')
        drawn = [show_groups(fitted(picture, entry.groups.shape), entry.groups, self.style) for entry in chosen]
        panels = [resized(panel, picture.shape[:2], Filter.BILINEAR) for panel in drawn]
        runner.visualizer.add_image(name, np.concatenate([picture, *panels], axis=1), step)


def write_scalars(runner, prefix: str, seen: Sequence[Sequence[Merged]], step: int) -> None:
    """Return means over several records, by name; empty if nothing merges."""
    values: dict[str, list[float]] = defaultdict(list)
    for found in seen:
        for entry in found:
            values[scalar_name(entry)].append(entry.tokens)
        if found:
            values['tokens/merge_share'].append(1 - fmean(entry.tokens / entry.patches for entry in found))
    if values:
        runner.visualizer.add_scalars({f'{prefix}{name}': fmean(numbers) for name, numbers in values.items()}, step)


def scalar_name(entry: Merged) -> str:
    """Return 'tokens/layer_03', 'tokens/layer_03/mlp', 'tokens/stage_1_block_02/keys'; heads share one name."""
    *where, number = entry.name.replace(',', '').split()
    part = 'heads' if entry.part.startswith('head ') else entry.part
    return '/'.join(filter(None, ['tokens', f'{"_".join(where)}_{int(number):02d}', part]))


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Restore the run's random generators: methods may draw numbers."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


def precision(runner, mode: str) -> Any:
    """Use the run's autocast: rounding may decide what merges."""
    if mode == 'train':
        return runner.optim_wrapper.optim_context(runner.model)
    loop = runner.val_loop if mode == 'val' else runner.test_loop
    return autocast(enabled=True) if getattr(loop, 'fp16', False) else nullcontext()


def prepared(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return the first image of a batch as the network's input, (1, 3, H, W). The batch is unchanged."""
    first = dict(inputs=[batch['inputs'][0].clone()], data_samples=[batch['data_samples'][0].clone()])
    inputs = model.data_preprocessor(first, False)['inputs']
    return inputs[0][None] if isinstance(inputs, list) else inputs


def raw_picture(image: Tensor) -> np.ndarray:
    """Convert a packed image of OpenMMLab, (3, H, W) BGR, to (H, W, 3) uint8 RGB."""
    return image.flip(0).permute(1, 2, 0).clamp(0, 255).byte().cpu().numpy()


def padded(picture: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Pad with black below and to the right up to `size`, like the preprocessor."""
    more = [max(wanted - have, 0) for wanted, have in zip(size, picture.shape)]
    return np.pad(picture, ((0, more[0]), (0, more[1]), (0, 0)))[: size[0], : size[1]]


def middle(size: Sequence[int], window: Sequence[int]) -> tuple[slice, slice]:
    """Crop the middle of a picture to a window; a smaller picture stays whole."""
    return tuple(slice(max(side - wide, 0) // 2, max(side - wide, 0) // 2 + wide) for side, wide in zip(size, window))


def fitted(picture: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """Resize the picture to the nearest size that the grid divides."""
    size = [max(round(side / cells), 1) * cells for side, cells in zip(picture.shape, grid)]
    return resized(picture, size, Filter.BILINEAR)
