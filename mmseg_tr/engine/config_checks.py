"""Check values of a config before anything is built, whose errors would otherwise be late, unclear or missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmseg_tr.errors import ConfigError, MissingExtraError, installed
from mmseg_tr.reduction.checks import check_integer, check_number, is_integer, is_number

SEEDS = 2**32 - 1  # numpy's limit
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
SECTIONS = ('default_hooks', 'visualizer', 'optim_wrapper.optimizer', 'data_preprocessor', 'env_cfg', 'randomness')
ABSENT = object()


def check_settings(config: Config) -> None:
    """Raise ConfigError for an invalid value, by its name in the config; MissingExtraError without mmpose.

    Only existing values are checked. Unknown types and arguments that a type does not accept are found later, when
    the parts are built.
    """
    check_scope(config)
    for name in ('model', 'model.backbone', 'model.head', 'model.decode_head'):
        _each(config, name, _check_typed)
    _each(config, 'model.decode_head.num_classes', lambda name, value: check_integer(name, value, 1))
    for loader in LOADERS:
        _each(config, f'{loader}.batch_size', lambda name, value: check_integer(name, value, 1))
        _each(config, f'{loader}.num_workers', check_integer)
        _each(config, f'{loader}.dataset', _check_typed)
    for name in ('max_iters', 'max_epochs', 'val_interval'):
        _each(config, f'train_cfg.{name}', _check_count)
    for name in ('lr', 'weight_decay'):
        _each(config, f'optim_wrapper.optimizer.{name}', lambda name, value: check_number(name, value, 0))
    seed = _value(config, 'randomness.seed')
    if seed not in (ABSENT, None):
        check_integer('randomness.seed', seed, 0, SEEDS)
    for name in SECTIONS:
        _each(config, name, _check_section)
    _check_loss_weights('model', _value(config, 'model'))
    check_normalisation(config)


def check_scope(config: Config) -> None:
    """Raise MissingExtraError for a config of mmpose where that is not installed."""
    if config.get('default_scope') == 'mmpose' and not installed('mmpose'):
        raise MissingExtraError(
            f'the config {config.filename} needs mmpose, which is not installed: run pip install '
            "'mmseg_tr[pose]', then pip install --no-deps mmpose==1.3.2.",
            name='mmpose',
        )


def check_normalisation(config: Config) -> None:
    """Raise ConfigError unless mean and std of the data preprocessor are numbers for every channel."""
    for name in ('model.data_preprocessor', 'data_preprocessor'):
        mean, std = (_value(config, f'{name}.{key}') for key in ('mean', 'std'))
        lengths = {}
        for key, value in (('mean', mean), ('std', std)):
            if value in (ABSENT, None):
                continue
            if not isinstance(value, list | tuple) or not all(map(is_number, value)):
                raise ConfigError(f'{name}.{key} must be a list of numbers, got {value!r}.')
            lengths[key] = len(value)
        if len(set(lengths.values())) > 1:
            raise ConfigError(f'{name}.mean and std must be of one length, got {lengths["mean"]} and {lengths["std"]}.')
        if 'std' in lengths and min(std, default=0) <= 0:
            raise ConfigError(f'{name}.std must be above 0, got {std!r}.')
        channels = _channels(config)
        if channels is not None and lengths and set(lengths.values()) != {channels} and set(lengths.values()) != {1}:
            raise ConfigError(
                f'{name}.mean and std must have {channels} numbers, one per channel of the backbone, got '
                f'{next(iter(lengths.values()))}.'
            )


def _channels(config: Config) -> int | None:
    """Return the input channels of a backbone of this package; None for others."""
    if not str(_value(config, 'model.backbone.type')).startswith('mmseg_tr.'):
        return None
    found = [_value(config, f'model.backbone.{key}') for key in ('in_chans', 'in_channels')]
    found = [value for value in found if value is not ABSENT] or [3]
    return found[0] if is_integer(found[0]) else None


def _value(config: Config, name: str) -> Any:
    """Return the value under a dotted name; ABSENT without one."""
    node: Any = config._cfg_dict
    for key in name.split('.'):
        if not isinstance(node, Mapping) or key not in node:
            return ABSENT
        node = node[key]
    return node


def _each(config: Config, name: str, check: Callable[[str, Any], Any]) -> None:
    value = _value(config, name)
    if value is not ABSENT:
        check(name, value)


def _check_section(name: str, value: Any) -> None:
    if not isinstance(value, Mapping | None):
        raise ConfigError(f'{name} must be a dict, got {value!r}.')


def _check_loss_weights(name: str, node: Any, lengths: Sequence[int] = ()) -> None:
    """Check the loss weights everywhere in the model, which are otherwise first read in the first update.

    lengths: of class weights, as the head around them has classes or channels; empty where that is not known.
    """
    if isinstance(node, Mapping):
        if 'num_classes' in node:
            lengths = [node[key] for key in ('num_classes', 'out_channels') if is_integer(node.get(key))]
        for key, value in node.items():
            if key == 'loss_weight' and not isinstance(value, list | tuple):
                check_number(f'{name}.{key}', value)
            if key == 'class_weight' and not isinstance(value, str | None):
                _check_class_weights(f'{name}.{key}', value, lengths)
            _check_loss_weights(f'{name}.{key}', value, lengths)
    elif isinstance(node, list | tuple):
        for number, value in enumerate(node):
            _check_loss_weights(f'{name}[{number}]', value, lengths)


def _check_class_weights(name: str, value: Any, lengths: Sequence[int]) -> None:
    if not isinstance(value, list | tuple) or not all(map(is_number, value)):
        raise ConfigError(f'{name} must be a list of numbers or a file, got {value!r}.')
    if lengths and len(value) not in lengths:
        raise ConfigError(f'{name} must have {lengths[0]} numbers, one per class, got {len(value)}.')


def _check_typed(name: str, value: Any) -> None:
    """Check a dict with a type, or a list of them, as in cascades."""
    parts = value if isinstance(value, list | tuple) and value else [value]
    if not all(isinstance(part, Mapping) and part.get('type') is not None for part in parts):
        shown = repr(value) if len(repr(value)) < 80 else f'a {type(value).__name__} without it'
        raise ConfigError(f'{name} must be a dict with a type, got {shown}.')


def _check_count(name: str, value: Any) -> None:
    """Check a positive integer, which mmengine also accepts as 1e5."""
    check_integer(name, int(value) if isinstance(value, float) and value.is_integer() else value, 1)
