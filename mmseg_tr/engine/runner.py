"""mmengine's Runner, with datasets that say what is wrong with them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import OPTIMIZERS, RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)
from mmseg_tr.cpu import keep_freed_memory
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.pose_checks import check_pose_network, check_pose_run
from mmseg_tr.errors import ConfigError

FRACTION = 'fraction'  # a key of a dataloader's config that only ToolRunner knows


class ToolRunner(Runner):
    """Runner whose dataloaders refuse missing and empty datasets and name files that cannot be read.

    A dataloader may say ``fraction=0.1`` for an even part of its dataset.
    """

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """As mmengine's, with our own way of building the dataset."""
        if isinstance(dataloader, DataLoader):
            return dataloader
        config = copy.deepcopy(dataloader)
        fraction = config.pop(FRACTION, 1.0)
        if isinstance(config.get('dataset'), Mapping):
            config['dataset'] = build_dataset(config['dataset'], fraction)
        return Runner.build_dataloader(config, seed, diff_rank_seed)


def build_runner(config: Config, loop: str) -> Runner:
    """The runner of a config, with its model and the datasets of `loop` ('train' or 'test') built.

    Raises ConfigError when the config names a type that does not exist, or settings that the type does not take, or
    when network and datasets of a pose config do not fit together, and DatasetError as `build_dataset` does.
    """
    if get_device() == 'cpu':
        keep_freed_memory()
    try:
        with config_mistakes(config):
            runner = RUNNERS.build(config) if 'runner_type' in config else ToolRunner.from_cfg(config)
            check_pose_network(bare_model(runner))
            loops = [getattr(runner, f'{loop}_loop')]
            if loop == 'train':
                _check_optimizer(config)
                if config.get('val_cfg'):
                    loops.append(runner.val_loop)
            check_pose_run(bare_model(runner), [loop.dataloader.dataset for loop in loops])
    except TypeError as error:
        if 'argument' not in str(error):
            raise
        raise ConfigError(f'the config {config.filename} has a setting that its type does not take: {error}') from error
    return runner


def _check_optimizer(config: Config) -> None:
    """Raise ConfigError for an optimizer that does not exist, which mmengine would call as None."""
    kind = (config.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ConfigError(f'the config {config.filename} names an unknown type: {kind} is not an optimizer')


@contextmanager
def config_mistakes(config: Config) -> Iterator[None]:
    """Turn mmengine's complaint about a type that is not registered into a ConfigError."""
    try:
        yield
    except KeyError as error:
        if 'registry' not in str(error):
            raise
        raise ConfigError(f'the config {config.filename} names an unknown type: {error.args[0]}') from error


def bare_model(runner: Runner) -> nn.Module:
    """The model itself, without what wraps it for several processes or for test-time augmentation."""
    model = runner.model
    if is_model_wrapper(model):
        model = model.module
    return model.module if isinstance(model, BaseTTAModel) else model
