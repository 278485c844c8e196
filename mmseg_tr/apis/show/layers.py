"""Collect what merges in every layer, over all windows of a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mmseg_tr.apis.show.view import Entered, View
from mmseg_tr.reduction.observe import Merged, mean_and_lowest

CELLS = 1 << 17  # of a coarsened map


@dataclass(frozen=True)
class MergedLayer:
    """Which patches share a token at one place of a network, over a whole picture.

    layer, name, part: as in Merged. groups: (h, w) on an even grid over the picture, equal where patches share a token,
    -1 where they have none; finer than the patches where these do not divide the picture, or windows overlap: then
    every place shows the window whose centre is nearest. tokens, patches: in all windows together. largest: patches of
    the largest group. similarity: mean over the windows and lowest.
    """

    layer: int
    name: str
    part: str
    groups: np.ndarray
    tokens: int
    patches: int
    largest: int
    similarity: tuple[float, float] | None = None


def merged_layers(view: View, entered: Entered, limit: int | None = None) -> list[MergedLayer]:
    """Return everything that merges while the network runs on a picture, in the order of the layers.

    limit: most cells of a map of groups; a larger map is coarsened.
    """
    windows = entered.windows
    found = [view.network.watch(windows.crop(number)) for number in range(len(windows.anchors))]
    return [whole_layer(view, entered, entries, limit) for entries in zip(*found, strict=True)]


def whole_layer(view: View, entered: Entered, entries: Sequence[Merged], limit: int | None) -> MergedLayer:
    """Join one place of the network over all windows."""
    first = entries[0]
    return MergedLayer(
        first.layer,
        first.name,
        first.part,
        whole_groups(view, entered, entries, limit),
        sum(entry.tokens for entry in entries),
        sum(entry.patches for entry in entries),
        max(entry.largest for entry in entries),
        mean_and_lowest(entry.similarity for entry in entries),
    )


def whole_groups(view: View, entered: Entered, entries: Sequence[Merged], limit: int | None) -> np.ndarray:
    """Join the groups of all windows on one grid over the picture."""
    windows, size = entered.windows, entered.pixels.shape[:2]
    starts = [sorted({anchor[axis] for anchor in windows.anchors}) for axis in (0, 1)]
    cells = [cell_of(windows.size[axis], entries[0].groups.shape[axis], view.network.step[axis]) for axis in (0, 1)]
    steps = [math.gcd(cell, length, *start) for cell, length, start in zip(cells, size, starts)]
    counts = [length // step for length, step in zip(size, steps)]
    if limit is not None and counts[0] * counts[1] > limit:
        shrink = math.sqrt(counts[0] * counts[1] / limit)
        counts = [max(round(count / shrink), 1) for count in counts]
    owners, places = zip(
        *(
            owned(length, count, start, windows.size[axis], cells[axis], entries[0].groups.shape[axis])
            for axis, (length, count, start) in enumerate(zip(size, counts, starts))
        )
    )
    offset, stacked = 0, []
    for entry in entries:
        stacked.append(np.where(entry.groups < 0, -1, entry.groups + offset))
        offset += int(entry.groups.max()) + 1
    number = owners[0][:, None] * len(starts[1]) + owners[1][None]
    return np.stack(stacked)[number, places[0][:, None], places[1][None]]


def owned(length: int, count: int, starts: list[int], window: int, cell: int, most: int) -> tuple[np.ndarray, ...]:
    """Return, for the centre of each of `count` parts of an axis, its window and the cell there."""
    centre = (np.arange(count) + 0.5) * (length / count)
    owner = np.abs(centre[:, None] - (np.array(starts) + window / 2)[None]).argmin(1)
    place = (centre - np.array(starts)[owner]) // cell
    return owner, np.clip(place, 0, most - 1).astype(int)


def cell_of(window: int, cells: int, step: int) -> int:
    """Return pixels per cell along one axis of a window: the network's step; in other stages a power of two."""
    if -(-window // step) == cells:
        return step
    return 2 ** max(round(math.log2(window / cells)), 0)
