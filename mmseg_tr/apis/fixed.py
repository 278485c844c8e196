"""Budgets in configs: reduction=dict(type='ALGM', budget=0.6) becomes settings of fixed shapes for the network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.apis.build import build_model, known_shape
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.fixed import fixed_form
from mmseg_tr.hosts.own import OwnTarget
from mmseg_tr.reduction import find_method

KEYS = ('budget', 'tokens')


def settle_budget(config: Config) -> None:
    """Replace budget or tokens in the reduction of a config's backbone by the settings that keep to it, in place.

    The multiply-adds of the whole network count, at the size that the config gives its images. Raises ConfigError for
    a budget that the method cannot keep, and without a size.
    """
    model = config.get('model')
    backbone = model.get('backbone') if isinstance(model, Mapping) else None
    reduction = backbone.get('reduction') if isinstance(backbone, Mapping) else None
    if not isinstance(reduction, Mapping) or not set(KEYS) & reduction.keys():
        return
    asked: dict[str, Any] = dict(reduction)
    fixed = {key: asked.pop(key, None) for key in KEYS}
    plain = copy.deepcopy(config)
    plain.model.backbone.reduction = None
    target = config_target(config, build_model(plain, None).eval())
    target.check_fits(find_method(asked.get('type')))
    settings = fixed_form(asked, fixed['budget'], fixed['tokens'], None, target).settings()
    backbone['reduction'] = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def config_target(config: Config, network: nn.Module) -> OwnTarget:
    """The backbone of a config's plain network as a target for a budget of the whole network.

    Raises ConfigError without such a backbone, and without a size where the backbone has none.
    """
    found = find_backbone(network)
    if found is None:
        raise ConfigError(f'budget needs a backbone that takes a method, and {config.filename} has none.')
    size = known_shape(config)
    if size is None and len(found.depths) > 1:
        raise ConfigError(
            f'budget needs the size of the images: set data_preprocessor.size or test_cfg.crop_size in '
            f'{config.filename}.'
        )
    return OwnTarget(found, size if len(found.depths) > 1 else None, weights=True, whole=network)
