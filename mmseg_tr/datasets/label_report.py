"""Results of a check of a dataset's labels, for each file and for all labels together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MASK = 255
MAP_MASK = "dict(type='mmseg_tr.MapLabels', mapping={255: 1})"


@dataclass(frozen=True)
class LabelFault:
    """A fault of one file, or of the dataset as a whole where `file` is empty; `text` is one sentence."""

    kind: str
    file: str
    text: str


@dataclass
class LabelReport:
    """Sizes, classes and faults of a dataset.

    total: items of the dataset; headers: of how many the headers were read; decoded: how many labels were decoded.
    sizes: pictures by (h, w). examples: the index of one picture of each size.
    pixels, pictures: of each class, in the decoded labels. ignored: pixels without a class.
    values: pixels by number. strange: numbers that are neither a class nor ignored, by file.
    faults stop a run; warnings do not.
    """

    name: str
    classes: Sequence[str] | None
    total: int
    headers: int = 0
    decoded: int = 0
    sizes: Counter = field(default_factory=Counter)
    examples: dict[tuple[int, int], int] = field(default_factory=dict)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pictures: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: int = 0
    values: Counter = field(default_factory=Counter)
    strange: dict[str, list[float]] = field(default_factory=dict)
    faults: list[LabelFault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, kind: str, file: str, text: str) -> None:
        """Add a fault of a file; its sentence begins with the file's name."""
        self.faults.append(LabelFault(kind, file, f'{file} {text}'))

    def add_size(self, size: tuple[int, int], index: int) -> None:
        """Count the size (h, w) of a picture."""
        self.sizes[size] += 1
        self.examples.setdefault(size, index)

    def to_dict(self) -> dict[str, Any]:
        """Return the report in plain values, for JSON."""
        names = self.classes or [str(number) for number in range(len(self.pixels))]
        counts = zip(names, self.pixels.tolist(), self.pictures.tolist())
        return dict(
            name=self.name,
            pictures=self.total,
            headers=self.headers,
            decoded=self.decoded,
            sizes=[dict(height=h, width=w, pictures=count) for (h, w), count in self.sizes.most_common()],
            classes=[dict(name=name, pixels=pixels, pictures=pictures) for name, pixels, pictures in counts],
            ignored_pixels=self.ignored,
            faults=[vars(fault) for fault in self.faults],
            warnings=list(self.warnings),
        )


def conclude(report: LabelReport, ignore_index: int, labels: Sequence[str]) -> None:
    """Add the faults and warnings that need all decoded labels together. labels: the paths of all labels."""
    if report.headers < report.total:
        report.warnings.append(f'{report.headers} of {report.total} pictures were checked, evenly spread.')
    if not report.classes or not report.decoded:
        return
    allowed = f'allowed are 0 to {len(report.classes) - 1} ({len(report.classes)} classes) and {ignore_index} (ignored)'
    if set(report.values) == {0, MASK} and len(report.classes) <= 2:
        meaning = 'ignored' if ignore_index == MASK else 'not a class'
        report.add(
            'mask',
            labels[0],
            f'holds only 0 and 255, as do all {report.decoded} labels that were read, and 255 is {meaning}: {allowed}; '
            f'map masks of 0 and 255 with {MAP_MASK} after LoadAnnotations.',
        )
    elif report.strange:
        _refuse_values(report, allowed)
    absent = [name for name, pixels in zip(report.classes, report.pixels) if not pixels]
    if absent and not report.faults:
        shown = ', '.join(map(str, absent[:8])) + (', ...' if len(absent) > 8 else '')
        report.warnings.append(
            f'{len(absent)} of {len(report.classes)} classes have no pixel in the {report.decoded} labels that were '
            f'read (of {report.total}): {shown}.'
        )


def _refuse_values(report: LabelReport, allowed: str) -> None:
    numbers = sorted({number for found in report.strange.values() for number in found})
    length, advice = len(report.classes), ''
    if numbers == [length] and not report.values[0]:
        advice = '; labels that count from 1 take reduce_zero_label=True in the dataset'
    elif len(numbers) == 1:
        advice = (
            f'; if {numbers[0]:g} marks pixels without a class, set ignore_index={numbers[0]:g} in model.decode_head '
            'and in the evaluators'
        )
    for file, found in report.strange.items():
        shown = ', '.join(f'{number:g}' for number in found[:8]) + (', ...' if len(found) > 8 else '')
        report.add('values', file, f'holds {shown}: {allowed}{advice}.')
