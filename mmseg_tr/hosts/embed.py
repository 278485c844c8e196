"""Methods that decide at the patch embedding which patches share a token.

The host adds positions and prefix tokens to a row per patch. So every patch of a shared token gets this token's
features from the patch embedding on, and the first block takes the mean of their rows: with the mean of their
positions, as in this package's own ViT.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tr.hosts.applied import Applied, Arrival, thread
from mmseg_tr.hosts.host import Grid, Host, submodule
from mmseg_tr.hosts.patch import Hook, NoteGrid, grid_of_image


def patch_convolution(embed: nn.Module, patch: Grid) -> nn.Conv2d | None:
    """Return the convolution that a patch embedding is, alone or before a norm; None for any other patch embedding."""
    convolutions = [part for part in embed.modules() if isinstance(part, nn.Conv2d)]
    others = {
        id(weight) for part in (*convolutions, getattr(embed, 'norm', nn.Identity())) for weight in part.parameters()
    }
    if len(convolutions) != 1 or any(id(weight) not in others for weight in embed.parameters()):
        return None
    conv = convolutions[0]
    plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == 'zeros'
    fits = conv.kernel_size == conv.stride == tuple(patch) and not isinstance(conv.padding, str)
    return conv if plain and fits else None


def project(embed: nn.Module, conv: nn.Conv2d, pixels: Tensor) -> Tensor:
    """Return the features of whole patches, (B, C, H, W) -> (B, d, H/ph, W/pw)."""
    features = F.conv2d(pixels, conv.weight, conv.bias, conv.stride)
    norm = getattr(embed, 'norm', None)
    return features if norm is None else norm(features.movedim(1, -1)).movedim(-1, 1)


def whole_patches(image: Tensor, conv: nn.Conv2d, grid: Grid) -> Tensor:
    """Return the pixels that become patches, (B, C, h*ph, w*pw), those that the patch embedding adds included."""
    assert not isinstance(conv.padding, str)  # see patch_convolution()
    (top, left), (height, width) = conv.padding, (side * patch for side, patch in zip(grid, conv.stride))
    down, right = (size - side - before for size, side, before in zip((height, width), image.shape[-2:], (top, left)))
    return F.pad(image, (left, right, top, down))  # negative numbers crop


class ShareEmbedding(Hook):
    """Hook of the patch embedding: patches that share a token get its features. The first block is told which."""

    def __init__(self, applied: Applied, host: Host) -> None:
        super().__init__(applied)
        self.grid_of = partial(grid_of_image, patch_size=host.patch_size, pads=host.pads)
        self.patch_size, self.grid = host.patch_size, host.grid

    def __call__(self, embed: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        conv = patch_convolution(embed, self.patch_size)
        if self.applied.disabled or conv is None or not args[0].shape[0]:
            return None
        grid = self.grid or self.grid_of(args[0])
        image = args[0].to(conv.weight.dtype)
        position = conv.weight.new_zeros(1, conv.out_channels, *grid)
        padded = whole_patches(image, conv, grid)
        shared = self.applied.method.embed(partial(project, embed, conv), image, padded, position)
        self.applied.arrive(Arrival(grid, None if shared.index is None else shared))
        if shared.index is None:
            return None
        index = shared.index[..., None].expand(-1, -1, shared.x.shape[-1])
        return laid_out(shared.x.gather(1, index).to(output.dtype), output, embed, grid)


def laid_out(rows: Tensor, like: Tensor, embed: nn.Module, grid: Grid) -> Tensor:
    """Return rows of patches, (B, h*w, C), in the layout of a patch embedding's output."""
    if like.dim() == 3:
        return rows
    last = getattr(embed, 'output_fmt', None) == 'NHWC' or like.shape[1:] != (rows.shape[2], *grid)
    rows = rows.unflatten(1, grid)
    return rows if last else rows.movedim(-1, 1)


class AverageShared(Hook):
    """Pre-hook of a norm between the patch embedding and the first block, which comes after the mean of the rows."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        waiting = self.applied.waiting.get(thread())
        shared = waiting[-1].shared if waiting else None
        if self.applied.disabled or shared is None:
            return None
        merge = self.applied.merge_of(shared, args[0])
        mean, _ = merge.apply(args[0], None, (args[0].shape[1],) * args[0].shape[0])
        return (merge.unmerge(mean, merge.lengths), *args[1:])


def watch_embedding(network: nn.Module, host: Host, applied: Applied, shares: bool) -> None:
    """Set the hooks at the patch embedding. shares: whether the method decides there which patches share a token."""
    embed = submodule(network, host.patch_embed) if host.patch_embed else None
    if embed is None:
        return
    if shares:
        embed.register_forward_hook(ShareEmbedding(applied, host))
        norm = submodule(network, host.norm_pre) if host.norm_pre else None
        if norm is not None and not isinstance(norm, nn.Identity):
            norm.register_forward_pre_hook(AverageShared(applied))
    elif host.grid is None:
        embed.register_forward_pre_hook(NoteGrid(applied, host.patch_size, host.pads))
