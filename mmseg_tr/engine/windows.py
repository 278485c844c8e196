"""The test windows of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.engine.preprocess import preprocess
from mmseg_tr.models.seg.segmentor import TokenSegmentor
from mmseg_tr.nn.inference import enlarge_to_window, window_anchors


@dataclass(frozen=True)
class Windows:
    """The windows of a picture in a test. image: (B, C, H, W), as test enlarges it. anchors: (y, x) of each window."""

    image: Tensor
    size: tuple[int, int]
    anchors: tuple[tuple[int, int], ...]

    def crop(self, number: int) -> Tensor:
        """Return one window, (B, C, h, w)."""
        y, x = self.anchors[number]
        return self.image[..., y : y + self.size[0], x : x + self.size[1]].contiguous()

    def middle(self) -> Tensor:
        """Return the window in the middle of the list."""
        return self.crop(len(self.anchors) // 2)


def windows_of(model: nn.Module, inputs: Tensor) -> Windows:
    """Return the test windows of inputs (B, C, H, W); the whole for other models than segmentors and other modes."""
    settings = getattr(model, 'test_cfg', None) or {}
    if settings.get('mode') != 'slide':
        return Windows(inputs, tuple(inputs.shape[-2:]), ((0, 0),))
    size = tuple(settings['crop_size'])
    if isinstance(model, TokenSegmentor) and settings.get('small_images', 'enlarge') == 'enlarge':
        inputs = enlarge_to_window(inputs, max(size))
    whole = tuple(inputs.shape[-2:])
    size = tuple(min(side, length) for side, length in zip(size, whole))
    return Windows(inputs, size, tuple(window_anchors(whole, size, tuple(settings['stride']))))


def entry_sentence(model: nn.Module, size: tuple[int, int], item: Mapping[str, Any]) -> str:
    """Describe how a picture of this size (h, w) enters: '480x360 pixels enter as 240x180, in 6 windows of 128x128'."""
    with torch.no_grad():
        windows = windows_of(model, preprocess(model, [item])['inputs'])
    height, width = windows.image.shape[-2:]
    cut = f', in {len(windows.anchors)} windows of {by(windows.size)}' if len(windows.anchors) > 1 else ''
    return f'{by(size)} pixels enter as {by((height, width))}{cut}'


def by(size: tuple[int, int]) -> str:
    """Format (h, w) as text, width first."""
    return f'{size[1]}x{size[0]}'
