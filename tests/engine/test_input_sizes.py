"""A model that takes multiples of a size is checked against the pictures before training."""

from types import SimpleNamespace

import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.dataset import pseudo_collate
from mmengine.structures import PixelData
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import nn

from mmseg_tr.engine.data_checks import DataPart, check_sizes
from mmseg_tr.errors import DatasetError
from mmseg_tr.models.seg import PolicyClassifier


class Pictures:
    """A data set of one picture of a size."""

    def __init__(self, height, width):
        self.size = (height, width)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        sample = SegDataSample(metainfo=dict(img_shape=self.size, ori_shape=self.size))
        sample.gt_sem_seg = PixelData(data=torch.zeros(1, *self.size, dtype=torch.long))
        return dict(inputs=torch.zeros(3, *self.size, dtype=torch.uint8), data_samples=sample)

    def get_data_info(self, index):
        return dict(img_path='street.png')


def check(size, name='val', step=PolicyClassifier.size_step, padded=None):
    model = nn.Module()
    model.data_preprocessor = SegDataPreProcessor(size=padded)
    if step is not None:
        model.size_step = step
    check_sizes(DataPart(name, SimpleNamespace(dataset=Pictures(*size), collate_fn=pseudo_collate)), model, [0])


@pytest.mark.parametrize('size', [(64, 96), (32, 32)])
def test_multiples_are_taken(size):
    check(size)
    check(size, name='train', padded=size)


@pytest.mark.parametrize(('size', 'name'), [((360, 480), 'val'), ((64, 70), 'val'), ((40, 64), 'train')])
def test_other_sizes_are_named_with_their_picture(size, name):
    with pytest.raises(DatasetError, match=f'street.png .*{name}_dataloader as {size[0]} x {size[1]}.*multiples of 32'):
        check(size, name=name, padded=size if name == 'train' else None)


def test_padding_to_a_multiple_is_enough_in_training():
    check((40, 64), name='train', padded=(64, 64))


def test_a_model_without_such_a_rule_takes_any_size():
    check((37, 51), step=None)
