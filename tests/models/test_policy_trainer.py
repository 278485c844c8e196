"""Training of CTS's policy network as a model: losses, predictions, keys."""

import pytest
import torch
import torch.nn.functional as F

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.models.seg.policy_trainer import policy_loss
from mmseg_tr.reduction.cts.policy import PolicyNet, policy_state


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return MODELS.build(dict(type='mmseg_tr.PolicyClassifier', labels=dict(zero_is_ignore=True)))


def samples(labels):
    return [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]


def test_loss_is_the_mean_over_what_counts():
    logits, labels = torch.randn(2, 2, 3, 4), torch.randint(0, 2, (2, 3, 4))
    labels[0, 0] = 255
    torch.testing.assert_close(policy_loss(logits, labels), F.cross_entropy(logits, labels, ignore_index=255))
    assert policy_loss(logits, torch.full_like(labels, 255)) == 0


def test_loss_trains_every_parameter(model):
    labels = torch.randint(0, 2, (2, 64, 64))
    labels[:, :32, :32] = 4
    loss = model(torch.randn(2, 3, 64, 64), samples(labels), mode='loss')['loss']
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad()


def test_predictions_stand_beside_the_labels(model):
    labels = torch.zeros(2, 64, 96, dtype=torch.long)
    labels[0, 0, 0] = 1
    found = model.eval()(torch.randn(2, 3, 64, 96), samples(labels), mode='predict')
    model.train()
    assert [sample.gt_policy.data.tolist() for sample in found] == [[[[0, 1, 1], [1, 1, 1]]], [[[1, 1, 1], [1, 1, 1]]]]
    assert all(sample.pred_policy.data.shape == (1, 2, 3) for sample in found)


def test_checkpoint_is_a_policy_checkpoint(model, tmp_path):
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'iter_1.pth')
    found = policy_state(tmp_path / 'iter_1.pth')
    assert all(torch.equal(value, model.policy.state_dict()[key]) for key, value in found.items())
    again = MODELS.build(dict(type='mmseg_tr.PolicyClassifier', pretrained=str(tmp_path / 'iter_1.pth')))
    again.init_weights()
    assert torch.equal(again.policy.head.weight, model.policy.head.weight)


def test_unknown_settings_are_refused(model):
    with pytest.raises(ConfigError, match="no option 'zero': its options are zero_is_ignore"):
        MODELS.build(dict(type='mmseg_tr.PolicyClassifier', labels=dict(zero=True)))
    with pytest.raises(ConfigError, match="mode='test'"):
        model(torch.zeros(1, 3, 32, 32), mode='test')


def test_imagenet_weights_that_cannot_be_had_are_told(monkeypatch):
    from mmseg_tr.reduction.cts import policy

    net = PolicyNet(pretrained=True)

    def offline(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(policy.timm, 'create_model', offline)
    with pytest.raises(CheckpointError, match="weights of 'efficientnet_lite0'.*pretrained=None"):
        net.init_weights()
