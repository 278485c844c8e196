"""Score a checkpoint: the verb of tools/test.py."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from mmseg_tr.apis.config import (
    check_autocast,
    fit_to_run,
    load_config,
    require_sections,
    use_reduction,
)
from mmseg_tr.datasets.label_loading import image_paths, leaf_datasets
from mmseg_tr.engine.data_checks import check_run_data
from mmseg_tr.engine.distributed import process_group
from mmseg_tr.engine.plain import to_plain
from mmseg_tr.engine.pose_checks import is_pose_config
from mmseg_tr.engine.runner import FRACTION, bare_model, build_runner
from mmseg_tr.engine.start import load_strictly
from mmseg_tr.engine.terminal import SHOWN
from mmseg_tr.errors import ConfigError
from mmseg_tr.evaluation import SegmenterIoUMetric
from mmseg_tr.evaluation.metrics import check_names
from mmseg_tr.evaluation.pose_metrics import draw_poses, set_pose_metrics
from mmseg_tr.evaluation.scores import check_scores_path, collect_scores, write_scores
from mmseg_tr.options import Options
from mmseg_tr.paths import require_checkpoint

OUR_METRIC = 'mmseg_tr.SegmenterIoUMetric'


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """Options of a test and its outputs.

    metrics: any of mIoU, mDice, mFscore, of poses those of evaluation.pose_metrics; by default those of the config.
    work_dir: folder of logs and scores; by default work_dirs/ and the name of the config.
    out: folder for prediction files as the test servers of ADE20K and Cityscapes, of poses that of COCO, take them.
    format_only: write these files without scoring, for a test set without labels.
    show_dir: folder for pictures of label and prediction. show: the same in a window, each for `wait_time` seconds.
    tta: the config's tta_model and tta_pipeline (several scales and flips).
    amp: mixed precision. fraction: the share of the images to test on, evenly spread.
    scores: the file, .yml or .json; by default scores_ss.yml, or scores_ms.yml with `tta`, in the work dir.
    check_data: compare labels with pictures and classes first; None for the config's setting (True).
    reduction: a method over the config's, text that config.parse_reduction reads or settings.
    cfg_options: settings that replace those of the config. launcher: what started the processes, see TrainOptions.
    """

    metrics: Sequence[str] | None = None
    work_dir: str | os.PathLike | None = None
    out: str | os.PathLike | None = None
    format_only: bool = False
    show: bool = False
    show_dir: str | os.PathLike | None = None
    wait_time: float = 2
    tta: bool = False
    amp: bool = False
    fraction: float = 1.0
    scores: str | os.PathLike | None = None
    reduction: str | Mapping[str, Any] | None = None
    cfg_options: Mapping[str, Any] | None = None
    launcher: str = 'none'
    check_data: bool | None = None


def evaluate(
    config: str | Config, checkpoint: str, options: EvaluateOptions | None = None, **settings: Any
) -> dict[str, Any]:
    """Score a checkpoint on the test set of a config; returns the scores, which are also written to a file.

    settings: fields of EvaluateOptions, over those of `options`.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError for input that cannot be used. Processes other
    than the main one return no scores.
    """
    options = replace(options or EvaluateOptions(), **settings)
    config = load_config(config, options.cfg_options)
    require_sections(config, 'model', 'test_dataloader', 'test_cfg', 'test_evaluator')
    if options.reduction is not None:
        use_reduction(config, options.reduction)
    fit_to_run(config, options.work_dir, options.launcher)
    scores = options.scores or str(Path(config.work_dir) / f'scores_{"ms" if options.tta else "ss"}.yml')
    check_scores_path(scores)
    require_checkpoint(checkpoint)
    config.load_from, config.resume = os.fspath(checkpoint), False
    apply_options(config, options)
    with process_group(options.launcher):
        return _run(config, checkpoint, scores)


def apply_options(config: Config, options: EvaluateOptions) -> None:
    """Apply the options to a config, in place. Raises ConfigError where it cannot be done."""
    if not (math.isfinite(options.fraction) and 0 < options.fraction <= 1):
        raise ConfigError(f'fraction must be above 0 and at most 1, got {options.fraction}.', parameters=['fraction'])
    if options.fraction < 1:
        config.test_dataloader[FRACTION] = options.fraction
    # the config that is kept holds text
    out, show_dir = (None if path is None else os.fspath(path) for path in (options.out, options.show_dir))
    if out == '':
        raise ConfigError("out must name a folder, got ''.", parameters=['out'])
    if options.format_only and out is None:
        raise ConfigError('format_only needs out, the folder to write to.', parameters=['format_only', 'out'])
    if is_pose_config(config):
        set_pose_metrics(config, options.metrics, out, options.format_only, options.fraction)
    else:
        set_metric(config, options.metrics, out, options.format_only)
    if options.tta:
        use_tta(config)
    if options.format_only:
        config.test_dataloader.dataset = without_labels(config.test_dataloader.dataset)
    if options.check_data is not None:
        config.check_data = options.check_data
    if options.amp:
        check_autocast()
        config.test_cfg.fp16 = True  # mmengine's name for autocast; a CPU takes bfloat16
    if options.show or show_dir:
        use_visualization(config, options.show, show_dir, options.wait_time)


def _run(config: Config, checkpoint: str, path: str) -> dict[str, Any]:
    runner = build_runner(config, 'test')
    if config.get('check_data', True):
        check_run_data(runner, 'test')
    # mmengine skips tensors that do not fit. It loads again itself, so that its hooks see the file.
    meta = load_strictly(bare_model(runner), checkpoint)
    remark = other_classes(meta, runner.test_dataloader.dataset.metainfo)
    if remark:
        runner.logger.warning(f'{checkpoint} {remark}')
    plan_predictions(runner)
    metrics = runner.test()
    if remark:  # once more, next to the scores
        runner.logger.warning(f'{checkpoint} {remark}')
    found = collect_scores(metrics, _our_metric(runner))
    if not found or not is_main_process():
        return {}
    test_cfg = config.model.get('module', config.model).get('test_cfg') or {}  # 'module' is the model inside TTA
    found['inference'] = {
        'config': str(config.filename),
        'checkpoint': str(checkpoint),
        'images': len(runner.test_dataloader.dataset),
        'augmented': 'module' in config.model,
        'amp': bool(config.test_cfg.get('fp16', False)),
        **to_plain(test_cfg, []),
    }
    write_scores(found, path)
    runner.logger.info(f'Scores are in {path}.', extra=SHOWN)
    return found


def plan_predictions(runner: Runner) -> None:
    """Give every written prediction its own file. Raises DatasetError when names clash."""
    metric = _our_metric(runner)
    if metric is None or metric.output_dir is None:
        return
    dataset = runner.test_dataloader.dataset
    metric.dataset_meta = dataset.metainfo
    shifted = any(getattr(leaf, 'reduce_zero_label', False) for leaf in leaf_datasets(dataset))
    metric.plan_files(image_paths(dataset), shifted)


def other_classes(meta: Mapping[str, Any], metainfo: Mapping[str, Any]) -> str | None:
    """Describe how a checkpoint's classes differ from the dataset's; None if they do not."""
    stored = meta.get('dataset_meta')
    trained = stored.get('classes') if isinstance(stored, Mapping) else None
    tested = metainfo.get('classes')
    if not (isinstance(trained, list | tuple) and isinstance(tested, list | tuple)) or list(trained) == list(tested):
        return None
    if len(trained) != len(tested):
        return f'was trained on {len(trained)} classes, the dataset has {len(tested)}: the scores mean little.'
    place = next(index for index, names in enumerate(zip(trained, tested)) if names[0] != names[1])
    return (
        f'was trained on other classes than the dataset has, class {place} is {trained[place]!r} there and '
        f'{tested[place]!r} here: the scores mean little unless these are names of the same.'
    )


def _our_metric(runner: Runner) -> SegmenterIoUMetric | None:
    return next((metric for metric in runner.test_evaluator.metrics if isinstance(metric, SegmenterIoUMetric)), None)


def set_metric(config: Config, names: Sequence[str] | None, out: str | None, format_only: bool) -> None:
    """Replace mmseg's IoUMetric with ours, which keeps what the scores file needs, in place.

    Raises ConfigError for an unknown metric, and where the config evaluates in another way and none can be set.
    """
    if names is not None:
        check_names(names)
    evaluators = config.test_evaluator if isinstance(config.test_evaluator, list | tuple) else [config.test_evaluator]
    ours = [item for item in evaluators if item.get('type') in ('IoUMetric', 'mmseg.IoUMetric', OUR_METRIC)]
    if not ours:
        if names is not None or out is not None:
            kinds = ', '.join(str(item.get('type')) for item in evaluators)
            raise ConfigError(
                f'metrics and out need an IoUMetric, the config evaluates with {kinds}.', parameters=['metrics', 'out']
            )
        return
    ours[0].type = OUR_METRIC
    if names is not None:
        ours[0].iou_metrics = list(names)
    if out is not None:
        ours[0].output_dir = out
    if format_only:
        ours[0].format_only = True


def use_tta(config: Config) -> None:
    """Wrap the model in the config's test-time augmentation, in place. Raises ConfigError where it has none."""
    require_sections(config, 'tta_model', 'tta_pipeline')
    config.test_dataloader.dataset.pipeline = config.tta_pipeline
    if config.tta_model.type in ('SegTTAModel', 'mmseg.SegTTAModel'):
        config.tta_model.type = 'mmseg_tr.TokenTTAModel'  # the same, for any segmentor
    config.tta_model.module = config.model
    config.model = config.tta_model


def use_visualization(config: Config, show: bool, show_dir: str | None, wait_time: float) -> None:
    """Draw every image into a folder or a window; changes the config in place.

    Raises ConfigError when the config has no visualisation hook, or there is no screen for a window.
    """
    if (
        show
        and os.name == 'posix'
        and os.uname().sysname != 'Darwin'
        and not (os.environ.get('DISPLAY') or os.environ.get('WAYLAND_DISPLAY'))
    ):
        raise ConfigError(
            'show needs a screen, and DISPLAY is not set: write files with show_dir instead.',
            parameters=['show', 'show_dir'],
        )
    hook = (config.get('default_hooks') or {}).get('visualization')
    if hook is None or config.get('visualizer') is None:
        raise ConfigError(
            'show and show_dir need a visualizer and default_hooks.visualization in the config.',
            parameters=['show', 'show_dir'],
        )
    if is_pose_config(config):
        draw_poses(config, show, show_dir, wait_time)
        return
    hook.draw, hook.interval = True, 1
    if hook.type in ('SegVisualizationHook', 'mmseg.SegVisualizationHook'):
        hook.type = 'mmseg_tr.PredictionVisualizationHook'
    if show:
        hook.show, hook.wait_time = True, wait_time
    if show_dir:
        config.visualizer.save_dir = show_dir
        backends = [dict(backend) for backend in config.visualizer.get('vis_backends') or [{'type': 'LocalVisBackend'}]]
        for backend in backends:
            if backend.get('type') in ('LocalVisBackend', 'mmengine.LocalVisBackend'):
                backend['type'] = 'mmseg_tr.SafeVisBackend'
        config.visualizer.vis_backends = backends


def without_labels(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a dataset, or of one in a wrapper, without labels."""
    dataset = dict(dataset)
    if 'dataset' in dataset:
        dataset['dataset'] = without_labels(dataset['dataset'])
    if 'data_prefix' in dataset:
        dataset['data_prefix'] = {key: path for key, path in dataset['data_prefix'].items() if key != 'seg_map_path'}
    if 'pipeline' in dataset:
        dataset['pipeline'] = _without_loading(dataset['pipeline'])
    return dataset


def _without_loading(transforms: Sequence[Any]) -> list[Any]:
    """Return a pipeline without LoadAnnotations, in the branches of TestTimeAug too."""
    kept = []
    for item in transforms:
        if isinstance(item, Mapping):
            if str(item.get('type')).endswith('LoadAnnotations'):
                continue
            item = {key: _without_loading(part) if key == 'transforms' else part for key, part in item.items()}
        elif isinstance(item, list | tuple):
            item = _without_loading(item)
            if not item:  # an empty branch would leave TestTimeAug without any view
                continue
        kept.append(item)
    return kept
