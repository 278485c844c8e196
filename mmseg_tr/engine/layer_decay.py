"""Layer-wise learning-rate decay: blocks near the input learn more slowly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.backbone import Backbone
from mmseg_tr.reduction.checks import check_number
from mmseg_tr.registry import OPTIM_WRAPPER_CONSTRUCTORS

OURS = 'mmseg_tr.LayerDecayOptimWrapperConstructor'
# of mmpose and of mmseg, which only know the blocks of their own networks
THEIRS = (
    'LayerDecayOptimWrapperConstructor',
    'LearningRateDecayOptimizerConstructor',
    'LayerDecayOptimizerConstructor',
)
SETTINGS = ('layer_decay_rate', 'decay_rate', 'num_layers', 'decay_type', 'custom_keys')
UNDECAYED = ('pos_embed', 'cls_token', 'dist_token', 'reg_token', 'cls_emb')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Optimizer whose learning rate falls by a factor per block from the head to the embeddings, for ViT and MiT.

    optim_wrapper = dict(
        optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.1),
        constructor='mmseg_tr.LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.75))

    paramwise_cfg: layer_decay_rate (decay_rate is mmseg's name of it), above 0 and at most 1; num_layers, the number of
    blocks, may be given and is checked; custom_keys as in mmengine, lr_mult and decay_mult of the longest key in a
    parameter's name. Block i of N has lr * rate ** (N + 1 - i), embeddings count as block 0, and the head and the final
    norm have the full rate. Norms, biases, positions and tokens have no weight decay.
    Raises ConfigError for other settings, and for a network without a backbone of this package.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg or dict(layer_decay_rate=None))

    def add_params(self, params: list[dict[str, Any]], module: nn.Module, **_: Any) -> None:
        """Append a group for every learning rate and weight decay."""
        backbone = find_backbone(module)
        if backbone is None:
            raise ConfigError(f'{OURS} needs a ViT or MiT of this package as backbone: leave the constructor out.')
        rate = decay_rate(self.paramwise_cfg, backbone)
        prefix = next(f'{name}.' if name else '' for name, part in module.named_modules() if part is backbone)
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            inside = name.startswith(prefix)
            number = backbone.layer_of(name.removeprefix(prefix)) if inside else backbone.depth + 1
            custom = self.custom(name)
            scale = rate ** (backbone.depth + 1 - number) * custom.get('lr_mult', 1.0)
            decays = parameter.ndim > 1 and not name.endswith('.bias') and name.rpartition('.')[2] not in UNDECAYED
            decay = (self.base_wd or 0.0) * decays * custom.get('decay_mult', 1.0)
            new = dict(params=[], lr=self.base_lr * scale, lr_scale=scale, weight_decay=decay)
            groups.setdefault((scale, decay), new)['params'].append(parameter)
        params.extend(groups[key] for key in sorted(groups))

    def custom(self, name: str) -> Mapping[str, float]:
        """Return the custom settings of a parameter."""
        keys = self.paramwise_cfg.get('custom_keys', {})
        found = [key for key in keys if key in name]
        return keys[max(found, key=len)] if found else {}


def decay_rate(settings: Mapping[str, Any], backbone: Backbone) -> float:
    """Return the factor in paramwise_cfg. Raises ConfigError for settings that do not exist or do not fit."""
    unknown = [key for key in settings if key not in SETTINGS]
    if unknown:
        raise ConfigError(f'paramwise_cfg has no setting {unknown[0]!r} here: its settings are {", ".join(SETTINGS)}.')
    if settings.get('decay_type', 'layer_wise') not in ('layer_wise', 'layer_wise_vit'):
        raise ConfigError(f"paramwise_cfg decay_type must be 'layer_wise', got {settings['decay_type']!r}.")
    rate = settings.get('layer_decay_rate', settings.get('decay_rate'))
    check_number('paramwise_cfg layer_decay_rate', rate, 0, 1, open_below=True)
    if settings.get('num_layers', backbone.depth) != backbone.depth:
        raise ConfigError(
            f'paramwise_cfg num_layers must be {backbone.depth}, the number of blocks of the backbone, '
            f'got {settings["num_layers"]!r}.'
        )
    return float(rate)


def recognised(optim_wrapper: Any, model: nn.Module) -> bool:
    """Return whether an optimizer's config uses mmpose's or mmseg's layer decay on a network of this package."""
    kind = optim_wrapper.get('constructor') if isinstance(optim_wrapper, Mapping) else None
    theirs = isinstance(kind, str) and kind != OURS and kind.rpartition('.')[2] in THEIRS
    return theirs and find_backbone(model) is not None
