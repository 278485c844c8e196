"""Outcomes of operators on the meta device, remembered: a network repeats its blocks, and meta kernels are Python.

They depend on shapes alone, so that a second forward, or a second block, need not run them again.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

MOST = 20_000  # outcomes kept; then all are forgotten
PLAIN = (int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


@dataclass(frozen=True)
class Outcome:
    """What an operator gave. shapes: (size, stride, dtype) of each output. single: whether there is one, not a tuple.

    units: by kind, as MacCount has them. unknown: names of operators whose work is not known.
    """

    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...]
    single: bool
    units: Mapping[str, float]
    unknown: frozenset[str]

    def outputs(self) -> Any:
        """Return outputs of the same shapes on the meta device."""
        made = [torch.empty_strided(*shape, dtype=dtype, device='meta') for *shape, dtype in self.shapes]
        return made[0] if self.single else tuple(made)


_OUTCOMES: dict[Hashable, Outcome] = {}


def recall(key: Hashable | None) -> Outcome | None:
    """Return the outcome under a key of key_of(), if it is known."""
    return None if key is None else _OUTCOMES.get(key)


def remember(key: Hashable | None, out: Any, units: Mapping[str, float], unknown: frozenset[str]) -> None:
    """Keep the outcome of an operator whose outputs are tensors on the meta device."""
    outputs = (out,) if isinstance(out, Tensor) else out
    if key is None or not isinstance(outputs, tuple) or not outputs:
        return
    if not all(type(each) is Tensor and each.is_meta for each in outputs):
        return
    if len(_OUTCOMES) >= MOST:
        _OUTCOMES.clear()
    shapes = tuple((tuple(each.shape), each.stride(), each.dtype) for each in outputs)
    _OUTCOMES[key] = Outcome(shapes, isinstance(out, Tensor), dict(units), unknown)


def key_of(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Hashable | None:
    """Return what decides an operator's outcome.

    None where that is more than the shapes of its arguments: off the meta device, and for views and operators that
    write into their arguments.
    """
    if not _makes_new(func):
        return None
    try:
        return func, torch.is_inference_mode_enabled(), torch.get_default_dtype(), _keys(args), _keys(kwargs.items())
    except _OtherError:
        return None


class _OtherError(Exception):
    """An argument decides by more than its shape."""


def _keys(values: Any) -> tuple[Hashable, ...]:
    return tuple(map(_key, values))


def _key(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        if type(value) not in (Tensor, torch.nn.Parameter) or not value.is_meta or value.layout != torch.strided:
            raise _OtherError
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return _keys(value)
    if type(value) not in PLAIN:
        raise _OtherError
    return type(value), value  # True is not 1


_NEW: dict[Any, bool] = {}


def _makes_new(func: Any) -> bool:
    """Whether an operator only makes new tensors."""
    known = _NEW.get(func)
    if known is None:
        schema = getattr(func, '_schema', None)
        values = [] if schema is None else [*schema.arguments, *schema.returns]
        known = _NEW[func] = bool(values) and all(value.alias_info is None for value in values)
    return known
