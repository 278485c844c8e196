"""Convert mmengine's checkpoint contents to values that ``torch.load(weights_only=True)`` reads."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

_PLAIN = (bool, int, float, complex, str, bytes, torch.Tensor, torch.Size, torch.dtype, torch.device, type(None))
_NOTHING = object()  # marks dropped values, since None is a value
_HISTORY, _COUNTS, _LIMIT = 'log_history', 'count_history', 'max_length'


def to_plain(value: Any, dropped: list[str], name: str = '') -> Any:
    """Rebuild `value` from plain Python containers and numbers.

    A HistoryBuffer becomes a dict of two tensors and its length limit. What has no plain form is left out, and its
    dotted name appended to `dropped`.
    """
    if isinstance(value, np.generic):  # before the plain types: numpy.float64 is a float, and still refused
        return value.item()
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, HistoryBuffer):
        log, counts = value.data
        return {
            _HISTORY: torch.from_numpy(log.copy()),
            _COUNTS: torch.from_numpy(counts.copy()),
            _LIMIT: value.max_length,
        }
    if isinstance(value, Mapping):
        parts = {to_plain(key, dropped): to_plain(part, dropped, f'{name}.{key}') for key, part in value.items()}
        return {key: part for key, part in parts.items() if part is not _NOTHING}
    if isinstance(value, list | tuple | set | frozenset):
        parts = [to_plain(part, dropped, f'{name}[{index}]') for index, part in enumerate(value)]
        parts = [part for part in parts if part is not _NOTHING]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, np.ndarray):
        return to_plain(value.tolist(), dropped, name)
    if isinstance(value, PathLike):
        return fspath(value)
    dropped.append(name.lstrip('.'))
    return _NOTHING


def history_from_plain(value: Any) -> Any:
    """Rebuild a HistoryBuffer from `to_plain`; any other value is unchanged."""
    if not (isinstance(value, Mapping) and set(value) == {_HISTORY, _COUNTS, _LIMIT}):
        return value
    # NumPy arrays straight from the tensors: Python lists of a long training would take minutes
    return HistoryBuffer(value[_HISTORY].cpu().numpy(), value[_COUNTS].cpu().numpy(), value[_LIMIT])
