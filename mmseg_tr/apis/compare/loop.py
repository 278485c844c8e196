"""The loop that measures quality, work and speed of models over a test set."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from mmseg_tr.analysis.measure import MeasureOptions, measure, time_models
from mmseg_tr.analysis.network import is_pose
from mmseg_tr.analysis.speed import Contestant, mixed_precision
from mmseg_tr.apis.compare.options import CompareOptions
from mmseg_tr.apis.compare.quality import Judge, PixelJudge, PoseJudge
from mmseg_tr.engine.runner import FRACTION, ToolRunner
from mmseg_tr.engine.windows import windows_of

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Tested:
    """A pass over the test set.

    judge: all predictions. inputs: what is timed and counted, of each of some pictures the middle window as
    test cuts it, (1, C, H, W), all of one size. windows: how many a picture has, on average.
    """

    judge: Judge
    inputs: list[Tensor]
    windows: float

    @property
    def quality(self) -> float:
        """mIoU or PCK@0.1 of the first model, percent."""
        scores = next(iter(self.judge.quality().values()))
        return scores.get('miou', scores.get('pck'))

    def batches(self, size: int) -> list[Tensor]:
        """Return the inputs in full batches, without the remainder."""
        full = len(self.inputs) // size * size
        return [torch.cat(self.inputs[start : start + size]) for start in range(0, full, size)]


@dataclass(frozen=True)
class Cost:
    """Per picture, all of its windows together.

    fps: pictures per second, one window at a time; throughput: in batches of windows; both to scores.
    fps_compiled, throughput_compiled: under torch.compile, None where that was not timed. gmacs: 1e9 multiply-adds,
    everything counted. peak_memory: bytes on the GPU, None on a CPU. Per window: tokens_per_layer, mean number that
    leaves each layer, prefix included, None without a ViT; tokens_per_stage, queries and keys, of a MiT.
    """

    gmacs: float
    params: int
    fps: float
    throughput: float
    fps_compiled: float | None
    throughput_compiled: float | None
    peak_memory: int | None
    tokens_per_layer: list[float] | None
    tokens_per_stage: list[dict[str, int]] | None


def build_test_loader(config: Config, fraction: float):
    """Return the test set of a config, one image at a time."""
    init_default_scope(config.get('default_scope') or 'mmseg')
    dataloader = copy.deepcopy(config.test_dataloader)
    dataloader[FRACTION] = fraction
    return ToolRunner.build_dataloader(dataloader, seed=0)


@torch.inference_mode()
def predict_all(
    models: Mapping[str, nn.Module],
    config: Config,
    loader,
    images: int,
    amp: torch.dtype | None,
    progress: Progress,
) -> Tested:
    """Predict every image of the loader with every model; keep the network inputs of `images` of them."""
    judge = (PoseJudge if is_pose(next(iter(models.values()))) else PixelJudge)(models, config, loader.dataset.metainfo)
    every, seen = max(len(loader.dataset) // images, 1), 0
    inputs, windows = [], 0
    for data in loader:
        progress(f'testing {seen} of {len(loader.dataset)} images')
        for name, model in models.items():
            batch = model.data_preprocessor(data, False)
            with mixed_precision(batch['inputs'].device, amp):
                samples = model.predict(batch['inputs'], batch['data_samples'])
            judge.take(name, data, samples)
        judge.close(samples)
        for number, image in enumerate(batch['inputs'].split(1), seen):
            if number % every == 0 and len(inputs) < images:
                cut = windows_of(model, image)
                inputs.append(cut.middle())
                windows += len(cut.anchors)
        seen += len(samples)
    return Tested(judge, of_one_size(inputs), windows / len(inputs))


def of_one_size(images: list[Tensor]) -> list[Tensor]:
    """Crop the middle of every image to the smallest height and width: whole pictures may differ in size."""
    size = [min(image.shape[dim] for image in images) for dim in (-2, -1)]
    starts = [[(image.shape[dim] - side) // 2 for dim, side in zip((-2, -1), size)] for image in images]
    return [
        image[..., top : top + size[0], left : left + size[1]].contiguous()
        for image, (top, left) in zip(images, starts)
    ]


def measure_costs(
    models: Mapping[str, nn.Module],
    tested: Tested,
    options: CompareOptions,
    amp: torch.dtype | None,
    progress: Progress,
    graphs: Mapping[str, Contestant] | None = None,
) -> dict[str, Cost]:
    """Measure work, tokens, memory and speed of every model on the test inputs, singly and in batches.

    graphs: the first model under torch.compile, by further names, timed in the same turns.
    """
    progress('timing, one window at a time')
    of_graphs = dict(graphs or {})
    contestants = {name: Contestant.of(model) for name, model in models.items()} | of_graphs
    many = MeasureOptions(repeats=options.repeats, seconds=None, amp=amp)
    alone = time_models(contestants, tested.inputs, replace(many, repeats=max(options.repeats // 2, 1)))
    told = lambda text: progress(f'{text}, batches of {options.batch_size}')  # noqa: E731
    batches, compiled, compiled_alone = tested.batches(options.batch_size), {}, {}
    found, times = measure(models, batches, many, more=of_graphs, progress=told)
    if options.compiled:
        progress('compiling')
        every, single = ({name: Contestant.of(one, compiled=True) for name, one in models.items()} for _ in range(2))
        compiled = time_models(every, batches, replace(many, compiled=True))
        compiled_alone = time_models(single, tested.inputs, replace(many, compiled=True))
    costs = {
        name: Cost(
            gmacs=tested.windows * one.work.total() / 1e9,
            params=one.params,
            fps=1 / (tested.windows * alone[name].scores),
            throughput=1 / (tested.windows * one.seconds.scores),
            fps_compiled=1 / (tested.windows * compiled_alone[name].scores) if compiled else None,
            throughput_compiled=1 / (tested.windows * compiled[name].scores) if compiled else None,
            peak_memory=one.peak_memory,
            tokens_per_layer=one.tokens_per_layer,
            tokens_per_stage=one.tokens_per_stage,
        )
        for name, one in found.items()
    }
    eager = next(iter(models))
    for graph in of_graphs:
        speeds = (1 / (tested.windows * seconds[graph].scores) for seconds in (alone, times))
        costs[graph] = replace(costs[eager], **dict(zip(('fps', 'throughput'), speeds)), peak_memory=None)
    return costs
