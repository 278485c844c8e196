"""A file backend of mmengine that writes every file atomically."""

from __future__ import annotations

import os

from mmengine.fileio import LocalBackend, register_backend

from mmseg_tr.files import write_atomically

BACKEND = 'mmseg_tr_atomic'


@register_backend(BACKEND, force=True)
class AtomicLocalBackend(LocalBackend):
    """mmengine's local files, written atomically: ``backend_args=dict(backend='mmseg_tr_atomic')``."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Write bytes to `filepath`."""
        write_atomically(obj, filepath)

    def put_text(self, obj: str, filepath: str | os.PathLike, encoding: str = 'utf-8') -> None:
        """Write text to `filepath`."""
        write_atomically(obj.encode(encoding), filepath)
