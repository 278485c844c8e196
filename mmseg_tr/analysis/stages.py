"""Attention as it runs: how many queries meet how many keys, in each layer and in each stage of a MiT.

Needs torch and timm only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_tr.analysis.mac_rules import SDPA
from mmseg_tr.nn.mit import MixVisionTransformer


@dataclass(frozen=True)
class AttentionSize:
    """One call of attention: `queries` attend to `keys`, in `maps` matrices (images times heads)."""

    maps: int
    queries: int
    keys: int

    @property
    def score_bytes(self) -> int:
        """Of its scores in float32, were they kept in memory."""
        return 4 * self.maps * self.queries * self.keys


@dataclass
class AttentionRecorder(TorchDispatchMode):
    """Records every call of attention inside `with AttentionRecorder() as recorder:`, under inference mode."""

    sizes: list[AttentionSize] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.rpartition('::')[2] in SDPA:
            q, k = args[:2]
            self.sizes.append(AttentionSize(q.shape[:-2].numel(), q.shape[-2], k.shape[-2]))
        return func(*args, **(kwargs or {}))


@torch.inference_mode()
def attention_sizes(network: Callable[[Tensor], object], images: Tensor) -> list[AttentionSize]:
    """Every call of attention in a forward, in order. images: (B, C, H, W)."""
    with AttentionRecorder() as recorder:
        network(images)
    return recorder.sizes


def find_mit(model: nn.Module) -> MixVisionTransformer | None:
    """The first MiT of this package inside `model`, or None."""
    return next((module for module in model.modules() if isinstance(module, MixVisionTransformer)), None)


def tokens_per_stage(mit: MixVisionTransformer, images: Tensor) -> list[dict[str, int]]:
    """Queries and keys of each stage's attention as they are after merging; what a stage's first block has."""
    sizes, found, first = attention_sizes(mit, images[:1]), [], 0
    for _, blocks, _ in mit.layers:
        found.append(dict(queries=sizes[first].queries, keys=sizes[first].keys))
        first += len(blocks)
    return found
