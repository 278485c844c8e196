"""Paths of the files that come with this package: next to it in a checkout, inside it in an installed wheel."""

from __future__ import annotations

import os
from pathlib import Path

from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.options import check_type

PACKAGE = Path(__file__).resolve().parent
# mim, OpenMMLab's installer, looks for a package's configs in this folder
CARRIED = PACKAGE / '.mim' if (PACKAGE / '.mim').is_dir() else PACKAGE.parent
CONFIGS = CARRIED / 'local_configs'
TOOLS = CARRIED / 'tools'


def config_path(name: str) -> Path:
    """Return the path of a file in local_configs, 'algm/algm_vit-s16_ade20k-512x512.py'.

    Raises ConfigError when it does not exist.
    """
    path = CONFIGS / name
    if not path.is_file():
        raise ConfigError(f'{path} does not exist: install mmseg_tr again, or run from a checkout of it.')
    return path


def find_config(path: Path) -> Path:
    """Return the config file that a user names: the user's own, else one that comes with this package.

    path: a file, or a name inside local_configs, with that folder's name in front of it, with its own folder's
    (algm/algm_vit-s16_ade20k-512x512.py), or bare, with or without .py. Raises ConfigError when there is none.
    """
    if path.is_file():
        return path
    inside = path.relative_to('local_configs') if path.parts[:1] == ('local_configs',) else path
    if inside.name and not inside.is_absolute() and '..' not in inside.parts:
        inside = inside if inside.suffix == '.py' else inside.with_name(f'{inside.name}.py')
        found = [CONFIGS / inside] if len(inside.parts) > 1 else sorted(CONFIGS.glob(f'[!_]*/{inside}'))
        if found and found[0].is_file():
            return found[0]
    raise ConfigError(f'config file {path} does not exist: check the path, or name one that `mmseg-tr configs` lists.')


def require_checkpoint(path: str | os.PathLike[str]) -> None:
    """Raise CheckpointError unless there is such a file."""
    check_type('checkpoint', path, str | os.PathLike)
    if not os.path.isfile(path):
        raise CheckpointError(f'there is no checkpoint file {path}: check the path.')
