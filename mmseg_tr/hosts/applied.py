"""What the patched modules of one network share, and the tokens with which a forward enters its blocks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.carried import carried_by, carry, carrying, grid_of
from mmseg_tr.hosts.host import BlockView, Grid, Host, block_list
from mmseg_tr.hosts.rope import Rotary
from mmseg_tr.reduction import Reduction, Tokens
from mmseg_tr.reduction.ops import per_image


@dataclass
class Switch:
    """What the patched modules of one network share.

    Subclasses have method, the strategy fitted to the network, and depths, the blocks of each stage.
    """

    off: dict[int, int] = field(default_factory=dict, init=False)  # thread -> how many disabled() it is inside
    target: Any = field(default=None, init=False)  # the budget.Target to which it was applied

    @property
    def disabled(self) -> bool:
        return bool(self.off) and (torch.compiler.is_compiling() or threading.get_ident() in self.off)


@dataclass
class Applied(Switch):
    """Of a network that is a list of blocks.

    method: the strategy. num_prefix: prefix tokens. grid: of the patches; None where it depends on the image.
    depth: number of blocks. view: from a block to what run_block() reads of it.
    rotary: how blocks get rotary positions, if they do.
    """

    method: Reduction
    num_prefix: int
    grid: Grid | None
    depth: int
    view: BlockView
    rotary: Rotary | None = None
    grids: dict[int, list[Grid]] = field(default_factory=dict)  # thread -> of images before the first block

    @classmethod
    def of(cls, method: Reduction, network: nn.Module, host: Host) -> Applied:
        """A method in a network of this layout."""
        view, depth = BlockView(host.parts, host.attention), len(block_list(network, host))
        return cls(method, host.prefix, host.grid, depth, view, host.rotary)

    @property
    def depths(self) -> tuple[int, ...]:
        return (self.depth,)

    def enter(self, x: Tensor, layer: int) -> Tokens:
        """Tokens of what a block receives: those carried by the tensor, else one per patch."""
        carried = carried_by(x)
        if carried is not None:
            return carried
        grid = self.grid or grid_of(x) or self._image_grid(layer)
        if grid is None or x.dim() != 3 or x.shape[1] != self.num_prefix + grid[0] * grid[1]:
            raise ConfigError(
                f'block {layer} received tokens of shape {tuple(x.shape)}, and the patch grid {grid} with '
                f'{self.num_prefix} prefix tokens does not fill it: use mmseg_tr.disabled(model) for this forward.'
            )
        tokens = Tokens(x, grid, self.num_prefix, trace=(per_image(x.shape[1], x.shape[0]),) * (layer - 1))
        if self.grid is None:
            carry(x, tokens)  # for a block that is rerun in the backward pass
        return tokens

    def leave(self, tokens: Tokens) -> Tensor:
        """What a block returns: the full tensor, which carries the tokens."""
        return carrying(tokens)

    def _image_grid(self, layer: int) -> tuple[int, int] | None:
        waiting = self.grids.get(thread())
        return waiting.pop() if waiting and layer == 1 else None


def thread() -> int:
    """Key of this thread; one for all in a compiled graph."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()
