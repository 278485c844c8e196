"""Record what SegFormer++ merges in each block of one forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmseg_tr.reduction.merge import Merge, joined_similarity
from mmseg_tr.reduction.observe import Merged
from mmseg_tr.reduction.segformerpp.mergers import Grid, Shorter, StageMerging


@dataclass(frozen=True)
class WatchedStage(StageMerging):
    """The merging of one stage in one forward, and a list of what it did. before: blocks in earlier stages."""

    found: list[Merged] = field(default_factory=list)
    stage: int = 1
    before: int = 0
    device: torch.device | str = 'cpu'

    def merge_keys(self, x: Tensor, grid: Grid, merge: Merge | None = None) -> tuple[Tensor, Merge | None]:
        merged, used = super().merge_keys(x, grid, merge)
        if self.keys is not None:
            expand = self.keys(x, grid, used)[1]
            self._note('keys', grid, merged.shape[1], expand, used if merge is None else None)
        return merged, used

    def merge_queries(self, x: Tensor, grid: Grid, merge: Merge | None = None) -> tuple[Shorter, Merge | None]:
        (merged, expand), used = super().merge_queries(x, grid, merge)
        if self.queries is not None:
            self._note('queries', grid, merged.shape[1], expand, used if merge is None else None)
        return (merged, expand), used

    def _note(self, part: str, grid: Grid, left: int, expand: Callable[[Tensor], Tensor], merge: Merge | None) -> None:
        """Return what a block merged into `left` tokens; merge: what it compared for that, if it did."""
        # expanding token numbers shows which token represents each position, for any merger
        numbers = torch.arange(left, dtype=torch.float32, device=self.device)[None, :, None]
        groups = expand(numbers)[0, :, 0].long().view(grid).cpu().numpy()
        block = 1 + sum(entry.part == part and entry.layer > self.before for entry in self.found)
        name = f'stage {self.stage}, block {block}'
        similarity = None if merge is None else joined_similarity(merge)
        self.found.append(Merged(self.before + block, name, part, groups, left, similarity))
