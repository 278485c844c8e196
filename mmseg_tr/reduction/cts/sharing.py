"""Pure functions of CTS: scores of superpatches, which of them share, their pixels and positions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.reduction.constants import filled, numbers, table
from mmseg_tr.reduction.ops import deciding, take

STRIDE = 32  # pixels of a cell of the policy network
IGNORE = 255


@dataclass(frozen=True)
class Sharing:
    """Which patches of each image keep a token of their own and which share one.

    Tokens come in this order: kept patches, then shared superpatches, each in raster order. Per image there are M kept
    patches, S shared superpatches, and T = M + S tokens.
    superpatches: (B, h//2, w//2) bool, shared or not.
    kept: (B, M) int64, numbers of patches. shared: (B, S) int64, numbers of superpatches.
    index: (B, N) int64, the token of each patch. size: (B, T) float32, patches of each token, 1 or 4.
    """

    superpatches: Tensor
    kept: Tensor
    shared: Tensor
    index: Tensor
    size: Tensor


def superpatch_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """Return how many superpatches, 2 x 2 patches aligned to even rows and columns, a patch grid holds."""
    return grid[0] // 2, grid[1] // 2


def token_counts(patches: int, shared: int) -> tuple[int, int, float]:
    """Return the kept patches M = N - 4S, tokens T = N - 3S, and the share of tokens saved in percent (section 3.1)."""
    return patches - 4 * shared, patches - 3 * shared, 100 * 3 * shared / patches


def policy_scores(logits: Tensor, precision: str = 'float32') -> Tensor:
    """Return the probability that a superpatch shows one class: (B, 2, h, w) logits -> (B, h, w), computed in this
    precision."""
    return deciding(logits.float(), precision).softmax(1)[:, 1]


def superpatch_logits(logits: Tensor, supergrid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Return the logits of the policy's cells at the superpatches: (B, 2, H/32, W/32) -> (B, 2, *supergrid).

    With patches of 16 a cell is a superpatch, as published. Where superpatches have another size they take the cells'
    logits bilinearly at their centres: with patches of 32 the mean of four cells, with 8 a quarter of one each.
    """
    h, w = supergrid
    side = (2 * patch[0], 2 * patch[1])
    if side == (STRIDE, STRIDE):
        return logits[..., :h, :w]  # an odd grid or padding leaves extra cells
    # centres in units of the cells' extent, -1 to 1
    y = (torch.arange(h, device=logits.device) + 0.5) * (2 * side[0] / (STRIDE * logits.shape[-2])) - 1
    x = (torch.arange(w, device=logits.device) + 0.5) * (2 * side[1] / (STRIDE * logits.shape[-1])) - 1
    centres = torch.stack([x.expand(h, w), y[:, None].expand(h, w)], -1)
    centres = centres.to(logits.float().dtype).expand(logits.shape[0], -1, -1, -1)
    return F.grid_sample(logits.float(), centres, mode='bilinear', padding_mode='border', align_corners=False)


def random_scores(image: Tensor, supergrid: tuple[int, int], seed: int) -> Tensor:
    """Return the scores in [0, 1) that look random and follow from the image's pixels and the seed: (B, h, w) float32.

    An image has the same scores in every batch and on every device: they are a hash of integers (splitmix64) and do not
    use the global random state.
    """
    key = image.detach().float().contiguous().view(torch.int32).flatten(1).long()
    place = torch.arange(1, key.shape[1] + 1, device=key.device)
    key = _mix((key * place).sum(1) + _mix(torch.tensor(seed, device=key.device)))  # exact in whole numbers
    cells = torch.arange(1, supergrid[0] * supergrid[1] + 1, device=key.device) * -7046029254386353131
    bits = _mix(key[:, None] + cells) & 0xFFFFFF  # as many as float32 represents exactly
    return (bits.float() / 2**24).unflatten(1, supergrid)


def _mix(x: Tensor) -> Tensor:
    """Spread every bit of 64-bit whole numbers over all bits (the finisher of splitmix64, products modulo 2**64)."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & (2**33 - 1))


def select_superpatches(scores: Tensor, count: int) -> Tensor:
    """Return `count` superpatches of the highest scores in each image, lower index first among equals (section 3.2).

    scores: (B, h, w) -> (B, h, w) bool.
    """
    order = scores.flatten(1).argsort(dim=1, descending=True, stable=True)[:, :count]
    nobody = filled(scores.flatten(1).shape, False, torch.bool, scores.device)
    return nobody.scatter(1, order, True).view_as(scores)


def kept_patches(superpatches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return patches outside every shared superpatch, (B, h//2, w//2) -> (B, h, w) bool; those of odd grids
    included."""
    kept = superpatches.new_ones(superpatches.shape[0], *grid)
    h, w = superpatches.shape[1:]
    kept[:, : 2 * h, : 2 * w] = ~superpatches.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return kept


def sharing_of(superpatches: Tensor, grid: tuple[int, int], count: int) -> Sharing:
    """Return the record of a decision. superpatches: (B, h//2, w//2) bool with `count` true in each image."""
    (batch, h, w), device = superpatches.shape, superpatches.device
    num_patches = grid[0] * grid[1]
    # no shape depends on the data, so nothing waits for the device
    shared = superpatches.flatten(1).to(torch.int32).argsort(dim=1, descending=True, stable=True)[:, :count]
    # the number of each shared superpatch from 1, 0 for others and for the patches outside of all
    number = filled((batch, h * w + 1), 0, torch.int64, device)
    number = number.scatter(1, shared, numbers(1, count + 1, device=device).expand(batch, -1))
    of_patch = number.index_select(1, table(_superpatches_of_patches, grid, device=device))
    order = of_patch.argsort(dim=1, stable=True)  # kept patches in raster order, then those of each shared superpatch
    places = table(_places_in_order, num_patches, count, device=device).expand(batch, -1)
    index = numbers(0, num_patches, device=device).expand(batch, -1).scatter(1, order, places)
    size = table(_sizes, num_patches, count, device=device).expand(batch, -1)
    return Sharing(superpatches, order[:, : num_patches - 4 * count], shared, index, size)


def _superpatches_of_patches(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Number of each patch's superpatch, (N,) int64; patches of odd grids without one have the next number."""
    h, w = superpatch_grid(grid)
    place = torch.full(grid, h * w, device=device)
    own = torch.arange(h * w, device=device).view(h, w)
    place[: 2 * h, : 2 * w] = own.repeat_interleave(2, 0).repeat_interleave(2, 1)
    return place.flatten()


def _places_in_order(patches: int, count: int, device: torch.device) -> Tensor:
    """Return tokens of patches that lie in the order of their tokens, (N,) int64."""
    kept = patches - 4 * count
    of_shared = torch.arange(kept, kept + count, device=device).repeat_interleave(4)
    return torch.cat([torch.arange(kept, device=device), of_shared])


def _sizes(patches: int, count: int, device: torch.device) -> Tensor:
    """Return patches of each token, (T,) float32."""
    kept = patches - 4 * count
    return torch.cat([torch.ones(kept, device=device), torch.full((count,), 4.0, device=device)])


def share_pixels(image: Tensor, sharing: Sharing, patch: tuple[int, int]) -> Tensor:
    """Return the patches of all tokens side by side: (B, C, H, W) -> (B, C, ph, T * pw). Differentiable.

    Kept patches are untouched; a shared superpatch is halved in size, every 2 x 2 pixels averaged.
    """
    h, w = sharing.superpatches.shape[1:]
    ph, pw = patch
    halved = F.avg_pool2d(image[..., : 2 * h * ph, : 2 * w * pw], 2)
    kept = take(_patches(image, patch), sharing.kept)
    shared = take(_patches(halved, patch), sharing.shared)
    return torch.cat([kept, shared], 1).permute(0, 2, 3, 1, 4).flatten(3)  # (B, T, C, ph, pw) -> (B, C, ph, T * pw)


def share_positions(position: Tensor, sharing: Sharing) -> Tensor:
    """Return the position embedding of every token, (1, C, h, w) -> (B, T, C): a shared token has the mean of its four
    cells."""
    own = position.flatten(2).transpose(1, 2).expand(sharing.kept.shape[0], -1, -1)  # (1, C, h, w) -> (B, N, C)
    mean = F.avg_pool2d(position, 2).flatten(2).transpose(1, 2).expand(sharing.shared.shape[0], -1, -1)
    return torch.cat([take(own, sharing.kept), take(mean, sharing.shared)], 1)


def oracle_mask(labels: Tensor, side: tuple[int, int]) -> Tensor:
    """Return superpatches that hold a single label value, the ignored one included: (B, H, W) -> (B, h, w) bool.

    side: height and width of a superpatch in pixels. Where the map ends within a superpatch, its existing pixels count.
    """
    blocks = label_blocks(labels, side)
    outside = blocks == -1
    highest = torch.iinfo(blocks.dtype).max
    return blocks.masked_fill(outside, highest).amin(-1) == blocks.amax(-1)


def oracle_logits(labels: Tensor, patch: tuple[int, int], grid: tuple[int, int] | None = None) -> Tensor:
    """Return the logits for CTS.guided() that put superpatches of one label first, (B, H, W) -> (B, 2, h//2, w//2).

    labels: at the resolution of the image. grid: the patch grid; by default that of the padded image.
    """
    if grid is None:
        grid = (-(-labels.shape[-2] // patch[0]), -(-labels.shape[-1] // patch[1]))
    h, w = superpatch_grid(grid)
    mask = oracle_mask(labels, (2 * patch[0], 2 * patch[1]))[:, :h, :w].float()
    return torch.stack([-mask, mask], 1)


def label_blocks(labels: Tensor, side: tuple[int, int]) -> Tensor:
    """Return pixels of each superpatch, (B, H, W) -> (B, ceil(H/sh), ceil(W/sw), sh * sw) int64; -1 outside the map."""
    bottom, right = (-length % step for length, step in zip(labels.shape[-2:], side, strict=True))
    labels = F.pad(labels.long(), (0, right, 0, bottom), value=-1)
    blocks = labels.unflatten(2, (-1, side[1])).unflatten(1, (-1, side[0]))  # (B, h, sh, w, sw)
    return blocks.permute(0, 1, 3, 2, 4).flatten(3)


def _patches(image: Tensor, patch: tuple[int, int]) -> Tensor:
    """Cut an image into patches: (B, C, H, W) -> (B, N, C, ph, pw) in raster order."""
    blocks = image.unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))  # (B, C, h, ph, w, pw)
    return blocks.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
