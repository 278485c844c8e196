"""The bundled photographs with one part painted over."""

import numpy as np

from mmseg_tr.analysis import photographs
from mmseg_tr.analysis.photographs import load_photographs, part_window


def keep_only(split: str, monkeypatch) -> None:
    """Paint everything outside a part white in every photograph."""
    painted = []
    for name, pixels in load_photographs().items():
        copy = np.full_like(pixels, 255)
        copy[part_window(name, split)] = pixels[part_window(name, split)]
        painted.append(copy)
    monkeypatch.setattr(photographs, '_photographs', lambda: tuple(painted))
