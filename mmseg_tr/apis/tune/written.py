"""Write tune's config, which inherits from the user's and sets the method that was found."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseg_tr.apis.tune.search import Budget
from mmseg_tr.apis.tune.spaces import Settings
from mmseg_tr.errors import ConfigError
from mmseg_tr.values import as_code


def check_out(path: Path) -> None:
    """Raise ConfigError where the config to write exists, or is not a Python file."""
    if path.suffix != '.py':
        raise ConfigError(f'out must be a file that ends in .py, got {path}.', parameters=['out'])
    if path.exists():
        raise ConfigError(f'{path} exists and is kept: choose another file as out.', parameters=['out'])


def default_name(config: Config, method: str, budget: Budget, measure: str) -> str:
    """Return '<config>_algm_miou-0.5.py'."""
    wanted = (
        f'{budget.by}-{budget.speed_up:g}'
        if budget.loss is None
        else f'{measure.partition("@")[0].lower()}-{budget.loss:g}'
    )
    return f'{Path(config.filename).stem}_{method.lower()}_{wanted}.py'


def nested_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return {'a.b': 1} as {'a': {'b': 1}}, for a config file. Raises ConfigError for an entry of a list."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        *path, last = name.split('.')
        if any(part.isdigit() for part in (*path, last)):
            raise ConfigError(
                f'cfg_options {name} changes an entry of a list, which the written config cannot inherit: put it into '
                'the config.',
                parameters=['cfg_options'],
            )
        inner = found
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return found


def config_text(path: Path, base: Config, settings: Settings, options: Mapping[str, Any], about: str) -> str:
    """Return the text of a config at `path` that inherits from `base` and sets its backbone's reduction.

    options: further settings, as nested_options() gives them. about: comment at the head.
    """
    relative = os.path.relpath(Path(base.filename).resolve(), path.resolve().parent)
    changes = copy.deepcopy(dict(options))
    backbone = changes.setdefault('model', {}).setdefault('backbone', {})
    inherited = isinstance(settings, Mapping) and 'reduction' in (base.model.get('backbone') or {})
    backbone['reduction'] = {**dict(_delete_=True), **settings} if inherited else settings
    comment = '\n'.join(f'# {line}' for line in about.splitlines())
    body = '\n'.join(f'{name} = {as_code(value)}' for name, value in changes.items())
    return f'{comment}\n_base_ = {relative!r}\n\n{body}\n'
