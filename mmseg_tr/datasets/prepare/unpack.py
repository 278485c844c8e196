"""Unpack untrusted archives: nothing outside the folder, nothing replaced, bounded memory and disk."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO

from mmseg_tr.datasets.prepare.download import CHUNK, Progress, disk_error
from mmseg_tr.errors import DatasetError
from mmseg_tr.files import open_atomically

DEEPEST = 64  # parts of a member's path
HEADER = 1 << 26  # most bytes of a single header of a tar archive
DENSEST, SMALL = 300, 1 << 30  # an archive may unpack to this many times its size, or to this many bytes
COMPRESSION = {
    zipfile.ZIP_STORED: 'stored',
    zipfile.ZIP_DEFLATED: 'deflate',
    zipfile.ZIP_BZIP2: 'bzip2',
    zipfile.ZIP_LZMA: 'lzma',
}
DAMAGE = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError),
    *(EOFError, gzip.BadGzipFile, ValueError, NotImplementedError, OverflowError, struct.error),
)
Place = Callable[[PurePosixPath], PurePosixPath | None]  # a member's place in the folder; None leaves it out


@dataclass(frozen=True)
class ArchiveMember:
    """A regular file in an archive. `size` is what its header declares."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


def unpack(
    archive: Path, folder: Path, place: Place = lambda name: name, progress: Progress = lambda *_: None
) -> list[Path]:
    """Write the regular files of a zip or tar archive into `folder`; returns those written by this call.

    A file that exists with the right size is left alone. Raises DatasetError, before anything is written, for an
    encrypted archive, an unknown compression, a link, a member outside the folder or nested too deeply, and contents
    that do not fit the disk; and for a damaged archive, an existing file that differs, and a full disk.
    """
    written: list[Path] = []
    with _damage_named(archive):
        plan = [(_target(archive, member.name, place), member.size) for member in _checked_members(archive)]
        _check_room(archive, folder, plan)
        for number, ((target, _), member) in enumerate(zip(plan, _members(archive)), 1):
            if target is not None and _write(folder / target, member, archive):
                written.append(folder / target)
            progress(f'unpack {archive.name}', number, len(plan))
    return written


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except DatasetError:
        raise
    except DAMAGE as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is not None:  # of the disk
            raise
        raise _damaged(archive, error) from error  # bz2 raises bare OSErrors


def _damaged(archive: Path, error: Exception) -> DatasetError:
    return DatasetError(f'{archive} is damaged ({error}): remove it, and run the same command again.')


def _checked_members(archive: Path) -> Iterator[ArchiveMember]:
    """Return all members; a compressed tar is read to its end, where its checksum is."""
    yield from _members(archive)
    if not zipfile.is_zipfile(archive):
        with _tar_stream(archive) as stream:
            while stream.read(CHUNK):
                pass


def _members(archive: Path) -> Iterator[ArchiveMember]:
    yield from _zip_members(archive) if zipfile.is_zipfile(archive) else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[ArchiveMember]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, f'the link or device {info.filename}')
            if info.flag_bits & 1:
                raise _refused(archive, f'{info.filename}, which is encrypted')
            if info.compress_type not in COMPRESSION:
                known = ', '.join(COMPRESSION.values())
                raise _refused(archive, f'{info.filename} in compression {info.compress_type} (known: {known})')
            if not info.is_dir():
                yield ArchiveMember(info.filename, info.file_size, lambda info=info: file.open(info))


def _tar_members(archive: Path) -> Iterator[ArchiveMember]:
    with _tar_stream(archive) as stream, tarfile.open(fileobj=_Bounded(stream), mode='r:') as file:
        for info in file:
            if not (info.isreg() or info.isdir()) or info.issparse():
                kind = 'sparse file' if info.issparse() else 'link or device'
                raise _refused(archive, f'the {kind} {info.name}')
            if info.isreg():
                yield ArchiveMember(info.name, info.size, lambda info=info: file.extractfile(info))
            file.members = []  # tarfile keeps them all


@contextmanager
def _tar_stream(archive: Path) -> Iterator[BinaryIO]:
    """Return the decompressed bytes of a tar archive."""
    with open(archive, 'rb') as file:
        start = file.read(6)
    openers = {b'\x1f\x8b': gzip.open, b'BZh': bz2.open, b'\xfd7zXZ\x00': lzma.open}
    opener = next((opener for mark, opener in openers.items() if start.startswith(mark)), open)
    with opener(archive, 'rb') as stream:
        yield stream


class _Bounded:
    """A stream that refuses to return a huge block at once, as a crafted header may request."""

    def __init__(self, stream: BinaryIO):
        self.stream, self.seek, self.tell = stream, stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > HEADER:
            raise tarfile.ReadError(f'a header of {size} bytes')
        return self.stream.read(size)


def _refused(archive: Path, what: str) -> DatasetError:
    return DatasetError(f'{archive} holds {what}: it is not unpacked.')


def _target(archive: Path, name: str, place: Place) -> PurePosixPath | None:
    """Return the place of a member, relative to the folder. Raises DatasetError for a place outside."""
    path = PurePosixPath(name)
    if path.is_absolute() or '..' in path.parts or '\\' in name or (path.parts and ':' in path.parts[0]):
        raise _refused(archive, f'{name!r}, which points outside of its folder')
    if len(path.parts) > DEEPEST or any(len(part.encode(errors='replace')) > 255 for part in path.parts):
        raise _refused(archive, f'{name[:60]!r}..., a path of more than {DEEPEST} parts or 255 letters in one')
    return place(path)


def _check_room(archive: Path, folder: Path, plan: Sequence[tuple[PurePosixPath | None, int]]) -> None:
    """Raise DatasetError when the members' places or sizes are invalid or do not fit the disk."""
    wanted = [(target, size) for target, size in plan if target is not None]
    total, size = sum(length for _, length in wanted), archive.stat().st_size
    if any(length < 0 for _, length in wanted) or total > max(SMALL, DENSEST * size):
        raise _refused(archive, f'{total} bytes in {size}, more than {DENSEST} times its size')
    missing = sum(length for target, length in wanted if not (folder / target).exists())
    free = shutil.disk_usage(next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())).free
    if missing > free:
        raise DatasetError(
            f'{archive} unpacks to {missing / 1e9:.1f} GB and the disk of {folder} has {free / 1e9:.1f} GB left: '
            'free some space, then run the same command again.'
        )


def _write(target: Path, member: ArchiveMember, archive: Path) -> bool:
    """Write one member; returns False if it exists already."""
    if target.exists():
        if target.stat().st_size == member.size:
            return False
        raise DatasetError(f'{target} exists and is not the file in {archive.name}: move it away, nothing is replaced.')
    try:
        with member.open() as source, open_atomically(target, sync=False) as file:
            shutil.copyfileobj(source, file, CHUNK)
    except OSError as error:
        raise disk_error(error, target) from error
    return True
