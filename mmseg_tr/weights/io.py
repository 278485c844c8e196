"""Read checkpoint files safely: no code of a file runs unless the caller passes trust=True."""

import json
import os
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open  # a requirement of timm
from safetensors.torch import load_file, save
from torch import Tensor

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.checks import Skipped, check_archive, check_payload

_ZIP_START = b'PK\x03\x04'
_PICKLE_START = b'\x80'
SAFETENSORS = '.safetensors'
_META = 'mmseg_tr.meta'
CONVERT = 'mmseg-tr convert-checkpoint'
STATES = ('state_dict', 'model')  # where files keep the state dict, if it is not bare
WRAPPERS = ('module.', '_orig_mod.')  # prefixes that data-parallel wrappers and torch.compile put before every key
_CURVE = 'mmengine.logging.history_buffer.HistoryBuffer'
_PARTS_OF_CURVES = (
    'builtins.getattr',
    'numpy.ndarray',
    'numpy.dtype',
    *(f'numpy.{core}.multiarray.{name}' for core in ('core', '_core') for name in ('_reconstruct', 'scalar')),
)


def few(names: Iterable[object], limit: int = 3) -> str:
    """Return the first names of a long list and the number of others: ``'a, b, c and 40 more'``."""
    listed = [name if isinstance(name, str) and name.isprintable() else ascii(name) for name in names]
    shown = ', '.join(listed[:limit])
    return shown if len(listed) <= limit else f'{shown} and {len(listed) - limit} more'


def read_file(path: str | os.PathLike, *, trust: bool = False) -> Any:
    """Return the content of the torch file `path`, on the CPU; tensors by name for a .safetensors file.

    trust: unpickle freely, which runs any code the file asks for. Without it only tensors and plain values are
    read; the training curves that mmengine stores with them are skipped, and a file that needs more is refused by
    naming what it asks for. Keys are those of the model itself, also where it was saved from inside a wrapper.
    Raises CheckpointError for a missing, empty, truncated, damaged or foreign file, for blocked globals, and for one
    that claims far more memory than its size.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise CheckpointError(f'{path} is a folder: name the checkpoint file in it.')
        if not path.exists():
            raise CheckpointError(f'There is no checkpoint file {path}: check the path.')
        check_kind(path)
        if path.suffix == SAFETENSORS:
            return _unwrapped(_safetensors_content(path))
        if zipfile.is_zipfile(path):
            check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', UserWarning)  # of the unpickler, about files that it refuses afterwards
            with nullcontext() if trust else _curves_skipped(path):
                payload = torch.load(path, map_location='cpu', weights_only=not trust)
        check_payload(payload, path)
        return _unwrapped(payload)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f'{path} cannot be read: {error.strerror or error}.') from error
    except Exception as error:
        # torch reports a damaged file as RuntimeError, EOFError, UnpicklingError, UnicodeDecodeError, KeyError ...
        raise CheckpointError(_why_unreadable(path, error, trust)) from error


def as_safetensors(payload: Mapping[str, Any]) -> bytes:
    """An mmengine checkpoint, dict(meta=, state_dict=), as the content of a .safetensors file; read_file() undoes it.

    Raises CheckpointError for a meta that is not of plain values.
    """
    try:
        meta = json.dumps(payload.get('meta', {}))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f'meta must hold plain values to be written as safetensors: {error}.') from error
    return save(contiguous(payload['state_dict']), {'format': 'pt', _META: meta})


def _safetensors_content(path: Path) -> dict[str, Any]:
    """Tensors by name, or meta and state_dict of what as_safetensors() wrote."""
    state = load_file(path)
    with safe_open(path, 'pt') as file:
        meta = (file.metadata() or {}).get(_META)
    if meta is None:
        return dict(state)
    content = json.loads(meta)
    if not isinstance(content, dict):
        raise CheckpointError(f'{path} has a meta that is not a table: copy or download it again.')
    return dict(meta=content, state_dict=state)


def _unwrapped(payload: Any) -> Any:
    """Return a file's content with the prefixes of WRAPPERS removed from the keys of its state dicts."""
    if not isinstance(payload, Mapping):
        return payload
    inner = {key: _stripped(payload[key]) for key in STATES if isinstance(payload.get(key), Mapping)}
    return {**payload, **inner} if inner else _stripped(payload)


def _stripped(state: Mapping) -> Mapping:
    for prefix in (wrapper for _ in WRAPPERS for wrapper in WRAPPERS):
        if state and all(isinstance(key, str) and key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _curves_skipped(path: Path) -> AbstractContextManager:
    """Let torch's safe reader replace mmengine's curves by Skipped, if the file needs nothing else."""
    blocked = set(_blocked_globals(path, '')) if zipfile.is_zipfile(path) else set()
    if _CURVE not in blocked or not blocked <= {_CURVE, *_PARTS_OF_CURVES}:
        return nullcontext()
    return torch.serialization.safe_globals([(Skipped, name) for name in blocked])


def check_kind(path: Path) -> None:
    """Raise CheckpointError for what is not a file of torch.save, or of safetensors by name, before it is read."""
    with path.open('rb') as file:
        start, header = file.read(4), file.read(5)[4:]
    if not start:
        raise CheckpointError(f'{path} is empty (0 bytes): copy or download it again.')
    if path.suffix == SAFETENSORS:
        if header != b'{':  # after the 8 bytes of its length
            raise CheckpointError(f'{path} is not a safetensors file: copy or download it again.')
        return
    if start == _ZIP_START:
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f'{path} is truncated or damaged ({path.stat().st_size} bytes, the end of the '
                'archive is missing): copy or download it again.'
            )
        try:
            with zipfile.ZipFile(path) as archive:
                inside = {name.rpartition('/')[2] for name in archive.namelist()}
        except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError) as error:
            raise CheckpointError(
                f'{path} is damaged, the directory of its archive cannot be read: copy or download it again.'
            ) from error
        if 'constants.pkl' in inside:
            raise CheckpointError(f'{path} is a TorchScript archive, not a checkpoint: give the file of torch.save.')
        if 'data.pkl' not in inside:
            raise CheckpointError(f'{path} is a zip archive that torch.save did not write, so it is not a checkpoint.')
    elif not start.startswith(_PICKLE_START):
        raise CheckpointError(f'{path} is not a torch file (it starts with {start!r}): give a file of torch.save.')


def _why_unreadable(path: Path, error: Exception, trust: bool) -> str:
    """Return the reason, in one sentence, why a file that looks like a torch file does not load."""
    blocked = [] if trust else _blocked_globals(path, str(error))
    if blocked:
        return (
            f'{path} is refused because it is not plain data: reading it would call {few(blocked)}; nothing of it '
            f'was run. If you trust whoever made it, make a plain file with `{CONVERT} {path} model.pth --trust`.'
        )
    if trust and isinstance(error, ImportError | AttributeError):
        return f'{path} needs something that is not installed here: {error}.'
    return f'{path} is truncated, damaged or not a checkpoint of torch.save: copy or download it again.'


def _blocked_globals(path: Path, message: str) -> list[str]:
    """Return the functions and classes, as 'module.name', which a pickle asks for and torch does not allow."""
    list_all = getattr(torch.serialization, 'get_unsafe_globals_in_checkpoint', None)  # torch 2.6 and newer, zip only
    if list_all is not None:
        with suppress(Exception):
            return sorted(list_all(path))
    return sorted(set(re.findall(r'GLOBAL ([\w.]+)', message)))


def contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors that own their memory: published files hold overlapping strided views of one storage."""
    return {key: tensor.detach().clone(memory_format=torch.contiguous_format) for key, tensor in state.items()}
