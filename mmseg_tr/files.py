"""Write a file whole or not at all. The only place in the package that knows how."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_UNFINISHED = '.unfinished'
_STEM = 40  # letters of a name that its temporary name keeps: a name may be as long as the disk allows


def write_atomically(content: bytes | str, path: str | os.PathLike) -> None:
    """Write `content` to a temporary file beside `path`, then move it there in one step.

    Creates the folder if it is missing. Raises OSError as `open` does, for instance on a full disk; `path` is then
    unchanged.
    """
    with open_atomically(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextmanager
def open_atomically(path: str | os.PathLike, *, sync: bool = True) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends without an exception, and is removed otherwise.

    sync: wait until the content is on the disk; without it a power cut may leave an empty file.
    """
    with atomic_path(path, sync=sync) as unfinished, open(unfinished, 'wb') as file:
        yield file


@contextmanager
def atomic_path(path: str | os.PathLike, *, sync: bool = True) -> Iterator[Path]:
    """A temporary path with the suffix of `path`, for writers that take a name; moved to `path` when the block ends.

    The file exists and is empty. It was created exclusively, so no other process and no planted link shares it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = _create_beside(path)
    try:
        yield unfinished
        if sync:
            _sync(unfinished)  # a power cut must not leave a new name over missing content
        os.replace(unfinished, path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    if sync and os.name == 'posix':  # the new name itself reaches the disk with its folder
        _sync(path.parent)


def _create_beside(path: Path) -> Path:
    while True:
        unfinished = path.with_name(f'.{path.stem[:_STEM]}.{secrets.token_hex(4)}{_UNFINISHED}{path.suffix[:16]}')
        with suppress(FileExistsError):
            os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            return unfinished


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_unfinished(folder: str | os.PathLike) -> list[str]:
    """Delete the temporary files that a killed process left in `folder`; returns their names."""
    left = sorted(Path(folder).glob(f'.*{_UNFINISHED}*'))
    for path in left:
        path.unlink(missing_ok=True)
    return [path.name for path in left]
