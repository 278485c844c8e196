"""Checkpoints with a config as a folder: weights as safetensors, config.py, mmseg_tr.json and a model card."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmseg_tr.checkpoints import convert
from mmseg_tr.checkpoints.config_text import pretty_text, read_config, section
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.weights.card import model_card
from mmseg_tr.weights.folder import OPENMMLAB, check_saving, upload_folder, write_folder
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
    comparison, force, name: as in Savable.save_pretrained(). Of the config inside, plain values are kept and nothing is
    run. Raises CheckpointError for a file that cannot be converted or has no such config, ConfigError for a config that
    cannot be read, WriteError if it cannot write.
    """
    check_saving(folder, row, comparison, force, name)
    converted = convert(checkpoint)
    text, content = _inside(checkpoint, converted.config) if config is None else _given(config)
    settings = dict(kind=OPENMMLAB, name=None, reduction=section(content, 'model', 'backbone').get('reduction'))
    card = model_card(name or Path(folder).resolve().name, settings, row, comparison)
    weights = as_safetensors(dict(meta=converted.meta, state_dict=converted.state_dict))
    return write_folder(folder, weights, settings, card, config=text, force=force)


def push_to_hub(
    checkpoint: str | os.PathLike[str], name: str, *, private: bool = False, token: str | None = None, **options: Any
) -> str:
    """Upload a checkpoint and its config as 'user/name'; returns its address. options: of save_pretrained().

    Raises ConfigError where the hub refuses or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(checkpoint, Path(folder) / 'model', name=name, **options)
        return upload_folder(Path(folder) / 'model', name, private=private, token=token)


def _given(config: str | os.PathLike[str]) -> tuple[str, dict[str, Any]]:
    """Return text and content of the user's own config, which is run. Raises ConfigError."""
    try:
        loaded = Config.fromfile(config)
    except Exception as error:  # a config is a program
        raise ConfigError(f'{config} cannot be read ({error}): give another config as config=.') from error
    return loaded.pretty_text, loaded.to_dict()


def _inside(checkpoint: str | os.PathLike[str], text: str | None) -> tuple[str, dict[str, Any]]:
    """Return text and content of the plain values of the config inside a checkpoint; nothing of it is run.

    Raises CheckpointError where it has no model of registered types.
    """
    content = read_config(text or '')
    if not section(content, 'model'):
        raise CheckpointError(
            f'{checkpoint} holds no config of plain values with a model: give the one that it was trained with as '
            'config=.'
        )
    return pretty_text(content), content
