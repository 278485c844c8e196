"""The rows of a benchmark suite about exported networks: plain and reduced under ONNX Runtime, against torch."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.random_weights import settings_on, with_method
from benchmarks.vit import Bench, Numbers, read
from mmseg_tr.analysis.network import find_backbone, network_of, reduction_of
from mmseg_tr.analysis.speed import Contestant
from mmseg_tr.apis.build import load_batch
from mmseg_tr.apis.export import refuse_adaptive
from mmseg_tr.apis.export.counts import fixed_settings
from mmseg_tr.apis.export.onnx import read_onnx, write_onnx
from mmseg_tr.apis.export.program import Program, trace
from mmseg_tr.errors import require_extra

EXAMPLES = 4  # photographs over which an adaptive method's fixed counts are averaged


class Scores(nn.Module):
    """Normalised images (B, 3, H, W) -> class scores on the patch grid."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return network_of(self.model).scores(image)


def exported(bench: Bench, settings: Numbers) -> Numbers:
    """Time a network and its plain form under ONNX Runtime and torch, with batches of one image."""
    require_extra('export', 'onnxruntime', 'to measure ONNX Runtime')
    config, method, shape = read(settings)
    plain = bench.plain(config)
    images = load_batch(config, plain, None, shape, EXAMPLES, EXAMPLES)
    method = settings_on(plain, method)
    model = with_method(plain, method)
    if find_backbone(model).reduction.unexportable():
        method = fixed_settings(model, images.split(1))
        model = with_method(plain, method)
    refuse_adaptive(model)
    contestants = dict(
        plain=bench.contestant(plain),
        model=bench.contestant(model),
        onnx_plain=run_as_contestant(onnx_of(plain, images)),
        onnx=run_as_contestant(onnx_of(model, images)),
    )
    batches = images[:2].split(1)
    with torch.inference_mode():
        difference = (contestants['onnx'].scores(batches[0]) - contestants['model'].scores(batches[0])).abs().max()
    times = {name: seconds.scores for name, seconds in bench.time(contestants, batches).items()}
    return dict(
        method=reduction_of(model).name,
        setting=method,
        shape=list(shape),
        difference=difference.item(),
        **{f'ms_{name}': 1e3 * seconds for name, seconds in times.items()},
        time_ratio=times['plain'] / times['model'],
        onnx_ratio=times['onnx_plain'] / times['onnx'],
    )


def onnx_of(model: nn.Module, images: Tensor) -> Program:
    """Return the network as an ONNX Runtime session with as many threads as torch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'network.onnx'
        write_onnx(trace(Scores(model).eval(), images[:2]), path)
        return read_onnx(path, torch.get_num_threads())


def run_as_contestant(run: Program) -> Contestant:
    return Contestant(run, lambda scores, batch: scores)
