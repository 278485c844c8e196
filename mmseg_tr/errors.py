"""What this package raises when its input is wrong: one clear sentence, under a type that a caller can catch.

Each type derives from the builtin that a reader of Python would expect, so `except ValueError` works as well.
"""

from __future__ import annotations

import importlib.util


class ConfigError(ValueError):
    """A setting that does not exist, does not fit its neighbours, or is out of range."""


class CheckpointError(ValueError):
    """A weights file that is damaged, unsafe to load, or belongs to another model."""


class DatasetError(ValueError):
    """A dataset that is missing, empty, or holds a file that cannot be read."""


class DeviceError(ValueError):
    """More or other devices asked for than this machine has."""


class ExportError(ValueError):
    """A network that cannot be written in a foreign format, or whose file does not do what the network does."""


class WriteError(OSError):
    """A file that cannot be written, for instance on a full disk; what was there before is unchanged."""

    def __str__(self) -> str:
        return f'{self.filename} cannot be written: {self.strerror}.'


class MissingExtraError(ImportError):
    """A part of the package whose optional requirements are not installed."""


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # an import hook that refuses it
        return False


def require_extra(extra: str, module: str, purpose: str) -> None:
    """Check that `module` can be imported, without importing it.

    extra: which of this package's extras brings the module, as in ``pip install 'mmseg_tr[seg]'``.
    module: a top-level module, e.g. 'mmseg'.
    purpose: what it is needed for, as the end of "... is needed"; e.g. 'to train a segmentation model'.
    Raises MissingExtraError when the module is not installed.
    """
    if not installed(module):
        raise MissingExtraError(
            f"{module} is needed {purpose} and is not installed: run pip install 'mmseg_tr[{extra}]'", name=module
        )
