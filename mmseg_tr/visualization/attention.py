"""Attention maps as pictures: a colour map, enlarged patch by patch, and the picture with one patch painted red."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mmseg_tr.errors import ConfigError, require_extra

RED = (255, 0, 0)


def check_colormap(name: str) -> str:
    """A colour map that matplotlib knows. Raises ConfigError, or MissingExtraError without matplotlib."""
    require_extra('seg', 'matplotlib', 'to draw attention maps')
    import matplotlib

    if name not in matplotlib.colormaps:
        raise ConfigError(
            f'cmap must be a colour map of matplotlib such as viridis or gray, got {name}.', parameters=['cmap']
        )
    return name


def enlarge(values: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Every value repeated over its patch: (h, w) -> (h*ph, w*pw)."""
    return values.repeat(patch[0], axis=0).repeat(patch[1], axis=1)


def map_png(values: np.ndarray, patch: tuple[int, int], cmap: str = 'viridis') -> bytes:
    """A PNG of (h, w) values, the smallest and the largest of them at the ends of the colour map."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, enlarge(values, patch), cmap=cmap, format='png')
    return file.getvalue()


def paint_patch(pixels: np.ndarray, x: int, y: int, patch: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 pixels, the patch in column x and row y painted red.

    As published, the picture is stretched first, so that its darkest value is 0 and its brightest 255.
    """
    low, high = int(pixels.min()), int(pixels.max())
    painted = np.floor((pixels - float(low)) / max(high - low, 1) * 255 + 0.5).astype(np.uint8)
    painted[y * patch[0] : (y + 1) * patch[0], x * patch[1] : (x + 1) * patch[1]] = RED
    return painted


def picture_png(pixels: np.ndarray) -> bytes:
    """A PNG of (H, W, 3) uint8 pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format='PNG')
    return file.getvalue()
