"""From a config to what a tool works with: its network, its device, and a batch of real images."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmseg_tr.apis.images import normalise, read_images
from mmseg_tr.engine.pose_checks import check_pose_network
from mmseg_tr.engine.runner import config_mistakes
from mmseg_tr.engine.start import load_strictly
from mmseg_tr.errors import ConfigError, DatasetError, DeviceError
from mmseg_tr.memory import keep_freed_memory
from mmseg_tr.registry import MODELS

PRECISIONS = {'bf16': torch.bfloat16, 'fp16': torch.float16}
IMAGES = 8  # measured by default, more where a batch is larger


def build_model(config: Config, checkpoint: str | None) -> nn.Module:
    """The network of a config with the weights of a checkpoint, or random ones, the same in every call.

    Raises ConfigError or CheckpointError.
    """
    init_default_scope(config.get('default_scope') or 'mmseg')
    try:
        with config_mistakes(config), warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            warnings.filterwarnings('ignore', module=r'mmseg\.')  # about its own old configs
            model = MODELS.build(config.model)
    except TypeError as error:
        if 'argument' not in str(error):
            raise
        raise ConfigError(f'the config {config.filename} has a setting that its type does not take: {error}') from error
    check_pose_network(model)
    if checkpoint is not None:
        load_strictly(model, checkpoint)
    return model


def pick_device(name: str | None) -> torch.device:
    """A device that this machine has. Raises DeviceError."""
    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f'--device {name} is unknown: give cpu, cuda or cuda:1.') from error
    if device.type not in ('cpu', 'cuda'):
        raise DeviceError(f'--device {name} cannot be measured here: give cpu, cuda or cuda:1.')
    present = torch.cuda.device_count() if device.type == 'cuda' else 1
    if (device.index or 0) >= present:
        have = f'only {present} GPU{"s" if present > 1 else ""}' if present else 'no GPU that torch can use'
        raise DeviceError(f'--device {name} was asked for, but this machine has {have}: leave --device out.')
    return device


def prepare_device(name: str | None) -> torch.device:
    """pick_device(), with the memory of a CPU managed as networks need it from now on (mmseg_tr.memory)."""
    device = pick_device(name)
    if device.type == 'cpu':
        keep_freed_memory()
    return device


def pick_precision(amp: str | None, device: str | None) -> torch.dtype | None:
    """The autocast type that --amp names. Raises ConfigError for another name, DeviceError for float16 on a CPU."""
    if amp is None:
        return None
    if amp not in PRECISIONS:
        raise ConfigError(f'--amp {amp} is unknown: give {" or ".join(PRECISIONS)}.')
    if amp == 'fp16' and pick_device(device).type == 'cpu':
        raise DeviceError('--amp fp16 is for GPUs: on a CPU give --amp bf16.')
    return PRECISIONS[amp]


def own_shape(config: Config) -> tuple[int, int]:
    """The size that a config trains or tests at: its window, its crop, its img_size, a codec's, else 512 x 512."""
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
    return 512, 512


def load_batch(
    config: Config, model: nn.Module, folder: str | None, shape: tuple[int, int], count: int, needed: int
) -> Tensor:
    """Different images, normalised as the config says: (n, 3, H, W) float32 with needed <= n <= count."""
    images = read_images(folder, shape, count)
    if len(images) < needed:
        raise DatasetError(
            f'a batch of {needed} takes as many different images, the folder {folder} holds {len(images)}: add images '
            'or take a smaller --batch-size.'
        )
    preprocessor = config.model.get('data_preprocessor') or {}
    mean = torch.tensor(preprocessor.get('mean') or [127.5] * 3, dtype=torch.float32)
    std = torch.tensor(preprocessor.get('std') or [127.5] * 3, dtype=torch.float32)
    return normalise(images, mean, std, bgr=not preprocessor.get('bgr_to_rgb', True))


def machine(device: torch.device) -> str:
    """The processor, its cores, and the GPU if one was used."""
    name, info = platform.processor() or platform.machine(), Path('/proc/cpuinfo')
    if info.is_file():
        named = [line.partition(':')[2].strip() for line in info.read_text().splitlines() if 'model name' in line]
        name = named[0] if named else name
    text = f'{name}, {os.cpu_count()} cores'
    return f'{text}, {torch.cuda.get_device_name(device)}' if device.type == 'cuda' else text


@contextmanager
def cpu_threads(number: int | None) -> Iterator[None]:
    """Run with this many threads; None leaves them as they are. Raises ConfigError for less than one."""
    before = torch.get_num_threads()
    if number is not None and number < 1:
        raise ConfigError(f'--threads {number} is too few: give 1 or more.')
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
