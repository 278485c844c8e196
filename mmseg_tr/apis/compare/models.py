"""The networks of a comparison: their names, the plain one, and the check that they can be compared."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.network import is_pose
from mmseg_tr.apis.config import reduction_settings, use_reduction
from mmseg_tr.engine.pose_checks import keypoint_count
from mmseg_tr.errors import ConfigError

PLAIN = 'plain'


def names_of(configs: Sequence[str]) -> list[str]:
    """Return a short name for every config file: its stem without the parts that all share.

    Raises ConfigError when a config comes twice.
    """
    stems = [Path(path).stem for path in configs]
    for stem in stems:
        if stems.count(stem) > 1:
            raise ConfigError(f'each config must be given once, got {stem} twice.')
    shared = set.intersection(*(set(stem.split('_')) for stem in stems)) if len(stems) > 1 else set()
    names = ['_'.join(part for part in stem.split('_') if part not in shared) or stem for stem in stems]
    return names if len(set(names)) == len(names) else stems


def settings_of(config: Config) -> dict[str, Any]:
    """Return a config's reduction settings; empty for a plain network."""
    return reduction_settings(config.model.get('backbone') or {})


def with_plain(configs: dict[str, Config]) -> dict[str, Config]:
    """Put the plain model first: the first config without a method, else the first with its method removed."""
    for name, config in configs.items():
        if not settings_of(config):
            return {name: config} | configs
    plain = copy.deepcopy(next(iter(configs.values())))
    plain.model.backbone.pop('reduction', None)
    return {PLAIN if PLAIN not in configs else 'without reduction': plain} | configs


def with_methods(
    configs: dict[str, Config], base: Config, methods: Sequence[str] = (), reductions: Sequence[str] = ()
) -> dict[str, Config]:
    """Return the configs and `base` under further methods, each named as it was given.

    methods: bare names, such as tome, which take their defaults for the network. reductions: also settings, as
    config.parse_reduction() reads them. Raises ConfigError for one that cannot be read, is plain, or is given twice.
    """
    found = dict(configs)
    for parameter, texts in (('methods', methods), ('reductions', reductions)):
        for text in texts:
            if parameter == 'methods' and not re.fullmatch(r'[\w+-]+', text):
                raise ConfigError(
                    f'methods must be names such as tome, got {text}: settings are reductions.', parameters=[parameter]
                )
            if text in found:
                raise ConfigError(f'each method must be given once, got {text} twice.', parameters=[parameter])
            found[text] = copy.deepcopy(base)
            use_reduction(found[text], text)
            if not settings_of(found[text]):
                raise ConfigError(
                    f'{parameter} must name methods, got {text}: the plain model is included.', parameters=[parameter]
                )
    return found


def check_alike(models: Mapping[str, nn.Module]) -> None:
    """Raise ConfigError unless all are segmentors of as many classes, or all pose estimators of as many keypoints."""
    first = next(iter(models))
    for name, model in models.items():
        if not hasattr(model, 'encode_decode') and not is_pose(model):
            raise ConfigError(
                f'{name} is a {type(model).__name__}: only segmentation networks and pose estimators can be compared.'
            )
        if predicted(model) != predicted(models[first]):
            raise ConfigError(
                f'{name} predicts {predicted(model)}, {first} {predicted(models[first])}: compare models of one '
                'dataset.'
            )


def predicted(model: nn.Module) -> str:
    """Return '150 classes' or '17 keypoints'."""
    return f'{keypoint_count(model)} keypoints' if is_pose(model) else f'{model.num_classes} classes'


@torch.no_grad()
def share_weights(models: Mapping[str, nn.Module]) -> None:
    """Share the first model's tensors with all others where equal, so that peak memory is that of one model."""
    first, *others = models.values()
    own = dict(chain(first.named_parameters(), first.named_buffers()))
    for model in others:
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            if name in own and torch.equal(tensor, own[name]):
                tensor.data = own[name].data
