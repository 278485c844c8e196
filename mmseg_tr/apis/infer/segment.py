"""Class maps of pictures: blends in the colours of the dataset, and PNGs of class numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample
from PIL import Image
from torch import nn

from mmseg_tr.analysis.speed import mixed_precision
from mmseg_tr.errors import ConfigError
from mmseg_tr.registry import DATASETS
from mmseg_tr.visualization.attention import picture_png
from mmseg_tr.visualization.scenes import colorize


@dataclass(frozen=True)
class Segmenting:
    """A task of apis.infer: classes of pixels. palette: (red, green, blue) per class. amp: dtype of autocast."""

    folders: ClassVar[dict[str, str]] = dict(blend='.png', label='.png')
    per_frame: ClassVar[bool] = True  # a video has a file of classes per frame

    model: nn.Module
    palette: list
    amp: torch.dtype | None = None

    def predict(self, images: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
        """Class numbers (H, W) uint8 of pictures of one size."""
        return segment(self.model, images, self.amp)

    def draw(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        return blend(image, label, self.palette)

    def encode(self, label: np.ndarray) -> bytes:
        return picture_png(label)


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


def dataset_infos(config: Config) -> Iterator[dict[str, Any]]:
    """Names and colours of the classes, as the dataset of each of the config's loaders has them."""
    for loader in ('test_dataloader', 'val_dataloader', 'train_dataloader'):
        dataset = (config.get(loader) or {}).get('dataset') or {}
        while isinstance(dataset.get('dataset'), Mapping):  # inside a wrapper such as RepeatDataset
            dataset = dataset['dataset']
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(str(dataset.get('type')))
        yield {**getattr(kind, 'METAINFO', {}), **(dataset.get('metainfo') or {})}


def palette_of(config: Config, model: nn.Module) -> list:
    """The colours of the classes: of the config's dataset, whichever of its loaders names one.

    Raises ConfigError where the config names no dataset with enough colours.
    """
    count = model.decode_head.num_classes
    if count > 255:
        raise ConfigError(f'the model tells {count} classes apart: a label PNG holds 255 at most.')
    for info in dataset_infos(config):
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
