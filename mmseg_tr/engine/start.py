"""Find the checkpoint that a run starts from and check that it fits, before the run begins."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mmseg_tr.engine.training_state import BEST, check_training_state
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.loader import local_file
from mmseg_tr.weights.fit import check_tensors, completed, difference, load_into, resize_positions
from mmseg_tr.weights.io import few, read_file

NUMBERED = re.compile(r'(?:iter|epoch)_(\d+)\.pth')


def find_checkpoint(work_dir: str, named: str | None = None) -> str:
    """Return the checkpoint to resume from: `named`, or the last complete one in `work_dir`.

    The file last_checkpoint names it; one of that name in the same folder comes first, since folders may be copied.
    Raises CheckpointError when there is none.
    """
    if named is not None:
        if not Path(named).is_file():
            raise CheckpointError(f'resume must name a checkpoint file, there is no {named}.', parameters=['resume'])
        return named
    found = last_checkpoint(work_dir)
    if found is None:
        raise CheckpointError(
            f'resume found no checkpoint in {work_dir}: name the file to resume from, or leave it out to start anew.',
            parameters=['resume'],
        )
    return found


def last_checkpoint(work_dir: str) -> str | None:
    """Return the last complete checkpoint in a folder; None without any."""
    folder = Path(work_dir)
    record = folder / 'last_checkpoint'
    if record.is_file():
        last = Path(record.read_text(errors='replace').strip())
        for path in (folder / last.name, last):
            if os.path.isfile(path):  # False for what can be no path, of which Path.is_file() complains
                return str(path)
    numbered = [(int(match[1]), path) for path in folder.glob('*.pth') if (match := NUMBERED.fullmatch(path.name))]
    return str(max(numbered)[1]) if numbered else None


def refuse_used_folder(folder: str) -> None:
    """Raise ConfigError when a folder holds checkpoints of an earlier training, which a new one would replace."""
    names = [path.name for path in Path(folder).glob('*.pth')]
    left = sorted(name for name in names if NUMBERED.fullmatch(name) or BEST.fullmatch(name))
    if left:
        raise ConfigError(
            f'work_dir {folder} holds checkpoints of an earlier training ({few(left)}): continue it with resume, or '
            'name another folder.',
            parameters=['work_dir', 'resume'],
        )


@contextmanager
def one_training(folder: str) -> Iterator[None]:
    """Hold a folder for one training at a time; the file system forgets it with the process, however that ends.

    Raises ConfigError while another process trains into the folder. Where files cannot be locked nothing is held.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        # 'a': a file to which a link of that name leads keeps its content
        file = open(Path(folder) / '.training.lock', 'a')  # noqa: SIM115 (held open, and closed below)
    except OSError:  # the run itself says what it cannot write
        yield
        return
    with file:
        try:
            # Belongs to the process alone: data-loading processes that outlive a killed one hold nothing.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ConfigError(
                f'work_dir {folder} is in use by another training: wait for its end, or name another folder.',
                parameters=['work_dir'],
            ) from None
        except OSError:  # a file system without locks
            pass
        yield


def read(path: str) -> Any:
    """Read a checkpoint file. Raises CheckpointError with the command that reads a trusted file."""
    try:
        return read_file(path)
    except CheckpointError as error:
        raise _with_way_out(error, path) from error


def load_strictly(model: nn.Module, path: str) -> dict[str, Any]:
    """Load a checkpoint of exactly this model; returns its `meta`. Raises CheckpointError for any other."""
    try:
        return load_into(model, path)
    except CheckpointError as error:
        raise _with_way_out(error, path) from error


def read_training(path: str, max_iters: int | None = None) -> dict[str, Any]:
    """Read a checkpoint that holds a training, see check_training_state. Raises CheckpointError."""
    content = read(path)
    check_training_state(content, path, max_iters)
    return content


def check_resumable(model: nn.Module, path: str) -> None:
    """Raise CheckpointError unless `path` holds this model's weights and the state of a training."""
    read_training(path)
    load_strictly(model, path)


def check_start(model: nn.Module, path: str) -> list[str]:
    """Check that the backbone of `model` can start from the weights in `path`; heads may differ, as their classes do.

    path: a file, a URL or a hub name. Position embeddings of another image size are resized when the run loads them.
    Returns what a user should know, one sentence each: what is resized, and which weights the file does not hold.
    Raises CheckpointError when a tensor of the backbone is missing or has another shape.
    """
    content = read(str(local_file(path)))
    state = content.get('state_dict', content) if isinstance(content, dict) else {}
    state = dict(state) if isinstance(state, Mapping) else {}
    state = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    check_tensors(state, path)
    remarks = [f'{words}, from {path}.' for words in resize_positions(model, state)]
    found = difference(completed(model, state), model.state_dict())
    wrong = [key for key in found.missing if key.startswith('backbone.')]
    misfits = [*found.retyped, *(text for text in found.reshaped if text.startswith('backbone.'))]
    if misfits:
        raise CheckpointError(f'{path} is the checkpoint of another model: {few(misfits)}.')
    absent = (*found.missing, *(text.split()[0] for text in found.reshaped))
    if wrong or len(absent) == len(model.state_dict()):
        raise CheckpointError(f'{path} is the checkpoint of another model: it does not give {few(wrong or absent)}.')
    if absent:
        remarks.append(f'{path} does not hold these weights, which start anew: {few(absent)}.')
    return remarks


def _with_way_out(error: CheckpointError, path: str) -> CheckpointError:
    """Return the same error with the command that reads a trusted file."""
    text = str(error)
    if '--trust' in text:
        convert = f'mmseg-tr convert-checkpoint {path} model.pth --trust'
        text = f'{text.partition(";")[0]}: if you trust whoever made it, convert it first with {convert}'
    return CheckpointError(text, parameters=error.parameters)
