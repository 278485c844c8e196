"""Export a network as one file that runs without this package: the verb of tools/export.py.

The network is traced once by torch.export, for any number of images of one size, and saved as such (.pt2) or translated
to ONNX. The written file is read back and compared with the network before it gets its name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.network import reduction_of
from mmseg_tr.apis.build import build_model, load_batch, own_shape
from mmseg_tr.apis.config import (
    load_config,
    reduction_settings,
    require_sections,
    use_reduction,
)
from mmseg_tr.apis.export.check import write_checked
from mmseg_tr.apis.export.counts import average_settings
from mmseg_tr.apis.export.description import describe
from mmseg_tr.apis.export.onnx import require_onnx
from mmseg_tr.apis.export.program import OUTPUTS, Whole
from mmseg_tr.errors import ConfigError
from mmseg_tr.options import Options, check_type
from mmseg_tr.paths import require_checkpoint
from mmseg_tr.reduction import Reduction

FORMATS = {'.onnx': 'onnx', '.pt2': 'torch'}


@dataclass(frozen=True)
class ExportOptions(Options):
    """Options of an export and of the check of its file.

    form: 'onnx' or 'torch'; by default from the file's suffix. output: 'logits' or 'labels'. shape: (H, W) of
    the images; by default the config's own. batch_sizes: checked on real photographs, or on the pictures of the folder
    `images`. reduction: settings over the config's. average: fix how much an adaptive method merges to its mean over
    this many pictures of the config's test set. force: replace a file that exists.
    """

    form: str | None = None
    output: str = 'logits'
    shape: tuple[int, int] | None = None
    batch_sizes: Sequence[int] = (1, 3)
    images: str | os.PathLike | None = None
    reduction: str | None = None
    average: int | None = None
    force: bool = False
    cfg_options: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for values that are not allowed."""
        super().__post_init__()
        if self.form not in (None, *FORMATS.values()):
            raise ConfigError(
                f'form must be one of {", ".join(FORMATS.values())}, got {self.form!r}.', parameters=['form']
            )
        if self.output not in OUTPUTS:
            raise ConfigError(
                f'output must be one of {", ".join(OUTPUTS)}, got {self.output!r}.', parameters=['output']
            )
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(
                f'batch_sizes must be positive integers, got {tuple(self.batch_sizes)}.', parameters=['batch_sizes']
            )
        if self.average is not None and self.average < 1:
            raise ConfigError(f'average must be a positive integer, got {self.average}.', parameters=['average'])

    def for_file(self, out: Path) -> ExportOptions:
        """Return options with the format of the suffix of `out`. Raises ConfigError, also when `out` is kept."""
        form = FORMATS.get(out.suffix)
        if form is None or self.form not in (None, form):
            raise ConfigError(
                f'the file {out} must end in .onnx for the format onnx or in .pt2 for torch'
                f'{f", the format given is {self.form}" if self.form else ""}.'
            )
        if out.exists() and not self.force:
            raise ConfigError(f'{out} exists: choose another file, or set force to replace it.', parameters=['force'])
        return replace(self, form=form)


@dataclass(frozen=True)
class Exported:
    """A checked file. difference: the largest one to the network, by batch size.

    reduction: settings of the method inside the file, None for a plain network.
    """

    path: Path
    form: str
    output: str
    shape: tuple[int, int]
    difference: Mapping[int, float]
    reduction: Mapping[str, Any] | None


def export(
    config: str | Config, checkpoint: str, out: str | os.PathLike, options: ExportOptions | None = None, **settings: Any
) -> Exported:
    """Write the network of a config, for images of one size and any number of them, and check the written file.

    settings: fields of ExportOptions, over those of `options`.
    Raises ConfigError, CheckpointError, DatasetError or MissingExtraError for input that cannot be used, ExportError
    when the network cannot be exported or the file disagrees with it by more than 1e-4; then no file is written.
    """
    check_type('out', out, str | os.PathLike)
    out = Path(out)
    options = replace(options or ExportOptions(), **settings).for_file(out)
    if options.form == 'onnx':
        require_onnx()
    require_checkpoint(checkpoint)
    config = load_config(config, options.cfg_options)
    require_sections(config, 'model')
    if options.reduction is not None:
        use_reduction(config, options.reduction)
    model = build_model(config, checkpoint).eval()
    if options.average is not None:
        config.model.backbone.reduction = average_settings(config, model, options.average)
        model = build_model(config, checkpoint).eval()
    refuse_adaptive(model)
    if options.output == 'labels' and not hasattr(model, 'decode_head'):
        raise ConfigError(
            f'output labels is for segmentation, and the model of {config.filename} has no decode_head: take logits.',
            parameters=['output'],
        )
    shape = tuple(options.shape or own_shape(config))
    count = max(2, *options.batch_sizes)
    batch = load_batch(config, model, options.images, shape, count, count)
    whole = Whole(model, options.output).eval()
    about = describe(config, model, checkpoint, shape, options.output)
    difference = write_checked(
        whole, batch, out, options.form, options.batch_sizes, description=about, replace=options.force
    )
    reduction = reduction_settings(config.model.get('backbone') or {})
    return Exported(out, options.form, options.output, shape, difference, reduction or None)


def refuse_adaptive(model: nn.Module) -> None:
    """Raise ConfigError, naming the setting, when shapes depend on the image under the model's method."""
    reduction = reduction_of(model)
    reason = reduction.unexportable() if isinstance(reduction, Reduction) else None
    if reason:
        raise ConfigError(reason)
