"""A method whose network keeps at most a share of the plain one's multiply-adds."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.host import BlockView, Grid, Host, submodule
from mmseg_tr.hosts.patch import Applied, install, restore_modules
from mmseg_tr.reduction import Reduction, build_reduction, find_method
from mmseg_tr.reduction.checks import check_number


@dataclass(frozen=True)
class Target:
    """A network for which settings are chosen. grid: of the patches at the size that is counted."""

    network: nn.Module
    host: Host
    grid: Grid

    @property
    def depth(self) -> int:
        return len(submodule(self.network, self.host.blocks))

    @property
    def width(self) -> int:
        """Channels of its tokens."""
        view = BlockView(self.host.parts, self.host.attention)(submodule(self.network, self.host.blocks)[0])
        return view.norm1.weight.shape[0]

    def image(self) -> Tensor:
        """An image without data, of the size that is counted."""
        channels = next(module.in_channels for module in self.network.modules() if isinstance(module, nn.Conv2d))
        height, width = (side * patch for side, patch in zip(self.grid, self.host.patch_size))
        return torch.empty(1, channels, height, width, device='meta')

    def work(self, strategy: Reduction | None) -> float:
        """Multiply-adds of the network with a method, everything counted, without running it."""
        network = on_meta(self.network)
        if strategy is not None:
            view = BlockView(self.host.parts, self.host.attention)
            install(network, self.host, Applied(strategy, self.host.prefix, self.host.grid, self.depth, view))
        return count_macs(network, self.image()).total()


def on_meta(network: nn.Module) -> nn.Module:
    """The plain network without data, on which shapes and multiply-adds are computed at almost no cost."""
    empty = {id(tensor): tensor.to('meta') for tensor in network.buffers()}
    empty |= {id(weight): nn.Parameter(weight.to('meta'), requires_grad=False) for weight in network.parameters()}
    copied = copy.deepcopy(network, empty)
    restore_modules(copied)
    return copied.float()


def method_within(asked: dict[str, Any], budget: float, target: Target) -> Reduction:
    """The mildest settings of fixed shapes with which the network keeps to a budget, fitted to it.

    asked: the method's type, and settings that stay. Raises ConfigError for a budget outside (0, 1], or below what the
    method can reach.
    """
    check_number('budget', budget, 0, 1, open_below=True)
    method = find_method(asked.get('type'))
    plain, least = target.work(None), 1.0

    def share(settings: dict[str, Any]) -> tuple[float, Reduction]:
        strategy = build_reduction(settings).bind(target.depth, target.grid, target.host.prefix)
        return target.work(strategy) / plain, strategy

    for ladder in method.fixed_ladder(asked, target.depth, target.grid):
        if not ladder.rungs:
            continue
        strongest, strategy = share(ladder.rungs[-1])
        least = min(least, strongest)
        if strongest > budget:
            continue
        mild, strong = -1, len(ladder.rungs) - 1  # the last that is too mild, and one that is within
        while strong - mild > 1:
            middle = (mild + strong) // 2
            found, candidate = share(ladder.rungs[middle])
            if found <= budget:
                strong, strategy = middle, candidate
            else:
                mild = middle
        return strategy
    raise ConfigError(f'budget must be {least:.2f} or more: {method.name} cannot save more here, got {budget}.')
