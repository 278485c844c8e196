"""Compare a state dict with a network strictly; load it or report what does not fit."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.formats import describe
from mmseg_tr.weights.io import CONVERT, few, read_file

Shape = tuple[int, ...]
Needed = Mapping[str, Shape | Tensor]  # what a network needs by key: shapes, or tensors whose dtype counts too


@dataclass(frozen=True)
class Difference:
    """The differences between a state dict and a network; false when it fits."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: tuple[str, ...]  # 'decoder.cls_emb is 1x150x192 instead of 1x7x192'
    retyped: tuple[str, ...] = ()  # 'encoder.norm.weight is int64 instead of float32'

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped or self.retyped)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            parts.append(f'{_count(self.missing, "key")} missing ({few(self.missing)})')
        if self.unexpected:
            parts.append(f'{_count(self.unexpected, "unexpected key")} ({few(self.unexpected)})')
        if self.reshaped:
            parts.append(f'{_count(self.reshaped, "tensor")} of another shape ({few(self.reshaped)})')
        if self.retyped:
            parts.append(f'{_count(self.retyped, "tensor")} of another kind ({few(self.retyped)})')
        return ', '.join(parts)


def _count(names: tuple[str, ...], noun: str) -> str:
    return f'{len(names)} {noun}' if len(names) == 1 else f'{len(names)} {noun}s'


def _times(shape: Shape) -> str:
    return 'x'.join(map(str, shape)) or 'a single number'


def difference(state: Mapping[str, Any], needed: Needed) -> Difference:
    """Compare tensors by key with what is needed, both ways."""
    present = {key: form for key, form in needed.items() if key in state}
    shapes = {key: tuple(form.shape) if isinstance(form, Tensor) else tuple(form) for key, form in present.items()}
    floats = {key: form.dtype for key, form in present.items() if isinstance(form, Tensor) and form.is_floating_point()}
    return Difference(
        missing=tuple(key for key in needed if key not in state),
        unexpected=tuple(key for key in state if key not in needed),
        reshaped=tuple(
            f'{key} is {_times(tuple(state[key].shape))} instead of {_times(shape)}'
            for key, shape in shapes.items()
            if tuple(state[key].shape) != shape
        ),
        retyped=tuple(
            f'{key} is {_name(state[key].dtype)} instead of {_name(dtype)}'
            for key, dtype in floats.items()
            if not state[key].dtype.is_floating_point
        ),
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def check_tensors(state: Any, where: str) -> None:
    """Raise CheckpointError unless `state` maps names to dense, real tensors that hold their values."""
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f'{where} holds no tensors.')
    wrong = [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if wrong:
        raise CheckpointError(f'{where} holds entries that are not tensors: {few(wrong)}.')
    odd = [f'{key} is {kind}' for key, value in state.items() if (kind := _odd_kind(value))]
    if odd:
        raise CheckpointError(f'{where} holds tensors that cannot be loaded as weights: {few(odd)}.')


def _odd_kind(tensor: Tensor) -> str | None:
    """Why a tensor does not hold dense real numbers, in a few words; None for an ordinary one."""
    if tensor.is_quantized:
        return 'quantized'
    if tensor.is_nested:
        return 'nested'
    if tensor.layout != torch.strided:
        return 'sparse'
    if tensor.device.type == 'meta':
        return 'without values (on the meta device)'
    return 'complex' if tensor.is_complex() else None


def completed(model: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `state` with the entries that modules of `model` add or drop (CTS: its policy network).

    Raises CheckpointError when a module cannot add what it needs.
    """
    state = dict(state)
    for name, module in model.named_modules():
        if hasattr(module, 'fit_state'):
            module.fit_state(state, f'{name}.' if name else '')
    return state


def resize_positions(model: nn.Module, state: dict[str, Any]) -> list[str]:
    """Fit the position embeddings of `state` to the image size of `model`, in place; return what was resized, in words.

    Modules with positions do it themselves: `fit_positions(state, prefix)` returns the words, or None.
    Raises CheckpointError for an embedding that cannot be resized.
    """
    modules = ((f'{name}.' if name else '', module) for name, module in model.named_modules())
    done = (module.fit_positions(state, prefix) for prefix, module in modules if hasattr(module, 'fit_positions'))
    return [words for words in done if words]


def misfit(found: Difference, otherwise: str) -> str:
    """Describe why weights do not fit: made for another image size, or `otherwise` with the differences."""
    only = not (found.missing or found.unexpected or found.retyped)
    if only and all('pos_embed' in text for text in found.reshaped):
        return (
            f'was made for another image size: {few(found.reshaped)}; set img_size to the size it was made with, or '
            'start a training from it with load_from, which resizes the position embedding'
        )
    return f'{otherwise}: {found}'


def load_into(model: nn.Module, path: str | os.PathLike, *, trust: bool = False) -> dict[str, Any]:
    """Load a checkpoint of this package, or of mmengine, strictly into `model`; return the checkpoint's `meta`.

    trust: see `read_file`. Nothing is loaded unless every tensor fits.
    Raises CheckpointError naming the first missing, unexpected and differently shaped keys.
    """
    payload = read_file(path, trust=trust)
    if not isinstance(payload, Mapping) or 'state_dict' not in payload:
        raise CheckpointError(
            f'{path} is not a checkpoint of this package ({describe(payload)}): convert it first '
            f'with `{CONVERT} {path} model.pth`.'
        )
    state = payload['state_dict']
    check_tensors(state, f'state_dict of {path}')
    try:
        state = completed(model, state)
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from error
    found = difference(state, model.state_dict())
    if found:
        words = misfit(found, 'is the checkpoint of another model')
        raise CheckpointError(f'{path} {words}; give the config it was made with.')
    with torch.no_grad():
        model.load_state_dict(state, strict=True)
    meta = payload.get('meta')
    return dict(meta) if isinstance(meta, Mapping) else {}
