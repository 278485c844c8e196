"""Exporting a network as one file that runs without this package: what tools/export.py does.

The network is traced once by torch.export, for any number of images of one size, and saved as such (.pt2) or translated
to ONNX. What was written is read back and run beside the network itself before it gets its name.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tr.analysis.network import network_of, reduction_of
from mmseg_tr.apis.build import build_model, load_batch, own_shape
from mmseg_tr.apis.config import load_config, require_checkpoint, require_sections, use_reduction
from mmseg_tr.apis.export.counts import average_counts
from mmseg_tr.errors import ConfigError, ExportError, require_extra
from mmseg_tr.reduction import Reduction

FORMATS = {'.onnx': 'onnx', '.pt2': 'torch'}
OUTPUTS = ('logits', 'labels')
TOLERANCE = 1e-4
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """A file that was written and agreed. difference: the largest one to the network itself, by batch size.

    reduction: settings of the method that the file has inside, None for a plain network.
    """

    path: Path
    form: str
    output: str
    shape: tuple[int, int]
    difference: Mapping[int, float]
    reduction: Mapping[str, Any] | None


class Whole(nn.Module):
    """Normalised images (B, 3, H, W) -> logits (B, K, H, W) or labels (B, H, W) int64, at the size of the images."""

    def __init__(self, model: nn.Module, output: str = 'logits') -> None:
        super().__init__()
        self.model, self.output = model, output

    def forward(self, image: Tensor) -> Any:
        network = network_of(self.model)
        logits = network.enlarge(network.scores(image), image)
        if self.output == 'logits':
            return logits
        return logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0).long()


def export(
    config: str | Config,
    checkpoint: str,
    out: str | os.PathLike,
    *,
    form: str | None = None,
    output: str = 'logits',
    shape: tuple[int, int] | None = None,
    batch_sizes: Sequence[int] = (1, 3),
    images: str | None = None,
    reduction: str | None = None,
    average: int | None = None,
    force: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
) -> Exported:
    """Write the network of a config, for images of one size and any number of them, and check what was written.

    form: 'onnx' or 'torch'; by default what the suffix of `out` says. output: 'logits' or 'labels'. shape: (H, W) of
    the images; by default the config's own. batch_sizes: tried on real photographs, or on the pictures of the folder
    `images`. reduction: settings over the config's. average: fix what ALGM merges to its mean over so many pictures of
    the config's test set. force: replace a file that exists.
    Raises ConfigError, CheckpointError, DatasetError or MissingExtraError for input that cannot be used, ExportError
    when the network cannot be exported or the file disagrees with it by more than 1e-4; then nothing is left behind.
    """
    out = Path(out)
    form = _check_form(form, out)
    if output not in OUTPUTS:
        raise ConfigError(f'--output {output} is unknown: it is one of {", ".join(OUTPUTS)}.')
    if out.exists() and not force:
        raise ConfigError(f'{out} exists already: name another file, or add --force.')
    if not batch_sizes or min(batch_sizes) < 1:
        raise ConfigError(f'--batch-size {" ".join(map(str, batch_sizes))} must be 1 or more.')
    require_checkpoint(checkpoint)
    config = load_config(config, cfg_options)
    require_sections(config, 'model')
    if reduction is not None:
        use_reduction(config, reduction)
    if average is not None:
        counts = average_counts(config, build_model(config, checkpoint).eval(), average)
        use_reduction(config, f'counts={counts}')
    model = build_model(config, checkpoint).eval()
    refuse_adaptive(model)
    if output == 'labels' and not hasattr(model, 'decode_head'):
        raise ConfigError(f'--output labels is for segmentation: the config {config.filename} has no decode_head.')
    shape = shape or own_shape(config)
    count = max(2, *batch_sizes)
    batch = load_batch(config, model, images, shape, count, count)
    whole = Whole(model, output).eval()
    difference = write_checked(whole, batch, out, form, batch_sizes)
    settings = (config.model.get('backbone') or {}).get('reduction')
    return Exported(out, form, output, tuple(shape), difference, dict(settings) if settings else None)


def refuse_adaptive(model: nn.Module) -> None:
    """Raise ConfigError, naming the option, when the model's method lets every image decide about shapes."""
    reduction = reduction_of(model)
    # what MiT merges is said by its settings, never by the image
    reason = reduction.unexportable() if isinstance(reduction, Reduction) else None
    if reason:
        raise ConfigError(reason)


def write_checked(
    whole: Whole, batch: Tensor, out: Path, form: str, batch_sizes: Sequence[int] = (1, 3)
) -> dict[int, float]:
    """Export `whole` to `out` and compare the file with it on the first images of `batch`, which holds two or more.

    Returns the largest difference per batch size. Raises ExportError; then `out` is as it was before.
    """
    write, read = (write_onnx, read_onnx) if form == 'onnx' else (write_torch, read_torch)
    if form == 'onnx':
        for module in ('onnx', 'onnxscript', 'onnxruntime'):
            require_extra('export', module, 'to export a network as ONNX')
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f'.unfinished.{out.name}')  # its suffix stays, which torch.export asks for
    try:
        write(trace(whole, batch[:2]), unfinished)
        differences = compare(whole, read(unfinished), batch, batch_sizes)
        os.replace(unfinished, out)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    return differences


def trace(whole: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The program of torch.export for any number of images like the two or more of `example`. Raises ExportError."""
    any_batch = {0: torch.export.Dim('batch', min=1)}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return torch.export.export(whole, (example,), dynamic_shapes=(any_batch,), strict=False)
    except Exception as error:  # whatever the code of a foreign network runs into
        raise ExportError(f'torch.export cannot trace this network: {_first_line(error)}') from error


def write_torch(program: torch.export.ExportedProgram, path: Path) -> None:
    """Save a program, as torch.export.load() reads it."""
    torch.export.save(program, path)


def read_torch(path: Path) -> Run:
    return torch.export.load(path).module()


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Translate a program to ONNX (operator set 18), weights inside. Raises ExportError."""
    from mmseg_tr.apis.export.onnx import TRANSLATIONS

    names = dict(input_names=['image'], output_names=['output'])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            translated = torch.onnx.export(
                program, dynamo=True, opset_version=18, verbose=False, custom_translation_table=TRANSLATIONS, **names
            )
    except Exception as error:
        raise ExportError(f'this network cannot be translated to ONNX: {_first_line(error)}') from error
    translated.save(path)


def read_onnx(path: Path, threads: int | None = None) -> Run:
    """A file of write_onnx() as ONNX Runtime runs it on the CPU. threads: by default one per core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')  # idle, they would slow torch down
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    return lambda image: torch.from_numpy(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])


@torch.no_grad()
def compare(whole: Whole, run: Run, batch: Tensor, batch_sizes: Sequence[int]) -> dict[int, float]:
    """The largest difference between the network and its export per batch size. Raises ExportError above 1e-4.

    Logits are compared as they are. Labels may differ where the network is undecided: the difference is then how much
    better the network likes its own class than the export's.
    """
    differences = {}
    for size in batch_sizes:
        image = batch[:size].contiguous()
        expected, found = whole(image), run(image)
        if not isinstance(expected, Tensor) or expected.shape != found.shape:
            raise ExportError('the exported network gives something else than one tensor like that of the network.')
        if whole.output == 'labels' and not torch.equal(expected, found):
            logits = Whole(whole.model)(image)
            if logits.shape[1] > 1:
                own, other = (logits.gather(1, labels[:, None].long()) for labels in (expected, found))
                expected, found = own, other
        difference = (expected.double() - found.double()).abs().max().item()
        if not difference <= TOLERANCE:
            raise ExportError(
                f'the exported network differs from the network by {difference:.3g} at a batch of {size}, more than '
                f'{TOLERANCE}: nothing was kept.'
            )
        differences[size] = difference
    return differences


def _check_form(form: str | None, out: Path) -> str:
    """'onnx' or 'torch', which `out` must be named after. Raises ConfigError."""
    named = FORMATS.get(out.suffix)
    if named is None or form not in (None, named):
        raise ConfigError(f'{out} does not say what it is: end it in .onnx for --format onnx, .pt2 for --format torch.')
    return named


def _first_line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f'{type(error).__name__}: {lines[0] if lines else "no reason given"}'
