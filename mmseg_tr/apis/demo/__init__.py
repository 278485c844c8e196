"""Train, test, measure and report on the embedded dataset: the verb of tools/demo.py."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.device import get_device
from rich.console import Console
from torch import Tensor, nn

from mmseg_tr.analysis.measure import MeasureOptions, measure
from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.compare.models import settings_of
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.demo.page import page_of, print_summary
from mmseg_tr.apis.report.page import render
from mmseg_tr.apis.report.pictures import Shown, look, test_example
from mmseg_tr.apis.show.view import View
from mmseg_tr.apis.test import evaluate
from mmseg_tr.apis.train import train
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.start import find_checkpoint
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.files import atomic_path, write_atomically
from mmseg_tr.paths import config_path
from mmseg_tr.visualization.scenes import Scene, scenes_figure

CONFIGS = {
    'plain': 'segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py',
    'algm': 'algm/algm_vit-tiny-p8_photo-mosaic-128x128.py',
}
SHOWN, MEASURED, BATCH = 5, 64, 8


def run_demo(work_dir: str = 'work_dirs/demo', max_iters: int | None = None, scenes: int | None = None) -> dict:
    """Train a small Segmenter, test it plain and with ALGM without retraining, measure both, write a report.

    work_dir: where everything goes; a training found there is continued, a finished one is used unchanged.
    max_iters, scenes: updates and validation scenes, fewer than the configs say for a quick look.
    Returns what report.json holds. Raises ConfigError for numbers below 1.
    """
    console, start, folder = Console(), time.perf_counter(), Path(work_dir)
    configs = {name: demo_config(path, max_iters, scenes) for name, path in CONFIGS.items()}
    updates = configs['plain'].train_cfg.max_iters
    console.rule(f'1/4 train a small Segmenter: {updates} updates on {get_device()}')
    checkpoint = train_or_continue(configs['plain'], folder / 'train')
    report: dict[str, Any] = {}
    for step, (name, config) in enumerate(configs.items(), 2):
        console.rule(f'{step}/4 test: {name}, the same weights')
        scores = evaluate(config, checkpoint, metrics=['mIoU'], work_dir=str(folder / name))
        report[name] = {'miou': scores['mean_iou'] / 100}
    console.rule('4/4 measure both in one run')
    models = {name: build_model(config, checkpoint).to(get_device()).eval() for name, config in configs.items()}
    dataset = build_dataset(configs['plain'].val_dataloader.dataset)
    inputs = [prepare(models['plain'], dataset[index])['inputs'] for index in range(min(MEASURED, len(dataset)))]
    for name, found in measure_models(models, inputs).items():
        report[name].update(found)
    report |= {'updates': updates, 'images': len(inputs), 'batch': BATCH, 'device': str(get_device())}
    figure = folder / 'scenes.png'
    spread = range(0, len(dataset), -(-len(dataset) // SHOWN))
    views = {name: View.of(configs[name], model) for name, model in models.items()}
    reader = views['plain'].reader
    shown = [look(views, test_example(reader, dataset, index)) for index in spread]
    classes, palette = dataset.metainfo['classes'], dataset.metainfo['palette']
    with atomic_path(figure) as unfinished:
        scenes_figure([scene_of(picture) for picture in shown], classes, palette, 'ALGM', unfinished)
    report['seconds'] = round(time.perf_counter() - start, 1)
    write_atomically(json.dumps(report, indent=2) + '\n', folder / 'report.json')
    methods = {name: settings_of(config) for name, config in configs.items()}
    page = folder / 'report.html'
    write_atomically(render(page_of(report, methods, shown, classes, palette)), page)
    paths = {'report': page, 'numbers': folder / 'report.json', 'picture': figure, 'checkpoint': Path(checkpoint)}
    print_summary(console, report, paths)
    return report


def demo_config(path: str, max_iters: int | None, scenes: int | None) -> Config:
    """Load a config of the demo, shortened if asked."""
    config = load_config(str(config_path(path)))
    for name, value in (('max_iters', max_iters), ('scenes', scenes)):
        if value is not None and value < 1:
            raise ConfigError(f'{name} must be a positive integer, got {value}.', parameters=[name])
    if max_iters is not None:
        config.train_cfg.update(max_iters=max_iters, val_interval=max_iters)
        config.param_scheduler[0].update(end=max_iters, warmup=min(config.param_scheduler[0].warmup, max_iters))
    if scenes is not None:
        for loader in (config.val_dataloader, config.test_dataloader):
            loader.dataset.length = scenes
    return config


def train_or_continue(config: Config, folder: Path) -> str:
    """Train in `folder`, or continue there; returns the last checkpoint."""
    try:
        find_checkpoint(str(folder))
        begun = True
    except CheckpointError:
        begun = False
    train(config, work_dir=str(folder), resume=begun)
    return find_checkpoint(str(folder))


def prepare(model: nn.Module, item: dict) -> dict:
    """Prepare one item of a dataset: normalised, a batch of one, on the model's device."""
    return model.data_preprocessor(pseudo_collate([item]), training=False)


def measure_models(models: dict[str, nn.Module], inputs: list[Tensor]) -> dict[str, dict[str, Any]]:
    """Measure multiply-adds, images per second and tokens per layer of every model, on different images."""
    batches = [torch.cat(inputs[start : start + BATCH]) for start in range(0, len(inputs), BATCH)]
    batches = [batch for batch in batches if len(batch) == len(batches[0])]
    found, _ = measure(models, batches, MeasureOptions(repeats=5, seconds=None))
    return {
        name: {
            'gmacs': one.work.total() / 1e9,
            'images_per_second': 1 / one.seconds.scores,
            'tokens_per_layer': one.tokens_per_layer,
        }
        for name, one in found.items()
    }


def scene_of(picture: Shown) -> Scene:
    """Return a picture with its label, both predictions, and ALGM's tokens after the last layer."""
    last = picture.seen['algm'].merged[-1]
    return Scene(
        name=picture.name,
        image=picture.image,
        label=picture.label,
        predictions={'plain': picture.seen['plain'].prediction, 'ALGM': picture.seen['algm'].prediction},
        groups=last.groups,
        tokens=(last.tokens, last.patches),
    )
