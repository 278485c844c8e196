"""The recipe of a dataset: the sources of its parts, their conversion, and the files of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mmseg_tr.datasets.prepare.download import Archive, Progress

CONVERTED = 'conversion'  # the source of files that convert() writes


@dataclass(frozen=True)
class Wanted:
    """Files that a prepared dataset has: a glob pattern below its root, at least `count` of them.

    source: name of the archive that holds them, or CONVERTED.
    """

    pattern: str
    count: int
    source: str

    def found(self, root: Path) -> int:
        """Return how many exist; files still being written do not count."""
        return sum(1 for path in root.glob(self.pattern) if not path.name.startswith('.'))


@dataclass(frozen=True)
class Recipe:
    """How to prepare one dataset.

    root: its folder below the one that DATASET names. terms: what its publishers ask for, in a sentence.
    place: (archive's name, member) -> the member's place below root, or None for what is not needed.
    convert: (root, folder of the archives, progress) makes the rest; it skips what is there.
    by_hand: what the user must do when nothing may be downloaded; ready: whether that is done, given root.
    """

    name: str
    root: str
    terms: str
    archives: tuple[Archive, ...]
    wanted: tuple[Wanted, ...]
    place: Callable[[str, PurePosixPath], PurePosixPath | None] = lambda archive, member: member
    convert: Callable[[Path, Path, Progress], None] = lambda root, archives, progress: None
    by_hand: str | None = None
    ready: Callable[[Path], bool] = lambda root: True
