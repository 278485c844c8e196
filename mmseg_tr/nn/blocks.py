"""One pre-norm transformer block, with the points at which a token-reduction method acts."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmseg_tr.errors import ExportError
from mmseg_tr.nn.attention import SelfAttention
from mmseg_tr.reduction.base import Reduction
from mmseg_tr.reduction.ops import host_numbers
from mmseg_tr.reduction.tokens import Tokens

PLAIN = Reduction()


def run_block(block: Block, tokens: Tokens, layer: int, reduction: Reduction = PLAIN) -> Tokens:
    """x += Attn(LN1 x); x += MLP(LN2 x), LayerScale and stochastic depth included. layer counts from 1."""
    if reduction is not PLAIN:
        refuse_tracing()
    tokens = reduction.before_block(tokens, layer)
    y = block.norm1(tokens.x)
    y, seen = reduction.attention(SelfAttention(block.attn), y, tokens, layer)
    tokens = tokens.replace(x=tokens.x + drop_path(block.drop_path1, block.ls1(y), tokens))
    tokens = reduction.after_attention(tokens, layer, seen)
    y = reduction.mlp(block.mlp, block.norm2(tokens.x), tokens, layer)
    tokens = tokens.replace(x=tokens.x + drop_path(block.drop_path2, block.ls2(y), tokens))
    return reduction.after_block(tokens, layer).traced()


def refuse_torchscript() -> None:
    """Raise ExportError: what torch.jit.script() asks a module first, as __prepare_scriptable__()."""
    raise ExportError(
        'TorchScript cannot hold a network of mmseg_tr: use torch.export.export(), or mmseg-tr export (.pt2, .onnx).'
    )


def refuse_tracing() -> None:
    """Raise ExportError inside torch.jit.trace(), which would repeat the decisions made for one image."""
    if torch.jit.is_tracing():
        refuse_torchscript()


class BlockCall:
    """What a block runs in one forward. tokens: those that enter; after the block those that leave.

    Not a dataclass: wrappers such as FSDP2 copy those among a module's arguments.
    """

    def __init__(self, tokens: Tokens, layer: int, reduction: Reduction) -> None:
        self.tokens, self.layer, self.reduction = tokens, layer, reduction


class TokenBlock(Block):
    """timm's block, which also runs under a method. Parts, keys and hooks are timm's.

    block(x) is timm's own forward. run() passes the tensor of the tokens through the module, so that hooks, wrappers
    and what they do to inputs and outputs work as on timm's: a hook sees args[0] and the output as (B, T, C).
    """

    @classmethod
    def of(cls, block: Block) -> TokenBlock:
        """Return the same block, state and hooks included, as a TokenBlock; the given one stays usable."""
        shared = cls.__new__(cls)
        shared.__dict__ = block.__dict__
        return shared

    def forward(  # type: ignore[override]
        self, x: Tensor, call: BlockCall | None = None, *args, **kwargs
    ) -> Tensor:
        if not isinstance(call, BlockCall):
            given = (call, *args) if call is not None or args else ()
            return super().forward(x, *given, **kwargs)
        call.tokens = run_block(self, call.tokens.replace(x=x), call.layer, call.reduction)
        return call.tokens.x

    def run(self, tokens: Tokens, layer: int, reduction: Reduction = PLAIN, recompute: bool = False) -> Tokens:
        """run_block() through this module. recompute: run it again in the backward pass to save memory."""
        if recompute:
            return checkpoint(self.run, tokens, layer, reduction, use_reentrant=False)
        call = BlockCall(tokens, layer, reduction)
        x = self(tokens.x, call)
        return call.tokens.replace(x=x)


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
