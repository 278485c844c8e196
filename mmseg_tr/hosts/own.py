"""This package's own backbones, as create_model() builds them: the method becomes their `reduction`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.applied import Switch
from mmseg_tr.hosts.budget import Target
from mmseg_tr.hosts.host import Grid
from mmseg_tr.nn.backbone import Backbone
from mmseg_tr.reduction import Reduction


@dataclass
class OwnApplied(Switch):
    """Of a backbone, whose `reduction` is the method."""

    backbone: Backbone

    @property
    def method(self) -> Reduction:
        return self.backbone.reduction  # type: ignore[return-value]  # a method was applied

    @method.setter
    def method(self, method: Reduction) -> None:
        self.backbone.reduction = method

    @property
    def depths(self) -> tuple[int, ...]:
        return self.backbone.depths


@dataclass(frozen=True)
class OwnTarget(Target):
    """A ViT or MiT of this package without a method.

    size: (H, W) of the images; None for the backbone's own. weights: whether the method may bring weights of its own.
    """

    size: Grid | None = None
    weights: bool = False

    def check(self) -> None:
        method = self.network.reduction
        if method is not None:
            raise ConfigError(f'the network was built with {method.name}: build it without a method, or call plain().')

    @property
    def depth(self) -> int:
        return self.network.extent[0]

    @property
    def width(self) -> int:
        return self.network.width

    @property
    def grid(self) -> Grid:
        return self.network.extent[1]

    @property
    def image_size(self) -> Grid:
        if self.size is not None:
            return self.size
        sides = zip(self.grid, self.network.step)
        return (512, 512) if len(self.network.depths) > 1 else tuple(side * step for side, step in sides)

    def check_fits(self, method: type[Reduction] | Reduction) -> None:
        if method.backbone != self.network.kind:
            raise ConfigError(f'{method.name} is for a {method.backbone}, and this network is a {self.network.kind}.')

    def bind(self, strategy: Reduction) -> Reduction:
        if isinstance(strategy, nn.Module) and not self.weights:
            if next(strategy.parameters(), None) is not None:
                raise ConfigError(f'{strategy.name} has a network of its own, with weights: give it to create_model().')
            if (said := strategy.undecided()) is not None:
                raise ConfigError(said)
        return self.network.fitted(strategy) or strategy  # one that merges nothing

    def install(self, network: nn.Module, strategy: Reduction) -> None:
        backbone: Any = network
        backbone.reduction = strategy
        backbone.switch = OwnApplied(backbone)


def own_target(model: nn.Module) -> OwnTarget | None:
    """Return a backbone of this package; None for another network."""
    return OwnTarget(model) if isinstance(model, Backbone) else None
