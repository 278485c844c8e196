"""The training state inside a checkpoint: what is restored on resuming, and the check that it can be."""

from __future__ import annotations

import ntpath
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner

from mmseg_tr.engine.plain import history_from_plain
from mmseg_tr.errors import CheckpointError
from mmseg_tr.reduction.checks import is_integer

BEST = re.compile(r'best_[^/\\]+\.\w+')  # names that mmengine's CheckpointHook gives its best checkpoints
_META = ('epoch', 'iter', 'seed', 'dataset_meta')
_POSITION = ('base_values', 'last_step')  # of a scheduler; its other public attributes are settings
_GROUP = ('initial_lr', 'lr', 'weight_decay', 'momentum', 'betas', 'nesterov', 'eps')


def keep_training_state(checkpoint: dict[str, Any]) -> None:
    """Keep in a checkpoint only what resuming needs, in place.

    mmengine would execute the text under meta['config'] and remove the files that message_hub names. What is kept are
    counters, the seed, the description of the classes, curves, the best score, and the best checkpoint's bare name.
    """
    meta, hub = checkpoint.get('meta'), checkpoint.get('message_hub')
    if isinstance(meta, Mapping):
        checkpoint['meta'] = {key: meta[key] for key in _META if key in meta}
    if not isinstance(hub, Mapping):
        return
    scalars = {key: history_from_plain(value) for key, value in _table(hub, 'log_scalars').items()}
    info = {}
    for key, value in _table(hub, 'runtime_info').items():
        if key.startswith('best_ckpt'):
            value = own_name(value)
        elif key == 'keep_ckpt_ids':
            value = [step for step in value if is_count(step)] if isinstance(value, list) else []
        elif key in ('cfg', 'last_ckpt'):
            continue
        info[key] = value
    checkpoint['message_hub'] = {
        'log_scalars': {key: value for key, value in scalars.items() if isinstance(value, HistoryBuffer)},
        'runtime_info': {key: value for key, value in info.items() if value is not None},
        'resumed_keys': {key: bool(value) for key, value in _table(hub, 'resumed_keys').items()},
    }


def _table(hub: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a part of message_hub, empty where it is not a table of names."""
    part = hub.get(name)
    return {key: value for key, value in part.items() if isinstance(key, str)} if isinstance(part, Mapping) else {}


def own_name(path: Any) -> str | None:
    """Return the bare name of a best checkpoint that a run could have written; None for any other value."""
    name = ntpath.basename(path) if isinstance(path, str) else ''  # splits at both kinds of slash
    return name if BEST.fullmatch(name) else None


def is_count(value: Any) -> bool:
    """Return whether a value is a non-negative integer."""
    return is_integer(value) and value >= 0


def check_training_state(content: Any, path: str, max_iters: int | None = None) -> None:
    """Raise CheckpointError unless the content of a checkpoint holds a training that can be resumed.

    max_iters: updates of the training that resumes, where they are counted.
    """
    missing = [key for key in ('optimizer', 'message_hub') if not isinstance(content, Mapping) or key not in content]
    if missing:
        raise CheckpointError(
            f'{path} holds weights only and cannot be resumed: give it as load_from to start from it.',
            parameters=['load_from'],
        )
    meta, hub, schedulers = (content.get(key) for key in ('meta', 'message_hub', 'param_schedulers'))
    several = schedulers if isinstance(schedulers, list | tuple) else ()
    damaged = {
        'meta': isinstance(meta, Mapping) and all(is_count(meta.get(key)) for key in ('epoch', 'iter')),
        'meta.seed': not isinstance(meta, Mapping) or meta.get('seed') is None or is_count(meta['seed']),
        'optimizer': isinstance(content['optimizer'], Mapping),
        'message_hub': isinstance(hub, Mapping)
        and all(isinstance(hub.get(key), Mapping) for key in ('log_scalars', 'runtime_info', 'resumed_keys')),
        'param_schedulers': schedulers is None
        or isinstance(schedulers, Mapping)
        or (isinstance(schedulers, list | tuple) and all(isinstance(state, Mapping) for state in several)),
    }
    for name, sound in damaged.items():
        if not sound:
            raise CheckpointError(f'{path} cannot be resumed: its {name} is damaged or was not written by mmengine.')
    if max_iters is not None and meta['iter'] > max_iters:
        raise CheckpointError(
            f'{path} comes from a training of {meta["iter"]} updates, the config has train_cfg.max_iters={max_iters}: '
            'raise it to train on.'
        )


def settings_in_force(runner: Runner) -> dict[str, Any]:
    """Return settings of a runner's optimizer and schedule, by their names in a config."""
    found: dict[str, Any] = {}
    if isinstance(runner.optim_wrapper, OptimWrapper):
        for group in reversed(runner.optim_wrapper.param_groups):  # the first group represents all
            for key in _GROUP:
                if key in group and not (key == 'lr' and 'initial_lr' in group):
                    found[f'optim_wrapper.optimizer.{"lr" if key == "initial_lr" else key}'] = group[key]
    schedulers = runner.param_schedulers if isinstance(runner.param_schedulers, list) else []
    for number, scheduler in enumerate(schedulers):
        found.update({f'param_scheduler[{number}].{key}': value for key, value in _settings(scheduler)})
    return found


def _settings(scheduler: Any) -> Iterator[tuple[str, Any]]:
    for key, value in vars(scheduler).items():
        if not key.startswith('_') and key not in _POSITION and isinstance(value, bool | int | float | str | Counter):
            yield key, value


def overruled(asked: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    """Return the settings of a config that the resumed training does not use, one sentence each."""
    return [
        f'{name}={value} of the config is not in force: the resumed training continues with {kept[name]}'
        for name, value in asked.items()
        if name in kept and kept[name] != value
    ]
