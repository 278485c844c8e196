"""The jump broadcast dataset (JBD) in mmpose; `tools/convert_jbd.py` makes its annotation files."""

from __future__ import annotations

from mmpose.datasets.datasets.base import BaseCocoStyleDataset

from mmseg_tr.datasets.metainfo.jump_broadcast import dataset_info
from mmseg_tr.errors import DatasetError
from mmseg_tr.registry import DATASETS


@DATASETS.register_module()
class JumpBroadcast(BaseCocoStyleDataset):
    """Athletes in television pictures of jumps, 20 joints each, in COCO's format.

    Arguments are those of mmpose's BaseCocoStyleDataset. Raises DatasetError for an annotation with another number of
    keypoints.
    """

    METAINFO = dataset_info

    def parse_data_info(self, raw_data_info: dict) -> dict | None:
        """Return one athlete's labels in mmpose's form; None without a box or keypoints."""
        annotation, joints = raw_data_info['raw_ann_info'], len(self.metainfo['keypoint_id2name'])
        numbers = len(annotation.get('keypoints', ())) / 3
        if numbers not in (0, joints):
            raise DatasetError(
                f'annotation {annotation.get("id")} of {self.ann_file} has {numbers:g} keypoints, and the '
                f'metainfo names {joints}: use annotations of tools/convert_jbd.py, or the metainfo of these.'
            )
        return super().parse_data_info(raw_data_info)
