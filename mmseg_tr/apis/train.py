"""Train the model of a config: the verb of tools/train.py."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_tr.apis.config import fit_to_run, load_config, require_sections, use_amp_for_training, use_reduction
from mmseg_tr.engine.data_checks import check_run_data
from mmseg_tr.engine.distributed import process_group, read_place
from mmseg_tr.engine.runner import bare_model, build_runner
from mmseg_tr.engine.start import (
    check_resumable,
    check_start,
    find_checkpoint,
    last_checkpoint,
    one_training,
    read_training,
    refuse_used_folder,
)
from mmseg_tr.errors import InputError, Interrupted, StoppedError
from mmseg_tr.options import Options
from mmseg_tr.signals import stopped_by


@dataclass(frozen=True)
class TrainOptions(Options):
    """How to train.

    work_dir: folder of logs and checkpoints; by default work_dirs/ and the name of the config.
    resume: True continues the last training in `work_dir`, a path continues the training saved there.
    load_from: start from these weights; the backbone must fit, a head may differ.
    amp: mixed precision, float16 on a GPU and bfloat16 on a CPU. seed: of everything random, over the config's.
    reduction: a method over the config's, text that config.parse_reduction reads or settings.
    cfg_options: settings that replace those of the config, 'train_cfg.max_iters': 100.
    check_data: compare labels with pictures and classes first; None for the config's setting (True).
    launcher: 'none' for one process, or what started the processes: 'pytorch' (torchrun), 'slurm', 'mpi'.
    """

    work_dir: str | os.PathLike | None = None
    resume: bool | str | os.PathLike = False
    load_from: str | os.PathLike | None = None
    amp: bool = False
    seed: int | None = None
    reduction: str | Mapping[str, Any] | None = None
    cfg_options: Mapping[str, Any] | None = None
    launcher: str = 'none'
    check_data: bool | None = None


def train(config: str | Config, options: TrainOptions | None = None, **settings: Any) -> Runner:
    """Train the model of a config; returns the runner when it is done.

    settings: fields of TrainOptions, over those of `options`.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError for input that cannot be used.
    """
    options = replace(options or TrainOptions(), **settings)
    config = load_config(config, options.cfg_options)
    require_sections(config, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    if options.reduction is not None:
        use_reduction(config, options.reduction)
    fit_to_run(config, options.work_dir, options.launcher, options.seed)
    if options.amp:
        use_amp_for_training(config)
    use_safe_checkpoints(config)
    resume, start = (
        value if isinstance(value, bool | None) else os.fspath(value)  # the config that is kept holds text
        for value in (options.resume, options.load_from or config.get('load_from'))
    )
    if not resume and config.get('resume'):
        resume = start or True  # mmengine reads the two together
    if not resume:
        refuse_used_folder(config.work_dir)
    else:
        start = find_checkpoint(config.work_dir, resume if isinstance(resume, str) else None)
        seed = read_training(start, config.train_cfg.get('max_iters'))['meta'].get('seed')
        if options.seed is None and seed is not None:  # the data loaders' too
            config.randomness = {**config.get('randomness', {}), 'seed': seed}
    config.load_from, config.resume = start, bool(resume)
    leads = options.launcher == 'none' or read_place(options.launcher).rank == 0
    held = one_training(config.work_dir) if leads else nullcontext()
    with process_group(options.launcher), held, kept_work(config.work_dir):
        runner = build_runner(config, 'train')
        if config.get('check_data', True) if options.check_data is None else options.check_data:
            check_run_data(runner, *(('train', 'val') if config.get('val_cfg') else ('train',)))
        if resume:
            check_resumable(bare_model(runner), start)
        elif start:
            for remark in check_start(bare_model(runner), start):
                runner.logger.warning(remark)
        runner.train()
    return runner


def use_safe_checkpoints(config: Config) -> None:
    """Replace mmengine's CheckpointHook with SafeCheckpointHook, in place; the arguments stay the same."""
    hook = (config.get('default_hooks') or {}).get('checkpoint', dict(type='CheckpointHook'))
    if isinstance(hook, Mapping) and hook.get('type') in ('CheckpointHook', 'mmengine.CheckpointHook'):
        safe = dict(checkpoint={**hook, 'type': 'mmseg_tr.SafeCheckpointHook'})
        config.default_hooks = {**(config.get('default_hooks') or {}), **safe}


@contextmanager
def kept_work(work_dir: str) -> Iterator[None]:
    """Name the last checkpoint when a signal or a full disk ends a training.

    Raises Interrupted or StoppedError.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        stopped = stopped_by(error) is not None
        if not (stopped or isinstance(error, OSError)):
            raise
        last = last_checkpoint(work_dir)
        kept = f'the last checkpoint is {last}' if last else 'no checkpoint was saved yet'
        if stopped:
            raise Interrupted(f'interrupted: {kept}', resumable=last is not None) from error
        raise StoppedError(f'{str(error).rstrip(".")}: {kept}.') from error
