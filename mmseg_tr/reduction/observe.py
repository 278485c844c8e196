"""Observe a method during one forward: which patches share a token after each layer.

An observer is a strategy that wraps another one for one forward: `backbone(image, reduction=Observer(method))`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmseg_tr.reduction.base import Embedded, Inside, Reduction
from mmseg_tr.reduction.merge import joined_similarity
from mmseg_tr.reduction.tokens import Tokens


@dataclass(frozen=True)
class Merged:
    """Which patches share a token at one place of a network, for one image.

    layer: number from 1, through all stages. name: 'layer 3', or 'stage 2, block 1'. part: where within the layer, for
    methods that merge inside it ('attention', 'mlp', 'head 2', 'queries', 'keys'), else ''.
    groups: (h, w) int64, equal for patches that share a token; -1 for patches that have none.
    tokens: how many tokens represent the h*w patches (class and other prefix tokens left out).
    similarity: mean and lowest similarity of what joined here, where the method compares; None where nothing joined.
    """

    layer: int
    name: str
    part: str
    groups: NDArray[np.int64]
    tokens: int
    similarity: tuple[float, float] | None = None

    @property
    def patches(self) -> int:
        return self.groups.size

    @property
    def largest(self) -> int:
        """Patches of the largest group."""
        return int(np.unique(self.groups[self.groups >= 0], return_counts=True)[1].max())


def mean_and_lowest(similarities: Iterable[tuple[float, float] | None]) -> tuple[float, float] | None:
    """Return mean of the means and lowest of the lowest, of several windows; None where none of them was compared."""
    told = [similarity for similarity in similarities if similarity is not None]
    return (sum(mean for mean, _ in told) / len(told), min(low for _, low in told)) if told else None


@dataclass
class Observer(Reduction):
    """Wrap a method without changing it. Subclasses observe the points of the contract that they need."""

    method: Reduction

    def embed(self, project: Callable[[Tensor], Tensor], image: Tensor, padded: Tensor, position: Tensor) -> Embedded:
        return self.method.embed(project, image, padded, position)

    def before_block(self, tokens: Tokens, layer: int) -> Tokens:
        return self.method.before_block(tokens, layer)

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        return self.method.attention(attend, y, tokens, layer)

    def after_attention(self, tokens: Tokens, layer: int, seen: Any) -> Tokens:
        return self.method.after_attention(tokens, layer, seen)

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        return self.method.mlp(mlp, y, tokens, layer)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        return self.method.after_block(tokens, layer)

    def after_norm(self, tokens: Tokens) -> Tokens:
        return self.method.after_norm(tokens)

    def attended(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Tensor, Tokens]:
        return self.method.attended(attend, y, tokens, layer)

    def key_sizes(self, tokens: Tokens) -> Tensor | None:
        return self.method.key_sizes(tokens)


@dataclass
class AttentionInput(Observer):
    """Records the input of one layer's attention. layer: counts from 1."""

    layer: int
    tokens: Tokens | None = None  # that enter the block
    y: Tensor | None = None  # the same after the first norm

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        if layer == self.layer:
            self.tokens, self.y = tokens, y
        return super().attention(attend, y, tokens, layer)


@dataclass
class Watcher(Observer):
    """Records the groups that leave each layer, or those inside its parts for methods that merge there."""

    found: list[Merged] = field(default_factory=list)

    def attention(self, attend: Any, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        self.note(self.method.inside(attend, y, tokens, layer, 'attention'), tokens, layer)
        return super().attention(attend, y, tokens, layer)

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        self.note(self.method.inside(None, y, tokens, layer, 'mlp'), tokens, layer)
        return super().mlp(mlp, y, tokens, layer)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        tokens = super().after_block(tokens, layer)
        if not self.found or self.found[-1].layer < layer:
            joined = [step.merge for step in tokens.steps if step.layer == layer]
            similarity = joined_similarity(joined[-1]) if joined else None
            groups = tokens.places()[0].view(tokens.grid).cpu().numpy()
            count = tokens.patches().counts[0]
            self.found.append(Merged(layer, f'layer {layer}', '', groups, count, similarity))
        return tokens

    def note(self, parts: Sequence[Inside], tokens: Tokens, layer: int) -> None:
        """Record what merges inside a part of a layer, for one image."""
        for part in parts:
            groups = part.places.cpu().view(tokens.grid).numpy()
            self.found.append(Merged(layer, f'layer {layer}', part.part, groups, part.tokens, part.similarity))


def watched(method: Reduction, found: list[Merged], depths: Sequence[int], device: torch.device) -> Reduction:
    """Return the method for one forward of a single image that appends what every layer merges to `found`.

    depths: blocks of each stage; a network without stages is one.
    """
    own = getattr(method, 'watched', None)  # of methods that merge inside the attention of several stages
    return Watcher(method, found) if own is None else own(found, depths, device)
