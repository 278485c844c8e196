"""Checkpoints that survive a kill at any moment and that torch reads without unpickling objects."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import MutableMapping
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper

from mmseg_tr.engine.plain import to_plain
from mmseg_tr.engine.random_state import RestoredIterator, random_state, set_random_state
from mmseg_tr.engine.storage import BACKEND
from mmseg_tr.engine.training_state import is_count, keep_training_state, own_name
from mmseg_tr.engine.worker_state import set_worker_states, worker_states
from mmseg_tr.errors import ConfigError
from mmseg_tr.files import remove_unfinished, write_atomically
from mmseg_tr.registry import HOOKS
from mmseg_tr.weights.fit import resize_positions

WEIGHTS = ('state_dict', 'ema_state_dict')  # tensors already, and their dict holds the versions of the modules


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, made safe. It takes the same arguments; put it in ``default_hooks.checkpoint``.

    - A checkpoint, and the file `last_checkpoint` that names it, is written to a temporary file and then renamed.
    - A superseded checkpoint, the best one included, is removed only once its successor is complete; a kill between
      the two may leave one extra best checkpoint, but never loses one.
    - Only files of its own folder, under names that it writes itself, are ever removed.
    - Everything but weights is plain numbers, text and tensors: the files load, and resume, with
      ``torch.load(weights_only=True)``, which is torch's default.
    - Random states are saved with the training and set when it resumes; validation leaves them unchanged. A training
      that was killed so ends with the weights of one that was not, dropout and stochastic depth included.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.states: list[dict[str, Any]] = []  # of every process, as the checkpoint saves or has saved them
        self.before_validation: dict[str, Any] | None = None
        self.after_start: dict[str, Any] | None = None

    def before_train(self, runner) -> None:
        """Choose the atomic backend for local folders, and remove unfinished files of a killed process."""
        local = '://' not in str(self.out_dir or runner.work_dir)
        if local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = {'backend': BACKEND}
        info = runner.message_hub.runtime_info
        superseded = self._kept_ids(info)
        super().before_train(runner)
        for step in superseded:
            self._remove(self.filename_tmpl.format(step))
        if self.save_best:
            self._best = {key: self._own(path) for key, path in self._best.items()}
            for key, path in self._best.items():
                if path:
                    runner.message_hub.update_info(f'best_ckpt_{key}' if key else 'best_ckpt', path)
        if local and is_main_process():
            for name in remove_unfinished(self.out_dir):
                runner.logger.info(f'Removed {name}, which an interrupted run had not finished writing.')
        self._restore_random_state(runner)

    def _kept_ids(self, info: MutableMapping[str, Any]) -> list[int]:
        """Return the numbers of superfluous old checkpoints; the kept ones stay in `info`."""
        ids = [step for step in info.get('keep_ckpt_ids', ()) if is_count(step)]
        kept = ids[-self.max_keep_ckpts :] if self.max_keep_ckpts > 0 else ids
        if 'keep_ckpt_ids' in info:
            info['keep_ckpt_ids'] = kept
        return ids[: len(ids) - len(kept)]

    def _own(self, path: str | None) -> str | None:
        """Return the best checkpoint of a path in this run's own folder; None if it does not exist."""
        name = own_name(path)
        mine = name and self.file_backend.join_path(self.out_dir, name)
        return mine if mine and self.file_backend.isfile(mine) else None

    def _restore_random_state(self, runner) -> None:
        """Restore the random state of the resumed training, if the number of processes is the same."""
        states, self.states = self.states, []
        if not states or runner.iter == 0:
            return
        if len(states) != get_world_size():
            runner.logger.warning(
                f'The training ran in {len(states)} processes and resumes in {get_world_size()}: random numbers differ.'
            )
            return
        loop, state = runner.train_loop, states[get_rank()]
        if hasattr(loop, 'dataloader_iterator'):
            loop.dataloader_iterator = RestoredIterator(loop.dataloader_iterator, loop.iter, state)
        else:
            set_random_state(state)
            if loop.dataloader.persistent_workers:
                set_worker_states(loop.dataloader, state.get('workers', ()))
                self.after_start = state

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Restore the state again, since starting persistent workers draws a random number."""
        if self.after_start is not None:
            set_random_state(self.after_start)
        self.after_start = None

    def before_val(self, runner) -> None:
        """Save the random state of the training."""
        self.before_validation = random_state()

    def after_val(self, runner) -> None:
        """Restore the random state of the training."""
        if self.before_validation is not None:
            set_random_state(self.before_validation)
        self.before_validation = None

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Convert everything except the weights to plain values."""
        dropped: list[str] = []
        if 'optimizer' in checkpoint:
            checkpoint['random_states'] = self.states
        for key in [key for key in checkpoint if key not in WEIGHTS]:
            checkpoint[key] = to_plain(checkpoint[key], dropped, key)
        if dropped:
            runner.logger.warning(f'Not saved in the checkpoint, having no plain form: {", ".join(dropped)}.')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Restore what resuming needs; resize position embeddings when a new training starts from weights."""
        keep_training_state(checkpoint)
        self.states = checkpoint.pop('random_states', []) if runner._resume else []
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        resize_positions(model, checkpoint.get('state_dict', checkpoint))

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        """Save, then record it as the last one, then remove superfluous ones: mmengine removes first."""
        limit = self.max_keep_ckpts
        if limit > 0:
            kept = [*(old for old in self.keep_ckpt_ids if old != step), step]
            # One extra on purpose: a run that resumes from this file after a kill finds what is left to remove.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        workers = worker_states(runner.train_dataloader)
        self.states = all_gather_object({**(self.before_validation or random_state()), 'workers': workers})
        filename = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, filename)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            filename,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_atomically(self.last_ckpt, os.path.join(runner.work_dir, 'last_checkpoint'))
        if limit > 0:
            for old in kept[:-limit]:
                self._remove(self.filename_tmpl.format(old))
            self.keep_ckpt_ids = deque(kept[-limit:], limit)
            runner.message_hub.update_info('keep_ckpt_ids', kept[-limit:])

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        """Save a new best checkpoint and, when it and the last one that names it are complete, remove the old best."""
        if not self.save_best:
            return
        unknown = [key for key in self.key_indicators if key != 'auto' and key not in metrics]
        if unknown:
            raise ConfigError(
                f'save_best must name metrics of the evaluation ({", ".join(metrics)}), got {unknown[0]!r}.'
            )
        # mmengine removes the known best checkpoint before it saves a better one, so it is hidden from it.
        before = self._best
        self._best = dict.fromkeys(before)
        super()._save_best_checkpoint(runner, to_plain(metrics, []))
        after = self._best
        self._best = {key: path or before.get(key) for key, path in after.items()}
        for key, path in after.items():
            if path and before.get(key) not in (None, path):
                self._remove(own_name(before[key]))

    @property
    def _best(self) -> dict[str, str | None]:
        """Return the best checkpoint's path by metric; mmengine stores a single one in another attribute."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    @_best.setter
    def _best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths

    def _remove(self, name: str | None) -> None:
        """Remove a file of this run's own folder, by its bare name."""
        if not name or not is_main_process() or os.path.basename(name) != name:
            return
        path = self.file_backend.join_path(self.out_dir, name)
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
