"""Tokens and attention of a network as it runs: how many leave each layer, how many queries meet how many keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mmseg_tr.analysis.mac_rules import SDPA
from mmseg_tr.nn.backbone import Backbone


@dataclass(frozen=True)
class AttentionSize:
    """One call of attention: `queries` attend to `keys`, in `maps` matrices (images times heads)."""

    maps: int
    queries: int
    keys: int

    @property
    def score_bytes(self) -> int:
        """Bytes of its scores in float32, if they were kept in memory."""
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
    """Return every call of attention in a forward, in order. images: (B, C, H, W)."""
    with AttentionRecorder() as recorder:
        network(images)
    return recorder.sizes


@torch.inference_mode()
def tokens_per_layer(backbone: Backbone, batches: Iterable[Tensor]) -> list[float] | None:
    """Return the mean number of tokens that leave each layer, prefix included; None where all tokens stay."""
    per_image: list[tuple[int, ...]] = []
    for batch in batches:
        trace = backbone.trace(batch)
        if trace is None:
            return None
        per_image += zip(*trace, strict=True)
    return [sum(counts) / len(per_image) for counts in zip(*per_image, strict=True)]


def tokens_per_stage(backbone: Backbone, images: Tensor) -> list[dict[str, int]] | None:
    """Return queries and keys, after merging, of the first block of each stage; None for a network of one stage."""
    depths: Sequence[int] = backbone.depths
    if len(depths) == 1:
        return None
    sizes = attention_sizes(backbone, images[:1])
    first = [sizes[sum(depths[:stage])] for stage in range(len(depths))]
    return [dict(queries=size.queries, keys=size.keys) for size in first]
