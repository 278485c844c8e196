"""mmengine's Runner with checked datasets and errors in one sentence."""

from __future__ import annotations

import copy
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import OPTIMIZERS, RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)
from mmseg_tr.console import hushed, verbose
from mmseg_tr.cpu import keep_freed_memory
from mmseg_tr.engine.channels import take_any_channels
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.engine.layer_decay import OURS, recognised
from mmseg_tr.engine.pose_checks import check_pose_network, check_pose_run
from mmseg_tr.engine.storage import AtomicConfig
from mmseg_tr.engine.terminal import ProgressLine, quieten
from mmseg_tr.engine.training_state import overruled, settings_in_force
from mmseg_tr.engine.worker_state import RecordingCollate, end_workers
from mmseg_tr.errors import CheckpointError, ConfigError, InputError

FRACTION = 'fraction'  # a key of a dataloader's config that only ToolRunner knows
WORKERS_ONLY = ('persistent_workers', 'prefetch_factor')  # torch refuses them without worker processes


class ToolRunner(Runner):
    """Runner whose dataloaders refuse missing and empty datasets and name files that cannot be read.

    A dataloader may say ``fraction=0.1`` for an even part of its dataset.
    """

    def build_logger(self, *args: Any, **kwargs: Any) -> Any:
        """As mmengine's; the terminal gets what a person needs, unless the run is verbose."""
        logger = super().build_logger(*args, **kwargs)
        if not verbose():
            quieten(logger)
        return logger

    def train(self) -> nn.Module:
        """As mmengine's; the data-loading processes end with it."""
        with self._ending_workers():
            return super().train()

    def test(self) -> dict[str, float]:
        """As mmengine's; the data-loading processes end with it."""
        with self._ending_workers():
            return super().test()

    @contextmanager
    def _ending_workers(self) -> Iterator[None]:
        try:
            yield
        finally:
            for loop in (self._train_loop, self._val_loop, self._test_loop):
                if isinstance(loop, BaseLoop):
                    end_workers(loop.dataloader)

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        """Build a dataloader as mmengine does, with our checked datasets."""
        if isinstance(dataloader, DataLoader):
            return dataloader
        config = copy.deepcopy(dataloader)
        fraction = config.pop(FRACTION, 1.0)
        if isinstance(config.get('dataset'), Mapping):
            config['dataset'] = build_dataset(config['dataset'], fraction)
        if config.get('num_workers', 0) == 0:
            for key in WORKERS_ONLY:
                config.pop(key, None)
        loader = Runner.build_dataloader(config, seed, diff_rank_seed)
        then = loader.worker_init_fn
        if loader.persistent_workers:
            loader.collate_fn = RecordingCollate(loader.collate_fn, loader.num_workers)
            then = partial(loader.collate_fn.start, then)
        loader.worker_init_fn = partial(start_worker, then)
        return loader

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """As mmengine's, for pictures of any number of channels."""
        if isinstance(model, dict):
            take_any_channels(model)
        return super().build_model(model)

    def build_evaluator(self, evaluator: Any) -> Any:
        """As mmengine's; several processes exchange results in the work dir, not in the folder they were started in."""
        built = super().build_evaluator(evaluator)
        for number, metric in enumerate(getattr(built, 'metrics', ())):
            if isinstance(metric, BaseMetric) and metric.collect_device == 'cpu' and metric.collect_dir is None:
                metric.collect_dir = os.path.join(self.work_dir, f'.results_{self.timestamp}_{number}')
        return built

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer; mmpose's or mmseg's layer decay becomes ours on our networks. Raises ConfigError."""
        if recognised(optim_wrapper, bare_model(self)):
            self.logger.info(f'{optim_wrapper["constructor"]} does not know this network: {OURS} takes its place.')
            optim_wrapper = {**optim_wrapper, 'constructor': OURS}
        with config_mistakes(self.cfg):
            return super().build_optim_wrapper(optim_wrapper)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """As mmengine's. Raises ConfigError."""
        with config_mistakes(self.cfg):
            return super().build_param_scheduler(scheduler)

    def load_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        """As mmengine's, without the line that it prints."""
        with hushed():
            return super().load_checkpoint(*args, **kwargs)

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Continue a training; settings of the config that have no effect are logged.

        Raises CheckpointError when the training does not fit the config.
        """
        asked = settings_in_force(self)
        try:
            super().resume(filename, *args, **kwargs)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise CheckpointError(
                f'{filename} cannot be resumed with this config: {one_line(error)}; give the config of that training.'
            ) from error
        for sentence in overruled(asked, settings_in_force(self)):
            self.logger.warning(f'{sentence}.')


def start_worker(then: Callable[[int], None] | None, worker_id: int) -> None:
    """Set up a data-loading process: the main process handles Ctrl-C and ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = report_unless_left
    if then is not None:
        then(worker_id)


def report_unless_left(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Report an exception of a data-loading process, unless it only says that the main process has ended.

    multiprocessing's thread that passes tensors on prints a traceback when the main process leaves while it connects.
    """
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


def build_runner(config: Config, loop: str) -> Runner:
    """Build the runner of a config, with its model and the datasets of `loop` ('train' or 'test').

    Raises ConfigError when the config names a type that does not exist, or settings that the type does not take, or
    when network and datasets of a pose config do not fit together, and DatasetError as `build_dataset` does.
    """
    if get_device() == 'cpu':
        keep_freed_memory()
    config = AtomicConfig.of(config)
    with config_mistakes(config):
        runner = RUNNERS.build(config) if 'runner_type' in config else ToolRunner.from_cfg(config)
        check_pose_network(bare_model(runner))
        loops = [getattr(runner, f'{loop}_loop')]
        if loop == 'train':
            _check_optimizer(config)
            if config.get('val_cfg'):
                loops.append(runner.val_loop)
        check_pose_run(bare_model(runner), [loop.dataloader.dataset for loop in loops])
    if not verbose() and is_main_process():
        runner.register_hook(ProgressLine())
    return runner


def _check_optimizer(config: Config) -> None:
    """Raise ConfigError for an unknown optimizer, which mmengine would call as None."""
    kind = (config.optim_wrapper.get('optimizer') or {}).get('type')
    if isinstance(kind, str) and OPTIMIZERS.get(kind) is None:
        raise ConfigError(f'the config {config.filename} names an unknown type: {kind} is not an optimizer.')


@contextmanager
def config_mistakes(config: Config) -> Iterator[None]:
    """Convert errors raised while a config's parts are built to a ConfigError of one sentence."""
    try:
        yield
    except (InputError, OSError, ImportError, MemoryError):
        raise
    except KeyError as error:
        if 'registry' not in str(error):
            raise ConfigError(f'the config {config.filename} cannot be built: it lacks {error}.') from error
        raise ConfigError(f'the config {config.filename} names an unknown type: {error.args[0]}') from error
    except Exception as error:
        raise ConfigError(f'the config {config.filename} cannot be built: {one_line(error)}') from error


def one_line(error: Exception) -> str:
    """Return type and message of an error in one line; for an assertion without a message, its place."""
    text = ' '.join(str(error).split())
    return f'{type(error).__name__}: {text}' if text else f'{type(error).__name__} without a message'


def bare_model(runner: Runner) -> nn.Module:
    """Return the model without wrappers for several processes or test-time augmentation."""
    model = runner.model
    if is_model_wrapper(model):
        model = model.module
    return model.module if isinstance(model, BaseTTAModel) else model
