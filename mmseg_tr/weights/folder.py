"""A model as a folder: model.safetensors, mmseg_tr.json that tells how to build it, README.md; the same on the hub."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmseg_tr.errors import CheckpointError, ConfigError, installed
from mmseg_tr.files import Content, write_together
from mmseg_tr.options import check_type
from mmseg_tr.values import numbers_in
from mmseg_tr.version import __version__

WEIGHTS, SETTINGS, CARD, CONFIG = 'model.safetensors', 'mmseg_tr.json', 'README.md', 'config.py'
FORMAT = 1
NETWORK, OPENMMLAB = 'network', 'openmmlab'  # what a folder holds
_MOST = 2**20  # bytes of mmseg_tr.json
_LAYERS = ('depth', 'num_layers', 'decoder_depth')  # settings that count layers


def check_saving(folder: Any, row: Any, comparison: Any, force: Any, name: Any) -> None:
    """Raise ConfigError for arguments of save_pretrained() that are of another type."""
    path = str | os.PathLike
    for key, value, kind in (
        ('folder', folder, path),
        ('row', row, str | None),
        ('comparison', comparison, path | None),
        ('force', force, bool),
        ('name', name, str | None),
    ):
        check_type(key, value, kind)


def write_folder(
    folder: str | os.PathLike[str],
    weights: bytes,
    settings: Mapping[str, Any],
    card: str,
    *,
    config: str | None = None,
    force: bool = False,
) -> Path:
    """Write a model's files, all or none; returns the folder.

    weights: content of the .safetensors file. settings: how to build the model, of plain values, with its `kind`.
    config: text of the config of an OpenMMLab model. force: replace the files of an earlier model.
    Raises ConfigError if there are some, WriteError if it cannot write.
    """
    folder = Path(folder)
    text = json.dumps(dict(format=FORMAT, mmseg_tr_version=__version__, **settings), indent=2) + '\n'
    files: dict[str | os.PathLike[str], Content] = {
        folder / WEIGHTS: weights,
        folder / SETTINGS: text,
        folder / CARD: card,
    }
    if config is not None:
        files[folder / CONFIG] = config
    there = [Path(path).name for path in files if Path(path).exists()]
    if there and not force:
        raise ConfigError(
            f'{folder} holds {there[0]}: choose another folder, or set force to replace its files.',
            parameters=['force'],
        )
    write_together(files)
    return folder


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of a folder's mmseg_tr.json. Raises CheckpointError for a folder that is not such a model."""
    file = folder / SETTINGS
    missing = [name for name in (SETTINGS, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(f'{folder} has no {missing[0]}: name a folder that save_pretrained() wrote.')
    try:
        if file.stat().st_size > _MOST:
            raise ValueError('it is too large')
        settings = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f'{file} cannot be read ({error}): save or download the model again.') from error
    if not isinstance(settings, dict) or settings.get('kind') not in (NETWORK, OPENMMLAB):
        raise CheckpointError(f'{file} does not describe a model of this package: name a folder of save_pretrained().')
    if settings.get('format') != FORMAT:
        raise CheckpointError(
            f'{file} has format {settings.get("format")!r}, this release reads {FORMAT}: it was written by mmseg_tr '
            f'{settings.get("mmseg_tr_version")}, which reads it.'
        )
    return settings


def check_possible(settings: Any, state: Mapping[str, Any]) -> None:
    """Raise ConfigError for numbers of layers, or sizes, that no network with these weights has."""
    elements = max(sum(value.numel() for value in state.values()), 2**16)
    for key, number in numbers_in(settings, 'options'):
        if number > (len(state) if key in _LAYERS else elements):
            raise ConfigError(f'{key} is larger than its {len(state)} weights with {elements} elements allow')


def find_folder(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The folder `source`, or that of a model on the hub, 'user/name', fetched once and kept in the hub's cache.

    Raises CheckpointError where neither is available.
    """
    check_type('source', source, str | os.PathLike)
    check_type('revision', revision, str | None)
    path = Path(source)
    if path.is_dir():
        return path
    name = os.fspath(source)
    if isinstance(source, os.PathLike) or name.count('/') != 1 or name.startswith(('.', '/', '~')) or path.exists():
        raise CheckpointError(
            f'{name!r} is neither a folder of save_pretrained() nor a name on the hub such as user/model.'
        )
    if not installed('huggingface_hub'):
        raise CheckpointError(
            f"{name!r} is on the hub, which needs huggingface_hub: run pip install 'mmseg_tr[hub]', or name a folder."
        )
    from huggingface_hub import snapshot_download

    try:
        wanted = [WEIGHTS, SETTINGS, CARD, CONFIG]
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except Exception as error:  # the hub raises a dozen unrelated types, a missing network among them
        raise CheckpointError(
            f'{name!r} could not be fetched from the hub ({type(error).__name__}): check the name and the network, or '
            'name a folder.'
        ) from error


def upload_folder(folder: Path, name: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a folder of save_pretrained() to the hub under 'user/name'; returns its address.

    Raises MissingExtraError without huggingface_hub, ConfigError if the hub refuses or cannot be reached.
    """
    if not installed('huggingface_hub'):
        raise ConfigError("push_to_hub() needs huggingface_hub: run pip install 'mmseg_tr[hub]'.")
    from huggingface_hub import HfApi

    try:
        api = HfApi(token=token)
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=str(folder), commit_message=f'mmseg_tr {__version__}')
    except Exception as error:
        raise ConfigError(
            f'{name!r} could not be uploaded to the hub ({type(error).__name__}): check the name, the network, and '
            'that you are logged in (`hf auth login`).'
        ) from error
    return str(address)
