"""Checks of a file before and after it is read: damage, and declared sizes that would exhaust the memory."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmseg_tr.errors import CheckpointError

CHUNK = 1 << 20
DEEPEST = 100  # containers inside one another
# what the tensors of a file may hold: overlapping views take more than the file, expanded ones without limit
EXPANSION, SMALL = 64, 1 << 26


class Skipped:
    """Placeholder for an object of a file that is not read: accepts anything and stores nothing."""

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def check_archive(path: Path) -> None:
    """Raise CheckpointError for a zip archive whose records are damaged, encrypted, compressed or overlap.

    torch.save compresses nothing, and torch.load compares no checksum. Files whose checksums are all zero were saved
    without them (torch.serialization.set_crc32_options).
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        for record in records:
            if record.flag_bits & 1 or record.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f'{path} holds encrypted or compressed records, which torch.save does not write.')
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise CheckpointError(f'{path} is damaged: its records claim more bytes than the file has.')
        if not any(record.CRC for record in records):
            return
        for record in records:
            try:
                with archive.open(record) as file:
                    while file.read(CHUNK):
                        pass
            except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
                raise CheckpointError(
                    f'{path} is damaged: the checksum of its record {record.filename!r} does not match; copy or '
                    'download it again.'
                ) from error


def check_arrays(path: Path) -> None:
    """Raise CheckpointError for an .npz archive that unpacks to far more than its size."""
    with zipfile.ZipFile(path) as archive:
        _check_size(sum(record.file_size for record in archive.infolist()), path)


def check_payload(payload: Any, path: Path) -> None:
    """Remove skipped curves from a file's content, in place.

    Raises CheckpointError for containers nested too deeply and for tensors that are far larger than the file.
    """
    seen: set[int] = set()
    total, waiting = 0, [(payload, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size() if value.device.type != 'meta' else 0
            continue
        if not isinstance(value, Mapping | list | tuple | set) or id(value) in seen:
            continue
        seen.add(id(value))
        if depth > DEEPEST:
            raise CheckpointError(f'{path} is refused: it nests more than {DEEPEST} containers in one another.')
        if isinstance(value, dict):
            for key in [key for key, inner in value.items() if isinstance(inner, Skipped)]:
                del value[key]
        inside = value.values() if isinstance(value, Mapping) else value
        waiting += ((inner, depth + 1) for inner in inside)
    _check_size(total, path)


def _check_size(total: int, path: Path) -> None:
    size = path.stat().st_size
    if total > max(EXPANSION * size, SMALL):
        raise CheckpointError(
            f'{path} is refused: it has {size} bytes and claims tensors of {total} bytes, more than {EXPANSION} times '
            'its size.'
        )
