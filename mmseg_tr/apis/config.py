"""Load a config, override its settings, and adapt it to a command line and a machine."""

from __future__ import annotations

import copy
import itertools
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)
from mmseg_tr.apis.fixed import settle_budget
from mmseg_tr.engine.config_checks import SEEDS, check_settings
from mmseg_tr.engine.terminal import quieten_packages
from mmseg_tr.errors import ConfigError, MissingExtraError
from mmseg_tr.options import check_type
from mmseg_tr.paths import find_config
from mmseg_tr.reduction import PLAIN_NAMES, find_method
from mmseg_tr.reduction.checks import is_integer
from mmseg_tr.reduction.segformerpp.deprecated import replace_merging
from mmseg_tr.reduction.segformerpp.settings import as_reduction, preset_name
from mmseg_tr.values import read_settings, read_value

_runs = itertools.count(1)


def load_config(path: str | Config, options: Mapping[str, Any] | None = None) -> Config:
    """Load the config `path` and its custom_imports, and merge `options` ('a.b': value) into it.

    path: a file, or the name of one that comes with the package, see paths.find_config().
    Raises ConfigError when it is missing or cannot be read, MissingExtraError when what it imports is not installed.
    """
    check_type('config', path, str | os.PathLike | Config)
    check_type('cfg_options', options, Mapping[str, Any] | None)
    config = copy.deepcopy(path) if isinstance(path, Config) else _read(Path(path))
    if not any('merging' in name.split('.') for name in options or ()):
        _modernise(config)
    if options:
        try:
            config.merge_from_dict({name: _replacing(config, name, value) for name, value in options.items()})
        except (KeyError, TypeError, AssertionError, IndexError) as error:
            raise ConfigError(
                f'cfg_options {" ".join(options)} cannot be merged: {error}', parameters=['cfg_options']
            ) from error
    _modernise(config)
    check_settings(config)
    settle_budget(config)
    return config


def load_configs(paths: Sequence[str], options: Mapping[str, Any] | None = None) -> list[Config]:
    """Load several configs, at least one, as load_config() does."""
    check_type('configs', paths, Sequence[str | os.PathLike])
    if not paths:
        raise ConfigError('configs must name at least one config.', parameters=['configs'])
    return [load_config(path, options) for path in paths]


def _replacing(config: Config, name: str, value: Any) -> Any:
    """Mark an option's value to replace a dict of another type instead of being merged into it."""
    first, *inner = name.split('.')
    node = config.get(first)
    for key in inner:
        node = node.get(key) if isinstance(node, Mapping) else None
    if isinstance(value, Mapping) and isinstance(node, Mapping) and value.get('type') not in (None, node.get('type')):
        return {**value, '_delete_': True}
    return value


def _modernise(config: Config) -> None:
    """Update the spellings of earlier releases in a config, in place, with a DeprecationWarning."""
    model = config.get('model')
    backbone = model.get('backbone') if isinstance(model, Mapping) else None
    if isinstance(backbone, Mapping):
        replace_merging(backbone)


def _read(path: Path) -> Config:
    path = find_config(path)
    quieten_packages()
    try:
        return Config.fromfile(str(path))
    except MissingExtraError:
        raise
    except (Exception, SystemExit) as error:  # a config is Python and may raise anything
        reason = (str(error).strip().splitlines() or ['no reason given'])[-1]
        raise ConfigError(f'the config {path} cannot be read: {type(error).__name__}: {reason}') from error


def require_sections(config: Config, *names: str) -> None:
    """Raise ConfigError unless the config has every top-level section in `names`, each a dict or a list of them."""
    for name in names:
        if not isinstance(config.get(name, {}), Mapping | list | tuple | None):
            raise ConfigError(f'the config {config.filename} has {name}={config[name]!r}: give a dict')
    missing = [name for name in names if config.get(name) is None]
    if missing:
        raise ConfigError(f'the config {config.filename} does not set {", ".join(missing)}: add what is missing')


def reduction_settings(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reduction settings of a backbone's config; empty for a plain network. Raises ConfigError."""
    reduction = as_reduction(backbone.get('reduction'))
    return dict(type=reduction) if isinstance(reduction, str) else dict(reduction or {})


def parse_reduction(text: str) -> dict[str, Any] | str | None:
    """Parse a method given as text: its settings, its bare name, or None for the plain model.

    tome, "type=ToMe,r=8", "dict(type='ToMe', r=8)", "{'type': 'ToMe'}" and r=8 (settings of the config's method); of a
    MiT also a preset such as bsm_hq, and a list of one dict per stage; None, none or plain. Nothing is run.
    Raises ConfigError.
    """
    text = text.strip().removeprefix('merging=')
    for read in (read_value, read_settings):
        try:
            value = read(text)
        except ValueError:
            continue
        if isinstance(value, list | tuple) and value and all(isinstance(stage, dict | None) for stage in value):
            return as_reduction([stage or {} for stage in value])
        if value is None or (isinstance(value, str) and value.lower() in PLAIN_NAMES):
            return None
        if isinstance(value, dict):
            return value
        if isinstance(value, str) and re.fullmatch(r'[\w+. -]+', value):
            return as_reduction(value) if preset_name(value) else named_method(value)
    raise ConfigError(
        f'reduction must be a name such as tome, settings such as type=ToMe,r=8, or None for no method, got {text}.',
        parameters=['reduction'],
    )


def named_method(name: str) -> str:
    """Check the name of a method. Raises ConfigError, with the nearest match, for an unknown one."""
    try:
        return find_method(name).name
    except ConfigError as error:
        raise ConfigError(str(error), parameters=['reduction']) from error


def use_reduction(config: Config, reduction: str | Mapping[str, Any] | None) -> None:
    """Set the method of the config's backbone, in place. Settings without a type change those of the config.

    reduction: text that parse_reduction() reads, or settings. Raises ConfigError for text that cannot be read and
    where the config has no method to change.
    """
    check_type('reduction', reduction, str | Mapping[str, Any] | None)
    wanted = parse_reduction(reduction) if isinstance(reduction, str) else reduction
    backbone = config.model.get('backbone')
    if not isinstance(backbone, Mapping):
        raise ConfigError(
            f'reduction is set on a backbone, and the config {config.filename} has none: leave it out.',
            parameters=['reduction'],
        )
    if isinstance(wanted, Mapping):
        own = reduction_settings(backbone)
        if not own and 'type' not in wanted:
            raise ConfigError(
                f'reduction {reduction} names no type, and the config has no method: add type=... to it.',
                parameters=['reduction'],
            )
        if 'type' in wanted:
            same = bool(own) and find_method(own['type']) is find_method(wanted['type'])
            own = own if same else {}
        if {'preset', 'stages'} & wanted.keys():  # they replace each other
            own = {key: value for key, value in own.items() if key not in ('preset', 'stages')}
        wanted = {**own, **wanted}
    backbone['reduction'] = wanted
    settle_budget(config)


def fit_to_run(config: Config, work_dir: str | None, launcher: str, seed: int | None = None) -> None:
    """Apply the settings of the command line and of the machine, in place.

    On a CPU SyncBN has no implementation and becomes BN (the same state dict), and several processes are wrapped
    without device ids.
    """
    stem = Path(config.filename).stem if config.filename else 'run'
    config.work_dir = str(work_dir or config.get('work_dir') or Path('work_dirs') / stem)
    config.launcher = launcher
    _name_run(config, stem)
    if seed is not None:
        if not is_integer(seed) or not 0 <= seed <= SEEDS:
            raise ConfigError(f'seed must be an integer from 0 to {SEEDS}, got {seed!r}.', parameters=['seed'])
        config.randomness = {**config.get('randomness', {}), 'seed': seed}
    if get_device() == 'cpu':
        _replace_type(config.model, 'SyncBN', 'BN')
        config.sync_bn = None
        if launcher != 'none':
            wrapper = config.get('model_wrapper_cfg') or {'type': 'MMDistributedDataParallel'}
            find_unused = config.get('find_unused_parameters', False)
            defaults = {'broadcast_buffers': False, 'find_unused_parameters': find_unused}  # mmengine's on a GPU
            config.model_wrapper_cfg = {**defaults, **wrapper, 'device_ids': None}


def _name_run(config: Config, stem: str) -> None:
    """Give every run of this process its own name: mmengine reuses the logs of a known name."""
    number = next(_runs)
    suffix = f'_{number}' if number > 1 else ''
    config.setdefault('experiment_name', f'{stem}_{time.strftime("%Y%m%d_%H%M%S")}{suffix}')
    if config.get('visualizer'):
        config.visualizer.name = config.experiment_name


def use_amp_for_training(config: Config) -> None:
    """Switch the optimiser's wrapper to mixed precision, in place.

    Raises ConfigError for a wrapper of another kind, and on a device without autocast.
    """
    wrapper = config.optim_wrapper
    kind = wrapper.get('type', 'OptimWrapper')
    if kind in ('AmpOptimWrapper', 'mmseg_tr.BFloat16OptimWrapper'):
        return
    if kind != 'OptimWrapper':
        raise ConfigError(
            f'amp replaces an optim_wrapper of type OptimWrapper, the config has {kind}: leave it out.',
            parameters=['amp'],
        )
    if check_autocast() == 'cpu':
        wrapper.type = 'mmseg_tr.BFloat16OptimWrapper'
    else:
        wrapper.type, wrapper.loss_scale = 'AmpOptimWrapper', 'dynamic'


def check_autocast() -> str:
    """Return the device, 'cpu' or 'cuda'. Raises ConfigError when mixed precision is not available."""
    device = get_device()
    if device not in ('cpu', 'cuda'):
        raise ConfigError(f'amp is available on CUDA GPUs and CPUs, not on {device}: leave it out.', parameters=['amp'])
    return device


def _replace_type(node: Any, old: str, new: str) -> None:
    """Replace type=old by type=new at any depth."""
    if isinstance(node, Mapping):
        if node.get('type') == old:
            node['type'] = new
        for child in node.values():
            _replace_type(child, old, new)
    elif isinstance(node, list | tuple):
        for child in node:
            _replace_type(child, old, new)
