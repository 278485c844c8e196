"""Published weights, fetched once and kept: complete files or none, and a hash where one is known."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import urllib.request
from contextlib import suppress
from difflib import get_close_matches
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.io import check_kind
from mmseg_tr.weights.published import PUBLISHED, Published

SCHEMES = ('http', 'https', 'file', 'ftp')
SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors')
TIMEOUT = 60  # seconds without a byte


def cache_folder() -> Path:
    """Where fetched files are kept: $MMSEG_TR_CACHE, or a folder beside those of torch.hub (see TORCH_HOME)."""
    named = os.environ.get('MMSEG_TR_CACHE')
    return Path(named).expanduser() if named else Path(torch.hub.get_dir()) / 'checkpoints' / 'mmseg_tr'


def cache_path(url: str) -> Path:
    """Where the file of `url` is kept; no two URLs share a place."""
    name = Path(unquote(urlsplit(url).path.rstrip('/')).rpartition('/')[2])
    suffix = name.suffix if name.suffix in SUFFIXES else '.pth'
    stem = re.sub(r'[^\w.-]', '_', name.stem if suffix == name.suffix else name.name)[:80]
    return cache_folder() / f'{stem or "weights"}_{hashlib.sha256(url.encode()).hexdigest()[:16]}{suffix}'


def fetch_if_published(source: str | os.PathLike) -> Path:
    """The file `source` itself; or the kept file of a name of PUBLISHED or of a URL, fetched where it is missing.

    Raises CheckpointError for a name that is neither a file nor published, and as fetch() does.
    """
    if isinstance(source, os.PathLike) or Path(source).exists():
        return Path(source)
    if source in PUBLISHED:
        return fetch(PUBLISHED[source])
    if '://' in source:
        return fetch(Published(source))
    if os.sep in source or Path(source).suffix in SUFFIXES:
        raise CheckpointError(f'There is no checkpoint file {source}: check the path.')
    close = get_close_matches(source, PUBLISHED, n=3) or list(PUBLISHED)[:6]
    raise CheckpointError(
        f'{source!r} is neither a file nor a name of published weights: such names are {", ".join(close)} '
        '(all of them: mmseg_tr.weights.published.PUBLISHED).'
    )


def fetch(published: Published) -> Path:
    """The kept file of a publication, downloaded where it is missing.

    Raises CheckpointError, naming the URL and what to do without a network, when it cannot be had, is incomplete, has
    another hash, or is no file of weights. Nothing is kept then.
    """
    url, path = published.url, cache_path(published.url)
    if path.is_file():
        return path
    advice = f'download it elsewhere and name the file, or put it at {path}'
    if urlsplit(url).scheme not in SCHEMES:
        raise CheckpointError(f'{url} is no address that can be fetched ({", ".join(SCHEMES)}): {advice}.')
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f'.{path.stem}.', suffix=f'.unfinished{path.suffix}', dir=path.parent)
        part = Path(name)
        digest = hashlib.sha256()
        with os.fdopen(handle, 'wb') as file, urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            while block := answer.read(1 << 20):
                file.write(block)
                digest.update(block)
            file.flush()
            os.fsync(file.fileno())
            length = answer.headers.get('Content-Length')
        check_download(part, digest.hexdigest(), published.sha256, length and int(length))
        os.replace(part, path)
    except CheckpointError as error:
        raise CheckpointError(f'{url} could not be fetched: {error}; {advice}.') from error
    except (OSError, HTTPException, ValueError) as error:  # urllib's errors are OSErrors
        reason = getattr(error, 'reason', None) or getattr(error, 'strerror', None) or error
        raise CheckpointError(f'{url} could not be fetched ({reason}): {advice}.') from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)
    return path


def check_download(part: Path, digest: str, known: str, length: int | None) -> None:
    """Raise CheckpointError unless a download has its whole length, the known hash, and looks like weights."""
    size = part.stat().st_size
    if length is not None and size != length:
        raise CheckpointError(f'{size} of {length} bytes came')
    if not digest.startswith(known):
        raise CheckpointError(f'its sha256 begins with {digest[: len(known)]} instead of {known}')
    try:
        check_kind(part)
    except CheckpointError as error:
        raise CheckpointError(f'what came is no file of weights ({size} bytes)') from error
