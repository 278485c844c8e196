"""Write a file whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_PREFIX, _SUFFIX = '.', '.unfinished'


def write_atomically(content: bytes | str, path: str | os.PathLike) -> None:
    """Write `content` beside `path` first, then move it there in one step; the folder is made when it is missing.

    Raises OSError as `open` does, for instance on a full disk, and leaves nothing behind then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f'{_PREFIX}{path.name}{_SUFFIX}')
    try:
        with open(unfinished, 'wb') as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave a new name over missing content
        os.replace(unfinished, path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise
    if os.name == 'posix':  # the new name itself reaches the disk with its folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_unfinished(folder: str | os.PathLike) -> list[str]:
    """Delete what a killed process was still writing in `folder`; returns the names."""
    left = sorted(Path(folder).glob(f'{_PREFIX}*{_SUFFIX}'))
    for path in left:
        path.unlink(missing_ok=True)
    return [path.name for path in left]
