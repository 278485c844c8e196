"""The common interface of the backbones ViT and MiT."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import chain
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from mmseg_tr.nn.blocks import refuse_torchscript
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.ladder import Grid
from mmseg_tr.reduction.observe import Merged

Module = TypeVar('Module', bound=nn.Module)
Network = TypeVar('Network', bound='Backbone')


class Backbone(nn.Module):
    """A vision transformer that accepts a token-reduction method, as `reduction` or for one forward.

    reduction: the strategy; None for the plain network. It may be changed at any time.
    kind: which methods fit, those whose `backbone` it is. count_rule: the counting rule of analysis.mac_rules that the
    plain network's publications follow. attention_maps: whether a patch's attention is a row of one matrix over all
    tokens, which can be drawn.
    """

    kind: ClassVar[str]
    count_rule: ClassVar[str]
    attention_maps: ClassVar[bool] = False
    reduction: Reduction | None
    switch: Any = None  # set by mmseg_tr.apply(): whether the method is disabled in this thread

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'reduction' and not isinstance(value, nn.Module):
            self._modules.pop(name, None)  # nn.Module refuses what is no module in the place of one
        super().__setattr__(name, value)

    @property
    def running(self) -> Reduction | None:
        """The method of a forward that is given none."""
        return None if self.switch is not None and self.switch.disabled else self.reduction

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks of each stage; a ViT is one stage."""
        raise NotImplementedError

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(self.depths)

    def layer_of(self, name: str) -> int:
        """Number of a parameter's block, from 1; 0 for embeddings, depth + 1 after the last block."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Channels of the tokens that leave the last block."""
        raise NotImplementedError

    @property
    def extent(self) -> tuple[int, Grid]:
        """Number of layers or stages, and the grid, to which a method's defaults and ladders are scaled."""
        raise NotImplementedError

    @property
    def step(self) -> tuple[int, int]:
        """Pixels (h, w) per cell of the input grid: an image of whole cells needs no padding in any layer."""
        raise NotImplementedError

    def forward(self, image: Tensor, reduction: Reduction | None = None) -> Any:
        """reduction: used in this forward in place of the network's own."""
        raise NotImplementedError

    def watch(self, image: Tensor) -> list[Merged]:
        """Return what merges in each layer in a forward of one image, (1, C, H, W).

        Raises ValueError for a batch of several images.
        """
        raise NotImplementedError

    def trace(self, image: Tensor) -> tuple[tuple[int, ...], ...] | None:
        """Tokens of each image, prefix included, that leave each layer; None where every layer keeps all tokens."""
        return None

    def part_starts(self) -> list[tuple[str, nn.Module]]:
        """Return modules with which a part of the work begins, see analysis.macs.PARTS; empty without such modules."""
        return []

    def fitted(self, reduction: dict | str | Reduction | None) -> Reduction | None:
        """A method fitted to this network; a bare name takes the defaults for its width, depth and grid.

        Raises ConfigError for settings that do not exist or do not fit.
        """
        raise NotImplementedError

    def with_reduction(self: Network, reduction: dict | str | Reduction | None) -> Network:
        """Return the network with another method: new modules that share the same weights."""
        other = same_weights(self, {id(self.reduction): None} if isinstance(self.reduction, nn.Module) else {})
        other.reduction = self.fitted(reduction)
        if isinstance(other.reduction, nn.Module):
            other.reduction.to(next(self.parameters()).device)
        return other

    def plain(self: Network) -> Network:
        """Return the plain network with the same weights."""
        return self.with_reduction(None)

    def __prepare_scriptable__(self) -> None:
        refuse_torchscript()

    def extra_repr(self) -> str:
        """Return the method and its settings; one that is a module prints itself."""
        return '' if isinstance(self.reduction, nn.Module) else f'reduction={self.reduction!r}'


def same_weights(model: Module, instead: Mapping[int, Any] | None = None) -> Module:
    """Copy the modules around the same parameters and buffers. instead: by id, what takes the place of a part."""
    shared = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared | dict(instead or {}))


def check_single(image: Tensor) -> None:
    """Raise ValueError unless there is exactly one image."""
    if len(image) != 1:
        raise ValueError(f'watch() takes one image at a time, got a batch of {len(image)}.')
