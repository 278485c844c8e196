"""Eleven real photographs inside the wheels of scikit-image and scikit-learn.

Nothing here downloads: the files are opened where the packages were installed, and the packages themselves are not
imported (`skimage.data` would fetch what it lacks). Only numpy and Pillow are used.

Every photograph is cut by one straight line into a part for training and a part for validation. No pixel belongs to
both; the line is laid so that both show the subject, as far as a photograph allows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mmseg_tr.errors import ConfigError, DatasetError, require_extra

SPLITS = ('train', 'val')
MAX_ENLARGEMENT = 2.0


@dataclass(frozen=True)
class Photograph:
    """Location of a photograph (`package`, `file`), the side that is held out, and the share of its length."""

    name: str
    package: str
    file: str
    held_out: str = 'right'  # or 'left', 'top', 'bottom'
    share: float = 0.42


PHOTOGRAPHS = (
    Photograph('brick', 'skimage', 'data/brick.png'),
    Photograph('grass', 'skimage', 'data/grass.png'),
    Photograph('gravel', 'skimage', 'data/gravel.png'),
    Photograph('coins', 'skimage', 'data/coins.png'),
    Photograph('page', 'skimage', 'data/page.png', held_out='top'),
    Photograph('cat', 'skimage', 'data/chelsea.png'),
    Photograph('coffee', 'skimage', 'data/coffee.png'),
    Photograph('astronaut', 'skimage', 'data/astronaut.png', held_out='left', share=0.36),
    Photograph('rocket', 'skimage', 'data/rocket.jpg'),
    Photograph('china', 'sklearn', 'datasets/images/china.jpg', share=0.36),
    Photograph('flower', 'sklearn', 'datasets/images/flower.jpg'),
)
NAMES = tuple(photograph.name for photograph in PHOTOGRAPHS)
# Scenes in colour before grey textures, for batches that are smaller than the collection.
BATCH_ORDER = ('astronaut', 'china', 'coffee', 'cat', 'flower', 'rocket', 'gravel', 'coins', 'brick', 'page', 'grass')
_PROJECTS = {'skimage': 'scikit-image', 'sklearn': 'scikit-learn'}


def photograph_path(photograph: Photograph) -> Path:
    """Return the file of a photograph inside the installed package.

    Raises MissingExtraError when the package is not installed, DatasetError when it came without the file.
    """
    require_extra('demo', photograph.package, 'to read the bundled photographs')
    project = _PROJECTS[photograph.package]
    spec = find_spec(photograph.package)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        path = Path(folder) / photograph.file
        if path.is_file():
            return path
    raise DatasetError(
        f"the installed {project} has no file '{photograph.file}', from which the photograph '{photograph.name}' is "
        f'read; install {project} again from its wheel (nothing is downloaded by this package).'
    )


@lru_cache(maxsize=1)
def _photographs() -> tuple[np.ndarray, ...]:
    return tuple(_read(photograph) for photograph in PHOTOGRAPHS)


def _read(photograph: Photograph) -> np.ndarray:
    from PIL import Image  # of the extra demo

    path = photograph_path(photograph)
    try:
        with Image.open(path) as image:
            pixels = np.array(image.convert('RGB'))
    except OSError as error:
        raise DatasetError(f"the photograph '{path}' cannot be read ({error}); install its package again.") from error
    pixels.flags.writeable = False
    return pixels


def load_photographs() -> dict[str, np.ndarray]:
    """Return all photographs by name, each (H, W, 3) uint8 RGB and read-only; grey ones have three equal channels.

    Raises MissingExtraError or DatasetError (see `photograph_path`).
    """
    return dict(zip(NAMES, _photographs(), strict=True))


def part_window(name: str, split: str) -> tuple[slice, slice]:
    """Return rows and columns of the part of a photograph that belongs to `split`.

    Raises ConfigError when there is no such photograph or split.
    """
    if name not in NAMES:
        raise ConfigError(f'name must be one of {", ".join(NAMES)}, got {name!r}.')
    if split not in SPLITS:
        raise ConfigError(f"split must be 'train' or 'val', got {split!r}.")
    index = NAMES.index(name)
    photograph = PHOTOGRAPHS[index]
    axis = 0 if photograph.held_out in ('top', 'bottom') else 1
    length = _photographs()[index].shape[axis]
    val_leads = photograph.held_out in ('left', 'top')
    cut = round((photograph.share if val_leads else 1 - photograph.share) * length)
    comes_first = val_leads == (split == 'val')
    window = [slice(None), slice(None)]
    window[axis] = slice(0, cut) if comes_first else slice(cut, length)
    return window[0], window[1]


@lru_cache(maxsize=128)
def photograph_part(name: str, split: str, zoom: float = 1.0) -> np.ndarray:
    """Return the part of a photograph that belongs to `split`, resized by `zoom`: (h, w, 3) uint8 RGB, read-only.

    The part is cut out before it is resized: no filter reaches across the line.
    Raises ConfigError when there is no such photograph or split.
    """
    part = _photographs()[NAMES.index(name)][part_window(name, split)]
    part = _resize(part, zoom) if zoom != 1.0 else np.ascontiguousarray(part)
    part.flags.writeable = False
    return part


def _resize(pixels: np.ndarray, zoom: float) -> np.ndarray:
    from PIL import Image

    height, width = (max(1, round(side * zoom)) for side in pixels.shape[:2])
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def mirror_crop(pixels: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Crop `size` (h, w) pixels at `corner` (top, left), mirrored beyond the edges of the picture: (h, w, 3)."""
    (top, left), (height, width) = corner, size
    if 0 <= top <= pixels.shape[0] - height and 0 <= left <= pixels.shape[1] - width:
        return pixels[top : top + height, left : left + width]
    rows = _mirror(np.arange(top, top + height), pixels.shape[0])
    columns = _mirror(np.arange(left, left + width), pixels.shape[1])
    return pixels[rows[:, None], columns]


def _mirror(positions: np.ndarray, length: int) -> np.ndarray:
    """Fold positions on an endless line into range(length): ... 1 0 0 1 2 ... n-1 n-1 n-2 ..."""
    folded = positions % (2 * length)
    return np.minimum(folded, 2 * length - 1 - folded)


def photograph_batch(n: int, shape: tuple[int, int]) -> np.ndarray:
    """Return `n` different crops of the photographs, the same in every call: (n, 3, h, w) uint8 RGB for `shape` (h, w).

    The first are whole photographs, cropped to the shape's proportions, scenes in colour first; a batch larger than
    the collection continues with mirrored and closer crops. A photograph is enlarged at most twofold, so that the crop
    stays as rich in detail as real input; beyond that it is continued by its mirror image.
    Raises ConfigError when n or a side is below 1, or when the shape is too small for n different crops.
    """
    if n < 1 or len(shape) != 2 or min(shape) < 1:
        raise ConfigError(f'n and the sides of shape must be 1 or more, got n={n!r}, shape={shape!r}.')
    photographs = load_photographs()
    crops: dict[bytes, np.ndarray] = {}
    turn = 0
    while len(crops) < n:
        before = len(crops)
        for name in BATCH_ORDER:
            crop = _cover(photographs[name], shape, turn)
            crops.setdefault(crop.tobytes(), crop)
        if len(crops) == before:
            raise ConfigError(f'{n} different crops of {shape[0]} x {shape[1]} pixels do not exist; use larger images.')
        turn += 1
    return np.ascontiguousarray(np.stack(list(crops.values())[:n]).transpose(0, 3, 1, 2))


def _cover(pixels: np.ndarray, shape: tuple[int, int], turn: int) -> np.ndarray:
    """Return the turn-th crop of a photograph: whole, mirrored, then closer at changing places. (h, w, 3)."""
    closer = 1.0 + 0.15 * (turn // 2)
    zoom = max(shape[0] / pixels.shape[0], shape[1] / pixels.shape[1]) * closer
    resized = _resize(pixels, min(zoom, MAX_ENLARGEMENT))
    # The golden ratio spreads the crops of later turns over the photograph; the first is centred.
    place = (0.5 + turn // 2 * 0.6180339887) % 1.0
    corner = tuple(round(place * max(have - want, 0)) for have, want in zip(resized.shape[:2], shape, strict=True))
    crop = mirror_crop(resized, corner, shape)
    return np.ascontiguousarray(crop[:, ::-1] if turn % 2 else crop)
