"""Download or continue archives of datasets and check their hashes; no file is ever replaced."""

from __future__ import annotations

import errno
import os
import tarfile
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mmseg_tr.errors import DatasetError
from mmseg_tr.files import write_atomically
from mmseg_tr.weights.download import (
    CHUNK,
    BrokenOffError,
    DownloadError,
    Progress,
    check_content,
    digest_of,
    download,
    plain_address,
    remove_tag,
)

__all__ = ['CHUNK', 'Archive', 'Progress', 'disk_error', 'fetch']


@dataclass(frozen=True)
class Archive:
    """A file to download.

    digest: 'md5:...', 'sha1:...' or 'sha256:...', None if none is published. login: who may download it, None for
    everybody; see login.py. by_hand: what to do where it cannot be downloaded by a program.
    """

    url: str
    digest: str | None = None
    login: str | None = None
    file: str | None = None
    by_hand: str | None = None

    @property
    def name(self) -> str:
        """Its file name here."""
        return self.file or urllib.parse.urlsplit(self.url).path.rpartition('/')[2]


def fetch(
    archive: Archive,
    folder: Path,
    opener: urllib.request.OpenerDirector | None = None,
    progress: Progress = lambda *_: None,
    mirror: str | None = None,
) -> Path:
    """Return the archive as a checked file of `folder`; download it, or continue NAME.part, unless it exists.

    mirror: address of a folder that holds the archive under its own name, in place of its own address.
    Raises DatasetError for what the server refuses, a connection that keeps breaking off, a full disk, and a
    wrong hash or content, whose file is kept aside as NAME.wrong.
    """
    path, part = folder / archive.name, folder / f'{archive.name}.part'
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        url = archive.url if mirror is None else f'{mirror.rstrip("/")}/{archive.name}'
        try:
            download(url, part, opener, progress)
        except DownloadError as error:
            again = ': run the same command again, which continues it' if isinstance(error, BrokenOffError) else ''
            raise DatasetError(f'{plain_address(url)} cannot be downloaded: {error}{again}.') from error
        except OSError as error:
            raise disk_error(error, part) from error
        _check(archive, part, progress)
        os.replace(part, path)
        remove_tag(part)
    elif not _is_checked(archive, path):  # put there by the user, or changed since
        _check(archive, path, progress)
    if archive.digest:
        write_atomically(_mark(archive, path), _checked(path))
    return path


def _check(archive: Archive, path: Path, progress: Progress) -> None:
    """Raise DatasetError, and move the file aside, when its hash or its content is not the archive's."""
    if archive.digest is None:
        wrong = _wrong_content(archive, path)
    else:
        name, _, expected = archive.digest.partition(':')
        found = digest_of(path, name, lambda _, *done: progress(f'check {archive.name}', *done))
        wrong = None if found == expected else f'has the {name} {found}, and {expected} was expected'
    if wrong:
        aside = _free(path.with_name(f'{archive.name}.wrong'))
        os.replace(path, aside)
        remove_tag(path)
        raise DatasetError(
            f'{archive.name} {wrong}: the file is kept as {aside}; run the same command again to download it anew.'
        )


def _wrong_content(archive: Archive, path: Path) -> str | None:
    """Return what is wrong with the content of a file without a published hash."""
    try:
        check_content(path)
    except DownloadError as error:
        return f'is not the requested archive: {error}'
    if archive.name.endswith('.zip') and not zipfile.is_zipfile(path):
        return 'is not a whole zip archive'
    if archive.name.endswith(('.tar', '.tar.gz', '.tgz')) and not tarfile.is_tarfile(path):
        return 'is not a tar archive'
    return None


def _free(path: Path) -> Path:
    """Return `path`, or with a number if it exists."""
    names = (path.with_name(f'{path.name}{number}') for number in count(2))
    return path if not path.exists() else next(other for other in names if not other.exists())


def disk_error(error: OSError, path: Path) -> OSError | DatasetError:
    """Return the error for an OSError while `path` was written."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return DatasetError(
        f'the disk of {path.parent} is full: free some space, then run the same command again, which continues.'
    )


def _checked(path: Path) -> Path:
    """Return the marker file of a verified file, so that many gigabytes are not read at every call."""
    return path.with_name(f'{path.name}.checked')


def _mark(archive: Archive, path: Path) -> str:
    """Return the marker's content: the hash, and which file it was."""
    status = path.stat()
    return f'{archive.digest} {status.st_size} {status.st_mtime_ns}\n'


def _is_checked(archive: Archive, path: Path) -> bool:
    try:
        return archive.digest is not None and _checked(path).read_text() == _mark(archive, path)
    except (OSError, ValueError):
        return False
