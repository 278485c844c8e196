"""A plain transformer with rotary positions, as golden cases of kind `rope_network` describe it (DINOv3's form)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmseg_tr.hosts.timm import Eva
from mmseg_tr.reduction import Reduction, Tokens
from mmseg_tr.reduction.ladder import Grid


def rope_angles(grid: Grid, head_dim: int, base: float, normalise: str) -> Tensor:
    """Angle of every patch and channel pair, (h*w, head_dim / 2): rows first, then columns, over the range -1 to 1."""
    scale = dict(separate=grid, max=(max(grid),) * 2, min=(min(grid),) * 2)[normalise]
    rows, columns = (2 * (torch.arange(side) + 0.5) / whole - 1 for side, whole in zip(grid, scale, strict=True))
    places = torch.stack(torch.meshgrid(rows, columns, indexing='ij'), -1).view(-1, 2)  # (h*w, 2)
    periods = base ** (2 * torch.arange(head_dim // 4) / (head_dim // 2))
    return (2 * math.pi * places[:, :, None] / periods).flatten(1)


def rotated(x: Tensor, angles: Tensor, rotate: str) -> Tensor:
    """Queries or keys (B, H, N, d) turned by their places' angles (N, d / 2)."""
    if rotate == 'half':
        sin, cos = (function(angles).repeat(1, 2) for function in (torch.sin, torch.cos))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat([-second, first], -1) * sin
    sin, cos = (function(angles).repeat_interleave(2, 1) for function in (torch.sin, torch.cos))
    return x * cos + torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2) * sin


@dataclass(frozen=True)
class RotaryNetwork:
    """The network of a case: weights by timm's Eva keys, settings, and a method that acts before its blocks."""

    weights: Mapping[str, Tensor]
    depth: int
    heads: int
    patch: int
    eps: float
    rope: Mapping[str, object]

    def embed(self, image: Tensor) -> Tokens:
        """Patches after the class and register tokens; no position enters here."""
        w = self.weights
        features = F.conv2d(image, w['patch_embed.proj.weight'], w['patch_embed.proj.bias'], stride=self.patch)
        prefix = torch.cat([w[name] for name in ('cls_token', 'reg_token') if name in w], 1)
        x = torch.cat([prefix.expand(len(image), -1, -1), features.flatten(2).transpose(1, 2)], 1)
        return Tokens(x, tuple(features.shape[-2:]), prefix.shape[1])

    def block(self, tokens: Tokens, layer: int) -> Tokens:
        """One block on tokens that form their grid, or the rectangle that a method left."""
        x = tokens.x + self.part(layer, 'gamma_1') * self.attention(
            self.norm(tokens.x, f'blocks.{layer - 1}.norm1'), tokens, layer
        )
        y = self.norm(x, f'blocks.{layer - 1}.norm2')
        hidden = F.gelu(F.linear(y, self.part(layer, 'mlp.fc1.weight'), self.part(layer, 'mlp.fc1.bias')))
        y = F.linear(hidden, self.part(layer, 'mlp.fc2.weight'), self.part(layer, 'mlp.fc2.bias'))
        return tokens.replace(x=x + self.part(layer, 'gamma_2') * y)

    def attention(self, y: Tensor, tokens: Tokens, layer: int) -> Tensor:
        bias = torch.cat([q := self.part(layer, 'attn.q_bias'), torch.zeros_like(q), self.part(layer, 'attn.v_bias')])
        qkv = F.linear(y, self.part(layer, 'attn.qkv.weight'), bias).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (B, H, E + T, d) each
        grid = tokens.rectangle or tokens.grid
        angles = rope_angles(grid, q.shape[-1], self.rope['base'], self.rope['normalise']).to(q.dtype)
        q, k = (
            torch.cat(
                [
                    part[:, :, : tokens.num_prefix],
                    rotated(part[:, :, tokens.num_prefix :], angles, self.rope['rotate']),
                ],
                2,
            )
            for part in (q, k)
        )
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return F.linear(x, self.part(layer, 'attn.proj.weight'), self.part(layer, 'attn.proj.bias'))

    def norm(self, x: Tensor, name: str = 'norm') -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.weights[f'{name}.weight'], self.weights[f'{name}.bias'], self.eps)

    def part(self, layer: int, name: str) -> Tensor:
        return self.weights[f'blocks.{layer - 1}.{name}']

    def run(self, image: Tensor, method: Reduction) -> tuple[dict[int, Tokens], dict[int, Tokens]]:
        """Tokens that enter and that leave every block."""
        tokens, entered, left = self.embed(image), {}, {}
        for layer in range(1, self.depth + 1):
            entered[layer] = method.before_block(tokens, layer)
            tokens = left[layer] = self.block(entered[layer], layer)
        return entered, left


def rotary_host(settings: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Eva:
    """The network of a case in timm's own class, with its weights."""
    eva, rope = settings['eva'], settings['rope']
    model = Eva(
        img_size=eva['img'],
        patch_size=eva['patch'],
        embed_dim=eva['dim'],
        depth=eva['depth'],
        num_heads=eva['heads'],
        mlp_ratio=eva['mlp_ratio'],
        num_reg_tokens=eva['reg_tokens'],
        class_token='cls_token' in weights,
        num_classes=0,
        global_pool='',
        init_values=1.0,
        norm_layer=partial(nn.LayerNorm, eps=settings['layernorm_eps']),
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        rope_type='dinov3',
        rope_temperature=rope['base'],
        rope_rotate_half=rope['rotate'] == 'half',
        dynamic_img_size=True,
    )
    model.load_state_dict(weights)
    return model.eval()
