"""Every token-reduction method on one tiny backbone: a row a method, and what all their tests share."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mmseg_tr.nn import ViT
from mmseg_tr.reduction import Tokens

PATCH, DEPTH = 4, 4
# prefix tokens -> what the arch says about them
PREFIXES = {
    0: dict(class_token=False),
    1: {},
    2: dict(distilled=True),
    5: dict(reg_tokens=4),
}


@dataclass(frozen=True)
class Method:
    """A method as the shared tests need it.

    settings: reduce some tokens of `pictures`, and other numbers in other pictures, at four layers and a grid of 8 x 8.
    idle: settings under which nothing is reduced and nothing else changes, None where there are none.
    joint: whether it knows batch='joint'. conserves: whether every patch stays part of a token.
    shortens: whether fewer tokens leave the blocks than enter. too_small: warning on an image of one patch, if any.
    class_token: whether it needs one.
    """

    name: str
    settings: dict[str, Any]
    idle: dict[str, Any] | None = None
    joint: bool = False
    conserves: bool = True
    shortens: bool = True
    too_small: str | None = None
    class_token: bool = False

    def takes(self, prefix: int) -> bool:
        """Whether a network with this many prefix tokens (see PREFIXES) can have it."""
        return prefix > 0 or not self.class_token

    def __str__(self) -> str:
        return self.name


METHODS = [
    Method(
        'ALGM',
        dict(type='ALGM', layers=(1, 3), window=(2, 2), threshold=0.7),
        idle=dict(type='ALGM', layers=(2,), window=(2, 2), threshold=1.5),
        joint=True,
        too_small='no .* window fits',
    ),
    Method('ToMe', dict(type='ToMe', r=9), idle=dict(type='ToMe', r=0), too_small='merges none of 2 tokens'),
    Method(
        'ToMe-dense',
        dict(type='ToMe', form='dense', r=0.3),
        idle=dict(type='ToMe', form='dense', r=[0.01]),
        shortens=False,
        too_small='merges none of 2 tokens',
    ),
    Method(
        'ToMe-kth',
        dict(type='ToMe', matching='kth', k=[1, 3, 2]),
        idle=dict(type='ToMe', matching='kth', k=1),
        too_small='merges none of 2 tokens',
    ),
    Method(
        'ToMe-random',
        dict(type='ToMe', form='dense', matching='random', r=0.4, seed=3),
        shortens=False,
        too_small='merges none of 2 tokens',
    ),
    Method(
        'CTS-random',
        dict(type='CTS', share=0.3, policy='random'),
        idle=dict(type='CTS', policy='none'),
        too_small='no .* window fits',
    ),
    # few clusters, so that the smallest grids of the tests hold them
    Method(
        'Expedite',
        dict(type='Expedite', layer=2, clusters=(2, 1), window=3, temperature=0.1, k=2, weighting='sum'),
        conserves=False,
        too_small='fewer patches than clusters',
    ),
    Method(
        'Expedite-inside',
        dict(type='Expedite', layer=1, clusters=(1, 2), window=1, k=-1, reconstruct=3),
        conserves=False,
        shortens=False,
        too_small='fewer patches than clusters',
    ),
    Method(
        'EViT',
        dict(type='EViT', keep_rate=(0.7, 0.5), layers=(1, 3)),
        idle=dict(type='EViT', keep_rate=1, layers=(2,)),
        conserves=False,
        too_small='drops none of 1 tokens',
        class_token=True,
    ),
    # images keep different numbers, and every patch has its token again in the end
    Method('MPM', dict(type='MPM', layers=(2, 4)), too_small='no two of 2 tokens are a pair'),
    Method('MPM-tokens', dict(type='MPM', layers=(1, 3), restore='scores'), too_small='no two of 2 tokens are a pair'),
    Method(
        'MPM-fixed',
        dict(type='MPM', layers=(2, 3), pairs=1),
        idle=dict(type='MPM', layers=(2,), pairs=0),
        too_small='no two of 2 tokens are a pair',
    ),
    Method(
        'CubistMerge',
        dict(type='CubistMerge', layer=2, ratio=0.3),
        idle=dict(type='CubistMerge', r=0),
        too_small='merges none of the tokens',
    ),
    Method(
        'PiToMe',
        dict(type='PiToMe', ratio=0.8),
        idle=dict(type='PiToMe', ratio=1),
        too_small='merges none of 1 tokens',
    ),
    Method(
        'SharedMatching',
        dict(type='SharedMatching', match_every=2, destinations='random'),
        idle=dict(type='SharedMatching', region=1),
        shortens=False,
        too_small='merges none of 1 tokens',
    ),
    Method(
        'SharedMatching-best',
        dict(type='SharedMatching', layers=(1, 2, 4), match_every=2, region=(2, 1), destinations='gradient', r=0.3),
        shortens=False,
        too_small='merges none of 1 tokens',
    ),
    # narrow buckets, as the queries of a random network are short
    Method('ACT', dict(type='ACT', q_hashes=8, bucket_width=2), shortens=False),
]


# a tracer's time grows with every layer: as few as show each method at work and what follows it, and settings that fit
SHORT = {
    'ALGM': (2, dict(layers=(1, 2))),  # it decides in two ways
    'ToMe-kth': (3, {}),
    'Expedite': (2, dict(layer=1)),
    'Expedite-inside': (3, dict(reconstruct=2)),
    'EViT': (2, dict(layers=(1, 2))),
    'MPM': (1, dict(layers=(1,))),
    'MPM-tokens': (1, dict(layers=(1,))),
    'MPM-fixed': (2, dict(layers=(1, 2))),
    'SharedMatching-best': (4, {}),
    'ACT': (1, {}),
}


def tiny_vit(
    reduction: dict | None = None, prefix: int = 1, grid: tuple[int, int] = (8, 8), depth: int = DEPTH, **kwargs
) -> ViT:
    """A ViT of width 16 whose weights are the same for the same prefix and grid, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        arch = dict(embed_dim=16, depth=depth, num_heads=2, patch_size=PATCH, **PREFIXES[prefix])
        vit = ViT(arch, img_size=(grid[0] * PATCH, grid[1] * PATCH), reduction=reduction, **kwargs)
        with torch.no_grad():
            for parameter in vit.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return vit.eval()


def short_vit(method: Method) -> ViT:
    """As tiny_vit(), for a tracer: with as few layers as SHORT says."""
    depth, settings = SHORT.get(method.name, (2, {}))
    return tiny_vit(method.settings | settings, depth=depth)


@cache
def _plain_vit(prefix: int, grid: tuple[int, int], dtype: torch.dtype) -> ViT:
    return tiny_vit(None, prefix, grid).to(dtype)


def shared_vit(
    reduction: dict,
    prefix: int = 1,
    grid: tuple[int, int] = (8, 8),
    dtype: torch.dtype = torch.float32,
    out: str = 'maps',
) -> ViT:
    """As tiny_vit(), around modules that are built once per shape: for tests that leave them unchanged."""
    vit = copy.copy(_plain_vit(prefix, grid, dtype))
    vit._modules = vit._modules.copy()  # a method may be a module
    vit.out, vit.reduction = out, vit.fitted(reduction)
    return vit


def pictures(batch: int, grid: tuple[int, int], seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Pictures of flat regions, (batch, 3, H, W), each noisier than the one before it."""
    generator = torch.Generator().manual_seed(seed)
    (h, w), block = (side * PATCH for side in grid), 4 * PATCH
    flat = torch.randn(batch, 3, -(-h // block), -(-w // block), generator=generator)
    flat = flat.repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :h, :w]
    noise = torch.randn(batch, 3, h, w, generator=generator)
    return (flat + noise * torch.linspace(0.1, 1.2, batch)[:, None, None, None]).to(dtype)


def patch_sizes(tokens: Tokens) -> list[Tensor]:
    """Patches each token stands for, image by image, prefix left out."""
    patches = tokens.patches()
    size = torch.ones(patches.x.shape[:2]) if patches.size is None else patches.size
    rows = patches.groups(size)
    return list(rows[0]) if tokens.lengths is None else [row[0] for row in rows]


def places(tokens: Tokens) -> Tensor:
    """The token that stands for each patch, (B, N), prefix left out."""
    patches = tokens.grid[0] * tokens.grid[1]
    return torch.arange(patches).expand(tokens.num_images, -1) if tokens.index is None else tokens.index
