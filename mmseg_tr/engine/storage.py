"""What mmengine writes, written atomically: its file backend, and configs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.fileio import LocalBackend, dump, register_backend

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


class AtomicConfig(Config):
    """A config whose dump() writes the whole file or none: mmengine writes a config into every work folder."""

    @classmethod
    def of(cls, config: Config) -> AtomicConfig:
        """Return the same config."""
        made = cls.__new__(cls)
        vars(made).update(vars(config))
        return made

    def dump(self, file: str | Path | None = None) -> Any:
        """As mmengine's. Raises WriteError."""
        if file is None:
            return super().dump()
        suffix = Path(file).suffix[1:]
        text = self.pretty_text if suffix == 'py' else dump(self.to_dict(), file_format=suffix)
        write_atomically(text, file)
        return None
