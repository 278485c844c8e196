"""Training a config: what tools/train.py does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from mmseg_tr.apis.config import fit_to_run, load_config, require_sections, use_amp_for_training
from mmseg_tr.engine.distributed import process_group
from mmseg_tr.engine.runner import bare_model, build_runner, config_mistakes
from mmseg_tr.engine.start import check_resumable, check_start, find_checkpoint
from mmseg_tr.weights.io import few


def train(
    config: str | Config,
    *,
    work_dir: str | None = None,
    resume: bool | str = False,
    load_from: str | None = None,
    amp: bool = False,
    seed: int | None = None,
    cfg_options: Mapping[str, Any] | None = None,
    launcher: str = 'none',
) -> Runner:
    """Train the model of a config; returns the runner when it is done.

    resume: True continues the last training in `work_dir`, a path continues the training saved there.
    load_from: start from these weights; the backbone must fit, a head may differ.
    amp: mixed precision, float16 on a GPU and bfloat16 on a CPU.
    launcher: 'none' for one process, or what started the processes: 'pytorch' (torchrun), 'slurm', 'mpi'.
    Raises ConfigError, CheckpointError, DatasetError or DeviceError for input that cannot be used.
    """
    config = load_config(config, cfg_options)
    require_sections(config, 'model', 'train_dataloader', 'train_cfg', 'optim_wrapper')
    fit_to_run(config, work_dir, launcher, seed)
    if amp:
        use_amp_for_training(config)
    start = load_from or config.get('load_from')
    if not resume and config.get('resume'):
        resume = start or True  # as mmengine reads the two together
    if resume:
        start = find_checkpoint(config.work_dir, resume if isinstance(resume, str) else None)
    config.load_from, config.resume = start, bool(resume)
    with process_group(launcher):
        runner = build_runner(config, 'train')
        if resume:
            check_resumable(bare_model(runner), start)
        elif start:
            fresh = check_start(bare_model(runner), start)
            if fresh:
                runner.logger.warning(f'{start} does not give, so these start anew: {few(fresh)}')
        with config_mistakes(config):  # the optimiser and its schedule are built in here
            runner.train()
    return runner
