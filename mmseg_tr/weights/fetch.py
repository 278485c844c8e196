"""Fetch published weights once and keep them: complete files or none, their hash compared where one is known."""

from __future__ import annotations

import hashlib
import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch

from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.files import atomic_path
from mmseg_tr.weights.download import DownloadError, check_content, digest_of, download, plain_address, remove_tag
from mmseg_tr.weights.io import check_kind
from mmseg_tr.weights.published import PUBLISHED, Published

SCHEMES = ('http', 'https', 'file', 'ftp')
SAVED = 'model.safetensors'
SUFFIXES = ('.pth', '.pt', '.bin', '.safetensors')


def check_pretrained(source: Any) -> None:
    """Raise ConfigError unless `source` is True, a path, a URL, or False or None for random weights."""
    if not (source is None or isinstance(source, bool | str | os.PathLike)) or source == '':
        raise ConfigError(f'pretrained must be True, a file, a URL or None, got {source!r}.')


def cache_folder() -> Path:
    """Return the folder of fetched files: $MMSEG_TR_CACHE, or a folder next to those of torch.hub (see TORCH_HOME)."""
    named = os.environ.get('MMSEG_TR_CACHE')
    return Path(named).expanduser() if named else Path(torch.hub.get_dir()) / 'checkpoints' / 'mmseg_tr'


def cache_path(url: str) -> Path:
    """Return the path of the kept file of `url`; no two URLs share one."""
    name = Path(unquote(url.partition('?')[0].rstrip('/')).rpartition('/')[2])
    suffix = name.suffix if name.suffix in SUFFIXES else '.pth'
    stem = re.sub(r'[^\w.-]', '_', name.stem if suffix == name.suffix else name.name)[:80]
    return cache_folder() / f'{stem or "weights"}_{hashlib.sha256(url.encode()).hexdigest()[:16]}{suffix}'


def fetch_if_published(source: str | os.PathLike) -> Path:
    """Return the file `source` itself, or the kept file of a name of PUBLISHED or a URL, fetched where it is missing.

    Of a folder that a save_pretrained() wrote, the file of weights in it.

    Raises CheckpointError for a name that is neither a file nor published, and as fetch() does.
    """
    if (Path(source) / SAVED).is_file():
        return Path(source) / SAVED
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
    """Return the kept file of a publication, downloaded where it is missing.

    Raises CheckpointError, naming the address and what to do without a network, when it is not available, is
    incomplete, has another hash, or is not a file of weights. Nothing is kept then.
    """
    url, path = published.url, cache_path(published.url)
    shown, advice = plain_address(url), f'download it elsewhere and name the file, or put it at {path}'
    if path.is_file():
        if published.sha256 and not digest_of(path, 'sha256').startswith(published.sha256):
            raise CheckpointError(
                f'{path} (from {shown}) does not have the sha256 {published.sha256}...: remove it and fetch it again.'
            )
        return path
    if url.partition('://')[0] not in SCHEMES:
        raise CheckpointError(f'{shown} is not an address that can be fetched ({", ".join(SCHEMES)}): {advice}.')
    try:
        with atomic_path(path) as part:
            try:
                download(url, part)
                check_download(part, published.sha256)
            finally:
                remove_tag(part)
    except (CheckpointError, DownloadError) as error:
        raise CheckpointError(f'{shown} could not be fetched: {str(error).rstrip(".")}; {advice}.') from error
    except OSError as error:
        raise CheckpointError(f'{shown} could not be fetched ({error.strerror or error}): {advice}.') from error
    return path


def check_download(part: Path, sha256: str) -> None:
    """Raise an error unless a download has the known hash, '' for none, and looks like weights."""
    found = digest_of(part, 'sha256')
    if not found.startswith(sha256):
        raise DownloadError(f'its sha256 begins with {found[: len(sha256)]} instead of {sha256}')
    check_content(part)
    try:
        check_kind(part)
    except CheckpointError as error:
        raise DownloadError(f'what came is not a file of weights ({part.stat().st_size} bytes)') from error
