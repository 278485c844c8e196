"""Official file formats to this package's own: one file a source format, and the table of them.

Own checkpoints have mmengine's layout, ``dict(meta=..., state_dict=...)``, keys backbone.* and decode_head.*, and load
with ``torch.load(path, weights_only=True)``.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmseg_tr.checkpoints import (
    expedite,
    mmengine_file,
    mmseg_segmenter,
    official_cts,
    official_segmenter,
    segformer,
    to_mmseg,
)
from mmseg_tr.checkpoints.formats import Converted
from mmseg_tr.checkpoints.official_cts import load_official
from mmseg_tr.checkpoints.official_segmenter import build_segmenter, official_to_segmenter
from mmseg_tr.errors import CheckpointError
from mmseg_tr.version import __version__
from mmseg_tr.weights.fit import load_into
from mmseg_tr.weights.io import check_destination, few, read_file, write_together

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
# each module has NAME, recognise(payload) and convert(payload, path, *, variant); the first to recognise a file has it
FORMATS = (official_cts, official_segmenter, expedite, mmseg_segmenter, segformer, mmengine_file)


def describe(payload: Any) -> str:
    """What a file's content is, in a few words."""
    for form in FORMATS:
        if form.recognise(payload):
            return f'an {form.NAME}'
    if isinstance(payload, Mapping):
        return f'it holds {few(payload)}' if payload else 'it holds nothing'
    return f'it holds a {type(payload).__name__}'


def convert(src: str | os.PathLike, *, variant: str | os.PathLike | None = None, trust: bool = False) -> Converted:
    """Recognise the checkpoint `src`, a file or the folder of a release, and turn it into this package's layout.

    variant: the description of an official release, by default variant.yml beside it. trust: see `read_file`.
    Raises CheckpointError for a file that is unknown, damaged, unsafe or contradicts its description.
    """
    path = official_segmenter.checkpoint_path(src)
    payload = read_file(path, trust=trust)
    for form in FORMATS:
        if form.recognise(payload):
            return form.convert(payload, path, variant=variant)
    raise CheckpointError(
        f'{path} is in no format that can be converted ({describe(payload)}): known are '
        f'{", ".join(form.NAME for form in FORMATS)}.'
    )


@dataclass(frozen=True)
class Written:
    """What `convert_file` wrote; `config` is None where the source says too little to write one."""

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
    """Convert `src` and write the checkpoint `dst` and, with suffix .py beside it, its config: both or neither.

    force: replace files that are there already. to: whose layout is written, one of TARGETS.
    Raises CheckpointError as `convert` does, and when a file exists or cannot be written.
    """
    if to not in TARGETS:
        raise CheckpointError(f'to={to!r} is unknown: checkpoints are written for {" and ".join(TARGETS)}.')
    source, dst = official_segmenter.checkpoint_path(src), Path(dst)
    if dst.suffix == '.py':
        raise CheckpointError(
            f'{dst} is where the config would go: name the checkpoint, such as {dst.with_suffix(".pth")}.'
        )
    if source.exists() and dst.exists() and dst.samefile(source):
        raise CheckpointError(f'{dst} is the source itself, which is never replaced: choose another name.')
    config = dst.with_suffix('.py')
    check_destination([dst, config], force=force)  # before the work, not after it
    converted = convert(src, variant=variant, trust=trust)
    converted = TARGETS[to](converted) if TARGETS[to] else converted
    meta = {**converted.meta, 'mmseg_tr_version': __version__}
    files: dict[Path, Any] = {dst: {'meta': meta, 'state_dict': converted.state_dict}}
    if converted.config is not None:
        meta['cfg'] = converted.config
        files[config] = converted.config
    write_together(files, force=force)
    return Written(dst, config if converted.config is not None else None, converted)
