"""Reduced tokens as an attribute of the full tensor that a block returns."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmseg_tr.hosts.host import Grid
from mmseg_tr.reduction import Tokens

CARRIED = '_mmseg_tr_tokens'


class Carried:
    """Reduced tokens on a full tensor. Copies and saved files of the tensor do not keep it."""

    def __init__(self, tokens: Tokens, tensor: Tensor) -> None:
        self.grid, self.version = tokens.grid, _version(tensor)
        # without the tensor itself: a circle would keep the memory
        self.tokens = tokens.replace(x=None) if tensor is tokens.x else tokens

    def of(self, tensor: Tensor) -> Tokens:
        """Return the tokens, of the tensor that carries them."""
        return self.tokens.replace(x=tensor) if self.tokens.x is None else self.tokens

    def __reduce__(self) -> tuple[Any, ...]:
        return set, ()  # which torch.load(weights_only=True) reads

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None


def carried_by(x: Any) -> Tokens | None:
    """Return the reduced tokens of a full tensor that has not been changed, or None."""
    carried = getattr(x, CARRIED, None)
    return carried.of(x) if isinstance(carried, Carried) and carried.version == _version(x) else None


def grid_of(x: Any) -> Grid | None:
    """Return the grid of the patches of a full tensor that a block returned, or None."""
    carried = getattr(x, CARRIED, None)
    return carried.grid if isinstance(carried, Carried) else None


def _version(tensor: Tensor) -> int | None:
    return None if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version


def full(tokens: Tokens) -> Tensor:
    """Return the prefix tokens, then a row for every patch, (B, E + h*w, C)."""
    if tokens.index is None and tokens.reconstruct is None:
        return tokens.x
    patches = tokens.restore(tokens.patches().x)
    if not tokens.num_prefix:
        return patches
    prefix = torch.cat([group[:, : tokens.num_prefix] for group in tokens.groups()])
    return torch.cat([prefix, patches], 1)


def carry(x: Tensor, tokens: Tokens) -> None:
    """Make tokens an attribute of the full tensor."""
    setattr(x, CARRIED, Carried(tokens, x))
