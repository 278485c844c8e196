"""Checkpoints that survive a kill at any moment and that torch reads without unpickling objects."""

from __future__ import annotations

import os.path as osp
from collections import deque

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper

from mmseg_tr.engine.plain import history_from_plain, to_plain
from mmseg_tr.engine.storage import BACKEND
from mmseg_tr.files import remove_unfinished, write_atomically
from mmseg_tr.registry import HOOKS
from mmseg_tr.weights.fit import resize_positions

WEIGHTS = ('state_dict', 'ema_state_dict')  # tensors already, and their dict carries the versions of the modules


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, made safe. It takes the same arguments; put it in ``default_hooks.checkpoint``.

    - A checkpoint, and the file `last_checkpoint` that names it, is written beside its place and then moved there.
    - A superseded checkpoint, the best one included, is removed only once its successor is complete; a kill between
      the two may leave a best checkpoint too many, never one too few.
    - Everything but weights is plain numbers, text and tensors: the files load, and resume, with
      ``torch.load(weights_only=True)``, which is torch's default.
    """

    def before_train(self, runner) -> None:
        """Choose the atomic backend for local folders, and clear away what a killed process left half written."""
        local = '://' not in str(self.out_dir or runner.work_dir)
        if local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = {'backend': BACKEND}
        super().before_train(runner)
        if local and is_main_process():
            for name in remove_unfinished(self.out_dir):
                runner.logger.info(f'Removed {name}, which an interrupted run had not finished writing.')

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Turn everything but the weights into plain values."""
        dropped: list[str] = []
        for key in [key for key in checkpoint if key not in WEIGHTS]:
            checkpoint[key] = to_plain(checkpoint[key], dropped, key)
        if dropped:
            runner.logger.warning(f'Not saved in the checkpoint, having no plain form: {", ".join(dropped)}.')

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Fit positions of another image size, for load_from; give mmengine its HistoryBuffers back."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        resize_positions(model, checkpoint.get('state_dict', checkpoint))
        hub = checkpoint.get('message_hub')
        if hub:
            scalars = {key: history_from_plain(value) for key, value in hub['log_scalars'].items()}
            checkpoint['message_hub'] = {**hub, 'log_scalars': scalars}

    def _save_checkpoint_with_step(self, runner, step: int, meta: dict) -> None:
        """Save, then say that it is the last one, then remove what is too many: mmengine removes first."""
        limit = self.max_keep_ckpts
        if limit > 0:
            kept = [*(old for old in self.keep_ckpt_ids if old != step), step]
            # One too many on purpose: a run that resumes from this file after a kill finds what was left to remove.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
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
            write_atomically(self.last_ckpt, osp.join(runner.work_dir, 'last_checkpoint'))
        if limit > 0:
            for old in kept[:-limit]:
                self._remove(self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old)))
            self.keep_ckpt_ids = deque(kept[-limit:], limit)
            runner.message_hub.update_info('keep_ckpt_ids', kept[-limit:])

    def _save_best_checkpoint(self, runner, metrics: dict) -> None:
        """Save a new best checkpoint and, when it and the last one that names it are complete, remove the old best."""
        if not self.save_best:
            return
        # mmengine removes the best checkpoint that it knows before it saves a better one: it is told of none.
        before = self._best
        self._best = dict.fromkeys(before)
        super()._save_best_checkpoint(runner, to_plain(metrics, []))
        after = self._best
        self._best = {key: path or before.get(key) for key, path in after.items()}
        for key, path in after.items():
            if path and before.get(key) not in (None, path):
                self._remove(before[key])

    @property
    def _best(self) -> dict[str, str | None]:
        """Path of the best checkpoint by metric; mmengine keeps a single one in another attribute."""
        if len(self.key_indicators) == 1:
            return {'': self.best_ckpt_path}
        return dict(self.best_ckpt_path_dict)

    @_best.setter
    def _best(self, paths: dict[str, str | None]) -> None:
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = paths['']
        else:
            self.best_ckpt_path_dict = paths

    def _remove(self, path: str) -> None:
        if not is_main_process():
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # DeepSpeed saves folders
            self.file_backend.rmtree(path)
