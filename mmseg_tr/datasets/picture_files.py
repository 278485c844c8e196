"""Find picture files below a folder. Plain Python."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


def files_below(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> Iterator[Path]:
    """Return files in a folder and below with one of the suffixes, in the order of their names.

    Linked folders are followed, each once. Hidden files and folders (.ipynb_checkpoints, ._a.png) are skipped.
    """
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link that leads back
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith('.')]
        names = [name for name in files if not name.startswith('.') and Path(name).suffix.lower() in suffixes]
        found += [path for path in (Path(place, name) for name in names) if path.is_file()]
    yield from sorted(found)
