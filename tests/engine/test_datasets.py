"""Datasets from a config: a part of one."""

import pytest

pytest.importorskip('mmseg')

from mmengine.dataset import BaseDataset

import mmseg_tr.registry  # noqa: F401
from mmseg_tr.engine.datasets import build_dataset
from tests.tiny import write_dataset


def test_a_part_has_the_pipeline_of_the_whole(tmp_path, monkeypatch):
    class Remembered:
        """A transform that lies where mmengine once copied a dataset that is gone: its memo is never emptied."""

        def __init__(self):
            memo[id(self)] = 'a dataset that is gone'

        def __call__(self, data):
            return data

    memo = {}
    monkeypatch.setattr(BaseDataset._copy_without_annotation, '__defaults__', (memo,))
    root = write_dataset(tmp_path / 'data', count=4)
    prefix = dict(img_path='images', seg_map_path='labels')
    config = dict(type='mmseg.BaseSegDataset', data_root=str(root), data_prefix=prefix, img_suffix='.png')
    config['pipeline'] = [transform := Remembered()]
    part = build_dataset(config, 0.5)
    assert part.pipeline.transforms == [transform]
    assert [part[index]['img_path'][-6:] for index in range(len(part))] == ['00.png', '02.png']
