"""Where the files that come with this package lie."""

from __future__ import annotations

from pathlib import Path

from mmseg_tr.errors import ConfigError

CONFIGS = Path(__file__).resolve().parents[1] / 'local_configs'


def config_path(name: str) -> Path:
    """A file of local_configs, 'algm/algm_vit-s16_ade20k-512x512.py'. Raises ConfigError when it is not there."""
    path = CONFIGS / name
    if not path.is_file():
        raise ConfigError(f'there is no {path}: run from a checkout of mmseg_tr, which holds local_configs.')
    return path
