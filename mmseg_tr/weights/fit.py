"""Does a state dict fit a network: the strict comparison, and loading that tells in one sentence what does not fit."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.formats import describe
from mmseg_tr.weights.io import few, read_file

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Difference:
    """Where a state dict departs from what is needed; false when it fits."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]  # 'decoder.cls_emb is 1x150x192 instead of 1x7x192'

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            parts.append(f'{_count(self.missing, "key")} missing ({few(self.missing)})')
        if self.unexpected:
            parts.append(f'{_count(self.unexpected, "unexpected key")} ({few(self.unexpected)})')
        if self.reshaped:
            parts.append(f'{_count(self.reshaped, "tensor")} of another shape ({few(self.reshaped)})')
        return ', '.join(parts)


def _count(names: tuple[str, ...], noun: str) -> str:
    return f'{len(names)} {noun}' if len(names) == 1 else f'{len(names)} {noun}s'


def _times(shape: Shape) -> str:
    return 'x'.join(map(str, shape)) or 'a single number'


def difference(state: Mapping[str, Any], needed: Mapping[str, Shape]) -> Difference:
    """Compare tensors by key with the shapes that are needed, both ways."""
    return Difference(
        missing=tuple(key for key in needed if key not in state),
        unexpected=tuple(key for key in state if key not in needed),
        reshaped=tuple(
            f'{key} is {_times(tuple(state[key].shape))} instead of {_times(shape)}'
            for key, shape in needed.items()
            if key in state and tuple(state[key].shape) != shape
        ),
    )


def shapes(model: nn.Module) -> dict[str, Shape]:
    """The shape of every tensor in the state dict of `model`."""
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def check_tensors(state: Any, where: str) -> None:
    """Raise CheckpointError unless `state` maps names to tensors."""
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f'{where} holds no tensors.')
    wrong = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        raise CheckpointError(f'{where} holds things that are not tensors: {few(wrong)}.')


def completed(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `state` with what modules of `model` add to it or leave out by themselves (CTS: its policy network).

    Raises CheckpointError when a module cannot add what it needs.
    """
    state = dict(state)
    for name, module in model.named_modules():
        if hasattr(module, 'fit_state'):
            module.fit_state(state, f'{name}.' if name else '')
    return state


def load_into(model: nn.Module, path: str | os.PathLike, *, trust: bool = False) -> dict[str, Any]:
    """Load a checkpoint of this package, or of mmengine, strictly into `model`; return the checkpoint's `meta`.

    trust: see `read_file`. Nothing is loaded unless every tensor fits.
    Raises CheckpointError naming the first missing, unexpected and differently shaped keys.
    """
    payload = read_file(path, trust=trust)
    if not isinstance(payload, Mapping) or 'state_dict' not in payload:
        raise CheckpointError(
            f'{path} is not a checkpoint of this package ({describe(payload)}): convert it first '
            f'with python tools/convert_checkpoint.py {path} model.pth.'
        )
    state = payload['state_dict']
    check_tensors(state, f'state_dict of {path}')
    try:
        state = completed(model, state)
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error
    found = difference(state, shapes(model))
    if found:
        raise CheckpointError(f'{path} is the checkpoint of another model: {found}; give the config it was made with.')
    with torch.no_grad():
        model.load_state_dict(state, strict=True)
    meta = payload.get('meta')
    return dict(meta) if isinstance(meta, Mapping) else {}
