"""A network and how pictures enter it: what show_merging and report share."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from torch import nn

from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.apis.build import build_model, prepare_device
from mmseg_tr.apis.infer.predictor import configured
from mmseg_tr.engine.preprocess import PictureReader, preprocess, shown
from mmseg_tr.engine.windows import Windows, by, windows_of
from mmseg_tr.errors import CheckpointError, ConfigError, DatasetError
from mmseg_tr.nn.backbone import Backbone
from mmseg_tr.nn.inference import whole_steps
from mmseg_tr.options import check_type

RANDOM = 'none'  # the value that replaces a checkpoint
LARGEST = 1 << 24  # most pixels at which a picture may enter


@dataclass(frozen=True)
class Entered:
    """A picture as it enters a network.

    pixels: (H, W, 3) uint8 RGB, as large as it enters, without padding. windows: what the network runs on.
    scale: a readable text of the size at which it enters.
    """

    pixels: np.ndarray
    windows: Windows
    scale: str


@dataclass(frozen=True)
class View:
    """A model in eval mode, the network in it whose tokens merge, and the reader of its config."""

    config: Config
    model: nn.Module
    network: Backbone
    reader: PictureReader

    @classmethod
    def of(cls, config: Config, model: nn.Module) -> View:
        """Wrap a built model. Raises ConfigError when its network is not one of this package."""
        network = find_backbone(model)
        if network is None:
            raise ConfigError(
                f'the backbone of {config.filename} must be mmseg_tr.ViT or mmseg_tr.MiT to show what merges.'
            )
        return cls(config, model, network, PictureReader.of(config))

    def enter(self, loaded: Mapping[str, Any], side: int | None = None) -> Entered:
        """Prepare a result of PictureReader.load() as test does: by the pipeline, in windows.

        side: instead, the whole picture in one forward, its short side as asked and both sides whole patches.
        Raises DatasetError for a picture that the network does not take or that enters too large.
        """
        if side is None:
            return self.enter_item(self.reader.pack(loaded), loaded['img'].shape[:2])
        size = whole_steps(loaded['img_shape'], side / min(loaded['img'].shape[:2]), self.network.step)
        check_size(loaded['img'].shape[:2], size)
        img = scaled(loaded['img'], size)
        item = self.reader.pack(dict(loaded, img=img, img_shape=size, ori_shape=size), native=True)
        inputs = preprocess(self.model, [item])['inputs']
        windows = Windows(inputs, tuple(inputs.shape[-2:]), ((0, 0),))
        return Entered(shown(img), windows, f'{by(loaded["img"].shape)} pixels enter whole as {by(size)}')

    def enter_item(self, item: Mapping[str, Any], size: tuple[int, int]) -> Entered:
        """Prepare a packed picture. size: (h, w) of its file."""
        img = item['inputs'].permute(1, 2, 0).numpy()
        check_size(size, img.shape[:2])
        inputs = preprocess(self.model, [item])['inputs']
        if not self.reader.pose:
            check_size(size, enlarged_size(self.model, tuple(inputs.shape[-2:])))
        windows = windows_of(self.model, inputs)
        whole = tuple(windows.image.shape[-2:])
        content = tuple(round(have * now / before) for have, now, before in zip(img.shape, whole, inputs.shape[-2:]))
        cut = f', in {len(windows.anchors)} windows of {by(windows.size)}' if len(windows.anchors) > 1 else ''
        return Entered(shown(scaled(img, content)), windows, f'{by(size)} pixels enter as {by(whole)}{cut}')


def enlarged_size(model: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which test runs an input of this size."""
    return tuple(windows_of(model, torch.empty(1, 1, *size, device='meta')).image.shape[-2:])


def check_size(given: tuple[int, int], size: tuple[int, int]) -> None:
    """Raise DatasetError for a picture that would enter with too many pixels to be drawn."""
    if size[0] * size[1] > LARGEST:
        raise DatasetError(
            f'a picture of {by(given)} pixels would enter the network as {by(size)}, more than {LARGEST} pixels: cut '
            'it or choose a smaller side.'
        )


def scaled(img: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image (H, W) or (H, W, C) to (h, w)."""
    if img.shape[:2] == tuple(size):
        return img
    parts, kind = np.atleast_3d(img), cv2.INTER_AREA if size[0] < img.shape[0] else cv2.INTER_CUBIC
    # OpenCV accepts at most four channels at once
    channels = [
        cv2.resize(np.ascontiguousarray(part), size[::-1], interpolation=kind) for part in np.moveaxis(parts, 2, 0)
    ]
    return np.stack(channels, -1) if img.ndim == 3 else channels[0]


def open_view(
    config: str | Config,
    checkpoint: str,
    *,
    reduction: str | Mapping[str, Any] | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> View:
    """Load the network of a config with its weights; checkpoint='none' gives random ones.

    reduction: settings over the config's, text as config.parse_reduction() reads it, or a dict.
    Raises ConfigError, CheckpointError or DeviceError.
    """
    place = prepare_device(device)
    check_type('checkpoint', checkpoint, str | os.PathLike)
    config = configured(config, reduction, cfg_options)
    if checkpoint != RANDOM and not Path(checkpoint).is_file():
        raise CheckpointError(
            f"there is no checkpoint file {checkpoint}: check the path, or write 'none' for random weights."
        )
    model = build_model(config, None if checkpoint == RANDOM else checkpoint).to(place).eval()
    return View.of(config, model)
