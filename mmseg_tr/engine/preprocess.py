"""Prepare pictures for a network: read by the config's own test pipeline, normalised by the model itself.

Every tool that runs a network on a picture uses these functions, so that all have the inputs of test.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import TRANSFORMS, init_default_scope
from PIL import Image
from torch import Tensor, nn

from mmseg_tr.engine.datasets import may_be_cut_off
from mmseg_tr.errors import ConfigError, DatasetError

LOADERS = ('test_dataloader', 'val_dataloader', 'train_dataloader')
RESIZING = ('Resize', 'Pad', 'Crop')  # parts of the names of transforms that change a picture's size
Picturelike = str | os.PathLike | np.ndarray | Image.Image


@dataclass(frozen=True)
class PictureReader:
    """The test pipeline of a config, for pictures without labels.

    loader: reads a file. steps: everything after it. still: the same without steps that resize, pad or crop.
    pose: whether it is a pipeline of mmpose, which packs a picture with a box.
    """

    loader: Any
    steps: Compose
    still: Compose
    pose: bool = False

    @classmethod
    def of(cls, config: Config) -> PictureReader:
        """Raise ConfigError when a step of the pipeline cannot be built."""
        scope = config.get('default_scope') or 'mmseg'
        init_default_scope(scope)
        pose = scope == 'mmpose'
        pipeline = test_pipeline(config) or default_pipeline(pose)
        try:
            loader, steps = None, []
            for step in pipeline:
                kind = transform_type(step)
                name = kind.__name__
                if not name.startswith('Load'):
                    steps.append(step)
                elif 'Annotation' in name:
                    steps.append(BlankLabel())
                elif loader is None and hasattr(kind, 'file_loader'):  # it draws scenes instead of reading files
                    loader = TRANSFORMS.build(dict(type=kind.file_loader))
                    steps += [] if pose else [BlankLabel()]
                elif loader is None:
                    loader = TRANSFORMS.build(step)
            loader = loader or TRANSFORMS.build(default_pipeline(pose)[0])
            still = [step for step in steps if not any(part in transform_type(step).__name__ for part in RESIZING)]
            return cls(loader, Compose(steps), Compose(still), pose)
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f'the test pipeline of {config.filename} cannot be built: {error}') from error

    def load(self, picture: Picturelike) -> dict[str, Any]:
        """Load a picture with the config's loader: 'img' and its size, for the steps after it.

        picture: a file, a PIL image, or an array: (H, W, 3) RGB, or (H, W) or (H, W, C) as the loader would give it.
        Raises DatasetError for a file that cannot be read.
        """
        if isinstance(picture, str | os.PathLike):
            return self._load_file(str(picture))
        if isinstance(picture, Image.Image):
            picture = np.asarray(picture if picture.mode in ('L', 'RGB') else picture.convert('RGB'))
        if not isinstance(picture, np.ndarray) or picture.ndim not in (2, 3) or not picture.size:
            got = getattr(picture, 'shape', type(picture).__name__)
            raise DatasetError(f'a picture must be a path, a PIL image or an array (H, W, 3) of RGB, got {got}.')
        return self._loaded(self._as_loaded(picture), None)

    def _load_file(self, path: str) -> dict[str, Any]:
        if '://' not in path and not os.path.isfile(path):
            raise DatasetError(f'there is no image {path}: check the path.')
        if may_be_cut_off(path):
            check_whole(path)
        try:
            loaded = self.loader(dict(img_path=path))
        except Exception as error:  # a loader may raise any error on a damaged file
            raise DatasetError(f'the image {path} cannot be read ({_reason(error)}).') from error
        if not isinstance(loaded, dict) or not isinstance(loaded.get('img'), np.ndarray) or not loaded['img'].size:
            raise DatasetError(f'the image {path} cannot be read (its loader returns no picture).')
        return self._loaded(loaded['img'], path, loaded)

    def _as_loaded(self, pixels: np.ndarray) -> np.ndarray:
        """Return pixels in memory in the form of the loader's output."""
        color = getattr(self.loader, 'color_type', 'color')
        if pixels.ndim == 3 and pixels.shape[2] == 3:
            pixels = np.ascontiguousarray(pixels[..., ::-1])  # OpenCV's order
            if color.startswith('grayscale') and pixels.dtype == np.uint8:
                pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
        elif pixels.ndim == 2 and color.startswith('color'):
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        return pixels.astype(np.float32) if getattr(self.loader, 'to_float32', False) else pixels

    @staticmethod
    def _loaded(img: np.ndarray, path: str | None, more: Mapping[str, Any] | None = None) -> dict[str, Any]:
        size = img.shape[:2]
        return dict(img_path=path, ori_shape=size, seg_fields=[]) | dict(more or {}) | dict(img=img, img_shape=size)

    def pack(self, loaded: Mapping[str, Any], *, native: bool = False, box: Sequence[float] | None = None) -> dict:
        """Run the rest of the pipeline; returns dict(inputs=(C, H, W), data_samples=...).

        native: leave out the steps that resize, pad or crop. box: (x1, y1, x2, y2) of a person, by default the picture.
        Raises DatasetError when a step does not accept the picture.
        """
        data = dict(loaded)
        if self.pose:
            height, width = data['img_shape']
            data['bbox'] = np.array([box or (0, 0, width, height)], np.float32)
            data['bbox_score'] = np.ones(1, np.float32)
        try:
            packed = (self.still if native else self.steps)(data)
        except Exception as error:  # of a transform, on a picture that it does not accept
            name = loaded.get('img_path') or f'of shape {loaded["img"].shape}'
            raise DatasetError(f'the test pipeline cannot take the image {name} ({_reason(error)}).') from error
        if not isinstance(packed, dict) or not isinstance(packed.get('inputs'), Tensor):
            raise DatasetError('the test pipeline packs no single picture: it must end in PackSegInputs or the like.')
        if 'gt_sem_seg' in packed['data_samples']:
            del packed['data_samples'].gt_sem_seg
        return packed

    def read(self, picture: Picturelike, *, native: bool = False) -> dict:
        """Call load(), then pack()."""
        return self.pack(self.load(picture), native=native)


class BlankLabel:
    """Placeholder for a step that loads the label, for later steps that transform one. The reader drops the label."""

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        results['gt_seg_map'] = np.zeros(results['img'].shape[:2], np.uint8)
        results['seg_fields'] = [*results.get('seg_fields', ()), 'gt_seg_map']
        return results


def transform_type(step: Any) -> type:
    """Return the class of a pipeline step. Raises KeyError for a name that is not registered."""
    kind = step['type'] if isinstance(step, Mapping) else type(step)
    if not isinstance(kind, str):
        return kind
    with TRANSFORMS.switch_scope_and_registry(None) as registry:
        found = registry.get(kind)
    if found is None:
        raise KeyError(f'{kind} is not in the registry of transforms')
    return found


def _reason(error: Exception) -> str:
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f'{text[:200]}...'


def shown(img: np.ndarray) -> np.ndarray:
    """Convert a loaded image of OpenMMLab for display: (H, W, 3) uint8 RGB.

    Grey becomes three equal channels, of more than three the first three are taken, 16 bits keep their high byte, and
    other numbers outside 0 to 255 are stretched.
    """
    img = np.atleast_3d(img)
    img = np.repeat(img[..., :1], 3, axis=2) if img.shape[2] < 3 else img[..., 2::-1]
    if img.dtype == np.uint16:
        img = img >> 8
    elif img.dtype != np.uint8:
        img = np.nan_to_num(img.astype(np.float32), posinf=255, neginf=0)
        low, high = float(img.min()), float(img.max())
        if low < 0 or high > 255 or high <= 1:
            img = (img - low) * (255 / max(high - low, 1e-12))
        img = img.round()
    return np.ascontiguousarray(img.astype(np.uint8))


def check_whole(path: str) -> None:
    """Raise DatasetError unless an image file can be decoded to its end."""
    try:
        with Image.open(path) as image:
            image.load()
    except Exception as error:  # Pillow may raise almost anything on damaged data
        raise DatasetError(f'the image {path} cannot be read ({_reason(error)}).') from error


def dataset_configs(config: Config) -> list[Mapping[str, Any]]:
    """Yield the dataset of each of the config's loaders, test first; of a wrapper or a concatenation its first part."""
    found = []
    for name in LOADERS:
        dataset = (config.get(name) or {}).get('dataset')
        while isinstance(dataset, Mapping):
            parts = dataset.get('datasets') or [dataset.get('dataset')]
            if not isinstance(parts[0], Mapping):
                found.append(dataset)
                break
            dataset = parts[0]
    return found


def test_pipeline(config: Config) -> list | None:
    """Return the test pipeline, or else that of validation; None if neither is set."""
    for name in LOADERS[:2]:
        for dataset in dataset_configs(Config({name: config.get(name)})):
            if dataset.get('pipeline'):
                return list(dataset['pipeline'])
    return None


def default_pipeline(pose: bool = False) -> list[dict[str, str]]:
    """Return OpenMMLab's default loader, for configs without a pipeline."""
    load, pack = ('LoadImage', 'PackPoseInputs') if pose else ('LoadImageFromFile', 'PackSegInputs')
    return [dict(type=load), dict(type=pack)]


@torch.no_grad()
def preprocess(model: nn.Module, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """dict(inputs=(B, C, H, W) float32, data_samples=...) as test hands them to the model's predict().

    items: pictures of one size, as PictureReader.pack() returns them.
    Raises DatasetError for pictures whose channels the network does not accept.
    """
    try:
        data = model.data_preprocessor(pseudo_collate([dict(item) for item in items]), False)
    except (RuntimeError, IndexError, ValueError):
        check_channels(model, items[0]['inputs'].shape[0])
        raise
    inputs = data['inputs']
    inputs = torch.stack(list(inputs)) if isinstance(inputs, list | tuple) else inputs
    inputs = inputs.to(next(model.parameters()).device).float()
    check_channels(model, inputs.shape[1])
    return dict(data, inputs=inputs)


def input_channels(model: nn.Module) -> int | None:
    """Return the input channels of a model; None without a convolution that determines them."""
    network = getattr(model, 'backbone', model)
    return next((module.in_channels for module in network.modules() if isinstance(module, nn.Conv2d)), None)


def check_channels(model: nn.Module, channels: int) -> None:
    """Raise DatasetError unless the model accepts pictures with this number of channels."""
    wanted = input_channels(model)
    if wanted is not None and channels != wanted:
        raise DatasetError(
            f'the network takes pictures of {wanted} channels, the test pipeline gives {channels}: set color_type of '
            'LoadImageFromFile in the config, or in_chans of the backbone.'
        )
