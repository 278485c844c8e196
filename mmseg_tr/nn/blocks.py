"""One pre-norm transformer block, with the points at which a token-reduction method acts."""

from __future__ import annotations

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from mmseg_tr.nn.attention import SelfAttention
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.ops import host_numbers
from mmseg_tr.reduction.tokens import Tokens

PLAIN = Reduction()


def run_block(block: Block, tokens: Tokens, layer: int, reduction: Reduction = PLAIN) -> Tokens:
    """x += Attn(LN1 x); x += MLP(LN2 x), LayerScale and stochastic depth included. layer counts from 1."""
    tokens = reduction.before_block(tokens, layer)
    y = block.norm1(tokens.x)
    y, seen = reduction.attention(SelfAttention(block.attn), y, tokens, layer)
    tokens = tokens.replace(x=tokens.x + drop_path(block.drop_path1, block.ls1(y), tokens))
    tokens = reduction.after_attention(tokens, layer, seen)
    y = reduction.mlp(block.mlp, block.norm2(tokens.x), tokens, layer)
    tokens = tokens.replace(x=tokens.x + drop_path(block.drop_path2, block.ls2(y), tokens))
    return reduction.after_block(tokens, layer).traced()


def drop_path(module: nn.Module, branch: Tensor, tokens: Tokens) -> Tensor:
    """Stochastic depth per image, also where images are packed into one row. branch is laid out as tokens.x."""
    drop_prob = getattr(module, 'drop_prob', 0.0)  # of timm's DropPath, and of those in transformers
    if tokens.lengths is None or not drop_prob or not module.training:
        return module(branch)
    keep = 1 - drop_prob
    mask = branch.new_empty(tokens.num_images).bernoulli_(keep)
    if getattr(module, 'scale_by_keep', True) and keep > 0:
        mask = mask / keep
    lengths = host_numbers(tokens.lengths, branch.device)
    return branch * mask.repeat_interleave(lengths, output_size=branch.shape[1])[None, :, None]
