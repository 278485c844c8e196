"""Networks of Hugging Face transformers 5: ViT and DINOv2, alone, under heads, and as backbones.

Nothing of transformers is imported: a network is known by its class.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.host import Host, submodule
from mmseg_tr.nn.attention import SelfAttention

DINOV2 = dict(
    blocks='encoder.layer',
    parts=dict(
        attn='attention', ls1='layer_scale1', drop_path1='drop_path', ls2='layer_scale2', drop_path2='drop_path'
    ),
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
}


class SplitAttention(SelfAttention):
    """Attention whose queries, keys and values have a layer each, as in transformers; returns no probabilities."""

    returns_weights = True

    def packed_heads(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        module = self.module
        layers = (module.q_proj, module.k_proj, module.v_proj)
        return tuple(layer(y).unflatten(-1, (module.num_attention_heads, -1)) for layer in layers)

    @property
    def dropout(self) -> float:
        return self.module.attention_dropout if self.module.training else 0.0

    def project(self, joined: Tensor, y: Tensor) -> Tensor:
        return self.module.o_proj(joined)


def transformers_host(model: nn.Module) -> Host | None:
    """How a network of transformers is laid out; None for one that is not in LAYOUTS.

    Raises ConfigError, naming what is missing, where its modules are those of another release.
    """
    kind = type(model)
    if not kind.__module__.startswith('transformers.models.') or kind.__name__ not in LAYOUTS:
        return None
    layout = LAYOUTS[kind.__name__]
    blocks = submodule(model, layout['blocks'])
    missing = [layout['blocks']] if blocks is None else []
    if blocks is not None and any(True for _ in blocks.children()):
        attention = getattr(next(blocks.children()), layout['parts']['attn'], None)
        missing = [name for name in ('q_proj', 'k_proj', 'v_proj', 'o_proj') if not hasattr(attention, name)]
    if missing:
        raise ConfigError(
            f'{kind.__name__} of this release of transformers has no {missing[0]}: 5.24 or newer is supported.'
        )
    config = model.config
    side, patch = (pair(value) for value in (config.image_size, config.patch_size))
    return Host(
        prefix=1 + getattr(config, 'num_register_tokens', 0),
        norm='layernorm',
        patch_embed='embeddings.patch_embeddings',
        patch_size=patch,
        attention=SplitAttention,
        image_size=side,
        **layout,
    )


def pair(value: Any) -> tuple[int, int]:
    """(height, width) of a number or a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)
