"""The rest of the path: which share of the time of `infer` over photographs is spent inside the network."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.vit import Bench, Numbers, read
from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.apis.images import find_pictures
from mmseg_tr.apis.infer.segment import Segmenting
from mmseg_tr.apis.infer.write import StillResults, Writing
from mmseg_tr.engine.preprocess import PictureReader

LIFT = 30.0  # above any difference of scores, which are normalised over the classes


def path(bench: Bench, settings: Numbers) -> Numbers:
    """Time infer over JPEG files, and inside it the encoder and the decoder up to scores on the patch grid.

    images: how many. size: (H, W) of the files. present: how many classes win somewhere, by default all, as random
    weights have it; a trained network sees few in one picture.
    """
    config, _, _ = read(settings)
    model, reader = bench.plain(config), PictureReader.of(config)
    colors = np.random.default_rng(0).integers(0, 256, (model.num_classes, 3)).tolist()
    clock = Clock()
    present = settings.get('present', model.num_classes)
    hooks = [
        hook
        for part in (model.backbone, model.decode_head.decoder)
        for hook in (part.register_forward_pre_hook(clock.start), part.register_forward_hook(clock.stop))
    ]
    hooks.append(model.decode_head.decoder.register_forward_hook(partial(lifted, present)))
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / 'in', Path(folder) / 'out'
        source.mkdir()
        for number, pixels in enumerate(photograph_batch(settings['images'], tuple(settings['size']))):
            picture = Image.fromarray(pixels.transpose(1, 2, 0).astype(np.uint8))
            picture.save(source / f'{number:03d}.jpg', quality=92)
        pictures, _ = find_pictures([source])
        task = Segmenting(model, reader, colors, bench.amp)
        writing = Writing(task, 1, lambda done, total: None, lambda failure: None, lambda sentence: None)
        begun = time.perf_counter()
        try:
            with torch.inference_mode():
                writing.write({each: StillResults.of(each.name, out, Segmenting) for each in pictures}, [])
        finally:
            for hook in hooks:
                hook.remove()
        seconds = time.perf_counter() - begun
    return dict(
        images=writing.written,
        present=present,
        size=list(settings['size']),
        ms=1e3 * seconds / writing.written,
        ms_inside=1e3 * clock.seconds / writing.written,
        inside=clock.seconds / seconds,
        ms_first=1e3 * (clock.first - begun),
        ms_last=1e3 * (begun + seconds - clock.stopped),
    )


def lifted(present: int, decoder: nn.Module, inputs: object, scores: Tensor) -> Tensor:
    """Return scores (B, K, h, w) of which the first `present` classes lie above all others: a forward hook."""
    scores[:, :present] += LIFT
    return scores


class Clock:
    """Adds up the time between start() and stop(), which are hooks of modules. first, stopped: when it began, ended."""

    def __init__(self) -> None:
        self.seconds = self.began = self.first = self.stopped = 0.0

    def start(self, *_: object) -> None:
        self.began = time.perf_counter()
        self.first = self.first or self.began

    def stop(self, *_: object) -> None:
        self.stopped = time.perf_counter()
        self.seconds += self.stopped - self.began
