"""Real images for measurements: from a folder or from the photographs that come with installed packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmseg_tr.datasets.photographs import photograph_batch
from mmseg_tr.errors import DatasetError

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


def read_images(folder: str | Path | None, shape: tuple[int, int], count: int) -> Tensor:
    """Up to `count` different images of `shape` (h, w): (n, 3, h, w) uint8 RGB.

    folder: its image files in the order of their names, each scaled until it covers the shape, then cut at the centre;
    a picture that is there twice is taken once. None: the bundled photographs.
    Raises DatasetError for a folder that is missing or holds no image, and for a file that cannot be read.
    """
    if folder is None:
        return torch.from_numpy(photograph_batch(count, shape))
    files = _image_files(Path(folder))
    found: dict[bytes, np.ndarray] = {}
    for file in files:
        pixels = _read(file, shape)
        found.setdefault(pixels.tobytes(), pixels)
        if len(found) == count:
            break
    return torch.from_numpy(np.stack(list(found.values()))).permute(0, 3, 1, 2).contiguous()


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DatasetError(f'there is no folder {folder}: --images takes a folder of image files.')
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise DatasetError(f'the folder {folder} holds no image: files ending in {", ".join(SUFFIXES)} are looked for.')
    return files


def _read(file: Path, shape: tuple[int, int]) -> np.ndarray:
    try:
        with Image.open(file) as image:
            image = image.convert('RGB')
            zoom = max(shape[0] / image.height, shape[1] / image.width)
            width, height = (max(round(side * zoom), least) for side, least in zip(image.size, reversed(shape)))
            image = image.resize((width, height), Image.Resampling.BICUBIC)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f'the image {file} cannot be read ({error}): repair or remove it.') from error
    top, left = (height - shape[0]) // 2, (width - shape[1]) // 2
    return np.ascontiguousarray(np.asarray(image)[top : top + shape[0], left : left + shape[1]])


def normalise(images: Tensor, mean: Tensor, std: Tensor, *, bgr: bool = False) -> Tensor:
    """uint8 RGB (n, 3, h, w) as a network takes them, float32; mean, std: 3 values for 0..255, of BGR if bgr is set."""
    images = images.flip(1) if bgr else images
    return (images.float() - mean.view(3, 1, 1)) / std.view(3, 1, 1)
