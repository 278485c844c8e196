"""Unpacking archives of strangers: nothing outside the folder, nothing replaced, and again where it was interrupted."""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from mmseg_tr.datasets.prepare.download import CHUNK, Progress, disk_error
from mmseg_tr.errors import DatasetError

Place = Callable[[PurePosixPath], PurePosixPath | None]  # a member's place in the folder; None leaves it out
Member = tuple[str, int, Callable[[], IO[bytes]]]


def unpack(
    archive: Path, folder: Path, place: Place = lambda name: name, progress: Progress = lambda *_: None
) -> list[Path]:
    """Write the regular files of a zip or tar archive into `folder`; returns those that were written now.

    A file that is there with the right size is left alone. Raises DatasetError for a damaged archive, a member that
    points outside the folder or is a link, a file that is there and differs, and a full disk.
    """
    written: list[Path] = []
    try:
        total = sum(1 for _ in _members(archive))
        for number, (name, size, opened) in enumerate(_members(archive), 1):
            target = _target(archive, name, place)
            if target is not None and _write(folder / target, size, opened, archive):
                written.append(folder / target)
            progress(f'unpack {archive.name}', number, total)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise DatasetError(f'{archive} is damaged ({error}): remove it, and run the same command again.') from error
    return written


def _members(archive: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            for info in file.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise DatasetError(f'{archive} holds the link or device {info.filename}: it is not unpacked.')
                if not info.is_dir():
                    yield info.filename, info.file_size, lambda info=info: file.open(info)
        return
    with tarfile.open(archive) as file:
        for info in file:
            if not (info.isreg() or info.isdir()):
                raise DatasetError(f'{archive} holds the link or device {info.name}: it is not unpacked.')
            if info.isreg():
                yield info.name, info.size, lambda info=info: file.extractfile(info)


def _target(archive: Path, name: str, place: Place) -> PurePosixPath | None:
    """Where a member goes, relative to the folder. Raises DatasetError for a place outside."""
    path = PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or '\\' in name or (path.parts and ':' in path.parts[0]):
        raise DatasetError(f'{archive} holds {name!r}, which points outside of its folder: it is not unpacked.')
    return place(path)


def _write(target: Path, size: int, opened: Callable[[], IO[bytes]], archive: Path) -> bool:
    """Write one member; returns whether it was not there yet."""
    if target.exists():
        if target.stat().st_size == size:
            return False
        raise DatasetError(f'{target} exists and is not the file in {archive.name}: move it away, nothing is replaced.')
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f'.{target.name}.unfinished')
    try:
        with opened() as source, open(unfinished, 'wb') as file:
            while chunk := source.read(CHUNK):
                file.write(chunk)
        os.replace(unfinished, target)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return True
