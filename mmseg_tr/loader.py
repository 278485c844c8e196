"""Checkpoint loaders for mmengine: `weights.io.read_file` for every path, URL and hub name.

mmengine's own loaders unpickle downloads, refuse mmengine's own training curves, and end in tracebacks. Registered by
`mmseg_tr.registry`, ours serves load_from, resume, init_cfg, hooks and inferencers alike.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import barrier, get_rank, get_world_size
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)
from torch import Tensor

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.fetch import fetch, fetch_if_published
from mmseg_tr.weights.formats import state_of
from mmseg_tr.weights.io import few, read_file
from mmseg_tr.weights.published import Published

HUBS: dict[str, Callable[[], Mapping[str, str]]] = {
    'torchvision://': get_torchvision_models,
    'modelzoo://': get_torchvision_models,  # mmengine's older name of the same
    'open-mmlab://': get_external_models,
    'openmmlab://': get_external_models,
    'mmcls://': get_mmcls_models,
}
REFUSED = ('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://')  # mmengine's other schemes, patterns as it registers them
_HASHED = re.compile(r'-([0-9a-f]{8,64})\.pth$')  # both hubs end names with the first digits of the sha256


def local_file(source: str | Path) -> Path:
    """Return the local file of a path, a published name, a URL or a hub name such as torchvision://resnet50.

    Remote files are fetched once and kept. Raises CheckpointError when it is not available.
    """
    source = str(source)
    hub = next((prefix for prefix in HUBS if source.startswith(prefix)), None)
    if hub is not None:
        return _hub_file(hub, source.removeprefix(hub))
    if any(re.match(pattern, source) for pattern in REFUSED):
        raise CheckpointError(f'{source} cannot be fetched: download it by its own tools and name the file.')
    return fetch_if_published(source if '://' in source else str(Path(source).expanduser()))


def read_source(source: str | Path) -> Any:
    """Return the content of a source's file; see `local_file` and `read_file`."""
    payload = read_file(local_file(source))
    if str(source).startswith('mmcls://'):  # classifiers, of which mmengine takes the backbone
        state = state_of(payload).items()
        return {'state_dict': {key.removeprefix('backbone.'): t for key, t in state if key.startswith('backbone.')}}
    return payload


def load_from_checked_file(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Return the content of a checkpoint, as mmengine's loaders do; tensors are on the CPU for any `map_location`.

    Configs kept as text, which mmengine would run, are left out. The first process downloads, the others wait.
    """
    first = get_rank() == 0
    if '://' in filename and get_world_size() > 1:
        try:
            if first:
                local_file(filename)
        finally:
            barrier()
    return _without_configs(read_source(filename), filename)


def register() -> None:
    """Make mmengine read checkpoints by `load_from_checked_file` only."""
    prefixes = ['', 'http://', 'https://', 'ftp://', 'file://', *HUBS, *REFUSED]
    CheckpointLoader.register_scheme(prefixes, load_from_checked_file, force=True)


def _hub_file(hub: str, name: str) -> Path:
    urls = dict(HUBS[hub]())
    if hub in ('open-mmlab://', 'openmmlab://'):
        name = get_deprecated_model_names().get(name, name)
    url = urls.get(name)
    if url is None:
        raise CheckpointError(f'{hub}{name} is not a model of that hub: it has {few(sorted(urls), limit=6)}.')
    if '://' not in url:  # a file of the user's own open_mmlab.json
        cache = os.environ.get('XDG_CACHE_HOME', '~/.cache')
        return Path(os.environ.get('MMENGINE_HOME', f'{cache}/mmengine')).expanduser() / url
    hashed = _HASHED.search(url)
    return fetch(Published(url, hashed[1] if hashed else ''))


def _without_configs(payload: Any, filename: str) -> dict[str, Any]:
    if not isinstance(payload, dict):
        raise CheckpointError(f'{filename} holds a {type(payload).__name__} instead of a checkpoint.')
    weights = payload.get('state_dict', payload)  # as mmengine looks for them
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise CheckpointError(f'{filename} holds no weights by name.')
    nested = [name for name, value in weights.items() if isinstance(value, Tensor) and value.is_nested]
    if nested:
        raise CheckpointError(f'{filename} holds tensors that cannot be loaded as weights: {few(nested)} is nested.')
    payload = dict(payload)
    meta, hub = payload.get('meta'), payload.get('message_hub')
    if isinstance(meta, Mapping):
        payload['meta'] = {key: value for key, value in meta.items() if key != 'config'}
    info = hub.get('runtime_info') if isinstance(hub, Mapping) else None
    if isinstance(info, Mapping):
        payload['message_hub'] = {**hub, 'runtime_info': {key: info[key] for key in info if key != 'cfg'}}
    return payload
