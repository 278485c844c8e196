"""What merges in a forward: which token stands for which patch, layer by layer, for every method.

Watching changes nothing on the network: a strategy, or the merging of a stage, that looks on is handed through one
forward in place of the network's own. Only torch and timm are needed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.vit import ViT
from mmseg_tr.reduction.matching import Merge, joined_similarity
from mmseg_tr.reduction.observe import Merged
from mmseg_tr.reduction.segformerpp import Grid, StageMerging
from mmseg_tr.reduction.segformerpp.settings import Merging

__all__ = ['Merged', 'find_network', 'merges', 'watch']


def merges(network: nn.Module) -> bool:
    """Whether a ViT or MiT merges tokens at all."""
    if isinstance(network, ViT):
        return network.reduction is not None
    return any(stage.queries or stage.keys for stage in network.merging.stages)


def find_network(model: nn.Module) -> ViT | MixVisionTransformer | None:
    """The first network inside `model` whose merging can be watched, or None."""
    return next((module for module in model.modules() if isinstance(module, ViT | MixVisionTransformer)), None)


@torch.no_grad()
def watch(network: ViT | MixVisionTransformer, image: Tensor) -> list[Merged]:
    """Everything that merges in a forward of one image, (1, 3, H, W) as the network takes it, in order of the layers.

    A ViT without a method has every layer with a group per patch, a MiT without merging has nothing to tell.
    Raises ValueError for a batch of several images.
    """
    if len(image) != 1:
        raise ValueError(f'{len(image)} images came in: merging is watched one image at a time.')
    return network.watch(image) if isinstance(network, ViT) else watch_mit(network, image)


def watch_mit(mit: MixVisionTransformer, image: Tensor) -> list[Merged]:
    """Queries and keys of every block whose stage merges them; keys on their own, reduced grid."""
    found: list[Merged] = []
    depths = [len(blocks) for _, blocks, _ in mit.layers]
    stages = tuple(
        WatchedStage(stage.queries, stage.keys, stage.share, found, number, sum(depths[: number - 1]), image.device)
        for number, stage in enumerate(mit.merging.stages, 1)
    )
    mit(image, Merging(stages, mit.merging.downsample))
    return found


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

    def merge_queries(
        self, x: Tensor, grid: Grid, merge: Merge | None = None
    ) -> tuple[tuple[Tensor, Callable[[Tensor], Tensor]], Merge | None]:
        (merged, expand), used = super().merge_queries(x, grid, merge)
        if self.queries is not None:
            self._note('queries', grid, merged.shape[1], expand, used if merge is None else None)
        return (merged, expand), used

    def _note(self, part: str, grid: Grid, left: int, expand: Callable[[Tensor], Tensor], merge: Merge | None) -> None:
        """What a block merged into `left` tokens; merge: what it compared for that, if it did."""
        # where every token's number comes back to is what it stands for, whatever the merger
        numbers = torch.arange(left, dtype=torch.float32, device=self.device)[None, :, None]
        groups = expand(numbers)[0, :, 0].long().view(grid).cpu().numpy()
        block = 1 + sum(entry.part == part and entry.layer > self.before for entry in self.found)
        name = f'stage {self.stage}, block {block}'
        similarity = None if merge is None else joined_similarity(merge)
        self.found.append(Merged(self.before + block, name, part, groups, left, similarity))
