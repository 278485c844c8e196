"""What a user would pick instead of a method: the plain network on smaller images, or with larger patches."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import resample_patch_embed
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.backbone import Backbone, same_weights
from mmseg_tr.nn.inference import whole_steps
from mmseg_tr.nn.pos_embed import resize_pos_embed
from mmseg_tr.nn.vit import ViT
from mmseg_tr.reduction import Reduction, Tokens


class SmallerInput(Backbone):
    """A plain backbone that sees its images at a share of their side, (B, C, H, W) -> maps or tokens.

    share: above 0 and below 1; sides are rounded to whole steps of the network, so that nothing is padded. Heads
    enlarge their scores straight to the size of the image that came in. Modules and weights are those of the backbone.
    """

    def __init__(self, backbone: Backbone, share: float) -> None:
        super().__init__()
        if not 0 < share < 1:
            raise ConfigError(f'share must be above 0 and below 1, got {share!r}.')
        if backbone.reduction is not None:
            raise ConfigError('SmallerInput takes a plain backbone: call plain() first.')
        self.backbone, self.share = backbone, share
        self.kind = backbone.kind  # type: ignore[misc]  # those of the network inside
        self.count_rule = backbone.count_rule  # type: ignore[misc]
        self.out = getattr(backbone, 'out', 'maps')
        self.patch_size = None  # scores are enlarged straight to the image, not to whole patches and cropped
        self.reduction = None

    @property
    def depths(self) -> tuple[int, ...]:
        return self.backbone.depths

    @property
    def width(self) -> int:
        return self.backbone.width

    @property
    def step(self) -> tuple[int, int]:
        return self.backbone.step

    def size_of(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size (h, w) at which an image of this size enters the network."""
        return whole_steps(size, self.share, self.step)

    def shrink(self, image: Tensor) -> Tensor:
        """Return the image at the size of the network's input."""
        size = self.size_of(tuple(image.shape[-2:]))
        return F.interpolate(image, size=size, mode='bilinear', align_corners=False, antialias=True)

    def forward(self, image: Tensor, reduction: Reduction | None = None) -> Any:
        levels = self.backbone(self.shrink(image), reduction=reduction)
        size = tuple(image.shape[-2:])
        return tuple(
            level.replace(image_size=size, patch_size=None) if isinstance(level, Tokens) else level for level in levels
        )

    def trace(self, image: Tensor) -> tuple[tuple[int, ...], ...] | None:
        return self.backbone.trace(self.shrink(image))

    def part_starts(self) -> list[tuple[str, nn.Module]]:
        return self.backbone.part_starts()


def with_larger_patch(vit: ViT, factor: int = 2) -> ViT:
    """Return a plain ViT whose patches are `factor` times as wide and high, around the weights of `vit`.

    The patch embedding is resampled so that an enlarged patch gives what the patch gave before (FlexiViT, section 3.4),
    the position embedding by the network's own rule. All other weights are shared. Raises ConfigError where the image
    size that the network is made for is not a whole number of the larger patches.
    """
    if any(side % factor for side in vit.grid):
        height, width = (side * patch for side, patch in zip(vit.grid, vit.patch_size))
        larger = 'x'.join(str(factor * patch) for patch in vit.patch_size)
        raise ConfigError(f'an image of {height}x{width} is not a whole number of patches of {larger}.')
    other = same_weights(vit.plain())
    patch, grid = tuple(factor * side for side in vit.patch_size), tuple(side // factor for side in vit.grid)
    old = vit.patch_embed.proj
    new = nn.Conv2d(old.in_channels, old.out_channels, patch, stride=patch, bias=old.bias is not None)
    new = new.to(old.weight.device, old.weight.dtype).requires_grad_(False)
    new.weight.copy_(resample_patch_embed(old.weight.detach(), list(patch)))
    if old.bias is not None:
        new.bias = old.bias
    other.patch_embed.proj = new
    other.patch_embed.patch_size, other.patch_embed.grid_size = patch, grid
    positions = resize_pos_embed(vit.pos_embed.detach(), vit.grid, grid, vit.pos_embed_prefix, vit.pos_resize)
    other.pos_embed = nn.Parameter(positions, requires_grad=False)
    other.patch_size, other.grid = patch, grid
    return other
