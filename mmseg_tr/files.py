"""Atomic writes: the only place that writes files.

Every file is written under a temporary name next to its destination and renamed in one step. The temporary name is
random, created exclusively and never followed through a link; it is locked while it is written, so that
`remove_unfinished` deletes what a killed process left and nothing that another process is still writing.

    write_atomically(text_or_bytes, path)
    write_atomically(lambda file: torch.save(payload, file), path)
    write_together({checkpoint: save, config: text})        # all of them, or none
    with open_atomically(path) as file:                     # a binary file, written piece by piece
        file.write(piece)
    with atomic_path(path) as unfinished:                   # for libraries that want a path; its suffix is kept
        cv2.VideoWriter(str(unfinished), ...)

All of them create missing folders and raise WriteError, an OSError whose text is a sentence. They then leave nothing,
and a file that was there before is unchanged.
"""

from __future__ import annotations

import errno
import io
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mmseg_tr.errors import WriteError

try:
    import fcntl
except ImportError:  # Windows has none: `remove_unfinished` then keeps everything
    fcntl = None  # type: ignore[assignment]

Content = bytes | str | Callable[[BinaryIO], object]

_UNFINISHED = re.compile(r'\..+\.unfinished(\.\w+)?')
_STEM, _SUFFIX = 40, 16  # characters of a name that its temporary name repeats: file systems take 255 bytes


def write_atomically(content: Content, path: str | os.PathLike, *, replace: bool = True) -> None:
    """Write bytes, UTF-8 text, or what a function writes into the binary file it is given.

    replace=False refuses a path that exists, also one that another process makes in the meantime.
    Raises WriteError, for instance on a full disk.
    """
    path = Path(path)
    if _is_special(path):  # /dev/null and /dev/stdout are written to, not replaced
        with _told(path), open(path, 'wb', buffering=0) as file:
            _fill(file.fileno(), content, mode='wb')
        return
    with _unfinished(path) as (handle, unfinished):
        _fill(handle, content)
        _move(handle, unfinished, path, replace)


def write_together(files: Mapping[str | os.PathLike, Content], *, replace: bool = True) -> None:
    """Write several files; none is moved to its place before all of them are complete.

    Raises WriteError as `write_atomically` does; new files that are already in place are removed again.
    """
    moved: list[Path] = []
    with ExitStack() as stack:
        ready: list[tuple[int, Path, Path]] = []
        for path, content in files.items():
            path = Path(path)
            handle, unfinished = stack.enter_context(_unfinished(path))
            _fill(handle, content)
            os.fsync(handle)
            ready.append((handle, unfinished, path))
        try:
            for handle, unfinished, path in ready:
                new = not os.path.lexists(path)
                _move(handle, unfinished, path, replace)
                if new:
                    moved.append(path)
        except BaseException:
            for path in moved:
                path.unlink(missing_ok=True)
            raise


@contextmanager
def open_atomically(path: str | os.PathLike, *, sync: bool = True, replace: bool = True) -> Iterator[BinaryIO]:
    """A binary file that becomes `path` when the block ends without an exception, and is removed otherwise.

    sync: wait until the content is on the disk; without it a power cut may leave an empty file.
    """
    path = Path(path)
    with _unfinished(path) as (handle, unfinished):
        with open(handle, 'r+b', closefd=False) as file:
            yield file
        _move(handle, unfinished, path, replace, sync)


@contextmanager
def atomic_path(path: str | os.PathLike, *, sync: bool = True, replace: bool = True) -> Iterator[Path]:
    """A temporary path with the suffix of `path`, for writers that take a name; moved to `path` when the block ends.

    The file exists and is empty. Check inside the block what a library wrote that hides its errors: when the block
    raises, nothing is moved.
    """
    path = Path(path)
    with _unfinished(path) as (handle, unfinished):
        yield unfinished
        _move(handle, unfinished, path, replace, sync)


def remove_unfinished(folder: str | os.PathLike) -> list[str]:
    """Delete what killed processes left half written in `folder`; return the names.

    What a living process is writing is kept.
    """
    removed = []
    for path in sorted(Path(folder).glob('.*')):
        if _UNFINISHED.fullmatch(path.name) and not path.is_symlink() and path.is_file() and _abandoned(path):
            with suppress(OSError):
                path.unlink()
                removed.append(path.name)
    return removed


@contextmanager
def _unfinished(path: Path) -> Iterator[tuple[int, Path]]:
    """Yield a locked temporary file next to `path`: its handle and its path. It is removed when the block ends."""
    with _told(path):
        if _is_special(path) or path.is_dir():
            raise OSError(errno.EINVAL, 'it is a folder or a device')
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, unfinished = _create(path)
        try:
            _lock(handle)
            yield handle, unfinished
        finally:
            with suppress(OSError):
                os.close(handle)
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def _create(path: Path) -> tuple[int, Path]:
    """Create a file next to `path` under a random name; an existing name or link is never opened."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, 'O_NOFOLLOW', 0) | getattr(os, 'O_BINARY', 0)
    suffix = path.suffix if len(path.suffix) <= _SUFFIX else ''
    while True:
        unfinished = path.with_name(f'.{path.stem[:_STEM]}.{secrets.token_hex(8)}.unfinished{suffix}')
        with suppress(FileExistsError):
            return os.open(unfinished, flags, 0o666), unfinished


def _fill(handle: int, content: Content, mode: str = 'r+b') -> None:
    """Write `content` into an open file. Raises the first OSError only after the library that writes has ended."""
    raw = _Steady(handle, mode, closefd=False)
    with io.BufferedRandom(raw) if raw.readable() else io.BufferedWriter(raw) as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)
    if raw.failed is not None:
        raise raw.failed


class _Steady(io.FileIO):
    """A file that remembers its first error and takes what follows without writing it.

    Raised in the middle of C++ code, such as torch's, the error of a full disk can abort the process.
    """

    failed: OSError | None = None

    def write(self, data: Any) -> int:
        if self.failed is None:
            try:
                return super().write(data)
            except OSError as error:
                self.failed = error
        return memoryview(data).nbytes


def _move(handle: int, unfinished: Path, path: Path, replace: bool, sync: bool = True) -> None:
    """Give a complete file its name; sync: a power cut must not leave the name over missing content."""
    if sync:
        os.fsync(handle)
    if replace:
        if path.is_file() and not path.is_symlink():
            with suppress(OSError):  # its permissions stay the same
                os.chmod(unfinished, path.stat().st_mode & 0o777)
        os.replace(unfinished, path)
    else:
        try:
            os.link(unfinished, path)  # refuses an existing name, which os.replace does not
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            if os.path.lexists(path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            os.replace(unfinished, path)
    if sync and os.name == 'posix':  # the rename is on the disk once the folder is synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network file systems do not support it
                os.fsync(folder)
        finally:
            os.close(folder)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a WriteError."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(error.errno, error.strerror or str(error), str(path)) from error


def _is_special(path: Path) -> bool:
    """Whether `path` is a device or a pipe."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock or locks do not exist."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _abandoned(path: Path) -> bool:
    """Whether no living process holds the lock of an unfinished file."""
    try:
        handle = os.open(path, os.O_RDWR | getattr(os, 'O_NOFOLLOW', 0))
    except OSError:
        return False
    try:
        return _lock(handle)
    finally:
        os.close(handle)
