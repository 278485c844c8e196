"""What the Expedite repository's counter adds for clustering and for reconstruction, whatever runs in their place.

Its other terms are those of the rule 'expedite' in apis.counting_rules. Needs torch and timm only.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from mmseg_tr.analysis.network import plain_tokens
from mmseg_tr.analysis.parts import find_vit
from mmseg_tr.reduction.evit import EViT
from mmseg_tr.reduction.expedite import Expedite


def clustering_macs(patches: int, clusters: int, width: int, iterations: int, window: int) -> int:
    """Soft k-means of an image's patches, each with the clusters of its window: N, K, C of the paper."""
    near = min(window**2, clusters)
    step = 3 * near * patches * width + 3 * near * patches + clusters * width
    return patches * width + 2 * (patches + clusters) + iterations * step


def reconstruction_macs(patches: int, tokens: int, width: int, k: int) -> int:
    """Patches from their k nearest tokens, all of them for k < 0; counted at the width of features for scores too."""
    nearest = tokens if k < 0 else min(k, tokens)
    distances = (patches + tokens) * width + patches * tokens * (width + 1)
    return distances + patches * nearest * (width + 3)


def closed_forms(model: nn.Module, image: Tensor) -> dict[tuple[str, str], int]:
    """Units of work of a forward of `model` on images (B, 3, H, W), by part and kind as in MacCount.

    Only Expedite clusters, and Expedite (once) and EViT (each drop) reconstruct; empty for every other network.
    """
    vit = find_vit(model)
    if vit is None:
        return {}
    patches, width, reduction = plain_tokens(vit, image) - vit.num_prefix, vit.embed_dim, vit.reduction
    found = {}
    if isinstance(reduction, Expedite):
        clusters = math.prod(reduction.clusters)
        if clusters <= patches:
            settings = reduction.iterations, reduction.window
            found['merging', 'clustering'] = clustering_macs(patches, clusters, width, *settings)
            found['restoring', 'reconstruction'] = reconstruction_macs(patches, clusters, width, reduction.k)
    elif isinstance(reduction, EViT):
        found['restoring', 'reconstruction'] = sum(
            reconstruction_macs(dropped, kept, width, reduction.k) for dropped, kept in _drops(reduction, patches)
        )
    return {what: len(image) * macs for what, macs in found.items() if macs}


def _drops(reduction: EViT, num_tokens: int) -> list[tuple[int, int]]:
    """How many tokens each layer of EViT drops and keeps, prefix left out."""
    drops = []
    for layer in reduction.layers:
        kept = reduction.kept(num_tokens, layer)
        if kept < num_tokens:
            drops.append((num_tokens - kept, kept))
            num_tokens = kept + reduction.fuse_token
    return drops
