"""Many methods over one checkpoint and one dataset in one run: what tools/compare.py does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmseg_tr.analysis.macs import MacCount, count_macs
from mmseg_tr.analysis.network import count_params, find_backbone, is_pose, method_name, reduction_of
from mmseg_tr.analysis.speed import Contestant, mixed_precision, peak_memory, time_in_turn
from mmseg_tr.analysis.tokens import tokens_per_layer, tokens_per_stage
from mmseg_tr.apis.build import PRECISIONS, build_model, machine, own_shape, pick_precision, prepare_device
from mmseg_tr.apis.compare.models import (
    PLAIN,
    check_alike,
    check_numbers,
    names_of,
    settings_of,
    share_weights,
    with_plain,
)
from mmseg_tr.apis.compare.quality import Judge, PixelJudge, PoseJudge
from mmseg_tr.apis.config import load_config, require_sections
from mmseg_tr.engine.runner import FRACTION, ToolRunner
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.inference import enlarge_to_window


@dataclass(frozen=True)
class Row:
    """One method of a comparison; per image where nothing else is said.

    miou: percent, of segmentation. pck, pck_strict: percent of the keypoints within 0.1 and 0.05 of the box's longer
    side, of pose. agreement: percent of the pixels, or keypoints, that count and that the plain model puts in the same
    class, or no farther away than 0.05 of that side. gmacs: 1e9 multiply-adds to scores and their enlargement,
    everything counted. fps: images per second at batch 1, throughput: at the larger batch, both to scores, poses
    without the flip test. peak_memory: bytes on the GPU, None on a CPU. tokens_per_layer: mean number that leaves each
    layer, prefix included; None without this package's ViT. tokens_per_stage: queries and keys, of a MiT.
    """

    name: str
    method: str
    settings: dict[str, Any]
    miou: float | None
    pck: float | None
    pck_strict: float | None
    agreement: float
    gmacs: float
    params: int
    fps: float
    throughput: float
    peak_memory: int | None
    tokens_per_layer: list[float] | None
    tokens_per_stage: list[dict[str, int]] | None

    @property
    def quality(self) -> float:
        """mIoU or PCK@0.1, percent."""
        return self.miou if self.pck is None else self.pck


@dataclass(frozen=True)
class Comparison:
    """Rows, the plain model first, and the circumstances they were measured in."""

    rows: tuple[Row, ...]
    about: Mapping[str, Any]


def compare(
    configs: Sequence[str],
    checkpoint: str,
    *,
    fraction: float = 1.0,
    batch_size: int = 8,
    images: int = 32,
    repeats: int = 5,
    device: str | None = None,
    amp: str | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Test and time every config, and their plain model, with the same weights on the same images.

    The dataset and the windows are those of the plain config, or of the first where none is plain. fraction: share of
    the dataset that is tested on, evenly spread. batch_size: of the throughput. images: how many are timed and counted.
    amp: precision of everything, tests included. Every network is timed in turn.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError for input that cannot be used.
    """
    place, dtype = prepare_device(device), pick_precision(amp, device)
    check_numbers(fraction, batch_size, images, repeats)
    loaded = [load_config(path, cfg_options) for path in configs]
    for config in loaded:
        require_sections(config, 'model', 'test_dataloader', 'test_evaluator')
    named = with_plain(dict(zip(names_of(configs), loaded)))
    models = {}
    for name, config in named.items():
        progress(f'building {name}')
        models[name] = build_model(config, checkpoint).to(place).eval()
        check_alike(models)
        share_weights(models)
    first = next(iter(named.values()))
    loader = test_loader(first, fraction)
    if len(loader.dataset) < batch_size:
        raise ConfigError(
            f'--batch-size {batch_size} takes as many different images, {len(loader.dataset)} are tested on: take a '
            'smaller batch or more of the dataset.'
        )
    judge, inputs = predict_all(models, first, loader, images, dtype, progress)
    scores, agreement = judge.quality(), judge.agreement()
    fps, throughput, work, tokens = measure_all(models, inputs, batch_size, repeats, dtype, progress)
    rows = tuple(
        Row(
            name=name,
            method=PLAIN if reduction_of(model) is None else method_name(reduction_of(model)),
            settings=settings_of(named[name]),
            **(dict.fromkeys(('miou', 'pck', 'pck_strict')) | scores[name]),
            agreement=agreement[name],
            gmacs=work[name].total() / 1e9,
            params=count_params(model),
            fps=fps[name],
            throughput=throughput[name],
            peak_memory=peak_memory(Contestant.of(model), torch.cat(inputs[:batch_size]), dtype),
            tokens_per_layer=tokens[name],
            tokens_per_stage=tokens_per_stage(find_backbone(model), inputs[0]) if find_backbone(model) else None,
        )
        for name, model in models.items()
    )
    about = dict(
        checkpoint=str(checkpoint),
        quality=judge.measure,
        dataset=str(first.test_dataloader.dataset.type),
        images_tested=len(loader.dataset),
        images_timed=len(inputs),
        shape=list(inputs[0].shape[2:]),
        batch_size=batch_size,
        machine=machine(place),
        threads=torch.get_num_threads(),
        precision=next((name for name, kind in PRECISIONS.items() if kind == dtype), 'fp32'),
        torch=torch.__version__,
    )
    return Comparison(rows, about)


def test_loader(config: Config, fraction: float):
    """The test set of a config, one image at a time."""
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
    progress: Callable[[str], None],
) -> tuple[Judge, list[Tensor]]:
    """What every model predicted, and the network's inputs of some images."""
    poses = is_pose(next(iter(models.values())))
    judge = (PoseJudge if poses else PixelJudge)(models, config, loader.dataset.metainfo)
    inputs: list[Tensor] = []
    window, every = own_shape(config), max(len(loader.dataset) // images, 1)
    seen = 0
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
                inputs.append(image.contiguous() if poses else window_of(image, window))
        seen += len(samples)
    return judge, inputs


def window_of(image: Tensor, window: tuple[int, int]) -> Tensor:
    """The middle of a network's input, as large as its window: (1, 3, H, W) -> (1, 3, *window)."""
    image = enlarge_to_window(image, max(window))
    top, left = ((side - wanted) // 2 for side, wanted in zip(image.shape[-2:], window))
    return image[..., top : top + window[0], left : left + window[1]].contiguous()


def measure_all(
    models: Mapping[str, nn.Module],
    inputs: list[Tensor],
    batch_size: int,
    repeats: int,
    amp: torch.dtype | None,
    progress: Callable[[str], None],
) -> tuple[dict[str, float], dict[str, float], dict[str, MacCount], dict[str, list[float] | None]]:
    """Images per second one by one and in batches, work per image and tokens per layer of every model."""
    full = len(inputs) // batch_size * batch_size
    batches = [torch.cat(inputs[start : start + batch_size]) for start in range(0, full, batch_size)]
    contestants = {name: Contestant.of(model) for name, model in models.items()}
    progress('timing, one image at a time')
    alone = time_in_turn(contestants, inputs, repeats=max(repeats // 2, 1), amp=amp)
    progress(f'timing, batches of {batch_size}')
    together = time_in_turn(contestants, batches, repeats=repeats, amp=amp)
    progress('counting')
    with mixed_precision(inputs[0].device, amp):  # rounding may decide what merges
        work = {
            name: MacCount.mean([count_macs(model, batch) for batch in batches], full) for name, model in models.items()
        }
        tokens = {
            name: tokens_per_layer(find_backbone(model), batches) if find_backbone(model) else None
            for name, model in models.items()
        }
    return (
        {name: 1 / seconds.scores for name, seconds in alone.items()},
        {name: 1 / seconds.scores for name, seconds in together.items()},
        work,
        tokens,
    )
