"""Find the image and video files below the user's paths, with the names of their results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmseg_tr.datasets.picture_files import SUFFIXES, files_below
from mmseg_tr.errors import DatasetError
from mmseg_tr.options import check_type
from mmseg_tr.visualization.video import VIDEOS, is_video


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
    """A file that was skipped or (skipped=False) only partly processed, and the reason in one sentence."""

    path: Path
    reason: str
    skipped: bool = True


def find_pictures(inputs: Sequence[str | Path], videos: bool = False) -> tuple[list[Picture], list[Failure]]:
    """Return the pictures below files and folders, and the inputs without any.

    videos: look for video files in folders, too; a video given by its path is always taken.
    A picture keeps its path below the folder. Raises DatasetError without any picture, or when two results would have
    the same name.
    """
    check_type('inputs', inputs, Sequence[str | os.PathLike])
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
