"""Downloads that continue where they were interrupted, are checked by their hash, and never replace a file."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmseg_tr.errors import DatasetError

CHUNK = 1 << 20
ATTEMPTS = 5  # in one run, for a connection that breaks off
Progress = Callable[[str, int, int | None], None]  # what is being done, how much of it is, how much there is


@dataclass(frozen=True)
class Archive:
    """A file to download.

    digest: 'md5:...', 'sha1:...' or 'sha256:...', None where nobody states one. login: who may download it, None for
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
    """The archive as a checked file of `folder`; downloaded, or continued from NAME.part, unless it is there.

    mirror: address of a folder that holds the archive under its own name, in place of its own address.
    Raises DatasetError for what the server refuses, a connection that breaks off again and again, a full disk, and a
    wrong hash, whose file is kept aside as NAME.wrong.
    """
    path, part = folder / archive.name, folder / f'{archive.name}.part'
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        url = archive.url if mirror is None else f'{mirror.rstrip("/")}/{archive.name}'
        _download(url, part, opener or urllib.request.build_opener(), progress)
        _check(archive, part, progress)
        os.replace(part, path)
        _tag(part).unlink(missing_ok=True)
    elif not _checked(path).exists():  # put there by hand
        _check(archive, path, progress)
    if archive.digest and not _checked(path).exists():
        _checked(path).write_text(f'{archive.digest}\n')
    return path


def _download(url: str, part: Path, opener: urllib.request.OpenerDirector, progress: Progress) -> None:
    """Fill `part` until it is as long as the server says."""
    attempts = ATTEMPTS
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _continue(url, part, opener, progress):
                return
        except urllib.error.HTTPError as error:
            raise DatasetError(
                f'{_plain(url)} cannot be downloaded: the server says {error.code} {error.reason}.'
            ) from error
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = getattr(error, 'reason', None) or error
            cause = f' ({reason})'
        except OSError as error:
            raise disk_error(error, part) from error
        else:
            cause = ''
        after = part.stat().st_size if part.exists() else 0
        attempts = ATTEMPTS if after > before else attempts - 1
        if not attempts:
            raise DatasetError(
                f'the download of {_plain(url)} broke off after {after} bytes{cause}: run the same command again, '
                'which continues it.'
            )


def _continue(url: str, part: Path, opener: urllib.request.OpenerDirector, progress: Progress) -> bool:
    """One connection. Returns whether `part` is complete behind it."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url)
    if have:
        request.add_header('Range', f'bytes={have}-')
        if _tag(part).exists():  # the server starts again where its file has changed
            request.add_header('If-Range', _tag(part).read_text())
    try:
        answer = opener.open(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        total = (error.headers.get('Content-Range') or '').rpartition('/')[2]
        if total == str(have):
            return True
        part.unlink()  # longer than the server's file: another one
        return False
    with answer:
        if answer.status != 206:
            have = 0
        length = answer.headers.get('Content-Length')
        total = have + int(length) if length else None
        tag = answer.headers.get('ETag') or answer.headers.get('Last-Modified')
        if tag and not tag.startswith('W/'):
            _tag(part).write_text(tag)
        with open(part, 'ab' if have else 'wb') as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(f'download {part.stem}', have, total)
    return total is None or have == total


def _check(archive: Archive, path: Path, progress: Progress) -> None:
    """Raise DatasetError, and move the file aside, when its hash is not the archive's."""
    if archive.digest is None:
        return
    name, _, expected = archive.digest.partition(':')
    digest, total = hashlib.new(name), path.stat().st_size
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            progress(f'check {archive.name}', file.tell(), total)
    if digest.hexdigest() != expected:
        aside = path.with_name(f'{archive.name}.wrong')
        os.replace(path, aside)
        _tag(path).unlink(missing_ok=True)
        raise DatasetError(
            f'{archive.name} has the {name} {digest.hexdigest()}, and {expected} was expected: the file is kept as '
            f'{aside}; run the same command again to download it anew.'
        )


def disk_error(error: OSError, path: Path) -> OSError | DatasetError:
    """What to tell about an OSError while `path` was written."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return DatasetError(
        f'the disk of {path.parent} is full: free some space, then run the same command again, which continues.'
    )


def _plain(url: str) -> str:
    """A URL without what may be secret in it."""
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ''
    host = f'{host}:{parts.port}' if parts.port else host
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, '', ''))


def _tag(part: Path) -> Path:
    return part.with_name(f'{part.name}.tag')


def _checked(path: Path) -> Path:
    """A mark beside a file whose hash was right, so that many gigabytes are not read at every call."""
    return path.with_name(f'{path.name}.checked')
