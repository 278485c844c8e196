"""Segmenting one's own pictures with a config and a checkpoint: what tools/infer.py does."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample
from PIL import Image, ImageOps
from torch import nn

from mmseg_tr.apis.benchmark_config import build_model, pick_device, pick_precision
from mmseg_tr.apis.config import load_config, require_sections
from mmseg_tr.apis.images import SUFFIXES
from mmseg_tr.apis.overrides import use_reduction
from mmseg_tr.apis.timing import mixed_precision
from mmseg_tr.engine.atomic import write_atomically
from mmseg_tr.errors import CheckpointError, ConfigError, DatasetError
from mmseg_tr.registry import DATASETS
from mmseg_tr.visualization.scenes import colorize

FOLDERS = ('blend', 'label')


@dataclass(frozen=True)
class Picture:
    """A file to segment, and the name of its results below the folders of the output."""

    path: Path
    name: Path


@dataclass(frozen=True)
class Failure:
    """A picture that was left out, with the sentence that says why."""

    path: Path
    reason: str


def infer(
    config: str | Config,
    checkpoint: str,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    reduction: str | None = None,
    batch_size: int = 1,
    device: str | None = None,
    amp: str | None = None,
    force: bool = False,
    cfg_options: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[Failure], None] = lambda failure: None,
) -> tuple[int, list[Failure]]:
    """Segment pictures; write `blend` (half picture, half the dataset's colours) and `label` (class numbers) PNGs.

    inputs: image files, and folders, which are searched through. reduction: settings over the config's, as
    `overrides.parse_reduction` reads them. batch_size: pictures of one size that run together.
    progress(done, total) is called after every batch, report(failure) for every picture that was left out.
    Returns how many pictures were segmented, and the failures.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError when nothing can be done at all.
    """
    place, dtype = pick_device(device), pick_precision(amp, device)
    if batch_size < 1:
        raise ConfigError(f'--batch-size {batch_size} is too small: give 1 or more.')
    if not Path(checkpoint).is_file():
        raise CheckpointError(f'there is no checkpoint file {checkpoint}: check the path.')
    config = load_config(config, cfg_options)
    require_sections(config, 'model')
    if reduction is not None:
        use_reduction(config, reduction)
    pictures, failures = find_pictures(inputs)
    out = Path(out)
    check_output(pictures, out, force)
    model = build_model(config, checkpoint).to(place).eval()
    palette = palette_of(config, model)
    for failure in failures:
        report(failure)
    done, total = 0, len(pictures) + len(failures)
    for group in _batches(pictures, batch_size):
        read = []
        for picture in group:
            try:
                read.append((picture, read_rgb(picture.path)))
            except DatasetError as error:
                failures.append(Failure(picture.path, str(error)))
                report(failures[-1])
        for same in _same_size(read):
            labels = segment(model, [image for _, image in same], dtype)
            for (picture, image), label in zip(same, labels):
                write_results(out, picture.name, image, label, palette)
                done += 1
        progress(done + len(failures), total)
    return done, failures


def find_pictures(inputs: Sequence[str | Path]) -> tuple[list[Picture], list[Failure]]:
    """The pictures that files and folders name, with names of their own, and the inputs that are none.

    Raises DatasetError when there is not one picture, or two would have results of the same name.
    """
    pictures, failures = [], []
    for path in map(Path, inputs):
        if path.is_dir():
            files = sorted(file for file in path.rglob('*') if file.suffix.lower() in SUFFIXES and file.is_file())
            pictures += [Picture(file, file.relative_to(path)) for file in files]
            if not files:
                failures.append(Failure(path, f'the folder {path} holds no image: add some, ending in .jpg or .png.'))
        elif not path.is_file():
            failures.append(Failure(path, f'there is no file or folder {path}: check the path.'))
        else:
            pictures.append(Picture(path, Path(path.name)))
    if not pictures:
        raise DatasetError(failures[0].reason if failures else 'no picture was named: name files or folders.')
    names: dict[str, Path] = {}
    for picture in pictures:
        name = _png(picture.name)
        if name in names:
            raise DatasetError(
                f'{names[name]} and {picture.path} would both be written to {name}: run them with outputs of their own.'
            )
        names[name] = picture.path
    return pictures, failures


def _png(name: Path) -> str:
    return name.with_suffix('.png').as_posix()


def check_output(pictures: Sequence[Picture], out: Path, force: bool) -> None:
    """Raise ConfigError when a result exists already, unless it may be replaced, or `out` is no folder."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f'-o {out} is a file: name a folder.')
    for picture in pictures:
        for folder in FOLDERS:
            path = out / folder / _png(picture.name)
            if path.exists() and path.samefile(picture.path):
                raise ConfigError(f'{path} would replace the picture that it is made from: name another folder.')
            if path.exists() and not force:
                raise ConfigError(f'{path} exists already: name another folder with -o, or add --force.')


def read_rgb(path: Path) -> np.ndarray:
    """A picture as it is meant to be seen, (H, W, 3) uint8 RGB. Raises DatasetError."""
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert('RGB'))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DatasetError(f'the image {path} cannot be read ({error}): it is left out.') from error


def _batches(pictures: Sequence[Picture], size: int) -> Iterator[Sequence[Picture]]:
    for start in range(0, len(pictures), size):
        yield pictures[start : start + size]


def _same_size(read: list[tuple[Picture, np.ndarray]]) -> list[list[tuple[Picture, np.ndarray]]]:
    """Pictures of one size together: padding would change what a network sees."""
    groups: dict[tuple[int, ...], list] = {}
    for item in read:
        groups.setdefault(item[1].shape, []).append(item)
    return list(groups.values())


@torch.inference_mode()
def segment(model: nn.Module, images: Sequence[np.ndarray], amp: torch.dtype | None = None) -> list[np.ndarray]:
    """Class numbers (H, W) uint8 of pictures of one size, at their own size: the config's windows, no resize."""
    size = images[0].shape[:2]
    meta = dict(ori_shape=size, img_shape=size, pad_shape=size, padding_size=[0] * 4)
    # mmseg's pipelines hand over BGR, and the preprocessor turns it as its network needs it
    pixels = [torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy()) for image in images]
    batch = dict(inputs=pixels, data_samples=[SegDataSample(metainfo=meta) for _ in images])
    device = next(model.parameters()).device
    with mixed_precision(device, amp):
        results = model.test_step(batch)
    return [result.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8) for result in results]


def palette_of(config: Config, model: nn.Module) -> list:
    """The colours of the classes: of the config's dataset, whichever of its loaders names one.

    Raises ConfigError where the config names no dataset with enough colours.
    """
    count = model.decode_head.num_classes
    if count > 255:
        raise ConfigError(f'the model tells {count} classes apart: a label PNG holds 255 at most.')
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset') or {}
        while isinstance(dataset.get('dataset'), Mapping):  # inside a wrapper such as RepeatDataset
            dataset = dataset['dataset']
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(str(dataset.get('type')))
        info = {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}
        if info.get('palette') is not None and len(info['palette']) >= count:
            return list(info['palette'])
    raise ConfigError(
        f'the config {config.filename} names no dataset with colours for {count} classes: add a test_dataloader whose '
        'dataset has metainfo=dict(palette=[[r, g, b], ...]).'
    )


def blend(image: np.ndarray, label: np.ndarray, palette: list) -> np.ndarray:
    """Half the picture, half the colours of its classes, as published: (H, W, 3) uint8."""
    mixed = Image.blend(Image.fromarray(image), Image.fromarray(colorize(label, palette)), 0.5)
    return np.asarray(mixed)


def write_results(out: Path, name: Path, image: np.ndarray, label: np.ndarray, palette: list) -> None:
    """Write both PNGs of a picture."""
    for folder, pixels in zip(FOLDERS, (blend(image, label, palette), label)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format='PNG')
        write_atomically(buffer.getvalue(), out / folder / _png(name))
