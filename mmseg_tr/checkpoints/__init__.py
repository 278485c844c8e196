"""Convert official file formats to this package's own: one module per source format, and their table.

Own checkpoints have mmengine's layout, ``dict(meta=..., state_dict=...)``, keys backbone.* and decode_head.*, and load
with ``torch.load(path, weights_only=True)``.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmseg_tr.checkpoints import (
    expedite,
    mmengine_file,
    mmseg_segmenter,
    official_cts,
    official_segmenter,
    segformer,
    to_mmseg,
)
from mmseg_tr.checkpoints.converted import Converted
from mmseg_tr.checkpoints.official_cts import load_official
from mmseg_tr.checkpoints.official_segmenter import build_segmenter, official_to_segmenter
from mmseg_tr.errors import CheckpointError, WriteError
from mmseg_tr.files import write_together
from mmseg_tr.options import check_type
from mmseg_tr.version import __version__
from mmseg_tr.weights import formats
from mmseg_tr.weights.fit import load_into
from mmseg_tr.weights.formats import FORMATS, checkpoint_path, describe
from mmseg_tr.weights.io import SAFETENSORS, as_safetensors, read_file

__all__ = [
    'FORMATS',
    'TARGETS',
    'Converted',
    'Written',
    'build_segmenter',
    'convert',
    'convert_file',
    'describe',
    'load_into',
    'load_official',
    'official_to_segmenter',
    'read_file',
]

TARGETS = {'mmseg_tr': None, to_mmseg.NAME: to_mmseg.to_mmseg}  # what a checkpoint may be written for
CONVERTERS = {
    formats.OFFICIAL_CTS: official_cts.convert,
    formats.OFFICIAL_SEGMENTER: official_segmenter.convert,
    formats.EXPEDITE: expedite.convert,
    formats.MMSEG_SEGMENTER: mmseg_segmenter.convert,
    formats.SEGFORMER: segformer.convert,
    formats.MMENGINE: mmengine_file.convert,
}


def convert(src: str | os.PathLike, *, variant: str | os.PathLike | None = None, trust: bool = False) -> Converted:
    """Recognise the checkpoint `src`, a file or the folder of a release, and turn it into this package's layout.

    variant: the description of an official release, by default variant.yml next to it. trust: see `read_file`.
    Raises CheckpointError for a file that is unknown, damaged, unsafe or contradicts its description.
    """
    path = checkpoint_path(src)
    check_type('variant', variant, str | os.PathLike | None)
    check_type('trust', trust, bool)
    payload = read_file(path, trust=trust)
    form = formats.format_of(payload)
    if form is None:
        raise CheckpointError(
            f'{path} is in no format that can be converted ({describe(payload)}): known are '
            f'{", ".join(form.name for form in FORMATS)}.'
        )
    return CONVERTERS[form](payload, path, variant=variant)


@dataclass(frozen=True)
class Written:
    """What `convert_file` wrote; `config` is None if the source does not determine one."""

    checkpoint: Path
    config: Path | None
    converted: Converted


def convert_file(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    *,
    variant: str | os.PathLike | None = None,
    trust: bool = False,
    force: bool = False,
    to: str = 'mmseg_tr',
) -> Written:
    """Convert `src` and write the checkpoint `dst` and, with suffix .py next to it, its config: both or neither.

    force: replace files that are there already. to: whose layout is written, one of TARGETS.
    Raises CheckpointError as `convert` does, and when a file exists or cannot be written.
    """
    if to not in TARGETS:
        raise CheckpointError(f'to={to!r} is unknown: checkpoints are written for {" and ".join(TARGETS)}.')
    source, dst = checkpoint_path(src), Path(dst)
    if dst.suffix == '.py':
        raise CheckpointError(
            f'{dst} is where the config would go: name the checkpoint, such as {dst.with_suffix(".pth")}.'
        )
    if source.exists() and dst.exists() and dst.samefile(source):
        raise CheckpointError(f'{dst} is the source itself, which is never replaced: choose another name.')
    config = dst.with_suffix('.py')
    _check_destination([dst, config], force)  # before the work, not after it
    converted = convert(src, variant=variant, trust=trust)
    converted = TARGETS[to](converted) if TARGETS[to] else converted
    meta = {**converted.meta, 'mmseg_tr_version': __version__}
    payload = {'meta': meta, 'state_dict': converted.state_dict}
    if converted.config is not None:
        meta['cfg'] = converted.config
    files: dict[Path, Any] = {dst: lambda file: torch.save(payload, file)}
    if dst.suffix == SAFETENSORS:
        files[dst] = as_safetensors(payload)
    if converted.config is not None:
        files[config] = converted.config
    try:
        write_together(files, replace=force)
    except WriteError as error:
        raise CheckpointError(f'{error} Nothing was written.') from error
    return Written(dst, config if converted.config is not None else None, converted)


def _check_destination(paths: Iterable[Path], force: bool) -> None:
    """Raise CheckpointError where one of `paths` is a folder, or exists and may not be replaced."""
    for path in paths:
        if path.is_dir():
            raise CheckpointError(f'{path} is a folder: name the file to write, such as {path / "model.pth"}.')
        if path.exists() and not force:
            raise CheckpointError(
                f'{path} exists and is kept: choose another name, or set force to replace it.', parameters=['force']
            )
