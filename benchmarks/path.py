"""The rest of the path: which share of the time of `infer` over photographs is spent inside the network."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.vit import Bench, Numbers, read
from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.apis.images import find_pictures
from mmseg_tr.apis.infer.segment import Segmenting
from mmseg_tr.apis.infer.write import StillResults, Writing
from mmseg_tr.engine.preprocess import PictureReader


def path(bench: Bench, settings: Numbers) -> Numbers:
    """Time infer over JPEG files, and inside it the encoder and the decoder up to scores on the patch grid.

    images: how many. size: (H, W) of the files.
    """
    config, _, _ = read(settings)
    model, reader = bench.plain(config), PictureReader.of(config)
    colors = np.random.default_rng(0).integers(0, 256, (model.num_classes, 3)).tolist()
    clock = Clock()
    hooks = [
        hook
        for part in (model.backbone, model.decode_head.decoder)
        for hook in (part.register_forward_pre_hook(clock.start), part.register_forward_hook(clock.stop))
    ]
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
        size=list(settings['size']),
        ms=1e3 * seconds / writing.written,
        ms_inside=1e3 * clock.seconds / writing.written,
        inside=clock.seconds / seconds,
        ms_first=1e3 * (clock.first - begun),
        ms_last=1e3 * (begun + seconds - clock.stopped),
    )


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
