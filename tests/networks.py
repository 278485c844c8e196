"""Small networks that the tests of counting and timing share."""

import torch

from mmseg_tr.nn import MaskTransformer, Segmenter, ViT

ARCH = dict(embed_dim=32, depth=3, num_heads=2, patch_size=8)


def small(reduction: dict | None = None, out: str = 'tokens') -> Segmenter | ViT:
    """A Segmenter for 64 x 64 images, or with out='maps' its encoder alone; the same weights in every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ViT(ARCH, img_size=64, out=out, reduction=reduction)
        return encoder if out == 'maps' else Segmenter(encoder, MaskTransformer(5, 32, num_heads=2))


def algm(threshold: float = -1.0, **settings) -> dict:
    return dict(type='ALGM', layers=(1, 2), threshold=threshold, **settings)


def pictures(count: int, side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, side, side, generator=generator) * 2 - 1
