"""Survey a folder of pictures and one of labels: sizes, and the numbers in the labels."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mmseg_tr.datasets.image_headers import read_header
from mmseg_tr.errors import ConfigError, DatasetError

READ = 400  # labels whose numbers are read, evenly spread
VOID = 255


@dataclass(frozen=True)
class LabelNumbers:
    """How the numbers of labels become classes: replaced first, 0 is dropped where `from_one`; `notes` say why."""

    mapping: Mapping[int, int] = field(default_factory=dict)
    from_one: bool = False
    notes: tuple[str, ...] = ()


def short_side(pictures: Sequence[Path]) -> int:
    """Return the median of the shorter sides of pictures. Raises DatasetError for a file that is not an image."""

    def side(path: Path) -> int:
        try:
            return min(read_header(path).size)
        except (OSError, ValueError) as error:
            raise DatasetError(f'{path} cannot be read: {error}.') from error

    with ThreadPoolExecutor(8) as pool:
        return round(statistics.median(pool.map(side, pictures)))


def count_numbers(labels: Sequence[Path]) -> Counter:
    """Count pixels by number in an even share of the labels. Raises DatasetError for more than one channel."""
    count = min(READ, len(labels))
    chosen = [labels[place * len(labels) // count] for place in range(count)]
    found: Counter = Counter()
    with ThreadPoolExecutor(8) as pool:
        for counts in pool.map(_numbers, chosen):
            found.update(counts)
    return found


def _numbers(path: Path) -> dict[int, int]:
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except Exception as error:  # Pillow may raise almost anything on damaged data
        raise DatasetError(f'the label {path} cannot be read: {error}.') from error
    if pixels.ndim != 2:
        raise DatasetError(
            f'the label {path} has shape {pixels.shape}: a label must hold one class number per pixel; convert its '
            'colours to class numbers.'
        )
    numbers, counts = np.unique(pixels, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist()))


def read_numbers(found: Mapping[int, int], classes: Sequence[str], ignore: int | None = None) -> LabelNumbers:
    """Return how labels with these numbers become classes 0 to len(classes) - 1 and 255 for pixels without a class.

    ignore: the number of pixels without a class, where it is known; 0 means that classes count from 1.
    Raises ConfigError when more than one number is left that is neither a class nor 255.
    """
    length = len(classes)
    if ignore == 0:
        return LabelNumbers(from_one=True, notes=('0 marks pixels without a class; classes count from 1.',))
    if set(found) == {0, VOID} and length == 2 and ignore is None:
        return LabelNumbers({VOID: 1}, notes=(f'labels are masks of 0 and 255: 255 becomes {classes[1]}.',))
    others = sorted(number for number in found if not 0 <= number < length and number not in (VOID, ignore))
    if others == [length] and not found.get(0) and ignore is None:
        return LabelNumbers(from_one=True, notes=('labels hold no 0, so classes count from 1.',))
    if len(others) > (ignore is None):
        shown = ', '.join(map(str, others[:8])) + (', ...' if len(others) > 8 else '')
        raise ConfigError(
            f'labels hold {shown}, and {length} classes are numbered 0 to {length - 1}: name all classes, or say which '
            'number marks pixels without a class with ignore.',
            parameters=['classes', 'ignore'],
        )
    void = others[0] if others else ignore
    if void is None or void == VOID:
        return LabelNumbers()
    note = f'{void} marks pixels without a class; if it is 0 instead, and classes count from 1, add --ignore 0.'
    return LabelNumbers({void: VOID}, notes=(note if ignore is None else f'{void} marks pixels without a class.',))
