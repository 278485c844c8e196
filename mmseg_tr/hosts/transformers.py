"""Networks of Hugging Face transformers 4.57 and 5, alone, under heads, and as backbones.

Nothing of transformers is imported: a network is known by its class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.host import Host, Queries, other_release, submodule
from mmseg_tr.hosts.rope import Rotary
from mmseg_tr.nn.attention import SelfAttention


class SplitAttention(SelfAttention):
    """Attention whose queries, keys and values have a layer each, as in transformers; returns no probabilities."""

    returns_weights = True
    layers: ClassVar[tuple[str, ...]] = ('q_proj', 'k_proj', 'v_proj', 'o_proj')
    heads_name: ClassVar[str] = 'num_attention_heads'
    dropout_name: ClassVar[str] = 'attention_dropout'

    def packed_heads(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads: Any = submodule(self.module, self.heads_name)
        q, k, v = (self._layer(place)(y).unflatten(-1, (heads, -1)) for place in range(3))
        return q, k, v

    def _layer(self, place: int) -> Any:
        return submodule(self.module, self.layers[place])

    @property
    def dropout(self) -> float:
        rate: Any = submodule(self.module, self.dropout_name)
        return rate if self.module.training else 0.0

    def project(self, joined: Tensor, y: Tensor) -> Tensor:
        return self._layer(3)(joined)


class NamedAttention(SplitAttention):
    """Attention of DINOv3."""

    heads_name: ClassVar[str] = 'num_heads'
    dropout_name: ClassVar[str] = 'dropout'


class EomtAttention(NamedAttention):
    """Attention of EoMT on DINOv2."""

    layers: ClassVar[tuple[str, ...]] = ('q_proj', 'k_proj', 'v_proj', 'out_proj')


class NestedAttention(SplitAttention):
    """Attention of ViTPose and DPT, in 4.57 of others too: a module of three layers, and one of the last layer."""

    returns_weights = False
    layers: ClassVar[tuple[str, ...]] = ('attention.query', 'attention.key', 'attention.value', 'output.dense')
    heads_name: ClassVar[str] = 'attention.num_attention_heads'
    dropout_name: ClassVar[str] = 'attention.dropout_prob'

    def project(self, joined: Tensor, y: Tensor) -> Tensor:
        return self.module.output(joined, y)


@dataclass(frozen=True)
class TwoPartMLP:
    """MLP of DPT's blocks, and in 4.57 of ViT's, without the residual that the second module of the block adds."""

    block: nn.Module

    def __call__(self, y: Tensor) -> Tensor:
        output: Any = self.block.output
        return output.dropout(output.dense(self.block.intermediate(y)))


SCALED = dict(attn='attention', ls1='layer_scale1', drop_path1='drop_path', ls2='layer_scale2', drop_path2='drop_path')
NAMED = dict(norm1='layernorm_before', attn='attention', norm2='layernorm_after', drop_path1=None, drop_path2=None)
ROTARY = dict(attention=NamedAttention, rotary=Rotary('position_embeddings'))
DPT = dict(blocks='encoder.layer', parts=dict(NAMED, ls1=None, ls2=None, mlp=TwoPartMLP), attention=NestedAttention)
# the layout of the newest release first, then that of 4.57
VIT = (dict(blocks='layers', parts=dict(NAMED, ls1='dropout', ls2='dropout')), DPT)
DINOV2 = (
    dict(blocks='encoder.layer', parts=SCALED),
    dict(blocks='encoder.layer', parts=SCALED, attention=NestedAttention),
)
DINOV3 = tuple(dict(blocks=blocks, parts=SCALED, norm='norm', **ROTARY) for blocks in ('model.layer', 'layer'))
VITPOSE = dict(
    blocks='encoder.layer',
    parts=dict(NAMED, ls1=None, ls2=None),
    attention=NestedAttention,
    prefix=0,
    class_token=False,
    fixed=True,
)
EOMT = dict(blocks='layers', parts=SCALED, attention=EomtAttention, fixed=True, numbers=('attn_mask_probs',))
LAYOUTS: dict[str, dict[str, Any] | tuple[dict[str, Any], ...]] = {
    'ViTModel': VIT,
    'Dinov2Model': DINOV2,
    'Dinov2Backbone': DINOV2,
    'Dinov2WithRegistersModel': DINOV2,
    'Dinov2WithRegistersBackbone': DINOV2,
    'DINOv3ViTModel': DINOV3,
    'DINOv3ViTBackbone': DINOV3,
    'VitPoseBackbone': VITPOSE,
    'DPTModel': DPT,
    'EomtForUniversalSegmentation': EOMT,
    'EomtDinov3ForUniversalSegmentation': EOMT | ROTARY,
}
# what a config must have, and why not otherwise
WANTED = {
    'num_experts': (1, 'a mixture of experts chooses its MLP by data set'),
    'is_hybrid': (False, 'a convolutional network makes its patches'),
}


def transformers_host(model: nn.Module) -> Host | None:
    """Return how a network of transformers is laid out; None for one that is not in LAYOUTS.

    Raises ConfigError, naming what is missing, where its modules are those of another release.
    """
    kind = type(model)
    if not kind.__module__.startswith('transformers.models.') or kind.__name__ not in LAYOUTS:
        return None
    layout = fitting_layout(model, LAYOUTS[kind.__name__])
    config: Any = model.config
    for name, (value, reason) in WANTED.items():
        if getattr(config, name, value) != value:
            raise ConfigError(f'{name} must be {value} in {kind.__name__}: {reason}.')
    side, patch = (pair(value) for value in (config.image_size, config.patch_size))
    if layout.pop('fixed', False):
        layout |= dict(grid=(side[0] // patch[0], side[1] // patch[1]))
    if getattr(config, 'num_queries', 0):
        layout |= dict(queries=Queries(config.num_queries, config.num_hidden_layers - config.num_blocks + 1))
    layout |= dict(patch_embed='embeddings.patch_embeddings')
    prefix = dict(prefix=1 + getattr(config, 'num_register_tokens', 0))
    return Host(**(prefix | dict(patch_size=patch, image_size=side) | layout))


def fitting_layout(model: nn.Module, known: dict[str, Any] | tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Return the first known layout that a network has.

    Raises ConfigError, naming what the newest layout lacks, where it has none of them.
    """
    layouts = [
        dict(norm='layernorm', attention=SplitAttention) | each
        for each in ([known] if isinstance(known, dict) else known)
    ]
    missing = [missing_module(model, layout) for layout in layouts]
    if None not in missing:
        raise other_release(model, str(missing[0]))
    return layouts[missing.index(None)]


def missing_module(model: nn.Module, layout: dict[str, Any]) -> str | None:
    """Return the first module of a layout that a network lacks; None for one that has it."""
    blocks = submodule(model, layout['blocks'])
    missing = [layout['blocks']] if blocks is None else []
    if blocks is not None and any(True for _ in blocks.children()):
        block, pieces = next(blocks.children()), layout['attention']
        wanted = [part for part in layout['parts'].values() if isinstance(part, str) and part != 'drop_path']
        attention = layout['parts']['attn']
        wanted += [f'{attention}.{name}' for name in (*pieces.layers, pieces.heads_name, pieces.dropout_name)]
        missing = [name for name in wanted if submodule(block, name) is None]
    return missing[0] if missing else None


def pair(value: Any) -> tuple[int, int]:
    """Return (height, width) of a number or a pair."""
    return (value, value) if isinstance(value, int) else tuple(value)
