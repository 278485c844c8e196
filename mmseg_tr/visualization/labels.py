"""Draw the label of a dataset over its picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

LARGEST = 640  # pixels of the longer side of a drawn picture


def draw_label(picture: np.ndarray, label: np.ndarray, palette: Sequence | None) -> np.ndarray:
    """Draw a BGR picture (h, w[, c]) next to its label overlay, (H, W, 3) uint8 RGB; ignored pixels stay grey."""
    shown = picture if picture.ndim == 3 else picture[..., None]
    shown = shown[..., ::-1] if shown.shape[-1] == 3 else shown[..., :1].repeat(3, -1)
    if shown.dtype != np.uint8:
        low, high = float(shown.min()), float(shown.max())
        shown = ((shown - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    scale = min(1.0, LARGEST / max(shown.shape[:2]))
    size = tuple(max(1, round(side * scale)) for side in shown.shape[1::-1])  # (w, h)
    shown = np.asarray(Image.fromarray(np.ascontiguousarray(shown)).resize(size))
    label = np.asarray(Image.fromarray(label.astype(np.int32)).resize(size, Image.Resampling.NEAREST))
    colours = np.asarray(palette if palette is not None else _colours(int(label.max()) + 1), np.uint8)
    known = (label >= 0) & (label < len(colours))
    grey = np.full_like(shown, 128)
    over = np.where(known[..., None], colours[np.where(known, label, 0)], grey)
    blended = (0.4 * shown + 0.6 * over).astype(np.uint8)
    return np.concatenate([shown, np.full((size[1], 4, 3), 255, np.uint8), blended], axis=1)


def _colours(count: int) -> np.ndarray:
    """Return colours for a dataset without a palette."""
    return np.random.default_rng(0).integers(0, 256, (max(count, 1), 3), dtype=np.uint8)
