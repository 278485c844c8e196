"""Rivals of token reduction: what a user would pick instead, in the same comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.network import find_backbone, is_pose
from mmseg_tr.analysis.speed import Contestant, mixed_precision
from mmseg_tr.apis.build import build_model, own_shape
from mmseg_tr.apis.compare.models import check_alike, settings_of
from mmseg_tr.apis.compare.options import CompareOptions
from mmseg_tr.apis.config import load_config, require_sections
from mmseg_tr.engine.preprocess import input_channels
from mmseg_tr.engine.windows import by
from mmseg_tr.errors import ConfigError, first_line
from mmseg_tr.nn.backbone import Backbone, same_weights
from mmseg_tr.nn.rivals import SmallerInput, with_larger_patch
from mmseg_tr.nn.vit import ViT

SHARES = (0.75, 0.5)  # of the side of what enters the network
FACTOR = 2  # of the side of a patch
SHAPING = ('mode', 'crop_size', 'stride', 'small_images')  # settings of a test that decide its windows


@dataclass
class Rivals:
    """Rivals by the name of their row.

    models: those with predictions of their own. settings: what is different from the plain network. compiled: the
    plain network under torch.compile, to be timed. left_out: those that make no sense here, with the reason.
    """

    models: dict[str, nn.Module] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    compiled: dict[str, Contestant] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, model: nn.Module, **settings: Any) -> None:
        """Add a network that predicts."""
        self.models[name], self.settings[name] = model.eval(), settings


def build_rivals(
    models: Mapping[str, nn.Module],
    config: Config,
    options: CompareOptions,
    amp: torch.dtype | None,
    progress: Callable[[str], None],
) -> Rivals:
    """Return the rivals of a plain network with its weights, and the smaller networks that the options name.

    models: those that are compared, the plain network first. config: of the plain network. Raises ConfigError for a
    pose estimator, a backbone of another library, and a smaller network that does not predict the same classes in the
    same windows; CheckpointError.
    """
    found, plain = Rivals(), next(iter(models.values()))
    if not (options.rivals or options.smaller):
        return found
    if is_pose(plain):
        raise ConfigError(
            f'rivals are for segmentation, and {config.filename} is of pose: leave them out.', parameters=['rivals']
        )
    if options.rivals:
        progress('building rivals')
        backbone = find_backbone(plain)
        if backbone is None:
            raise ConfigError(
                f'rivals need a ViT or MiT of mmseg_tr, and {config.filename} has a {type(plain.backbone).__name__}.',
                parameters=['rivals'],
            )
        add_smaller_inputs(found, plain, backbone, own_shape(config))
        add_larger_patch(found, plain, backbone)
        add_compiled(found, plain, own_shape(config), amp, progress)
    for path, checkpoint in options.smaller:
        progress(f'building {path}')
        add_smaller_network(found, plain, config, load_config(path, options.cfg_options), checkpoint)
    for name in found.settings.keys() & models.keys():
        raise ConfigError(f'smaller must name other configs than those compared, got {name}.', parameters=['smaller'])
    return found


def add_smaller_inputs(found: Rivals, plain: nn.Module, backbone: Backbone, size: tuple[int, int]) -> None:
    """Add the plain network at SHARES of the side of its windows, which are `size` large (h, w)."""
    seen = {size}
    for share in SHARES:
        name, smaller = f'plain, input {share:g}', SmallerInput(backbone, share)
        entering = smaller.size_of(size)
        if entering in seen:
            found.left_out[name] = f'{by(size)} pixels in whole steps of {by(backbone.step)} are {by(entering)} again'
            continue
        seen.add(entering)
        found.add(name, same_weights(plain, {id(backbone): smaller}), input=share)


def add_larger_patch(found: Rivals, plain: nn.Module, backbone: Backbone) -> None:
    """Add the plain network with patches of FACTOR times the side, resampled from its weights."""
    name = f'plain, patch {FACTOR * backbone.step[0]}'
    if not isinstance(backbone, ViT):
        found.left_out[f'plain, patch times {FACTOR}'] = f'the patches of a {backbone.kind} overlap, in several stages'
        return
    try:
        larger = with_larger_patch(backbone, FACTOR)
    except ConfigError as error:
        found.left_out[name] = str(error).rstrip('.')
        return
    found.add(name, same_weights(plain, {id(backbone): larger}), patch=larger.patch_size[0])


def add_compiled(
    found: Rivals,
    plain: nn.Module,
    size: tuple[int, int],
    amp: torch.dtype | None,
    progress: Callable[[str], None],
) -> None:
    """Add the plain network under torch.compile, where that works on this machine."""
    progress('compiling')
    weight = next(plain.parameters())
    image = weight.new_zeros(1, input_channels(plain) or 3, *size)
    try:
        graph = Contestant.of(plain, compiled=True)
        with torch.inference_mode(), mixed_precision(weight.device, amp):
            graph.scores(image)
    except torch._dynamo.exc.TorchDynamoException as error:
        found.left_out['plain, compiled'] = f'it cannot be compiled on this machine ({first_line(error)})'
        return
    found.compiled['plain, compiled'] = graph
    found.settings['plain, compiled'] = dict(compiled=True)


def add_smaller_network(found: Rivals, plain: nn.Module, config: Config, other: Config, checkpoint: str) -> None:
    """Add a network with a config and weights of its own. Raises ConfigError for one that is not comparable."""
    require_sections(other, 'model')
    name = Path(str(other.filename)).stem
    if name in found.models:
        raise ConfigError(f'smaller must name each config once, got {name} twice.', parameters=['smaller'])
    if settings_of(other):
        raise ConfigError(f'smaller must name plain networks, and {name} has a method.', parameters=['smaller'])
    model = build_model(other, checkpoint).to(next(plain.parameters()).device)
    check_alike({'the plain network': plain, name: model})
    if windows_in(other) != windows_in(config):
        raise ConfigError(
            f'{name} is tested in other windows than {config.filename}: give both the same test_cfg.',
            parameters=['smaller'],
        )
    found.add(name, model, config=str(other.filename), checkpoint=str(checkpoint))


def windows_in(config: Config) -> dict[str, Any]:
    """Return the settings of a config's test that decide its windows."""
    settings: Mapping[str, Any] = config.model.get('test_cfg') or {}
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items() if key in SHAPING
    }
