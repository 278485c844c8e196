"""What a user wants looked at: files and folders, the names of their results, and pictures as they are meant to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mmseg_tr.apis.images import SUFFIXES
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.visualization.video import VIDEOS, is_video


@dataclass(frozen=True)
class Picture:
    """A file to look at, picture or video, and the name of its results below the folders of the output."""

    path: Path
    name: Path

    @property
    def is_video(self) -> bool:
        return is_video(self.path)


@dataclass(frozen=True)
class Failure:
    """A file that was left out, or (skipped=False) done as far as it could be read, and the sentence that says why."""

    path: Path
    reason: str
    skipped: bool = True


def find_pictures(inputs: Sequence[str | Path], videos: bool = False) -> tuple[list[Picture], list[Failure]]:
    """The pictures that files and folders name, with names of their own, and the inputs that are none.

    videos: look for video files in folders, too; one that is named itself is always taken.
    Raises DatasetError when there is not one picture, or two would have results of the same name.
    """
    pictures, failures = [], []
    suffixes = (*SUFFIXES, *VIDEOS) if videos else SUFFIXES
    for path in map(Path, inputs):
        if path.is_dir():
            files = sorted(file for file in path.rglob('*') if file.suffix.lower() in suffixes and file.is_file())
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


def check_output(results: Mapping[Path, Iterable[Path]], out: Path, force: bool) -> None:
    """Raise ConfigError when a result exists already, unless it may be replaced, or `out` is no folder.

    results: what will be written, files and folders, by the file that it is made from.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f'-o {out} is a file: name a folder.')
    for source, paths in results.items():
        for path in paths:
            if path.exists() and path.samefile(source):
                raise ConfigError(f'{path} would replace the picture that it is made from: name another folder.')
            if path.exists() and not force:
                raise ConfigError(f'{path} exists already: name another folder with -o, or add --force.')


def read_rgb(path: Path) -> np.ndarray:
    """A picture as it is meant to be seen, (H, W, 3) uint8 RGB. Raises DatasetError."""
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f'the image {path} cannot be read ({error}): it is left out.') from error
