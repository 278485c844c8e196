"""Image and video files that a user names: found below folders, with the names of their results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmseg_tr.errors import DatasetError
from mmseg_tr.visualization.video import VIDEOS, is_video

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')


@dataclass(frozen=True)
class Picture:
    """An image or video file, and the name of its results below the output folder."""

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


@dataclass(frozen=True)
class Failure:
    """A file that was skipped, or (skipped=False) is done only in part, and the sentence that says why."""

    path: Path
    reason: str
    skipped: bool = True


def files_below(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> Iterator[Path]:
    """Files in a folder and below with one of the suffixes, in the order of their names.

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


def find_pictures(inputs: Sequence[str | Path], videos: bool = False) -> tuple[list[Picture], list[Failure]]:
    """The pictures that files and folders name, and the inputs that name none.

    videos: look for video files in folders, too; a video that is named itself is always taken.
    A picture keeps its path below the folder. Raises DatasetError when there is not one picture, or when two would have
    results of the same name.
    """
    pictures, failures = [], []
    suffixes = (*SUFFIXES, *VIDEOS) if videos else SUFFIXES
    for path in map(Path, inputs):
        if path.is_dir():
            files = list(files_below(path, suffixes))
            pictures += [Picture(file, file.relative_to(path)) for file in files]
            if not files:
                failures.append(Failure(path, f'the folder {path} holds no image: add some, ending in .jpg or .png.'))
        elif not path.is_file():
            failures.append(Failure(path, f'there is no file or folder {path}: check the path.'))
        else:
            pictures.append(Picture(path, Path(path.name)))
    if not pictures:
        raise DatasetError(failures[0].reason if failures else 'no picture was named: name files or folders.')
    names: dict[str, Path] = {}
    for picture in pictures:
        name = picture.name.with_suffix('.mp4' if picture.is_video else '.png').as_posix()
        if name in names:
            raise DatasetError(
                f'{names[name]} and {picture.path} would both be written to {name}: run them with outputs of their own.'
            )
        names[name] = picture.path
    return pictures, failures
