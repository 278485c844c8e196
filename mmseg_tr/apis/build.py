"""Build what a tool works with from a config: network, device, and a batch of real images."""

from __future__ import annotations

import copy
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.analysis.speed import check_compiler
from mmseg_tr.apis.images import SUFFIXES, files_below
from mmseg_tr.cpu import keep_freed_memory, multiplies_bfloat16
from mmseg_tr.engine.channels import take_any_channels
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.pose_checks import check_pose_network
from mmseg_tr.engine.preprocess import PictureReader, input_channels, preprocess
from mmseg_tr.engine.runner import config_mistakes
from mmseg_tr.engine.start import load_strictly
from mmseg_tr.engine.windows import windows_of
from mmseg_tr.errors import ConfigError, DatasetError, DeviceError, MissingExtraError
from mmseg_tr.options import check_type
from mmseg_tr.registry import MODELS

PRECISIONS = {'bf16': torch.bfloat16, 'fp16': torch.float16}
IMAGES = 8  # measured by default, more where a batch is larger
MOST_IMAGES = 2**16  # measured, or in a batch
MOST_THREADS = 1024


def build_model(config: Config, checkpoint: str | None) -> nn.Module:
    """Build the network of a config with the weights of a checkpoint, or reproducible random ones.

    Raises ConfigError or CheckpointError.
    """
    init_default_scope(config.get('default_scope') or 'mmseg')
    try:
        with config_mistakes(config), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            warnings.filterwarnings('ignore', module=r'mmseg\.')  # about its own old configs
            model = MODELS.build(model_settings(config))
    except TypeError as error:
        if 'argument' not in str(error):
            raise
        raise ConfigError(f'the config {config.filename} has a setting that its type does not take: {error}') from error
    check_pose_network(model)
    if checkpoint is not None:
        load_strictly(model, checkpoint)
    return model


def model_settings(config: Config) -> dict[str, Any]:
    """Return the model's config with its preprocessor: the top-level one if it has none, as the runner does."""
    settings = copy.deepcopy(config.model)
    if config.get('data_preprocessor') is not None:
        settings.setdefault('data_preprocessor', copy.deepcopy(config.data_preprocessor))
    take_any_channels(settings)
    return settings


def pick_device(name: str | torch.device | None) -> torch.device:
    """Return a device of this machine. Raises DeviceError."""
    check_type('device', name, str | torch.device | None)
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f'device must be cpu, cuda or cuda:1, got {name}.', parameters=['device']) from error
    if device.type not in ('cpu', 'cuda'):
        raise DeviceError(f'device must be cpu, cuda or cuda:1, got {name}.', parameters=['device'])
    present = torch.cuda.device_count() if device.type == 'cuda' else 1
    if (device.index or 0) >= present:
        have = f'only {present} GPU{"s" if present > 1 else ""}' if present else 'no GPU that torch can use'
        raise DeviceError(f'device {name} is not available: this machine has {have}.', parameters=['device'])
    return device


def prepare_device(name: str | torch.device | None, compiled: bool = False) -> torch.device:
    """Call pick_device() and, for a CPU, tune memory management for networks (mmseg_tr.cpu).

    compiled: whether networks will be compiled; DeviceError where no compiler works.
    """
    device = pick_device(name)
    if compiled:
        check_compiler(device)
    if device.type == 'cpu':
        keep_freed_memory()
    return device


def pick_precision(amp: str | None, device: str | torch.device | None) -> torch.dtype | None:
    """Return the autocast dtype by its name.

    Raises ConfigError for another name, DeviceError for float16 on a CPU and bfloat16 on one that does not multiply it.
    """
    check_type('amp', amp, str | None)
    if amp is None:
        return None
    if amp not in PRECISIONS:
        raise ConfigError(f'amp must be {" or ".join(PRECISIONS)}, got {amp}.', parameters=['amp'])
    if pick_device(device).type == 'cpu':
        if amp == 'fp16':
            raise DeviceError('amp must be bf16 on a CPU, got fp16.', parameters=['amp'])
        if not multiplies_bfloat16():
            raise DeviceError(
                'amp must be left out on this CPU: it has neither avx512_bf16 nor amx, and bfloat16 would be slower '
                'than float32.',
                parameters=['amp'],
            )
    return PRECISIONS[amp]


def precision_name(dtype: torch.dtype | None) -> str:
    """Return the name in PRECISIONS of an autocast type, 'fp32' for None."""
    return next((name for name, kind in PRECISIONS.items() if kind == dtype), 'fp32')


def own_shape(config: Config) -> tuple[int, int]:
    """Return the image size of a config: its window, its crop, its img_size, a codec's, else 512 x 512."""
    return known_shape(config) or (512, 512)


def known_shape(config: Config) -> tuple[int, int] | None:
    """As own_shape(); None where the config gives no size."""
    model = config.model
    codec = (model.get('head') or {}).get('decoder')
    if isinstance(codec, Mapping) and codec.get('input_size') is not None:
        return tuple(reversed(codec['input_size']))  # width first
    for section, key in (('test_cfg', 'crop_size'), ('data_preprocessor', 'size'), ('backbone', 'img_size')):
        size = (model.get(section) or {}).get(key)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (tuple, list)) and len(size) == 2:
            return tuple(size)
    return None


def load_batch(
    config: Config, model: nn.Module, folder: str | None, shape: tuple[int, int], count: int, needed: int
) -> Tensor:
    """Return different preprocessed pictures: (n, C, *shape) float32 on the CPU, needed <= n <= count.

    folder: its pictures go through the config's pipeline and the model's preprocessing, as in a test. Where test cuts
    windows of `shape`, the middle one is taken; otherwise the picture is scaled until it covers the shape, then cut at
    its centre. Duplicates are used once. None: the bundled photographs, cut to the shape; where they are not installed,
    the config's test set.
    Raises DatasetError for a folder without pictures, one that cannot be read, and too few of them.
    """
    found: dict[bytes, Tensor] = {}
    for image in _photographs(config, model, shape, count) if folder is None else _from_folder(config, model, folder):
        image = fit_to(image, model, shape).cpu()
        found.setdefault(image.numpy().tobytes(), image)
        if len(found) == count:
            break
    if len(found) < needed:
        asked = f'a batch of {needed} takes as many different images'
        if folder is not None:
            raise DatasetError(f'{asked}, the folder {folder} holds {len(found)}: add images or take a smaller batch.')
        raise DatasetError(
            f"{asked}, the config's test set holds {len(found)}: give images, a folder of your pictures, take a "
            "smaller batch, or install the bundled photographs with pip install 'mmseg_tr[demo]'.",
            parameters=['images'],
        )
    return torch.cat(list(found.values()))


def _from_folder(config: Config, model: nn.Module, folder: str) -> Iterator[Tensor]:
    """Yield the network's input for every picture of a folder, as in a test, (1, C, H, W)."""
    if not Path(folder).is_dir():
        raise DatasetError(f'there is no folder {folder}: images must be a folder of image files.')
    reader, empty = PictureReader.of(config), True
    for file in files_below(Path(folder)):
        empty = False
        yield preprocess(model, [reader.read(file)])['inputs']
    if empty:
        raise DatasetError(f'the folder {folder} holds no image: files ending in {", ".join(SUFFIXES)} are looked for.')


def _photographs(config: Config, model: nn.Module, shape: tuple[int, int], count: int) -> Iterator[Tensor]:
    """Yield the bundled photographs at the input size, normalised by the model, (1, C, *shape).

    Where they are not installed, the pictures of the config's test set. Raises MissingExtraError without either.
    """
    try:
        pictures = photograph_batch(count, shape)
    except MissingExtraError as error:
        dataset = _test_set(config)
        if dataset is not None:
            for index in range(len(dataset)):
                yield preprocess(model, [dataset[index]])['inputs']
            return
        raise MissingExtraError(
            f'{error}, or give images, a folder of your pictures.', parameters=['images'], name=error.name
        ) from error
    for pixels in pictures:
        yield network_input(config, model, np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _test_set(config: Config) -> Any:
    """Build the config's test set; None where it has none that exists."""
    loader = config.get('test_dataloader')
    try:
        return build_dataset(loader.dataset) if loader is not None else None
    except (ConfigError, DatasetError):
        return None


def network_input(config: Config, model: nn.Module, pixels: np.ndarray) -> Tensor:
    """Return an RGB picture (H, W, 3) as the network takes it, at its own size: (1, C, H, W).

    For a network with other channels, the picture's are repeated: it is only measured.
    """
    reader, channels = PictureReader.of(config), input_channels(model)
    loaded = reader.load(pixels)
    img = np.atleast_3d(loaded['img'])
    if channels is not None and img.shape[2] != channels:
        img = img[..., [number % img.shape[2] for number in range(channels)]]
    if reader.pose:
        item = dict(inputs=torch.from_numpy(img.transpose(2, 0, 1).copy()), data_samples=BaseDataElement())
    else:
        item = reader.pack(dict(loaded, img=img), native=True)
    return preprocess(model, [item])['inputs']


def fit_to(image: Tensor, model: nn.Module, shape: tuple[int, int]) -> Tensor:
    """Return the middle test window if it has this shape, else the picture scaled and cropped to it: (1, C, *shape)."""
    windows = windows_of(model, image)
    if windows.size == tuple(shape):
        return windows.middle()
    zoom = max(wanted / side for wanted, side in zip(shape, image.shape[-2:]))
    if zoom != 1:
        size = [max(round(side * zoom), wanted) for side, wanted in zip(image.shape[-2:], shape)]
        image = F.interpolate(image, size=size, mode='bilinear', align_corners=False, antialias=True)
    top, left = ((side - wanted) // 2 for side, wanted in zip(image.shape[-2:], shape))
    return image[..., top : top + shape[0], left : left + shape[1]].contiguous()


def machine(device: torch.device) -> str:
    """Describe the processor, its cores, and the GPU if one was used."""
    name, info = platform.processor() or platform.machine(), Path('/proc/cpuinfo')
    if info.is_file():
        named = [line.partition(':')[2].strip() for line in info.read_text().splitlines() if 'model name' in line]
        name = named[0] if named else name
    text = f'{name}, {os.cpu_count()} cores'
    return f'{text}, {torch.cuda.get_device_name(device)}' if device.type == 'cuda' else text


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Use this many threads in the context; None leaves them unchanged. Raises ConfigError for another number."""
    before = torch.get_num_threads()
    if number is not None and not 1 <= number <= MOST_THREADS:
        raise ConfigError(f'threads must be from 1 to {MOST_THREADS}, got {number}.', parameters=['threads'])
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
