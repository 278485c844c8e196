"""Constants that every forward uses again, made once per device: on a GPU each of them would be a launch.

A program that is traced (torch.compile, torch.export, fake tensors) makes its own.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.utils._python_dispatch import _disable_current_modes

_NUMBERS: dict[torch.device, Tensor] = {}
_TABLES: dict[Hashable, Tensor] = {}
MOST_TABLES = 512


def traced() -> bool:
    """Whether this forward is traced, so that no tensor made outside may enter it."""
    if torch.compiler.is_compiling():
        return True
    return bool(torch._C._len_torch_dispatch_stack()) and detect_fake_mode() is not None


def numbers(start: int, stop: int, step: int = 1, *, device: torch.device) -> Tensor:
    """Return the whole numbers from start up to stop, stop left out, as int64. They are shared: never change them."""
    if traced():
        return torch.arange(start, stop, step, device=device)
    known = _NUMBERS.get(device)
    if known is None or len(known) < stop:
        with undisturbed():
            known = torch.arange(max(4096, 1 << max(stop - 1, 1).bit_length()), device=device)
        _NUMBERS[device] = known
    return known[start:stop:step]


def filled(shape: tuple[int, ...], value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return one value in every place: a view of one number, which is shared: never change it."""
    if traced():
        return torch.full(shape, value, dtype=dtype, device=device)
    return table(_scalar, value, dtype, device=device).expand(shape)


def table(build: Callable[..., Tensor], *key: Hashable, device: torch.device) -> Tensor:
    """Return build(*key, device), made once. It is shared: never change it."""
    if traced():
        return build(*key, device)
    name = (build, *key, device)
    found = _TABLES.get(name)
    if found is None:
        if len(_TABLES) >= MOST_TABLES:  # a stream of image sizes must not fill the memory
            _TABLES.clear()
        with undisturbed():
            found = _TABLES[name] = build(*key, device)
    return found


@contextmanager
def undisturbed() -> Iterator[None]:
    """Outside of what the caller is in: a tensor of inference mode, or of a mode, could not serve everybody later."""
    with torch.inference_mode(False), torch.no_grad(), _disable_current_modes():
        yield


def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full((), value, dtype=dtype, device=device)
