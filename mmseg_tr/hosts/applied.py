"""What the patched modules of one network share, and the tokens with which a forward enters its blocks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.carried import carried_by, carry, full, grid_of
from mmseg_tr.hosts.host import BlockView, Grid, Host, Queries, block_list
from mmseg_tr.hosts.rope import Rotary
from mmseg_tr.reduction import Merge, Reduction, Tokens
from mmseg_tr.reduction.base import Embedded
from mmseg_tr.reduction.constants import numbers
from mmseg_tr.reduction.ops import per_image


@dataclass(frozen=True)
class Arrival:
    """An image between the patch embedding and the first block.

    grid: of its patches. shared: which of them share a token, where the method decides that before the blocks.
    """

    grid: Grid
    shared: Embedded | None = None


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
    rotary: how blocks get rotary positions, if they do. queries: that join before a block; here they come after the
    prefix, so that a class token stays first.
    """

    method: Reduction
    num_prefix: int
    grid: Grid | None
    depth: int
    view: BlockView
    rotary: Rotary | None = None
    queries: Queries | None = None
    waiting: dict[int, list[Arrival]] = field(default_factory=dict)  # thread -> images before the first block
    left: dict[int, list[Tensor]] = field(default_factory=dict)  # thread -> by the last block before queries join

    @classmethod
    def of(cls, method: Reduction, network: nn.Module, host: Host) -> Applied:
        """Return a method in a network of this layout."""
        view, depth = BlockView(host.parts, host.attention), len(block_list(network, host))
        return cls(method, host.prefix, host.grid, depth, view, host.rotary, host.queries)

    @property
    def depths(self) -> tuple[int, ...]:
        return (self.depth,)

    def enter(self, x: Tensor, layer: int) -> Tokens:
        """Return tokens of what a block receives: those carried by the tensor, else one per patch."""
        carried = carried_by(x)
        if carried is not None:
            return self._shared(carried)
        if self.queries is not None and layer >= self.queries.layer:
            return self._join(x, layer)
        return self._fresh(x, layer)

    def _fresh(self, x: Tensor, layer: int) -> Tokens:
        arrived = self._arrived(layer)
        grid = self.grid or grid_of(x) or (arrived.grid if arrived is not None else None)
        if grid is None or x.dim() != 3 or x.shape[1] != self.num_prefix + grid[0] * grid[1]:
            raise ConfigError(
                f'block {layer} received tokens of shape {tuple(x.shape)}, and the patch grid {grid} with '
                f'{self.num_prefix} prefix tokens does not fill it: use mmseg_tr.disabled(model) for this forward.'
            )
        tokens = Tokens(x, grid, self.num_prefix, trace=(per_image(x.shape[1], x.shape[0]),) * (layer - 1))
        if arrived is not None:
            tokens = tokens.replace(memo=arrived.shared)
            carry(x, tokens)  # for a block that is rerun in the backward pass
        return self._shared(tokens)

    def _join(self, x: Tensor, layer: int) -> Tokens:
        """Return tokens with the queries after the prefix: those that the block before left, else one per patch."""
        count = self.queries.count if self.queries is not None else 0
        left = self.left.get(thread())
        before = left.pop() if left else None  # the newest: a hook may have called the network in between
        tokens = carried_by(before) if before is not None else None
        if tokens is None or layer != len(tokens.trace) + 1:
            tokens = self._fresh(x[:, count:], layer)
        elif x.shape[1] != count + tokens.num_prefix + tokens.grid[0] * tokens.grid[1]:
            raise ConfigError(f'block {layer} must receive {count} queries and the tokens, got {tuple(x.shape)}.')
        first = tokens.num_prefix
        groups = [
            torch.cat([group[:, :first], queries, group[:, first:]], 1)
            for group, queries in zip(tokens.groups(), self._of_groups(x[:, :count], tokens))
        ]
        size = tokens.size
        if size is not None:
            size = tokens.join(
                [torch.cat([part.new_ones(part.shape[0], count), part], 1) for part in tokens.groups(size)]
            )
        lengths = tokens.lengths and tuple(length + count for length in tokens.lengths)
        joined = tokens.join(groups)
        tokens = tokens.replace(x=joined, size=size, lengths=lengths, num_prefix=first + count, positions=None)
        carry(x, tokens)  # for a block that is rerun in the backward pass
        return tokens

    @staticmethod
    def _of_groups(queries: Tensor, tokens: Tokens) -> list[Tensor]:
        return [queries] if tokens.lengths is None else list(queries.split(1))

    def leave(self, tokens: Tokens) -> Tensor:
        """Return what a block returns: the full tensor, with the tokens as an attribute where they were reduced."""
        x = self.full(tokens)
        carry(x, tokens)
        if self.queries is not None and len(tokens.trace) == self.queries.layer - 1:
            push(self.left, x)
        return x

    def full(self, tokens: Tokens) -> Tensor:
        """Return a row for every patch, in the order of the host."""
        x, first, last = full(tokens), self.num_prefix, tokens.num_prefix
        return x if first == last else torch.cat([x[:, first:last], x[:, :first], x[:, last:]], 1)

    def _shared(self, tokens: Tokens) -> Tokens:
        """Return the tokens that patches share from the patch embedding on, where these are a row for every patch."""
        shared = tokens.memo
        if not isinstance(shared, Embedded):
            return tokens
        x, size = self.merge_of(shared, tokens.x).apply(tokens.x, None, tokens.counts)
        return tokens.replace(x=x, size=size, index=shared.index, memo=shared.memo)

    def merge_of(self, shared: Embedded, x: Tensor) -> Merge:
        """Return the merge from a row for every patch, (B, E + h*w, C), to the tokens that patches share."""
        assert shared.index is not None
        prefix = numbers(0, self.num_prefix, device=x.device).expand(x.shape[0], -1)
        index = torch.cat([prefix, shared.index + self.num_prefix], 1)
        return Merge(index, per_image(self.num_prefix + shared.x.shape[1], x.shape[0]))

    def arrive(self, image: Arrival) -> None:
        """Note an image at the patch embedding, for the first block."""
        push(self.waiting, image)

    def _arrived(self, layer: int) -> Arrival | None:
        waiting = self.waiting.get(thread())
        return waiting.pop() if waiting and layer == 1 else None


def check_reentrant(x: Tensor, layer: int) -> None:
    """Raise ConfigError inside reentrant checkpointing.

    It runs a block without gradients first, and the tokens that the next block takes over would cut them off.
    """
    if x.requires_grad and not torch.is_grad_enabled():
        raise ConfigError(
            f'gradient checkpointing must have use_reentrant=False beside a method, got True at block {layer}.'
        )


def push(waiting: dict[int, list[Any]], entry: Any) -> None:
    """Add what a later module of this forward, in this thread, takes up."""
    entries = waiting.setdefault(thread(), [])
    if len(entries) > 16:  # left by forwards that failed
        entries.clear()
    entries.append(entry)


def thread() -> int:
    """Return the key of this thread; one for all in a compiled graph."""
    return 0 if torch.compiler.is_compiling() else threading.get_ident()
