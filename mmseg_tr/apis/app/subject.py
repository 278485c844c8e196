"""A model as the app runs it: of a config, or of from_pretrained() and create_model()."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from mmseg_tr.analysis.network import find_backbone, network_of, with_reduction, without_reduction
from mmseg_tr.apis.build import prepare_device
from mmseg_tr.apis.meta import classes_of, palette_of
from mmseg_tr.apis.show.layers import MergedLayer, merged_layers
from mmseg_tr.apis.show.view import View, open_view
from mmseg_tr.engine.pose_checks import is_pose_config
from mmseg_tr.engine.preprocess import preprocess
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.inference import whole_steps
from mmseg_tr.reduction import Reduction
from mmseg_tr.visualization.merging import group_colors
from mmseg_tr.zoo import from_pretrained


class Subject(Protocol):
    """A plain model. model: the network; classes, palette: of its predictions; source: how Python opens it."""

    model: nn.Module
    classes: Sequence[str]
    palette: Sequence[Sequence[int]]

    def enter(self, pixels: np.ndarray) -> tuple[np.ndarray, list[Tensor]]:
        """The picture, (H, W, 3) uint8 RGB, as it enters, and the input of every window, (1, C, h, w)."""

    def labels(self, model: nn.Module, pixels: np.ndarray) -> np.ndarray:
        """Class numbers (h, w) that a model of the same weights predicts."""

    def merged(self, model: nn.Module, pixels: np.ndarray) -> list[MergedLayer]:
        """What merges in every layer."""

    def code(self, method: dict | None) -> str:
        """Lines of Python that predict with this method."""


class ConfigSubject:
    """The model of a config and a checkpoint: pictures enter as in a test."""

    def __init__(self, config: str, checkpoint: str, device: str | None = None) -> None:
        self.view = open_view(config, checkpoint, device=device)
        if is_pose_config(self.view.config):
            raise ConfigError(f'{config} is a pose config: the app is for segmentation.')
        self.config, self.checkpoint = config, checkpoint
        self.model = without_reduction(self.view.model)
        self.classes = classes_of(self.view.config, self.model, checkpoint).names
        self.palette = palette_of(self.view.config, self.model, checkpoint)

    def enter(self, pixels: np.ndarray) -> tuple[np.ndarray, list[Tensor]]:
        entered = self.view.enter(self.view.reader.load(pixels))
        return entered.pixels, [entered.windows.crop(number) for number in range(len(entered.windows.anchors))]

    def labels(self, model: nn.Module, pixels: np.ndarray) -> np.ndarray:
        item = self.view.reader.pack(self.view.reader.load(pixels))
        (sample,) = model(**preprocess(model, [item]), mode='predict')
        return sample.pred_sem_seg.data[0].cpu().numpy()

    def merged(self, model: nn.Module, pixels: np.ndarray) -> list[MergedLayer]:
        view = View(self.view.config, model, find_backbone(model), self.view.reader)
        return merged_layers(view, view.enter(view.reader.load(pixels)))

    def code(self, method: dict | None) -> str:
        return (
            'from mmseg_tr import Predictor\n\n'
            f'predictor = Predictor({self.config!r}, {self.checkpoint!r}, reduction={method!r})\n'
            "label = predictor.predict('picture.jpg')\n"
        )


class NetworkSubject:
    """A saved network: pictures enter whole, at sides of whole steps of the network."""

    longest = 1024  # pixels of the longer side

    def __init__(self, source: str, device: str | None = None) -> None:
        self.source = source
        model = from_pretrained(source)
        if model.transform is None:
            raise ConfigError(f'model must take RGB pictures, and {source} has other channels.', parameters=['model'])
        self.transform = model.transform
        self.model = without_reduction(model).to(prepare_device(device)).eval()
        count = model.recipe['num_classes']
        self.classes = [f'class {number}' for number in range(count)]
        self.palette = [tuple(int(255 * part) for part in colour) for colour in group_colors(count)]

    def enter(self, pixels: np.ndarray) -> tuple[np.ndarray, list[Tensor]]:
        scale = min(1.0, self.longest / max(pixels.shape[:2]))
        size = whole_steps(pixels.shape[:2], scale, find_backbone(self.model).step)
        image = torch.from_numpy(pixels.copy()).movedim(-1, 0)[None].float()
        image = nn.functional.interpolate(image, size, mode='bilinear', antialias=True)[0].round().byte()
        weight = next(self.model.parameters())
        return image.movedim(0, -1).numpy(), [self.transform(image)[None].to(weight)]

    def labels(self, model: nn.Module, pixels: np.ndarray) -> np.ndarray:
        (image,) = self.enter(pixels)[1]
        steps = network_of(model)
        return steps.labels(steps.scores(image), image)[0].cpu().numpy()

    def merged(self, model: nn.Module, pixels: np.ndarray) -> list[MergedLayer]:
        found = find_backbone(model).watch(self.enter(pixels)[1][0])
        names = ('layer', 'name', 'part', 'groups', 'tokens', 'patches', 'largest', 'similarity')
        return [MergedLayer(**{name: getattr(one, name) for name in names}) for one in found]

    def code(self, method: dict | None) -> str:
        name = 'encoder' if hasattr(self.model, 'encoder') else 'backbone'
        return (
            'from mmseg_tr import from_pretrained\n\n'
            f'model = from_pretrained({self.source!r})\n'
            f'model.{name} = model.{name}.with_reduction({method!r})\n'
            'label = model(model.transform(picture)[None]).argmax(1)\n'
        )


def variant(model: nn.Module, method: Reduction | None) -> nn.Module:
    """The model under a method, around the same weights."""
    return (without_reduction(model) if method is None else with_reduction(model, method)).eval()


def open_subject(config: str | None, checkpoint: str | None, model: str | None, device: str | None) -> Subject:
    """The model that a user names. Raises ConfigError unless there is exactly one."""
    if (model is None) == (config is None):
        raise ConfigError('give CONFIG and CHECKPOINT, or a model of save_pretrained().', parameters=['model'])
    if model is not None:
        return NetworkSubject(model, device)
    if checkpoint is None:
        raise ConfigError('CHECKPOINT must be the weights of CONFIG, or none for random ones.')
    return ConfigSubject(str(Path(config)), checkpoint, device)
