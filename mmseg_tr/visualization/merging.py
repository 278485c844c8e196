"""Pictures of what merged (ALGM and ToMe repositories' style: every group in its mean colour, with a coloured rim)."""

from __future__ import annotations

import random

import numpy as np


def draw_groups(
    image: np.ndarray, groups: np.ndarray, rim: bool = True, rim_color: tuple[float, float, float] | None = None
) -> np.ndarray:
    """Paint every group of patches in its mean colour, its rim in a colour of its own.

    image: (H, W, 3) uint8 RGB; groups: (h, w) whole numbers, equal for patches that share a token, where H and W are
    multiples of h and w. rim=False paints no rims; rim_color, in [0, 1], replaces the published random colours.
    Returns (H, W, 3) uint8. Raises ValueError when the picture is no multiple of the patch grid.
    """
    height, width = image.shape[:2]
    if height % groups.shape[0] or width % groups.shape[1]:
        raise ValueError(f'a picture of {height} x {width} pixels does not hold a patch grid of {groups.shape}.')
    pixels = groups.repeat(height // groups.shape[0], 0).repeat(width // groups.shape[1], 1)
    ids, inverse = np.unique(pixels, return_inverse=True)
    inverse = inverse.reshape(-1)
    colors = image.reshape(-1, 3) / 255.0
    count = np.bincount(inverse)[:, None]
    mean = np.stack([np.bincount(inverse, weights=channel) for channel in colors.T], 1) / count
    painted = mean[inverse].reshape(height, width, 3)
    if rim:
        on_rim = ~inside(pixels)
        rims = np.array([rim_color] * len(ids)) if rim_color else group_colors(int(ids.max()) + 1)[ids]
        painted[on_rim] = rims[inverse].reshape(height, width, 3)[on_rim]
    return (255 * painted).astype(np.uint8)


def group_colors(count: int) -> np.ndarray:
    """Random colours in [0, 1], (count, 3): colour i is always the same, as published."""
    generator = random.Random(0)
    return np.array([[generator.uniform(0, 1) for _ in range(3)] for _ in range(count)])


def inside(pixels: np.ndarray) -> np.ndarray:
    """Pixels whose four neighbours belong to the same group, (H, W) bool; what lies outside the picture does not."""
    padded = np.pad(pixels, 1, constant_values=-1)
    centre = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_and.reduce([centre == neighbour for neighbour in neighbours])
