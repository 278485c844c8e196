"""Pictures of labels and predictions, written so that none replaces another and a full disk is an error."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmcv import imfrombytes
from mmengine import fileio
from mmengine.visualization import LocalVisBackend
from mmengine.visualization.vis_backend import force_init_env
from mmseg.engine.hooks import SegVisualizationHook

from mmseg_tr.datasets.label_loading import image_paths
from mmseg_tr.evaluation.submission import prediction_files
from mmseg_tr.files import open_atomically
from mmseg_tr.registry import HOOKS, VISBACKENDS


@VISBACKENDS.register_module()
class SafeVisBackend(LocalVisBackend):
    """mmengine's LocalVisBackend, with folders in names, which raises WriteError where it cannot write a picture."""

    @force_init_env
    def add_image(self, name: str, image: np.ndarray, step: int = 0, **kwargs: Any) -> None:
        """Write an RGB picture (H, W, 3) to the file `name`_`step`.png."""
        path = os.path.join(self._img_save_dir, f'{name}_{step}.png')
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open_atomically(path, sync=False) as file:
            file.write(cv2.imencode('.png', np.ascontiguousarray(image[..., ::-1]))[1].tobytes())


@HOOKS.register_module()
class PredictionVisualizationHook(SegVisualizationHook):
    """mmseg's SegVisualizationHook for tests: pictures that share a name keep their folders."""

    def before_test(self, runner: Any) -> None:
        paths = image_paths(runner.test_dataloader.dataset)
        self.folders = {
            path: os.path.dirname(file) for path, file in prediction_files(paths, keep_folders=True).items()
        }

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: Any, outputs: Sequence[Any] | None = None
    ) -> None:
        """Draw every `interval`-th batch."""
        if not self.draw or not self.every_n_inner_iters(batch_idx, self.interval):
            return
        for output in outputs or ():
            path = output.img_path
            image = imfrombytes(fileio.get(path, backend_args=self.backend_args), channel_order='rgb')
            name = os.path.join(self.folders.get(path, ''), f'test_{os.path.basename(path)}')
            self._visualizer.add_datasample(
                name, image, data_sample=output, show=self.show, wait_time=self.wait_time, step=runner.iter
            )
