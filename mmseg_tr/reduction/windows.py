"""Windows of a grid, from its top left on; the lower and right ones are filled up with zeros."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


@dataclass(frozen=True)
class GridWindows:
    """Windows of `size` (rows, columns) in a grid (h, w)."""

    grid: Grid
    size: Grid

    @property
    def counts(self) -> Grid:
        """Windows from top to bottom and from left to right."""
        return -(-self.grid[0] // self.size[0]), -(-self.grid[1] // self.size[1])

    def split(self, x: Tensor) -> Tensor:
        """Split a map into windows: (B, h, w, C) -> (B * windows, rows, columns, C), filled up with zeros."""
        if self.grid == self.size:
            return x
        (down, across), (rows, columns) = self.counts, self.size
        more = (0, 0, 0, across * columns - self.grid[1], 0, down * rows - self.grid[0])
        x = F.pad(x, more) if any(more) else x
        return x.unflatten(2, (across, columns)).unflatten(1, (down, rows)).transpose(2, 3).flatten(0, 2)

    def join(self, windows: Tensor) -> Tensor:
        """Undo split(): (B * windows, rows, columns, C) -> (B, h, w, C)."""
        if self.grid == self.size:
            return windows
        x = windows.unflatten(0, (-1, *self.counts)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return x[:, : self.grid[0], : self.grid[1]]
