"""Networks to which a method is applied: their size, their multiply-adds, what a method changes in their results."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmseg_tr.analysis.macs import count_macs, evaluating
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.applied import Applied
from mmseg_tr.hosts.embed import patch_convolution, watch_embedding
from mmseg_tr.hosts.host import BlockView, Grid, Host, block_list, submodule
from mmseg_tr.hosts.patch import install
from mmseg_tr.hosts.rope import RULES
from mmseg_tr.hosts.state import restore_modules
from mmseg_tr.reduction import Reduction, Tokens
from mmseg_tr.reduction.checks import check_choice

BATCH = 8  # images of a calibration that run at once


@dataclass(frozen=True)
class Target:
    """A network to which a method is to be applied. whole: what contains it and is counted, if not itself."""

    network: nn.Module
    whole: nn.Module | None = field(default=None, kw_only=True)

    @property
    def depth(self) -> int:
        """Number of layers, or of stages, to which defaults and ladders are scaled."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Channels of its tokens."""
        raise NotImplementedError

    @property
    def grid(self) -> Grid:
        """Of the patches, at the size that is counted."""
        raise NotImplementedError

    @property
    def numbers(self) -> tuple[str, ...]:
        """Paths of buffers that the forward reads as numbers."""
        return ()

    @property
    def image_size(self) -> Grid:
        """(H, W) of the image for which a budget is counted."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise ConfigError, naming what is missing, unless the network has what is needed."""

    def check_fits(self, method: type[Reduction] | Reduction) -> None:
        """Raise ConfigError, with the reason, for a method that cannot work in this network."""
        raise NotImplementedError

    def bind(self, strategy: Reduction) -> Reduction:
        """Return the strategy fitted to this network. Raises ConfigError for settings that do not fit."""
        raise NotImplementedError

    def install(self, network: nn.Module, strategy: Reduction) -> None:
        """Set everything on a network of this layout that remove() deletes."""
        raise NotImplementedError

    def with_positions(self, rule: str) -> Target:
        """Return the same with a rule for rotary positions. Raises ConfigError for a network that has none."""
        raise ConfigError(f'positions={rule!r} is for rotary positions, which this network does not have.')

    def image(self) -> Tensor:
        """Return an image without data, of the size that is counted."""
        channels = next(module.in_channels for module in self.network.modules() if isinstance(module, nn.Conv2d))
        return torch.empty(1, channels, *self.image_size, device='meta')

    def work(self, strategy: Reduction | None) -> float:
        """Return the multiply-adds of the network with a method, everything counted, without running it."""
        whole = self.whole or self.network
        path = next(name for name, module in whole.named_modules() if module is self.network)
        counted = on_meta(whole, tuple(f'{path}.{name}'.lstrip('.') for name in self.numbers))
        if strategy is not None:
            self.install(counted.get_submodule(path), empty(strategy))
        return count_macs(counted, self.image()).total()

    def plain(self) -> tuple[Target, float]:
        """Return the target (alone where the whole takes more than images), and its plain multiply-adds."""
        if self.whole is not None:
            try:
                return self, self.work(None)
            except Exception:  # anything that a forward of the user's may raise
                return replace(self, whole=None).plain()
        return self, self.work(None)

    def loss(self, strategy: Reduction, images: Tensor, plain: Tensor) -> float:
        """Return the squared difference that the method makes to the network's results for these images, relative to
        `plain`."""
        self.install(self.network, strategy.to(images.device) if isinstance(strategy, nn.Module) else strategy)
        try:
            found = self.results_of(images)
        finally:
            restore_modules(self.network)
        return float((found - plain).square().sum() / plain.square().sum())

    @torch.no_grad()
    def results_of(self, images: Tensor) -> Tensor:
        """Return what the network returns for images in eval mode, BATCH of them at a time."""
        whole = self.whole or self.network
        with evaluating(whole):
            return torch.cat([first_tensor(whole(batch)) for batch in images.split(BATCH)])


def first_tensor(result: Any) -> Tensor:
    """Return the first tensor of what a network returns; tokens are restored to a map."""
    if isinstance(result, Tokens):
        return result.to_map()
    if isinstance(result, Tensor):
        return result
    return first_tensor(next(iter(result.values())) if isinstance(result, Mapping) else result[0])


def empty(strategy: Reduction) -> Reduction:
    """Return the strategy without data, where it has weights."""
    return copy.deepcopy(strategy).to('meta') if isinstance(strategy, nn.Module) else strategy


@dataclass(frozen=True)
class BlocksTarget(Target):
    """A network that is a list of blocks."""

    host: Host

    def check(self) -> None:
        self.host.check(self.network)

    @property
    def numbers(self) -> tuple[str, ...]:
        return self.host.numbers

    @property
    def depth(self) -> int:
        return len(block_list(self.network, self.host))

    @property
    def width(self) -> int:
        """Channels of its tokens."""
        view = BlockView(self.host.parts, self.host.attention)(block_list(self.network, self.host)[0])
        return view.norm1.weight.shape[0]

    @property
    def grid(self) -> Grid:
        (height, width), patch = self.image_size, self.host.patch_size
        return self.host.grid or (height // patch[0], width // patch[1])

    @property
    def image_size(self) -> Grid:
        grid, patch = self.host.grid, self.host.patch_size
        if grid is None:
            size = self.host.image_size or (32 * patch[0], 32 * patch[1])
            grid = size[0] // patch[0], size[1] // patch[1]
        return grid[0] * patch[0], grid[1] * patch[1]

    def check_fits(self, method: type[Reduction] | Reduction) -> None:
        kind = method if isinstance(method, type) else type(method)
        if method.backbone != 'ViT':
            raise ConfigError(f'{method.name} is for a {method.backbone}, not for a vision transformer of one stage.')
        if method.needs_class_token and not self.host.class_token:
            raise ConfigError(f'{method.name} needs a class token, which this network does not have.')
        embed = submodule(self.network, self.host.patch_embed) if self.host.patch_embed else None
        if shares_early(kind) and (embed is None or patch_convolution(embed, self.host.patch_size) is None):
            raise ConfigError(
                f'{method.name} works before the patch embedding, which must be one convolution of whole patches here, '
                f'got {type(embed).__name__ if embed is not None else "none"}: use mmseg_tr.nn.ViT.'
            )

    def bind(self, strategy: Reduction) -> Reduction:
        said = strategy.undecided()
        if said is not None:
            raise ConfigError(said)
        if isinstance(strategy, nn.Module):  # of its own weights, which the network does not have
            device = next((weight.device for weight in self.network.parameters()), None)
            strategy = copy.deepcopy(strategy).to(device).eval()
            strategy.init_weights()
        return strategy.bind(self.depth, self.grid, self.host.prefix)

    def install(self, network: nn.Module, strategy: Reduction) -> None:
        applied = Applied.of(strategy, network, self.host)
        install(network, self.host, applied)
        watch_embedding(network, self.host, applied, shares_early(type(strategy)))

    def with_positions(self, rule: str) -> Target:
        if self.host.rotary is None:
            return super().with_positions(rule)
        check_choice('positions', rule, RULES)
        return replace(self, host=replace(self.host, rotary=replace(self.host.rotary, rule=rule)))


def shares_early(kind: type[Reduction]) -> bool:
    """Whether a method decides at the patch embedding which patches share a token."""
    return kind.embed is not Reduction.embed


def on_meta(network: nn.Module, numbers: tuple[str, ...] = ()) -> nn.Module:
    """Return the plain network without data, on which shapes and multiply-adds are computed at almost no cost.

    numbers: paths of buffers that keep their data.
    """
    empty = {id(tensor): tensor.to('meta') for name, tensor in network.named_buffers() if name not in numbers}
    empty |= {id(weight): nn.Parameter(weight.to('meta'), requires_grad=False) for weight in network.parameters()}
    copied = copy.deepcopy(network, empty)
    restore_modules(copied)
    return copied.float()
