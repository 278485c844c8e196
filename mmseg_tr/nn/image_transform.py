"""Turn an image into a network's input, without torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.errors import ConfigError

# of RGB in 0..1, as timm, torchvision and the training of SegFormer have them
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)  # mean and deviation of ViTs with AugReg's weights, and of Segmenter


class ImageTransform:
    """RGB image -> (C, h, w) float32, resized to `resolution` = (height, width) or left at its size, normalised.

    mean, std: one number per channel, of values in 0..1. An image is a PIL image or an array (H, W, C), or a tensor
    (C, H, W); whole numbers count as 0..255, others as 0..1. Raises ConfigError for anything else.
    """

    def __init__(
        self,
        resolution: int | tuple[int, int] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        size = (resolution, resolution) if isinstance(resolution, int) else resolution
        if size is not None and (len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size)):
            raise ConfigError(f'resolution must be (height, width) in pixels or None, got {resolution!r}.')
        if len(mean) != len(std) or any(deviation <= 0 for deviation in std):
            raise ConfigError(
                f'mean and std must have one number per channel each, std above 0, got {mean!r} and {std!r}.'
            )
        self.resolution, self.given = size, (mean, std)
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def settings(self) -> dict[str, Any]:
        """Arguments that build this transform again, of plain values."""
        size = None if self.resolution is None else list(self.resolution)
        return dict(resolution=size, mean=list(self.given[0]), std=list(self.given[1]))

    def __call__(self, image: Any) -> Tensor:
        try:
            pixels = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image)).movedim(-1, 0)
            fits = pixels.dim() == 3 and pixels.shape[0] == len(self.mean) and not pixels.is_complex()
        except (TypeError, ValueError, IndexError):  # not numbers, or none
            fits = False
        if not fits:
            raise ConfigError(
                f'an image must be (H, W, {len(self.mean)}) for a picture or array, ({len(self.mean)}, H, W) for a '
                f'tensor, got {tuple(image.shape) if hasattr(image, "shape") else repr(image)}.'
            )
        pixels = pixels.float() if pixels.is_floating_point() else pixels.float() / 255
        if self.resolution is not None:
            resize = dict(size=self.resolution, mode='bilinear', align_corners=False, antialias=True)
            pixels = F.interpolate(pixels[None], **resize)[0]
        return (pixels - self.mean) / self.std
