"""Segmenter (Strudel et al., ICCV 2021): decoders over tokens, reduced or not, and the whole network."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.blocks import PLAIN, TokenBlock
from mmseg_tr.nn.checks import check_rates, check_sizes
from mmseg_tr.nn.savable import Savable
from mmseg_tr.nn.vit import ViT
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.tokens import Tokens

LayerNorm = partial(nn.LayerNorm, eps=1e-5)


class LinearDecoder(nn.Module):
    """One linear layer per token (Segmenter, section 3.2, "Seg/linear"). Tokens -> (B, K, h, w) class scores."""

    def __init__(self, num_classes: int, embed_dim: int) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, embed_dim=embed_dim)
        self.head = nn.Linear(embed_dim, num_classes)
        init_decoder(self)

    def forward(self, tokens: Tokens) -> Tensor:
        tokens = tokens.patches()
        return tokens.to_map(self.head(tokens.x))


class MaskTransformer(nn.Module):
    """Patches and class embeddings attend to one another; masks are their cosines (Segmenter, section 3.2).

    Works on reduced tokens: class scores are restored to the patch grid at the end (ALGM, section 3.3).
    embed_dim: width of the decoder; in_channels: that of the tokens, the same by default. num_heads: embed_dim // 64 by
    default. Tokens -> (B, K, h, w) class scores. Raises ConfigError for a single class and for dimensions that do not
    divide.
    """

    def __init__(
        self,
        num_classes: int,
        embed_dim: int,
        depth: int = 2,
        num_heads: int | None = None,
        dropout: float = 0.1,
        drop_path: float = 0.0,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        in_channels = embed_dim if in_channels is None else in_channels
        check_sizes(embed_dim=embed_dim, in_channels=in_channels)
        check_rates(dropout=dropout, drop_path=drop_path)
        num_heads = max(embed_dim // 64, 1) if num_heads is None else num_heads
        check_sizes(num_classes=num_classes, depth=depth, num_heads=num_heads)
        if num_classes == 1:
            raise ConfigError(
                'num_classes must be 2 or more for the mask transformer, which normalises its scores over the classes, '
                'got 1: take two outputs, or the linear decoder.'
            )
        if embed_dim % num_heads:
            raise ConfigError(f'embed_dim={embed_dim} does not divide into num_heads={num_heads} heads.')
        rates = torch.linspace(0, drop_path, depth, device='cpu').tolist()
        self.num_classes = num_classes
        self.cls_emb = nn.Parameter(torch.empty(1, num_classes, embed_dim))
        self.proj_dec = nn.Linear(in_channels, embed_dim)
        self.blocks = nn.ModuleList(
            TokenBlock(
                embed_dim,
                num_heads,
                qkv_bias=True,
                proj_drop=dropout,
                attn_drop=dropout,
                drop_path=rate,
                norm_layer=LayerNorm,
            )
            for rate in rates
        )
        self.decoder_norm = LayerNorm(embed_dim)
        self.proj_patch = nn.Parameter(torch.empty(embed_dim, embed_dim))
        self.proj_classes = nn.Parameter(torch.empty(embed_dim, embed_dim))
        self.mask_norm = LayerNorm(num_classes)
        init_decoder(self)
        trunc_normal_(self.cls_emb, std=0.02)
        for matrix in (self.proj_patch, self.proj_classes):
            nn.init.normal_(matrix, std=embed_dim**-0.5)

    def forward(self, tokens: Tokens) -> Tensor:
        tokens = tokens.patches()
        return tokens.to_map(self.masks(tokens, self.decode(tokens)))

    def decode(self, tokens: Tokens, observer: Reduction = PLAIN) -> Tokens:
        """Patch tokens and class embeddings after the decoder's blocks. observer: sees the tokens of the blocks."""
        joint = self.embed(tokens)
        for layer, block in enumerate(self.blocks, 1):
            joint = block.run(joint, layer, observer)
        return joint

    def embed(self, tokens: Tokens) -> Tokens:
        """Return projected patch tokens with the class embeddings after them, image by image."""
        groups = tokens.groups(self.proj_dec(tokens.x))
        joint = [torch.cat([group, self.cls_emb.expand(group.shape[0], -1, -1).to(group.dtype)], 1) for group in groups]
        lengths = tokens.lengths and tuple(n + self.num_classes for n in tokens.lengths)
        joint = torch.cat(joint, 1) if lengths else joint[0]
        return tokens.replace(x=joint, lengths=lengths, size=None, index=None, trace=(), steps=())

    def masks(self, tokens: Tokens, joint: Tokens) -> Tensor:
        """Compute the cosine of patch tokens and classes, then LayerNorm over classes; laid out as tokens.x."""
        normed = joint.replace(x=self.decoder_norm(joint.x))
        scores = []
        for group in normed.groups():
            patches = group[:, : -self.num_classes] @ self.proj_patch
            classes = group[:, -self.num_classes :] @ self.proj_classes
            scores.append(F.normalize(patches, dim=-1) @ F.normalize(classes, dim=-1).transpose(1, 2))
        return self.mask_norm(tokens.join(scores))


def init_decoder(decoder: nn.Module) -> None:
    """Truncated normal weights of deviation 0.02 and zero biases for every linear layer, as published."""
    for module in decoder.modules():
        if isinstance(module, nn.Linear):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def enlarge_scores(scores: Tensor, image_size: tuple[int, int], patch_size: tuple[int, int] | None) -> Tensor:
    """Bilinear enlargement of patch scores to pixels: to the padded size, then cropped (Segmenter's rule).

    scores: (B, K, h, w) -> (B, K, H, W). With patch_size=None straight to the image size (Expedite's rule).
    """
    size = image_size
    if patch_size is not None:
        size = (scores.shape[-2] * patch_size[0], scores.shape[-1] * patch_size[1])
    # a transposed view, which an uncopied map may be, takes ten times longer
    logits = F.interpolate(scores.contiguous(), size=size, mode='bilinear', align_corners=False)
    return logits[..., : image_size[0], : image_size[1]]


class Segmenter(Savable):
    """Encoder, decoder, enlargement: image (B, 3, H, W) -> logits (B, K, H, W).

    The encoder gives tokens (ViT(..., out='tokens')); keys are the published ones, `encoder.*` and `decoder.*`.
    """

    def __init__(self, encoder: ViT, decoder: nn.Module) -> None:
        super().__init__()
        if encoder.out != 'tokens':
            raise ConfigError(f"Segmenter decodes tokens, but its encoder gives {encoder.out!r}: set out='tokens'.")
        self.encoder = encoder
        self.decoder = decoder

    def scores(self, image: Tensor) -> Tensor:
        """Return class scores on the patch grid, (B, 3, H, W) -> (B, K, h, w)."""
        return self.decoder(self.encoder.forward_tokens(image))

    def forward(self, image: Tensor) -> Tensor:
        return enlarge_scores(self.scores(image), tuple(image.shape[-2:]), self.encoder.patch_size)
