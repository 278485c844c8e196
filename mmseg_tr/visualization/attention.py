"""Draw attention maps in a colour map, enlarged by patch, and the picture with one patch in red."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from mmseg_tr.errors import ConfigError, require_extra

RED = (255, 0, 0)


def check_colormap(name: str) -> str:
    """Return a colour map of matplotlib. Raises ConfigError, or MissingExtraError without matplotlib."""
    require_extra('seg', 'matplotlib', 'to draw attention maps')
    import matplotlib

    if name not in matplotlib.colormaps:
        raise ConfigError(
            f'cmap must be a colour map of matplotlib such as viridis or gray, got {name}.', parameters=['cmap']
        )
    return name


def enlarge(values: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
    """Repeat every value over its patch: (h, w) -> (h*ph, w*pw)."""
    return values.repeat(patch[0], axis=0).repeat(patch[1], axis=1)


def map_png(values: np.ndarray, patch: tuple[int, int], cmap: str = 'viridis') -> bytes:
    """Return a PNG of (h, w) values, scaled to the ends of the colour map."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, enlarge(values, patch), cmap=cmap, format='png')
    return file.getvalue()


def paint_patch(pixels: np.ndarray, x: int, y: int, patch: tuple[int, int]) -> np.ndarray:
    """Paint the patch in column x and row y of (H, W, 3) uint8 pixels red.

    As published, the picture is stretched first, so that its darkest value is 0 and its brightest 255.
    """
    low, high = int(pixels.min()), int(pixels.max())
    painted = np.floor((pixels - float(low)) / max(high - low, 1) * 255 + 0.5).astype(np.uint8)
    painted[y * patch[0] : (y + 1) * patch[0], x * patch[1] : (x + 1) * patch[1]] = RED
    return painted


def picture_png(pixels: np.ndarray, level: int = 6) -> bytes:
    """Return a PNG of (H, W, 3) uint8 pixels. level: of compression, from 0 to 9."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format='PNG', compress_level=level)
    return file.getvalue()
