"""Predict class maps: blends in the colours of the dataset, and PNGs of class numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from mmseg_tr.analysis.speed import mixed_precision
from mmseg_tr.apis.infer.task import Request
from mmseg_tr.engine.preprocess import Picturelike, PictureReader, preprocess, shown
from mmseg_tr.errors import ConfigError
from mmseg_tr.visualization.attention import picture_png
from mmseg_tr.visualization.pixels import Filter, resized
from mmseg_tr.visualization.scenes import colorize


@dataclass(frozen=True)
class Segmenting:
    """A task of infer: the class of every pixel, as test predicts it.

    palette: (red, green, blue) per class, or None where nothing is drawn. amp: dtype of autocast. native: pictures
    enter at their own size, as published with Segmenter, without the pipeline's Resize.
    """

    folders: ClassVar[dict[str, str]] = dict(blend='.png', label='.png')
    per_frame: ClassVar[bool] = True  # a video has a file of classes per frame

    model: nn.Module
    reader: PictureReader
    palette: Sequence[Sequence[int]] | None = None
    amp: torch.dtype | None = None
    native: bool = False

    def read(self, picture: Picturelike, name: str = '') -> Request:
        loaded = self.reader.load(picture)
        return Request(name, shown(loaded['img']), (self.reader.pack(loaded, native=self.native),))

    @torch.inference_mode()
    def predict(self, requests: Sequence[Request]) -> list[np.ndarray]:
        """Return class numbers (H, W) of pictures of one size, at their own size: uint8, or int32 above 256."""
        data = preprocess(self.model, [request.items[0] for request in requests])
        with mixed_precision(data['inputs'].device, self.amp):
            samples = self.model(**data, mode='predict')
        dtype = np.uint8 if self.model.decode_head.num_classes <= 256 else np.int32
        return [sample.pred_sem_seg.data[0].cpu().numpy().astype(dtype) for sample in samples]

    def draw(self, request: Request, result: np.ndarray) -> np.ndarray:
        if self.palette is None:
            raise ConfigError('there are no colours for the classes: give the dataset of the config a palette.')
        return blend(request.pixels, result, self.palette)

    def encode(self, result: np.ndarray) -> bytes:
        return picture_png(result)


def blend(image: np.ndarray, label: np.ndarray, palette: Sequence[Sequence[int]]) -> np.ndarray:
    """Blend the picture and the colours of its classes half and half, as published: (H, W, 3) uint8."""
    image = resized(image, label.shape, Filter.BILINEAR)  # the pipeline may set another original size
    mixed = Image.blend(Image.fromarray(image), Image.fromarray(colorize(label, palette)), 0.5)
    return np.asarray(mixed)
