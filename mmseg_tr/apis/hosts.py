"""The verbs of tools/ on networks of other libraries, `--model timm:NAME` and `--model transformers:FOLDER_OR_NAME`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from mmseg_tr.analysis.benchmark import Run, benchmark_model
from mmseg_tr.analysis.macs import evaluating
from mmseg_tr.apis.build import cpu_threads, prepare_device
from mmseg_tr.apis.config import parse_reduction
from mmseg_tr.apis.images import find_pictures
from mmseg_tr.apis.show.view import Entered, check_size
from mmseg_tr.engine.windows import Windows, by
from mmseg_tr.errors import ConfigError, DatasetError
from mmseg_tr.hosts import apply, watch
from mmseg_tr.hosts.named import NamedModel, open_model
from mmseg_tr.hosts.pictures import photographs
from mmseg_tr.hosts.report import count_tokens
from mmseg_tr.hosts.state import applied_to
from mmseg_tr.nn.backbone import same_weights
from mmseg_tr.nn.inference import whole_steps
from mmseg_tr.reduction.observe import Merged
from mmseg_tr.visualization.pixels import read_rgb, resized


def open_named(name: str, checkpoint: str | None, device: torch.device) -> NamedModel:
    """A network by name on a device. Raises as hosts.named.open_model()."""
    named = open_model(name, checkpoint)
    named.model.to(device)
    return named


def reduced(named: NamedModel, reduction: str | None) -> nn.Module:
    """The network under a method, around the same weights; itself without one.

    reduction: text that config.parse_reduction() reads; budget= may be among the settings.
    """
    wanted = None if reduction is None else parse_reduction(reduction)
    if wanted is None:
        return named.model
    settings = dict(type=wanted) if isinstance(wanted, str) else dict(wanted)
    if 'type' not in settings:
        raise ConfigError(f'reduction {reduction} names no type: add type=... to it.', parameters=['reduction'])
    budget = settings.pop('budget', None)
    model = same_weights(named.model)
    return apply(model, settings.pop('type'), budget=budget, **settings)


def batch_of(named: NamedModel, folder: str | None, shape: tuple[int, int], count: int) -> Tensor:
    """Different pictures as the network takes them, (n, 3, *shape), of a folder or the bundled photographs.

    A picture is scaled until it covers the shape, then cut at its centre. Raises DatasetError, and ConfigError for a
    size that the network does not take.
    """
    if folder is None:
        batch = photographs(named.model, count, shape)
    else:
        if not Path(folder).is_dir():
            raise DatasetError(f'there is no folder {folder}: images must be a folder of image files.')
        found, _ = find_pictures([folder])
        shown = (ImageOps.fit(Image.fromarray(read_rgb(one.path)), shape[::-1]) for one in found[:count])
        batch = torch.stack([named.transform(np.asarray(image)) for image in shown])
    batch = batch.to(next(named.model.parameters()).device)
    try:
        with evaluating(named.model), torch.inference_mode():
            named.model(batch[:1])
    except Exception as error:  # whatever the library raises
        said = str(error).strip().splitlines()[0].rstrip('.') if str(error).strip() else type(error).__name__
        raise ConfigError(
            f'{named.name} does not take images of {by(shape)} ({said}): its own size is {by(named.size)}.',
            parameters=['shapes'],
        ) from error
    return batch


def host_runs(
    named: NamedModel, options: Any, dtype: torch.dtype | None, progress: Callable[[str], None]
) -> tuple[nn.Module, list[Run]]:
    """The network under the method of apis.benchmark.BenchmarkOptions, and its runs at every shape and batch size."""
    model, plain, runs = reduced(named, options.reduction), named.model, []
    with cpu_threads(options.threads):
        for shape in options.shapes or [named.size]:
            batch = batch_of(named, options.images, shape, options.most_images)
            measuring = options.measuring(dtype, len(batch))
            runs += [
                with_tokens(run, model, plain, batch)
                for run in benchmark_model(model, batch, measuring, progress, None if model is plain else plain)
            ]
    return model, runs


def with_tokens(run: Run, model: nn.Module, plain: nn.Module, batch: Tensor) -> Run:
    """The run with the mean number of tokens that leave each layer."""
    if model is plain:
        return run
    with evaluating(model, plain), torch.inference_mode():
        tokens, before, _ = count_tokens(model, plain, batch[: run.batch_size])
    return replace(
        run,
        model=replace(run.model, tokens_per_layer=list(tokens)),
        plain=replace(run.plain, tokens_per_layer=[float(before)] * len(tokens)),
    )


@dataclass(frozen=True)
class HostNetwork:
    """What merges in a network with a method applied, as nn.backbone.Backbone says it."""

    model: nn.Module

    @property
    def reduction(self) -> Any:
        applied = applied_to(self.model)
        return None if applied is None else applied.method

    @property
    def depth(self) -> int:
        return sum(applied_to(self.model).depths)

    @property
    def step(self) -> tuple[int, int]:
        """Pixels of a patch; of a network of several stages, those of the coarsest map that is compared."""
        target = applied_to(self.model).target
        host = getattr(target, 'host', None)
        return (32, 32) if host is None else host.patch_size

    def watch(self, image: Tensor) -> list[Merged]:
        return watch(self.model, image)


@dataclass(frozen=True)
class HostView:
    """As show.view.View, of a network by name."""

    named: NamedModel
    model: nn.Module

    @classmethod
    def open(cls, name: str, checkpoint: str | None, reduction: str | None, device: str | None) -> HostView:
        """Build the network and apply the method. Raises as open_named() and apply()."""
        named = open_named(name, checkpoint, prepare_device(device))
        return cls(named, reduced(named, reduction))

    @property
    def config(self) -> Any:
        return SimpleNamespace(filename=self.named.name)

    @property
    def network(self) -> HostNetwork:
        return HostNetwork(self.model)

    @property
    def reader(self) -> HostView:
        return self

    def load(self, picture: Path | np.ndarray) -> dict[str, np.ndarray]:
        """A file, or an RGB picture."""
        return dict(img=picture if isinstance(picture, np.ndarray) else read_rgb(picture))

    def enter(self, loaded: Mapping[str, np.ndarray], side: int | None = None) -> Entered:
        """A picture at the network's own size, or whole patches at a short side, in one forward."""
        pixels = loaded['img']
        height, width = pixels.shape[:2]
        size = self.named.size
        if side is not None:
            size = whole_steps((height, width), side / min(height, width), self.network.step)
        check_size((height, width), size)
        shown = resized(pixels, size)
        image = self.named.transform(shown)[None].to(next(self.model.parameters()).device)
        return Entered(shown, Windows(image, size, ((0, 0),)), f'{by((height, width))} pixels enter as {by(size)}')
