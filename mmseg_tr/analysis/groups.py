"""What merges in a forward: which token stands for which patch, layer by layer, for every method.

Watching changes nothing on the network: a strategy, or the merging of a stage, that looks on is handed through one
forward in place of the network's own. Only torch and timm are needed here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_tr.nn.blocks import PLAIN, run_block
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.vit import ViT
from mmseg_tr.reduction import ALGM, Reduction, Tokens
from mmseg_tr.reduction.act import ACT, bucket_codes, cluster_ids
from mmseg_tr.reduction.matching import Merge, stat_dtype
from mmseg_tr.reduction.segformerpp import Grid, StageMerging
from mmseg_tr.reduction.segformerpp.settings import Merging
from mmseg_tr.reduction.tome import ToMe


@dataclass(frozen=True)
class Merged:
    """What stands for what at one place of a network, for one image.

    layer: number from 1, through all stages. name: 'layer 3', or 'stage 2, block 1'. part: where within the layer, for
    methods that merge inside it ('attention', 'mlp', 'head 2', 'queries', 'keys'), else ''.
    groups: (h, w) int64, equal for patches that share a token; -1 for patches that have none.
    tokens: how many tokens stand for the h*w patches (class and other prefix tokens left out).
    similarity: mean and lowest similarity of what joined here, where the method compares; None where nothing joined.
    """

    layer: int
    name: str
    part: str
    groups: np.ndarray
    tokens: int
    similarity: tuple[float, float] | None = None

    @property
    def patches(self) -> int:
        return self.groups.size

    @property
    def largest(self) -> int:
        """Patches of the largest group."""
        return int(np.unique(self.groups[self.groups >= 0], return_counts=True)[1].max())


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
    return watch_vit(network, image) if isinstance(network, ViT) else watch_mit(network, image)


def watch_vit(vit: ViT, image: Tensor) -> list[Merged]:
    """Per layer the groups that leave it; for dense ToMe and ACT those inside its parts."""
    found: list[Merged] = []
    tokens = vit.embed(image)
    for layer, block in enumerate(vit.blocks, 1):
        watcher = Watcher(vit.reduction or PLAIN, found)
        tokens = run_block(block, tokens, layer, watcher)
        if not watcher.inside:
            found.append(after_layer(tokens, layer, vit.reduction))
    return found


def after_layer(tokens: Tokens, layer: int, reduction: Reduction | None) -> Merged:
    """The groups of the first image behind a layer."""
    places = tokens.places()[0].view(tokens.grid).cpu().numpy()
    joined = [step for step in tokens.steps if step.layer == layer]
    similarity = None
    if joined:
        windows = isinstance(reduction, ALGM) and layer == reduction.layers[0]
        per_entry = reduction.window[0] * reduction.window[1] - 1 if windows else 1
        similarity = joined_similarity(joined[-1].merge, per_entry)
    return Merged(layer, f'layer {layer}', '', places, tokens.patches().counts[0], similarity)


def joined_similarity(merge: Merge, per_entry: int = 1) -> tuple[float, float] | None:
    """Mean and lowest similarity of one image's joins: its best entries, each of which removes `per_entry` tokens."""
    joins = (merge.index.shape[1] - merge.lengths[0]) // per_entry
    if not merge.similarity or not joins:
        return None
    best = merge.similarity[0][0].sort(descending=True).values[:joins]
    return best.mean().item(), best.min().item()


@dataclass
class Watcher(Reduction):
    """A method at work in one layer of one forward, and somebody who looks on. inside: whether it merges within."""

    method: Reduction
    found: list[Merged]
    inside: bool = False

    def attention(self, attend, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        if isinstance(self.method, ACT):
            self.inside = True
            self._hashed(attend, y, tokens, layer)
        elif isinstance(self.method, ToMe) and self.method.form == 'dense':
            self.inside = True
            self._matched(y, tokens, layer, 0, 'attention')
        return self.method.attention(attend, y, tokens, layer)

    def after_attention(self, tokens: Tokens, layer: int, seen: Any) -> Tokens:
        return self.method.after_attention(tokens, layer, seen)

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        if self.inside and isinstance(self.method, ToMe):
            self._matched(y, tokens, layer, 1, 'mlp')
        return self.method.mlp(mlp, y, tokens, layer)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        return self.method.after_block(tokens, layer)

    def _matched(self, y: Tensor, tokens: Tokens, layer: int, call: int, part: str) -> None:
        """The matching that dense ToMe is about to make, on the same tokens."""
        merge = self.method.matched(y, tokens, layer, call)
        if merge is None:
            places, left, similarity = torch.arange(y.shape[1]), y.shape[1], None
        else:
            places, left, similarity = merge.index[0].cpu(), merge.lengths[0], joined_similarity(merge)
        groups = (places[tokens.num_prefix :] - tokens.num_prefix).view(tokens.grid).numpy()
        self.found.append(Merged(layer, f'layer {layer}', part, groups, left - tokens.num_prefix, similarity))

    def _hashed(self, attend, y: Tensor, tokens: Tokens, layer: int) -> None:
        """The clusters of every head's queries that ACT is about to make."""
        ((q, _, _),) = attend.heads(y, tokens)
        # redrawn hashes: what is drawn here is drawn again by the method itself
        with torch.random.fork_rng(devices=[]):
            projection, offset = (numbers.to(q.device) for numbers in self.method.hashes(layer, q.shape[-1]))
        scaled = q.to(stat_dtype(q)) * q.shape[-1] ** -0.5
        ids, _ = cluster_ids(bucket_codes(scaled, projection, offset, self.method.bucket_width))
        for head, row in enumerate(ids[0, :, tokens.num_prefix :].cpu().numpy(), 1):
            count = len(np.unique(row))
            self.found.append(Merged(layer, f'layer {layer}', f'head {head}', row.reshape(tokens.grid), count))


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
