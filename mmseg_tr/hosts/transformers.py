"""Networks of Hugging Face transformers 5: ViT, DINOv2 and DINOv3, alone, under heads, and as backbones.

Nothing of transformers is imported: a network is known by its class.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.host import Host, submodule
from mmseg_tr.hosts.rope import Rotary
from mmseg_tr.nn.attention import SelfAttention


class SplitAttention(SelfAttention):
    """Attention whose queries, keys and values have a layer each, as in transformers; returns no probabilities."""

    returns_weights = True
    layers: ClassVar[tuple[str, ...]] = ('q_proj', 'k_proj', 'v_proj', 'o_proj')
    heads_name: ClassVar[str] = 'num_attention_heads'
    dropout_name: ClassVar[str] = 'attention_dropout'

    def packed_heads(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        module = self.module
        heads = getattr(module, self.heads_name)
        return tuple(getattr(module, name)(y).unflatten(-1, (heads, -1)) for name in self.layers[:3])

    @property
    def dropout(self) -> float:
        return getattr(self.module, self.dropout_name) if self.module.training else 0.0

    def project(self, joined: Tensor, y: Tensor) -> Tensor:
        return getattr(self.module, self.layers[3])(joined)


class RotaryAttention(SplitAttention):
    """Attention of DINOv3."""

    heads_name: ClassVar[str] = 'num_heads'
    dropout_name: ClassVar[str] = 'dropout'


SCALED = dict(attn='attention', ls1='layer_scale1', drop_path1='drop_path', ls2='layer_scale2', drop_path2='drop_path')
DINOV2 = dict(blocks='encoder.layer', parts=SCALED)
DINOV3 = dict(
    blocks='model.layer', parts=SCALED, norm='norm', attention=RotaryAttention, rotary=Rotary('position_embeddings')
)
VIT = dict(
    blocks='layers',
    parts=dict(
        norm1='layernorm_before',
        attn='attention',
        ls1='dropout',
        drop_path1=None,
        norm2='layernorm_after',
        ls2='dropout',
        drop_path2=None,
    ),
)
LAYOUTS: dict[str, dict[str, Any]] = {
    'ViTModel': VIT,
    'Dinov2Model': DINOV2,
    'Dinov2Backbone': DINOV2,
    'Dinov2WithRegistersModel': DINOV2,
    'Dinov2WithRegistersBackbone': DINOV2,
    'DINOv3ViTModel': DINOV3,
    'DINOv3ViTBackbone': DINOV3,
}


def transformers_host(model: nn.Module) -> Host | None:
    """How a network of transformers is laid out; None for one that is not in LAYOUTS.

    Raises ConfigError, naming what is missing, where its modules are those of another release.
    """
    kind = type(model)
    if not kind.__module__.startswith('transformers.models.') or kind.__name__ not in LAYOUTS:
        return None
    layout: dict[str, Any] = dict(norm='layernorm', attention=SplitAttention) | LAYOUTS[kind.__name__]
    blocks = submodule(model, layout['blocks'])
    missing = [layout['blocks']] if blocks is None else []
    if blocks is not None and any(True for _ in blocks.children()):
        attention, pieces = getattr(next(blocks.children()), layout['parts']['attn'], None), layout['attention']
        wanted = (*pieces.layers, pieces.heads_name, pieces.dropout_name)
        missing = [name for name in wanted if not hasattr(attention, name)]
    if missing:
        raise ConfigError(
            f'{kind.__name__} of this release of transformers has no {missing[0]}: 5.24 or newer is supported.'
        )
    config = model.config
    side, patch = (pair(value) for value in (config.image_size, config.patch_size))
    return Host(
        prefix=1 + getattr(config, 'num_register_tokens', 0),
        patch_embed='embeddings.patch_embeddings',
        patch_size=patch,
        image_size=side,
        **layout,
    )


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of a number or a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)
