"""Downloads that continue after an interruption and compare lengths, parts and hashes.

Neither torch.hub nor pooch can continue a file, keep a login or limit the wait for a byte, hence urllib.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path

CHUNK = 1 << 20
ATTEMPTS = 5  # in one run, for a connection that breaks off
TIMEOUT = 60  # seconds without a byte
Progress = Callable[[str, int, int | None], None]  # the step, what is done of it, its total
_PAGE = re.compile(rb'\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body)\b', re.I | re.S)


class DownloadError(ValueError):
    """A download that failed; the text is the reason, without an address and a full stop."""


class BrokenOffError(DownloadError):
    """A connection that broke off repeatedly; the partial file can be continued."""


class _BrokenError(Exception):
    """One connection that broke off."""


def download(
    url: str,
    part: Path,
    opener: urllib.request.OpenerDirector | None = None,
    progress: Progress = lambda *_: None,
) -> None:
    """Download into `part` until it has the length the server reports, continuing a partial file.

    A file NAME.tag next to it keeps the server's version of the file. Raises DownloadError, and OSError for local
    errors such as a full disk; the partial file is kept.
    """
    opener = opener or urllib.request.build_opener()
    attempts, cause = ATTEMPTS, ''
    while attempts:
        before, total = _size(part), None
        try:
            total = _continue(url, part, opener, progress)
            if total is None or _size(part) == total:
                return
            cause = ''
        except urllib.error.HTTPError as error:
            raise DownloadError(f'the server says {error.code} {" ".join(str(error.reason).split())}') from error
        except DownloadError:
            raise
        except (ValueError, http.client.InvalidURL) as error:  # whose texts may show a password
            raise DownloadError('the address, or one that it leads to, is not valid') from error
        except _BrokenError as error:
            reason = getattr(error.__cause__, 'reason', None) or error.__cause__
            cause = f' ({reason})'
        attempts = ATTEMPTS if _size(part) > before else attempts - 1
    whole = f' of {total}' if total is not None else ''
    raise BrokenOffError(f'the connection broke off after {_size(part)}{whole} bytes{cause}')


def _continue(url: str, part: Path, opener: urllib.request.OpenerDirector, progress: Progress) -> int | None:
    """Read from one connection until it ends; return the length that the server reports, or None."""
    have = _size(part)
    request = _request(url)
    if have:
        request.add_header('Range', f'bytes={have}-')
        if tag := _known_tag(part):  # the server starts again if its file has changed
            request.add_header('If-Range', tag)
    try:
        answer = opener.open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        held = (error.headers.get('Content-Range') or '').rpartition('/')[2]
        if held != str(have):
            part.unlink()  # longer than the server's file: another one
        return int(held) if held.isdecimal() else -1
    except http.client.InvalidURL:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError from error
    with answer:
        if have and getattr(answer, 'status', None) == 206:
            begins = re.match(r'bytes (\d+)-', answer.headers.get('Content-Range') or f'bytes {have}-')
            if not begins or int(begins[1]) != have:
                part.unlink()
                raise _BrokenError from DownloadError('the server sent another part than it was asked for')
        else:
            have = 0
        length = _length(answer.headers.get('Content-Length'))
        total = None if length is None else have + length
        _keep_tag(part, answer.headers.get('ETag') or answer.headers.get('Last-Modified') or '')
        with open(part, 'ab' if have else 'wb') as file:
            while chunk := _read(answer):
                file.write(chunk)
                have += len(chunk)
                progress(f'download {part.stem}', have, total)
    return total


def _request(url: str) -> urllib.request.Request:
    """User and password of an address go to its own host only."""
    parts = urllib.parse.urlsplit(url)
    user, found, host = parts.netloc.rpartition('@')
    request = urllib.request.Request(urllib.parse.urlunsplit(parts._replace(netloc=host)))
    if found:
        secret = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_unredirected_header('Authorization', f'Basic {secret}')
    return request


def _read(answer) -> bytes:
    try:
        return answer.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError from error


def _length(said: str | None) -> int | None:
    if said is None:
        return None
    if said.strip().isdecimal() and len(said) < 20:
        return int(said)
    raise DownloadError(f'the server reports an impossible length, {said[:40]!r}')


def check_content(path: Path) -> None:
    """Raise DownloadError for an empty file and for a web page in place of a file."""
    with open(path, 'rb') as file:
        start = file.read(4096)
    if not start:
        raise DownloadError('the downloaded file is empty')
    if _PAGE.match(start):
        raise DownloadError(f'the server sent a web page instead of the file ({path.stat().st_size} bytes)')


def digest_of(path: Path, algorithm: str, progress: Progress = lambda *_: None) -> str:
    """Return the hash of a file, hexadecimal."""
    digest, total = hashlib.new(algorithm), path.stat().st_size
    with open(path, 'rb') as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            progress(f'check {path.name}', file.tell(), total)
    return digest.hexdigest()


def plain_address(url: str) -> str:
    """Return a URL without what may be secret in it: user, password, query."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ''
        host = f'{host}:{parts.port}' if parts.port else host
    except ValueError:  # no address at all
        return url.rpartition('@')[2].partition('?')[0]
    return urllib.parse.urlunsplit((parts.scheme, host, parts.path, '', ''))


def remove_tag(part: Path) -> None:
    """Remove the tag file that `download` kept next to `part`."""
    _tag(part).unlink(missing_ok=True)


def _tag(part: Path) -> Path:
    return part.with_name(f'{part.name}.tag')


def _known_tag(part: Path) -> str:
    try:
        tag = _tag(part).read_text('ascii')
    except (OSError, ValueError):
        return ''
    return tag if tag.isprintable() else ''


def _keep_tag(part: Path, tag: str) -> None:
    if tag and not tag.startswith('W/') and tag.isascii() and tag.isprintable():
        _tag(part).write_text(tag)
    else:
        remove_tag(part)


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0
