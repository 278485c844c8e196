"""Read and resize pictures with Pillow, for everything that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mmseg_tr.errors import DatasetError

Filter = Image.Resampling


def read_rgb(path: str | Path, upright: bool = True) -> np.ndarray:
    """Read an image file, (H, W, 3) uint8 RGB; `upright` turns it as its EXIF orientation says.

    Raises DatasetError for a file that is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            return np.array((ImageOps.exif_transpose(image) if upright else image).convert('RGB'))
    except FileNotFoundError as error:
        raise DatasetError(f'there is no image {path}: check the path.') from error
    except Exception as error:  # Pillow may raise almost anything on damaged data
        raise DatasetError(
            f'{path} cannot be read as an image ({error}): give a picture, such as a PNG file.'
        ) from error


def resized(picture: np.ndarray, size: Sequence[int], by: Filter = Filter.BICUBIC) -> np.ndarray:
    """Resize a picture (H, W, 3) uint8, or class numbers or a mask (H, W), to (h, w): these by nearest neighbour.

    A picture of this size is returned as it is.
    """
    if tuple(size[:2]) == picture.shape[:2]:
        return picture
    kind = Filter.NEAREST if picture.ndim == 2 else by
    return np.array(Image.fromarray(np.ascontiguousarray(picture)).resize((size[1], size[0]), kind))
