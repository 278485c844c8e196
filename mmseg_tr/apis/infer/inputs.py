"""What a user wants looked at: files and folders, the names of their results, and pictures as they are meant to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mmseg_tr.errors import ConfigError, DatasetError


def check_output(results: Mapping[Path, Iterable[Path]], out: Path, force: bool) -> None:
    """Raise ConfigError when a result exists already, unless it may be replaced, or `out` is no folder.

    results: what will be written, files and folders, by the file that it is made from.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f'-o {out} is a file: name a folder.')
    for source, paths in results.items():
        for path in paths:
            if path.exists() and path.samefile(source):
                raise ConfigError(f'{path} would replace the picture that it is made from: name another folder.')
            if path.exists() and not force:
                raise ConfigError(f'{path} exists already: name another folder with -o, or add --force.')


def read_rgb(path: Path) -> np.ndarray:
    """A picture as it is meant to be seen, (H, W, 3) uint8 RGB. Raises DatasetError."""
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f'the image {path} cannot be read ({error}): it is left out.') from error
