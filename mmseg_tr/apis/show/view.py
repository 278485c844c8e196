"""A network and what it takes to show it a picture: what show_merging and report share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image
from torch import Tensor, nn

from mmseg_tr.analysis.network import find_backbone
from mmseg_tr.apis.build import build_model, own_shape, prepare_device
from mmseg_tr.apis.config import load_config, require_sections, use_reduction
from mmseg_tr.apis.preprocess import PictureReader, preprocess
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.nn.backbone import Backbone

RANDOM = 'none'  # in place of a checkpoint


@dataclass(frozen=True)
class View:
    """A model in eval mode, the network in it whose tokens merge, and the short side at which it is shown pictures."""

    config: Config
    model: nn.Module
    network: Backbone
    side: int

    @classmethod
    def of(cls, config: Config, model: nn.Module) -> View:
        """A model built from a config. Raises ConfigError where its network is not one of this package."""
        network = find_backbone(model)
        if network is None:
            raise ConfigError(
                f'{config.filename} has neither mmseg_tr.ViT nor mmseg_tr.MiT: no other merging can be shown.'
            )
        return cls(config, model, network, min(own_shape(config)))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def fit(self, pixels: np.ndarray, side: int | None = None) -> np.ndarray:
        """A picture (H, W, 3) uint8 whole, its short side as asked, both sides rounded to whole patches."""
        scale = (side or self.side) / min(pixels.shape[:2])
        height, width = (
            max(round(length * scale / step), 1) * step for length, step in zip(pixels.shape[:2], self.network.step)
        )
        if (height, width) == pixels.shape[:2]:
            return pixels
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))

    def prepared(self, pixels: np.ndarray) -> Tensor:
        """RGB pixels (H, W, 3) uint8 as the network takes them, (1, 3, H, W) on its device."""
        reader = PictureReader.of(self.config)
        return preprocess(self.model, [reader.pack(reader.load(pixels), native=True)])['inputs']


def open_view(
    config: str | Config,
    checkpoint: str,
    *,
    reduction: str | None = None,
    device: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> View:
    """The network of a config with its weights; checkpoint='none' gives random ones.

    reduction: settings over the config's, as overrides.parse_reduction() reads them.
    Raises ConfigError, CheckpointError or DeviceError.
    """
    place = prepare_device(device)
    config = load_config(config, cfg_options)
    require_sections(config, 'model')
    if reduction is not None:
        use_reduction(config, reduction)
    if checkpoint != RANDOM and not Path(checkpoint).is_file():
        raise CheckpointError(
            f"there is no checkpoint file {checkpoint}: check the path, or write 'none' for random weights."
        )
    model = build_model(config, None if checkpoint == RANDOM else checkpoint).to(place).eval()
    return View.of(config, model)
