"""Inference as published with Segmenter: windows, small images, flips and scales. Plain functions on tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.errors import ConfigError


def pad_to_multiple(image: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Pad with zeros at the bottom and right, up to multiples of the patch: (B, C, H, W) -> (B, C, H', W')."""
    (height, width), (ph, pw) = image.shape[-2:], patch_size
    bottom, right = -height % ph, -width % pw
    return F.pad(image, (0, right, 0, bottom)) if bottom or right else image


def whole_steps(size: Sequence[int], scale: float, steps: Sequence[int]) -> tuple[int, int]:
    """Return a size (h, w) times a scale, rounded to whole steps, one at least."""
    height, width = (max(round(side * scale / step), 1) * step for side, step in zip(size, steps))
    return height, width


def window_size_of_image(height: int, width: int, window: int) -> tuple[int, int]:
    """Return the size at which an image is cut into windows: its short side at least the window, its shape kept.

    The long side is truncated, as published. Images are never made smaller.
    """
    if min(height, width) >= window:
        return height, width
    long_side = int(max(height, width) / min(height, width) * window)
    return (window, long_side) if height <= width else (long_side, window)


def enlarge_to_window(image: Tensor, window: int) -> Tensor:
    """Enlarge an image whose short side is below the window, bilinearly: (B, C, H, W) -> (B, C, H', W')."""
    size = window_size_of_image(image.shape[-2], image.shape[-1], window)
    if size == tuple(image.shape[-2:]):
        return image
    return F.interpolate(image, size=size, mode='bilinear', align_corners=False)


def axis_anchors(length: int, window: int, stride: int) -> list[int]:
    """Return starts of windows along one axis: multiples of the stride that leave room, then the last one that fits."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def window_anchors(
    image_size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]
) -> list[tuple[int, int]]:
    """(y, x) of the top-left corner of every window, row by row."""
    ys, xs = (axis_anchors(*axis) for axis in zip(image_size, window, stride, strict=True))
    return [(y, x) for y in ys for x in xs]


def average_windows(
    windows: Iterable[Tensor], anchors: Iterable[tuple[int, int]], image_size: tuple[int, int]
) -> Tensor:
    """Average the windows that cover each pixel: windows of (B, K, wh, ww) in anchor order -> (B, K, H, W)."""
    total: Any = None
    count: Any = None
    for logits, (y, x) in zip(windows, anchors, strict=True):
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *image_size)
            count = logits.new_zeros(image_size)
        height, width = logits.shape[-2:]
        total[..., y : y + height, x : x + width] += logits
        count[y : y + height, x : x + width] += 1
    return total / count


def cut_windows(
    image: Tensor, window: tuple[int, int], stride: tuple[int, int]
) -> tuple[list[Tensor], list[tuple[int, int]]]:
    """Cut an image (B, C, H, W) into overlapping windows (B, C, wh, ww); returns them and their top-left corners.

    A window larger than the image shrinks to it. Raises ConfigError for a stride that would leave pixels uncovered.
    """
    if any(not 1 <= step <= side for step, side in zip(stride, window, strict=True)):
        raise ConfigError(f'stride={tuple(stride)} must be between 1 and the window, {tuple(window)}, on each axis.')
    image_size = tuple(image.shape[-2:])
    height, width = (min(side, length) for side, length in zip(window, image_size, strict=True))
    anchors = window_anchors(image_size, (height, width), stride)
    return [image[..., y : y + height, x : x + width] for y, x in anchors], anchors


def in_batches(crops: Sequence[Tensor], window_batch: int) -> Iterator[Tensor]:
    """Yield up to window_batch windows at a time, each of all images: (n, C, wh, ww)."""
    for start in range(0, len(crops), window_batch):
        yield torch.cat(crops[start : start + window_batch])


def slide(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
    window_batch: int = 1,
) -> Tensor:
    """Return logits of an image from overlapping windows (Segmenter, section 4): (B, C, H, W) -> (B, K, H, W).

    predict: crops (n, C, wh, ww) -> logits (n, K, wh, ww), called with up to window_batch windows of each image.
    window, stride: as in cut_windows(), which raises ConfigError.
    """
    crops, anchors = cut_windows(image, window, stride)
    windows: list[Tensor] = []
    for batch in in_batches(crops, window_batch):
        windows += predict(batch).split(len(image))
    return average_windows(windows, anchors, tuple(image.shape[-2:]))


def view_probabilities(logits: Tensor, size: tuple[int, int], flip: bool = False) -> Tensor:
    """Class probabilities of one view at the requested size: resized, then unflipped, then softmax over classes."""
    logits = F.interpolate(logits.contiguous(), size=size, mode='bilinear', align_corners=False)
    return (logits.flip(-1) if flip else logits).softmax(dim=1)


def predict_views(
    predict: Callable[[Tensor], Tensor],
    views: Iterable[tuple[Tensor, bool]],
    size: tuple[int, int],
    window: int,
    stride: int,
    window_batch: int = 1,
) -> Tensor:
    """Return the mean class probabilities over scales and flips of one image, as published: (1, K, *size).

    views: (image (1, C, H, W), flipped) for every scale and flip. Images smaller than the window are enlarged.
    """
    maps = []
    for image, flip in views:
        image = enlarge_to_window(image, window)
        logits = slide(predict, image, (window, window), (stride, stride), window_batch)
        maps.append(view_probabilities(logits, size, flip))
    return torch.stack(maps).mean(0)
