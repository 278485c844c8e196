"""Draw merged groups of patches.

The published style of ALGM and ToMe paints every group in its mean colour, with a coloured rim; the plain one leaves
the picture unchanged and draws group borders.
"""

from __future__ import annotations

import random

import numpy as np

STYLES = ('mean', 'outline')


def draw_groups(image: np.ndarray, groups: np.ndarray, rim: bool = True) -> np.ndarray:
    """Paint every group of patches in its mean colour, its rim in a random colour of its own, as published.

    image: (H, W, 3) uint8 RGB; groups: (h, w) whole numbers, equal for patches that share a token, where H and W are
    multiples of h and w. rim=False paints no rims.
    Returns (H, W, 3) uint8. Raises ValueError when the picture is not a multiple of the patch grid.
    """
    ids, numbers = np.unique(groups, return_inverse=True)
    pixels = enlarged_groups(image, numbers.reshape(groups.shape))
    inverse = pixels.reshape(-1)
    count = np.bincount(inverse)
    on_rim = ~inside(pixels) if rim else None
    rims = group_colors(int(ids.max()) + 1)[ids] if rim else None
    painted = np.empty_like(image)
    for channel in range(3):  # one by one: a picture of all three in float64 takes eight times the memory
        mean = np.bincount(inverse, weights=image[..., channel].reshape(-1) / 255.0) / count
        values = mean[pixels]
        if rim:
            values[on_rim] = rims[:, channel][pixels[on_rim]]
        painted[..., channel] = (255 * values).astype(np.uint8)
    return painted


def enlarged_groups(image: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the group of every pixel, (H, W). Raises ValueError unless the grid divides the picture."""
    height, width = image.shape[:2]
    if height % groups.shape[0] or width % groups.shape[1]:
        raise ValueError(f'a picture of {height} x {width} pixels does not hold a patch grid of {groups.shape}.')
    return groups.repeat(height // groups.shape[0], 0).repeat(width // groups.shape[1], 1)


def group_colors(count: int) -> np.ndarray:
    """Return random colours in [0, 1], (count, 3): colour i is always the same, as published."""
    generator = random.Random(0)
    return np.array([[generator.uniform(0, 1) for _ in range(3)] for _ in range(count)])


def inside(pixels: np.ndarray) -> np.ndarray:
    """Return pixels whose four neighbours belong to the same group, (H, W) bool; outside counts as another group."""
    padded = np.pad(pixels, 1, constant_values=-1)
    centre = padded[1:-1, 1:-1]
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_and.reduce([centre == neighbour for neighbour in neighbours])


def outline_groups(image: np.ndarray, groups: np.ndarray, width: int = 1) -> np.ndarray:
    """Draw a white line of `width` pixels, edged in black, along all borders between groups.

    image: (H, W, 3) uint8; groups: (h, w), H and W multiples of h and w, as in draw_groups(). Returns (H, W, 3) uint8.
    """
    pixels = enlarged_groups(image, groups)
    line = np.zeros(pixels.shape, bool)
    line[:, 1:] |= pixels[:, 1:] != pixels[:, :-1]
    line[1:] |= pixels[1:] != pixels[:-1]
    line = grown(line, width // 2)
    out = image.copy()
    out[grown(line, 1)] //= 2
    out[line] = 255
    return out


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """Grow the mask by `by` pixels along rows and columns."""
    for _ in range(by):
        padded = np.pad(mask, 1)
        sides = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        mask = np.logical_or.reduce([mask, *sides])
    return mask


def show_groups(image: np.ndarray, groups: np.ndarray, style: str = 'mean') -> np.ndarray:
    """Draw the groups over an (H, W, 3) uint8 picture in one of STYLES; patches without a token (-1) are darkened."""
    painted = draw_groups(image, groups) if style == 'mean' else outline_groups(image, groups, width=2)
    dropped = enlarged_groups(image, groups) < 0
    painted[dropped] = image[dropped] // 4
    return painted
