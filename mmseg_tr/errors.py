"""Errors for input that cannot be used: one clear sentence, under a type that a caller can catch.

Each type derives from the builtin that a reader of Python would expect, so `except ValueError` works as well.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

LONGEST = 1000  # characters of a message: a value in it may be a network or a weights file


class InputError(Exception):
    """Base of the errors below.

    The message names parameters of the function that was called, and `parameters` lists those names, so that a command
    line can put its own options in their place: ``ConfigError('fraction must be at most 1, got 2.',
    parameters=['fraction'])`` becomes "--frac-dataset must be at most 1, got 2." there (cli.options.sentence).
    """

    def __init__(self, *args: object, parameters: Sequence[str] = (), **kwargs: object) -> None:
        super().__init__(*(shortened(part) if isinstance(part, str) else part for part in args), **kwargs)
        self.parameters = tuple(parameters)


def shortened(message: str) -> str:
    """Return a message of more than LONGEST characters as one line without its middle; others unchanged."""
    if len(message) <= LONGEST:
        return message
    line = ' '.join(message[: 100 * LONGEST].split()) + ' '.join(message[100 * LONGEST :][-LONGEST:].split())
    return line if len(line) <= LONGEST else f'{line[: LONGEST // 2]} ... {line[5 - LONGEST // 2 :]}'


class ConfigError(InputError, ValueError):
    """A setting that does not exist, does not fit its neighbours, or is out of range."""


class CheckpointError(InputError, ValueError):
    """A weights file that is damaged, unsafe to load, or belongs to another model."""


class DatasetError(InputError, ValueError):
    """A dataset that is missing, empty, or holds a file that cannot be read."""


class DeviceError(InputError, ValueError):
    """A device, or a number of devices, that this machine does not have."""


class ExportError(InputError, ValueError):
    """A network that cannot be exported, or an exported file whose results differ from the network's."""


class WriteError(OSError):
    """A file that cannot be written, for instance on a full disk; what was there before is unchanged."""

    def __str__(self) -> str:
        return f'{self.filename} cannot be written: {self.strerror}.'


class StoppedError(InputError, RuntimeError):
    """A run that ended early, for instance on a full disk; the message names what was kept."""


class MissingExtraError(InputError, ImportError):
    """A part of the package whose optional requirements are not installed."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a signal that ends a program, during a run; the message names what was kept.

    resumable: whether the same command with --resume continues it.
    """

    def __init__(self, message: str, resumable: bool = False) -> None:
        super().__init__(message)
        self.resumable = resumable


def installed(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # an import hook that refuses it
        return False


def require_extra(extra: str, module: str, purpose: str) -> None:
    """Check that `module` can be imported, without importing it.

    extra: which of this package's extras installs the module, as in ``pip install 'mmseg_tr[seg]'``.
    module: a top-level module, e.g. 'mmseg'.
    purpose: what it is needed for, as the end of "... is needed"; e.g. 'to train a segmentation model'.
    Raises MissingExtraError when the module is not installed.
    """
    if not installed(module):
        raise MissingExtraError(
            f"{module} is needed {purpose} and is not installed: run pip install 'mmseg_tr[{extra}]'", name=module
        )


def first_line(error: BaseException) -> str:
    """Return the innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[0] if lines else "no reason given"}'


def chain(error: BaseException | None) -> list[BaseException]:
    """Return an exception and those that it came from, the innermost last."""
    found: list[BaseException] = []
    while error is not None and all(error is not one for one in found):
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
