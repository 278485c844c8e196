"""Classes of pixels straight from patch scores, equal to enlarging all scores and taking the largest.

Bilinear enlargement gives every pixel a weighted mean of the four patches around it. Where all four agree on the best
class, so do all pixels between them; elsewhere a few classes can win, and only they are compared. Where
rounding could decide a pixel, it is taken from the enlargement of the classes in question.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mmseg_tr.nn.segmenter import enlarge_scores

THRESHOLD = 0.3  # of a single channel, where its head sets none: mmseg's default
SMALL = 128  # height and width together up to which torch may enlarge each number of channels by other arithmetic
CHUNK = 1 << 22  # how many numbers are held at once
FEW = 4  # classes; cells where more can win are compared separately
MANY = 0.9  # share of disagreeing cells above which the whole image is enlarged


def pixel_classes(logits: Tensor, threshold: float | None = None) -> Tensor:
    """Return the class of every pixel, (B, K, H, W) -> (B, H, W) int64, as mmseg decides it.

    The largest of several channels; of a single one, whether its sigmoid exceeds the threshold, by default 0.3.
    """
    if logits.shape[1] > 1:
        return logits.argmax(1)
    return (logits[:, 0].sigmoid() > (THRESHOLD if threshold is None else threshold)).long()


@torch.no_grad()
def enlarged_labels(scores: Tensor, image_size: tuple[int, int], patch_size: tuple[int, int] | None) -> Tensor:
    """Exactly enlarge_scores(scores, image_size, patch_size).argmax(1), without the enlarged scores.

    scores: (B, K, h, w) on the patch grid -> (B, H, W) int64, the lowest class first among equals and NaN above all,
    as in argmax. patch_size: as in enlarge_scores(), None for straight enlargement.
    """
    scores, grid = scores.contiguous(), tuple(scores.shape[-2:])
    whole = image_size if patch_size is None else tuple(side * patch for side, patch in zip(grid, patch_size))
    size = tuple(min(side, limit) for side, limit in zip(image_size, whole))
    if not scores.numel() or scores.shape[1] == 1 or sum(whole) <= SMALL or math.prod(size) < 4 * math.prod(grid):
        return enlarge_scores(scores, image_size, patch_size).argmax(1)  # nothing to gain
    axes = tuple(Axis.of(*sides, scores.device) for sides in zip(grid, whole, size))
    slack = rounding(scores, whole)
    best, winner = scores.max(1)
    clear = best - scores.scatter(1, winner[:, None], -torch.inf).amax(1) > slack[:, None, None]
    around = corners(winner, axes)
    agreed = (around == around[0]).all(0) & corners(clear, axes).all(0)
    labels = around[0].index_select(1, axes[0].cell).index_select(2, axes[1].cell)
    unsure = torch.zeros_like(labels, dtype=torch.bool)
    possible = torch.zeros(scores.shape[:2], dtype=torch.bool, device=scores.device)
    last = scores.permute(0, 2, 3, 1).contiguous()
    lost = agreed.flatten(1).float().mean(1) < 1 - MANY
    for image in lost.nonzero().flatten().tolist():
        labels[image] = enlarge_scores(scores[image : image + 1], image_size, patch_size).argmax(1)[0]
    for cells in (~agreed & ~lost[:, None, None]).nonzero().split(max(CHUNK // (4 * scores.shape[1]), 1)):
        for part in contests(last, around, cells, axes, slack):
            part.settle(axes, labels, unsure, possible)
    for image in unsure.flatten(1).any(1).nonzero().flatten().tolist():
        pixels, classes = unsure[image], enlarged_alike(possible[image]).nonzero().flatten()
        logits = enlarge_scores(scores[image : image + 1, classes], image_size, patch_size)[0]
        labels[image][pixels] = classes[logits[:, pixels].argmax(0)]
    return labels


def enlarged_alike(possible: Tensor) -> Tensor:
    """Return classes (K,) to enlarge, of which some are `possible`, so that torch enlarges them as it does all.

    On one thread it has other arithmetic for three channels than for any other number.
    """
    if len(possible) == 3:
        return torch.ones_like(possible)
    if int(possible.sum()) == 3:
        possible = possible.clone()
        possible[int(possible.logical_not().nonzero()[0])] = True
    return possible


def rounding(scores: Tensor, whole: tuple[int, int]) -> Tensor:
    """Return a bound on the rounding error between two enlarged scores of each image: (B,) float32."""
    relative = 8 * torch.finfo(scores.dtype).eps  # products and sums, here and in the enlargement
    for patches, pixels in zip(scores.shape[-2:], whole):
        if pixels % patches or (pixels // patches).bit_count() > 1:  # then a pixel's place is rounded too
            relative += 4 * (patches + 1) * torch.finfo(torch.float32).eps
    return relative * scores.abs().amax((1, 2, 3)).float()


@dataclass(frozen=True)
class Axis:
    """One axis of the enlargement. A cell is the area between two neighbouring patches, or outside an outer one.

    sides: (2, cells), the patches on either side of each cell. cell: (pixels,), the cell of every pixel.
    first: (cells,), its first pixel. longest: pixels in the largest cell. weight: (pixels,) float64, of the patch on
    the far side.
    """

    sides: Tensor
    cell: Tensor
    first: Tensor
    longest: int
    weight: Tensor

    @classmethod
    def of(cls, patches: int, whole: int, pixels: int, device: torch.device) -> Axis:
        """patches that are enlarged to `whole` pixels, of which the first `pixels` matter."""
        place = (torch.arange(pixels, dtype=torch.float64) + 0.5) * (patches / whole) + 0.5
        cell, number = place.floor().long(), torch.arange(patches + 1)
        sides = torch.stack([number - 1, number]).clamp(0, patches - 1)
        parts = (part.to(device) for part in (sides, cell, torch.searchsorted(cell, number), place - cell))
        sides, at, first, weight = parts
        return cls(sides, at, first, int(torch.bincount(cell).max()), weight)

    def pixels(self, cells: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of cells (n,): their pixels, whether these are really theirs, their weights (n, 2, longest) on both sides."""
        end = len(self.cell) - 1
        pixel = self.first[cells][:, None] + torch.arange(self.longest, device=cells.device)
        own, pixel = pixel <= end, pixel.clamp_max(end)
        far = self.weight[pixel]
        return pixel, own & (self.cell[pixel] == cells[:, None]), torch.stack([1 - far, far], 1)


def corners(x: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Return values of the four patches around every cell: (B, h, w) -> (4, B, cells, cells)."""
    rows, columns = axes
    return torch.stack([x[:, row][:, :, column] for row in rows.sides for column in columns.sides])


@dataclass(frozen=True)
class Contest:
    """Cells in which several classes can win.

    cells: (n, 3), image, row and column. classes: (n, M) that can win, some of them real; scores: (n, M, 4) at the
    corners. slack: (n,).
    """

    cells: Tensor
    classes: Tensor
    real: Tensor
    scores: Tensor
    slack: Tensor

    def settle(self, axes: tuple[Axis, Axis], labels: Tensor, unsure: Tensor, possible: Tensor) -> None:
        """Write the classes of all pixels, which of them rounding could change, and the classes that are near there."""
        image, row, column = self.cells.unbind(1)
        (y, own_y, weight_y), (x, own_x, weight_x) = axes[0].pixels(row), axes[1].pixels(column)
        weight = (weight_y[:, :, None, :, None] * weight_x[:, None, :, None, :]).flatten(3).flatten(1, 2)
        own = (own_y[:, :, None] & own_x[:, None]).flatten(1)  # (n, pixels)
        values = torch.bmm(self.scores, weight.to(self.scores.dtype))  # (n, M, 4), (n, 4, pixels)
        values = values.masked_fill(~self.real[..., None], -torch.inf)
        best, which = values.max(1)
        slack = self.slack[:, None]
        unclear = own & ~(best - values.scatter(1, which[:, None], -torch.inf).amax(1) > slack)
        near = (~(values < (best - slack)[:, None]) & unclear[:, None]).any(-1) & self.real
        possible[image[:, None].expand_as(near)[near], self.classes[near]] = True
        where = (image[:, None, None], y[:, :, None], x[:, None])
        where = tuple(part.expand(-1, y.shape[1], x.shape[1]).flatten(1)[own] for part in where)
        labels[where] = self.classes.gather(1, which)[own]
        unsure[where] = unclear[own]


def contests(last: Tensor, around: Tensor, cells: Tensor, axes: tuple[Axis, Axis], slack: Tensor) -> Iterator[Contest]:
    """Yield the classes that can win in cells (n, 3): those that no corner's best class beats at all four corners.

    last: scores (B, h, w, K). around: the best class at every corner, as corners() gives it.
    """
    image, row, column = cells.unbind(1)
    sides = [(y[row], x[column]) for y in axes[0].sides for x in axes[1].sides]
    scores = torch.stack([last[image, y, x] for y, x in sides], -1)  # (n, K, 4)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    beaten = torch.zeros_like(scores[..., 0], dtype=torch.bool)
    for corner in around:
        lead = scores.gather(1, corner[image, row, column][:, None, None].expand(-1, 1, 4))
        beaten |= (scores < lead - slack[image][:, None, None]).all(-1)
    count = (~beaten).sum(1)
    pixels = axes[0].longest * axes[1].longest
    for group in (count <= FEW, count > FEW):
        chosen = group.nonzero().flatten()
        if not len(chosen):
            continue
        width = int(count[chosen].max())
        for some in chosen.split(max(CHUNK // (width * pixels), 1)):
            real, classes = (~beaten[some]).to(torch.uint8).topk(width, dim=1)
            taken = scores[some].gather(1, classes[..., None].expand(-1, -1, 4))
            yield Contest(cells[some], classes, real.bool(), taken, slack[image[some]])
