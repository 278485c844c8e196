"""The contract between a token-reduction method and the backbone that carries it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from mmseg_tr.errors import ConfigError
from mmseg_tr.reduction.matching import exporting, of_one_shape
from mmseg_tr.reduction.tokens import Tokens


@dataclass(frozen=True)
class Embedded:
    """Patch tokens with their positions added, before the prefix tokens join them.

    x: (B, T, C). index: (B, N) int64, the token that stands for each patch; None when every patch has its own.
    size: (B, T), patches per token; None for one each. memo: as Tokens.memo.
    """

    x: Tensor
    index: Tensor | None = None
    size: Tensor | None = None
    memo: Any = None


class Reduction:
    """A token-reduction method, given to a ViT as its `reduction`.

    The backbone owns the loop over blocks and calls these methods at fixed points, in this order for every layer
    (layers count from 1). A strategy holds settings only: whatever belongs to one forward travels in the Tokens.
    """

    BATCH_RULES: ClassVar[tuple[str, ...]] = ('per_image', 'joint')
    ADAPTIVE: ClassVar[bool] = False  # whether what an image shows decides how many of its tokens remain
    NEEDS_CLASS_TOKEN: ClassVar[bool] = False  # the backbone refuses the method where it has none

    def check(self, depth: int, grid: tuple[int, int], num_prefix: int) -> None:
        """Refuse settings that a backbone of this depth, patch grid and number of prefix tokens cannot follow.

        Raises ConfigError. Called once, when the model is built.
        """

    def unexportable(self) -> str | None:
        """Why no program of fixed shapes does what these settings say, and what to set instead; None where one can."""
        return None

    def embed(
        self,
        project: Callable[[Tensor], Tensor],
        image: Tensor,
        padded: Tensor,
        position: Tensor,
        guide: Tensor | None = None,
    ) -> Embedded:
        """Patch embedding: project takes pixels (B, 3, H, W) to patch features (B, C, H/ph, W/pw).

        image: as it came, (B, 3, H, W); padded: the same filled up to whole patches; position: (1, C, h, w).
        guide: what the caller decides in place of the method, for methods that allow it; ConfigError from others.
        """
        if guide is not None:
            raise ConfigError("guide decides which superpatches share: only CTS takes it, and not with policy='none'.")
        return Embedded((project(padded) + position).flatten(2).transpose(1, 2))

    def attention(self, attend, y: Tensor, tokens: Tokens, layer: int) -> tuple[Tensor, Any]:
        """Attention of one block on the normed tokens y, laid out as tokens.x.

        attend: nn.attention.SelfAttention, callable as attend(y, tokens) or piece by piece. Returns the branch of the
        residual, and whatever of queries, keys or class attention after_attention() wants to see.
        """
        return attend(y, tokens), None

    def after_attention(self, tokens: Tokens, layer: int, seen: Any) -> Tokens:
        """Between the attention residual and the MLP. seen: what attention() of this block returned besides."""
        return tokens

    def mlp(self, mlp: Callable[[Tensor], Tensor], y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        """MLP of one block on the normed tokens y; returns its branch of the residual."""
        return mlp(y)

    def after_block(self, tokens: Tokens, layer: int) -> Tokens:
        """After the MLP residual of a block."""
        return tokens

    def after_norm(self, tokens: Tokens) -> Tokens:
        """After the backbone's final norm."""
        return tokens

    def restore(self, tokens: Tokens) -> Tokens:
        """Tokens that tokens.to_map() can put back on the grid, where the index alone does not say how."""
        return tokens


def check_batch_rule(batch: str) -> str:
    """Return a batch rule that is one of Reduction.BATCH_RULES. Raises ConfigError."""
    if batch not in Reduction.BATCH_RULES:
        raise ConfigError(f'batch={batch!r} is unknown: it is one of {", ".join(map(repr, Reduction.BATCH_RULES))}.')
    return batch


def check_layers(layers, depth: int | None = None) -> tuple[int, ...]:
    """Return layer numbers (from 1) as an ascending tuple. Raises ConfigError when one is no layer or comes twice."""
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise ConfigError(f'layers={layers!r} is no list of layer numbers: write for example layers=(1, 5).')
    layers = tuple(layers)
    for layer in layers:
        if isinstance(layer, bool) or not isinstance(layer, int) or layer < 1 or (depth is not None and layer > depth):
            top = f'1 to {depth}, the depth of the backbone' if depth else '1 or more'
            raise ConfigError(f'layers={layers} holds {layer!r}: layer numbers are whole numbers from {top}.')
    if not layers:
        raise ConfigError('layers=() names no layer: leave reduction=None for the plain model.')
    if len(set(layers)) < len(layers):
        raise ConfigError(f'layers={layers} names a layer twice: name each once.')
    if list(layers) != sorted(layers):
        raise ConfigError(f'layers={layers} must ascend: write layers={tuple(sorted(layers))}.')
    return layers


def check_seed(seed: int) -> int:
    """Return a seed that is a whole number from 0 on. Raises ConfigError."""
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f'seed={seed!r} is no seed: give a whole number from 0 on.')
    return seed


def drawn(draw: Callable[[], Tensor]) -> Tensor:
    """Random numbers as a constant: a program that is exported would otherwise draw on from call to call."""
    if not exporting():
        return draw()
    with ThreadPoolExecutor(1) as pool:  # tracing follows its own thread alone
        return torch.tensor(pool.submit(lambda: draw().numpy()).result())


def seeded_generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator that depends on the seed and the place in the network alone, so that draws repeat anywhere."""
    digest = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, 'little'))


@torch.compiler.assume_constant_result
def seeded_uniform(count: int, seed: int, *place: int) -> Tensor:
    """(1, count) numbers from [0, 1) on the CPU, of seeded_generator(); torch.compile takes them for a constant."""
    return of_one_shape(drawn(lambda: torch.rand(1, count, generator=seeded_generator(seed, *place))))
