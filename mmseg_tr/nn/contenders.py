"""Labels of large images, a few classes at a time: those that can win somewhere by the scores of patches.

Pixels, windows that overlap and the size of the original image are reached by weighted means with weights that are the
same for all classes. A class that another one beats at every patch around a place, in every window, loses there
whatever the weights are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mmseg_tr.nn.labels import SMALL, enlarged_alike

BLOCK = 16  # pixels; places are told apart by squares of this side
NUMBERS = 1 << 24  # logits that are held at once, about
MOST = 8  # classes at a time: more do not fit the caches
MARGIN = 1e-3  # of a patch, above the rounding of a pixel's place
ROUNDINGS = 64  # upper bound on the rounding steps of the means, in units of the last place of the largest score


@dataclass(frozen=True)
class ScoreMap:
    """Class scores on a grid, and how they become logits of pixels.

    scores: (B, K, h, w). covered: (height, width) in pixels of the area under the grid, which may exceed that of the
    logits at the bottom and right. enlarge: scores of any classes (B, k, h, w) -> logits (B, k, H, W), bilinear, each
    class by itself. align_corners: as in torch's interpolate, which it uses.
    """

    scores: Tensor
    covered: tuple[int, int]
    enlarge: Callable[[Tensor], Tensor]
    align_corners: bool = False

    def of_images(self, count: int) -> list[ScoreMap]:
        """Split along the batch, `count` images each."""
        return [replace(self, scores=part) for part in self.scores.split(count)]

    def logits(self, classes: Tensor) -> Tensor:
        """Return logits (B, k, H, W) of some classes (k,)."""
        return self.enlarge(self.scores.index_select(1, classes))


@torch.no_grad()
def contenders(
    windows: Sequence[ScoreMap],
    anchors: Sequence[tuple[int, int]],
    image_size: tuple[int, int],
    sizes: Iterable[Sequence[int]],
) -> Tensor:
    """Return the classes (k,), in order, that can be the largest anywhere in a batch.

    windows: score maps of the same images; anchors: (y, x) of their top-left corners; together they cover an image of
    image_size. sizes: all those to which scores are enlarged. No other class is ever the largest, with NaN above all
    numbers, as in argmax.
    """
    first = windows[0].scores
    classes = torch.arange(first.shape[1], device=first.device)
    if first.shape[1] <= 3 or not first.numel() or min(map(sum, sizes)) <= SMALL:  # other arithmetic for few classes
        return classes
    places = [Places.of(window, *anchor, image_size) for window, anchor in zip(windows, anchors, strict=True)]
    total = first.new_zeros(*first.shape[:2], *(math.ceil(side / BLOCK) for side in image_size))
    for place in places:
        place.inside(total).add_(place.mean())
    leader = total.argmax(1, keepdim=True)
    behind = torch.full_like(total, -torch.inf)
    for place in places:
        place.trail(place.inside(leader), place.inside(behind))
    largest = torch.stack([window.scores.abs().amax() for window in windows]).amax()
    slack = ROUNDINGS * torch.finfo(first.dtype).eps * largest
    return classes[enlarged_alike((~(behind < -slack)).flatten(2).any(2).any(0))]


def in_parts(classes: Tensor, pixels: int, sizes: Iterable[Sequence[int]]) -> Sequence[Tensor]:
    """Split classes (k,) so that logits of a part hold at most about 16 million numbers for so many pixels.

    sizes: to which logits are enlarged; for small ones torch's arithmetic differs with the number of classes.
    """
    if min(map(sum, sizes)) <= SMALL:
        return [classes]
    count = min(max(NUMBERS // max(pixels, 1), 4), MOST)
    parts = list(classes.split(count))
    if len(parts) > 1 and len(parts[-1]) == 3:  # as in enlarged_alike()
        parts[-2:] = torch.cat(parts[-2:]).split([count + 1, 2])
    return parts


class Winner:
    """argmax over classes whose logits are given a few at a time.

    best, label: (H, W), the largest logit of every pixel so far and its class.
    """

    def __init__(self) -> None:
        self.best = self.label = torch.empty(0)

    def add(self, logits: Tensor, classes: Tensor) -> None:
        """Take logits (k, H, W) of further classes (k,), all of them above those before."""
        best, which = logits.max(0)
        label = classes[which]
        if self.best.numel():
            before = (best <= self.best) | self.best.isnan()  # NaN is above all numbers
            best, label = torch.where(before, self.best, best), torch.where(before, self.label, label)
        self.best, self.label = best, label


@dataclass(frozen=True)
class Places:
    """The blocks of an image that a window touches, and the patches around each.

    rows, columns: (blocks, patches), the patches between which the pixels of a block lie, repeated where one has fewer.
    """

    scores: Tensor
    blocks: tuple[slice, slice]
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, window: ScoreMap, y: int, x: int, image_size: tuple[int, int]) -> Places:
        sides = zip(window.scores.shape[-2:], window.covered, (y, x), image_size)
        (down, rows), (across, columns) = (around(*side, window.align_corners) for side in sides)
        device = window.scores.device
        return cls(window.scores, (down, across), rows.to(device), columns.to(device))

    def inside(self, whole: Tensor) -> Tensor:
        """Return the view of a map over all blocks (B, n, rows, columns) at the blocks of this window."""
        return whole[:, :, self.blocks[0], self.blocks[1]]

    def mean(self) -> Tensor:
        """Return the mean scores of the patches near the centre of every block: who leads them leads around it."""
        rows, columns = (side[:, side.shape[1] // 2] for side in (self.rows, self.columns))
        mean = F.avg_pool2d(self.scores, 3, stride=1, padding=1, count_include_pad=False)
        return mean[:, :, rows][:, :, :, columns]

    def trail(self, leader: Tensor, behind: Tensor) -> None:
        """Raise `behind` (B, K, rows, columns) to what each class has over the leader's score, at any patch around."""
        for row in self.rows.T:
            for column in self.columns.T:
                scores = self.scores[:, :, row][:, :, :, column]
                torch.maximum(behind, scores - scores.gather(1, leader), out=behind)


def around(patches: int, covered: int, start: int, length: int, align_corners: bool) -> tuple[slice, Tensor]:
    """Along one axis: the blocks of an image that a window touches, and the patches around their pixels (blocks, n).

    patches of the window cover `covered` pixels from `start` on; the image has `length`.
    """
    # One pixel more on either side: a pixel of the original image may lie between two of the window's.
    blocks = torch.arange(
        max(start - 1, 0) // BLOCK, math.ceil(min(start + covered + 1, length) / BLOCK), dtype=torch.float64
    )
    low, high = (
        place * (patches - 1) / max(covered - 1, 1) if align_corners else (place + 0.5) * patches / covered - 0.5
        for place in (blocks * BLOCK - 1 - start, blocks * BLOCK + BLOCK - start)
    )
    low, high = (low - MARGIN).floor().clamp(0, patches - 1), (high + MARGIN).ceil().clamp(0, patches - 1)
    number = torch.arange(int((high - low).max()) + 1)
    places = torch.minimum(low[:, None] + number, high[:, None])
    return slice(int(blocks[0]), int(blocks[-1]) + 1), places.long()
