"""Checkpoints with a config as a folder: weights as safetensors, config.py, mmseg_tr.json and a model card."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseg_tr.checkpoints import convert
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.weights.card import model_card
from mmseg_tr.weights.folder import OPENMMLAB, upload_folder, write_folder
from mmseg_tr.weights.io import as_safetensors


def save_pretrained(
    checkpoint: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | None = None,
    row: str | None = None,
    comparison: str | os.PathLike[str] | None = None,
    force: bool = False,
    name: str | None = None,
) -> Path:
    """Write a checkpoint and its config as a folder, which mmseg_tr.Predictor.from_pretrained() reads.

    checkpoint: of training, or a published one. config: its config, by default the one inside the file. row,
    comparison, force, name: as in Savable.save_pretrained(). Raises CheckpointError for a file that cannot be converted
    or has no config, WriteError if it cannot write.
    """
    converted = convert(checkpoint)
    if config is None and converted.config is None:
        raise CheckpointError(f'{checkpoint} holds no config: give the one that it was trained with as config=.')
    loaded = _loaded(config, converted.config)
    reduction = loaded.get('model', {}).get('backbone', {}).get('reduction')
    settings = dict(kind=OPENMMLAB, name=None, reduction=None if reduction is None else _plain(reduction))
    card = model_card(name or Path(folder).resolve().name, settings, row, comparison)
    content = as_safetensors(dict(meta=converted.meta, state_dict=converted.state_dict))
    return write_folder(folder, content, settings, card, config=loaded.pretty_text, force=force)


def push_to_hub(
    checkpoint: str | os.PathLike[str], name: str, *, private: bool = False, token: str | None = None, **options: Any
) -> str:
    """Upload a checkpoint and its config as 'user/name'; returns its address. options: of save_pretrained().

    Raises ConfigError where the hub refuses or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(checkpoint, Path(folder) / 'model', name=name, **options)
        return upload_folder(Path(folder) / 'model', name, private=private, token=token)


def _loaded(config: str | os.PathLike[str] | None, text: str | None) -> Config:
    try:
        return Config.fromfile(config) if config is not None else Config.fromstring(text, '.py')
    except Exception as error:  # a config is a program
        where = 'the config inside the checkpoint' if config is None else str(config)
        raise ConfigError(f'{where} cannot be read ({error}): give a config as config=.') from error


def _plain(value: Any) -> Any:
    """Settings without mmengine's own types."""
    return value.to_dict() if hasattr(value, 'to_dict') else value
