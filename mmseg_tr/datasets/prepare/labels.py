"""Convert label images to training numbers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_tr.datasets.prepare.download import Progress, disk_error
from mmseg_tr.errors import DatasetError
from mmseg_tr.files import open_atomically

Job = tuple[Path, Path]  # what is read, what is written


def table(mapping: Mapping[int, int], others: int, size: int = 256) -> np.ndarray:
    """Return the lookup table (size,) uint8 from old label numbers to new ones; `others` for those not in `mapping`."""
    found = np.full(size, others, np.uint8)
    for old, new in mapping.items():
        found[old] = new
    return found


def convert_labels(
    jobs: Iterable[Job], read: Callable[[Path], np.ndarray], progress: Progress = lambda *_: None, what: str = 'labels'
) -> int:
    """Write `read(source)`, (H, W) uint8, as a PNG for every target that does not exist; returns how many.

    Raises DatasetError, with its path, for a source that cannot be read, and for a full disk.
    """
    jobs = [(source, target) for source, target in jobs if not target.exists()]

    def one(job: Job) -> None:
        source, target = job
        try:
            pixels = read(source)
        except DatasetError:
            raise
        except Exception as error:  # Pillow and scipy may raise almost anything on damaged files
            raise DatasetError(f'the label {source} cannot be read ({error}): remove it, and run again.') from error
        save_png(pixels, target)

    workers = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(jobs), 64):  # in batches, so that a failure stops the work
            for number, _ in enumerate(pool.map(one, islice(jobs, start, start + 64)), start + 1):
                progress(f'convert {what}', number, len(jobs))
    return len(jobs)


def save_png(pixels: np.ndarray, path: Path) -> None:
    """Write (H, W) uint8 as a PNG. Raises DatasetError for a full disk."""
    try:
        with open_atomically(path, sync=False) as file:
            Image.fromarray(pixels).save(file, format='PNG')
    except OSError as error:
        raise disk_error(error, path) from error


def read_numbers(path: Path) -> np.ndarray:
    """Read a label image of one channel, (H, W) uint8. Raises DatasetError for one with colours."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    if pixels.ndim != 2:
        raise DatasetError(f'the label {path} has {pixels.ndim} axes: one number per pixel was expected.')
    return pixels
