"""Networks of timm: VisionTransformer, its distilled form, and Eva (DINOv3, EVA-02, PE)."""

from __future__ import annotations

from typing import Any

from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.host import Host

ensure_torchvision()  # timm imports torchvision

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from timm.layers import Attention, AttentionRope  # noqa: E402
from timm.models.deit import VisionTransformerDistilled  # noqa: E402
from timm.models.eva import Eva, EvaAttention, EvaBlock  # noqa: E402
from timm.models.vision_transformer import Block, VisionTransformer  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from mmseg_tr.hosts.rope import Rotary, halves  # noqa: E402
from mmseg_tr.nn.attention import SelfAttention  # noqa: E402


class EvaHeads(SelfAttention):
    """Attention of Eva: one or three projections, a bias without its part for keys, fewer heads for keys and values."""

    def packed_heads(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        module = self.module
        if module.qkv is None:
            parts = [layer(y) for layer in (module.q_proj, module.k_proj, module.v_proj)]
        else:
            parts = self._joint(y).chunk(3, -1)
        head_dim = parts[0].shape[-1] // module.num_heads  # timm 1.0.22 keeps none
        q, k, v = (part.unflatten(-1, (-1, head_dim)) for part in parts)
        q, k = module.q_norm(q), module.k_norm(k)
        fewer = q.shape[-2] // k.shape[-2]
        if fewer > 1:
            k, v = (part.repeat_interleave(fewer, -2) for part in (k, v))
        return q, k, v

    def _joint(self, y: Tensor) -> Tensor:
        module = self.module
        if getattr(module, 'q_bias', None) is None:
            return module.qkv(y)
        bias = torch.cat([module.q_bias, module.k_bias, module.v_bias])
        return module.qkv(y) + bias if module.qkv_bias_separate else F.linear(y, module.qkv.weight, bias)


# class of the network -> class of its blocks, classes of their attention, and what differs in the layout
LAYOUTS: dict[type, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    VisionTransformer: (Block, (Attention,), {}),
    VisionTransformerDistilled: (Block, (Attention,), {}),
    Eva: (
        EvaBlock,
        (EvaAttention, AttentionRope),
        dict(parts=dict(ls1='gamma_1', ls2='gamma_2'), attention=EvaHeads, rotary=Rotary('rope', halves)),
    ),
}


def timm_host(model: nn.Module) -> Host | None:
    """Return how a network of timm is laid out; None for one that is not in LAYOUTS.

    Raises ConfigError where its parts are not those that this package knows.
    """
    if type(model) not in LAYOUTS:
        return None
    kind, attentions, layout = LAYOUTS[type(model)]
    for number, block in enumerate(model.blocks, 1):
        if type(block) is not kind or type(block.attn) not in attentions:
            other = block if type(block) is not kind else block.attn
            raise ConfigError(
                f'block {number} has a {type(other).__name__}, which is not supported: only plain blocks of timm are. '
                'Another library may have replaced it; for blocks of your own see mmseg_tr.Host.'
            )
    check_patch_drop(model)
    if getattr(model, 'rope', True) is None:
        layout = layout | dict(rotary=None)
    embed = model.patch_embed
    fixed = not model.dynamic_img_size
    return Host(
        blocks='blocks',
        prefix=model.num_prefix_tokens,
        grid=tuple(embed.grid_size) if fixed else None,
        patch_embed='patch_embed',
        patch_size=tuple(embed.patch_size),
        pads=embed.dynamic_img_pad,
        class_token=model.cls_token is not None,
        norm_pre='norm_pre',
        image_size=tuple(embed.img_size) if embed.img_size is not None else None,
        **layout,
    )


def check_patch_drop(model: Any) -> None:
    """Raise ConfigError for a network of timm that drops patches in training."""
    if not isinstance(model.patch_drop, nn.Identity | None):
        raise ConfigError('patch_drop_rate must be 0: a network that drops patches in training has no grid.')
