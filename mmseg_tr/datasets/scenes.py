"""Photo mosaics: scenes cut into regions, every region filled with a crop of a real photograph. Plain numpy.

`make_scene` is a pure function of its arguments: every number comes from one generator that is seeded by
(seed, split, index), so processes, workers and the order of calls make no difference.

Lengths below are in units of the scene's shorter side; the shapes are the same at every size.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mmseg_tr.analysis.photographs import NAMES, SPLITS, mirror_crop, photograph_part
from mmseg_tr.errors import ConfigError

REFERENCE_SIDE = 128  # the scene side to which ZOOMS refer
CUTS, BLOBS, BANDS = (1, 2), (0, 2), (0, 1)  # fewest and most of each kind in a scene
ZOOMS = (0.7, 0.8, 0.92, 1.05, 1.2)
BRIGHTNESS = (0.8, 1.12)  # gain of a region; little above 1, so that bright photographs do not wash out
TINT = 0.06  # gain of each colour on top of it: 1 -+ this

Mask = np.ndarray  # (h, w) bool
Plane = tuple[np.ndarray, np.ndarray]  # y (h, 1) and x (1, w), zero in the middle of the scene


def make_scene(size: tuple[int, int], seed: int, split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scene `index` of a split: image (h, w, 3) uint8 RGB and label (h, w) uint8, the place in `NAMES`.

    Raises ConfigError when a side is below 1, the split is unknown, or seed or index is negative.
    """
    check_scene(size, seed, split)
    if index < 0:
        raise ConfigError(f'index must be a non-negative integer, got {index}.')
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    regions = cut_regions(size, rng)
    classes = rng.permutation(len(NAMES)).astype(np.uint8)
    image = np.empty((*size, 3), np.uint8)
    for region in range(int(regions.max()) + 1):
        fill_region(image, regions == region, NAMES[classes[region]], split, rng)
    return image, classes[regions]


def check_scene(size: tuple[int, int], seed: int, split: str, what: str = 'a photo mosaic') -> None:
    """Raise ConfigError, naming `what`, when a side is below 1, the split unknown, or the seed negative."""
    sides = tuple(size) if isinstance(size, (tuple, list)) else ()
    if len(sides) != 2 or not all(isinstance(side, (int, np.integer)) and side > 0 for side in sides):
        raise ConfigError(f'{what}: size must be (height, width), two positive integers, got {size!r}.')
    if split not in SPLITS:
        raise ConfigError(f"{what}: split must be 'train' or 'val', got {split!r}.")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ConfigError(f'{what}: seed must be a non-negative integer, got {seed!r}.')


def cut_regions(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Return a map of region numbers (h, w): large pieces first, small shapes and thin bands over them."""
    height, width = size
    unit = min(size)
    y = ((np.arange(height) + 0.5 - height / 2) / unit)[:, None]
    x = ((np.arange(width) + 0.5 - width / 2) / unit)[None, :]
    regions = np.zeros(size, np.uint8)
    for number, mask in enumerate(_shapes((y, x), regions, rng), start=1):
        regions[mask] = number
    return regions


def _shapes(plane: Plane, regions: np.ndarray, rng: np.random.Generator) -> Iterator[Mask]:
    """Yield masks of the regions in drawing order; a cut divides the largest region so far."""
    for _ in range(rng.integers(*CUTS, endpoint=True)):
        largest = regions == np.bincount(regions.ravel()).argmax()
        yield largest & _cut(plane, largest, rng)
    for _ in range(rng.integers(*BLOBS, endpoint=True)):
        yield _blob(plane, rng)
    for _ in range(rng.integers(*BANDS, endpoint=True)):
        yield _band(plane, rng)


def _cut(plane: Plane, region: Mask, rng: np.random.Generator) -> Mask:
    """Return one side of a straight or wavy line near the middle of a region."""
    along, across = _turned(plane, _near_centre(plane, region, rng), rng)
    return across > _wave(along, rng, straight=0.5)


def _blob(plane: Plane, rng: np.random.Generator) -> Mask:
    """Return an ellipse or a rectangle at any place and angle."""
    centre = tuple(rng.uniform(axis.min(), axis.max()) for axis in plane)
    along, across = _turned(plane, centre, rng)
    length, breadth = rng.uniform(0.1, 0.26, 2)
    if rng.random() < 0.5:
        return (along / length) ** 2 + (across / breadth) ** 2 < 1
    return (np.abs(along) < length) & (np.abs(across) < breadth)


def _band(plane: Plane, rng: np.random.Generator) -> Mask:
    """Return a thin strip across the scene, straight or wavy, or a ring."""
    thickness = rng.uniform(0.03, 0.08)
    centre = tuple(0.8 * rng.uniform(axis.min(), axis.max()) for axis in plane)
    along, across = _turned(plane, centre, rng)
    if rng.random() < 0.25:
        return np.abs(np.sqrt(along**2 + across**2) - rng.uniform(0.12, 0.3)) < thickness / 2
    return np.abs(across - _wave(along, rng, straight=0.5)) < thickness / 2


def _near_centre(plane: Plane, region: Mask, rng: np.random.Generator) -> tuple[float, float]:
    """Return a point near a region's centre of mass, off by up to a tenth."""
    y, x = plane
    total = max(int(region.sum()), 1)
    middle = (region.sum(1) @ y[:, 0] / total, region.sum(0) @ x[0] / total)
    return tuple(value + rng.uniform(-0.1, 0.1) for value in middle)


def _turned(plane: Plane, centre: tuple[float, float], rng: np.random.Generator) -> Plane:
    """Return coordinates (h, w) along and across a random direction through `centre`."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = plane[0] - centre[0], plane[1] - centre[1]
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _wave(along: np.ndarray, rng: np.random.Generator, straight: float) -> np.ndarray | float:
    """Return the deviation of a wavy line, zero with probability `straight`."""
    height, length, phase = rng.uniform(0.04, 0.14), rng.uniform(0.5, 1.2), rng.uniform(0, 2 * np.pi)
    if rng.random() < straight:
        return 0.0
    return height * np.sin(2 * np.pi / length * along + phase)


def fill_region(image: np.ndarray, mask: Mask, name: str, split: str, rng: np.random.Generator) -> None:
    """Fill a region of `image` (h, w, 3), in place, with a photograph at random place, scale, flip, light and tint."""
    # Drawn before anything depends on the region's extent: a hidden region uses up the same numbers.
    zoom = ZOOMS[rng.integers(len(ZOOMS))] * zoom_for(image.shape[:2])
    place, flip = rng.random(2), rng.random() < 0.5
    gains = rng.uniform(*BRIGHTNESS) * rng.uniform(1 - TINT, 1 + TINT, 3)
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask = mask[window]
    part = photograph_part(name, split, zoom)
    # A part smaller than the region starts at any place and continues mirrored.
    room = tuple(have - want if have >= want else have for have, want in zip(part.shape[:2], mask.shape, strict=True))
    corner = tuple(int(share * (free + 1)) for share, free in zip(place, room, strict=True))
    crop = mirror_crop(part, corner, mask.shape)
    crop = crop[:, ::-1] if flip else crop
    table = np.minimum(np.arange(256)[:, None] * gains, 255).astype(np.uint8)
    image[window][mask] = table[crop[mask], (0, 1, 2)]


def zoom_for(size: tuple[int, int]) -> float:
    """Return the zoom of photographs in a scene of this size: the root of its shorter side over 128, 1 to 1.5.

    So larger scenes show both more of a photograph and more of its detail, and small ones do not shrink it.
    """
    return float(np.clip(np.sqrt(min(size) / REFERENCE_SIDE), 1.0, 1.5))
