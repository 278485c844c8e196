"""The policy network's way of running in eval mode: same numbers, nothing of the caller's written over."""

import pytest
import torch

from mmseg_tr.reduction.cts.policy import InPlaceBatchNormAct, PolicyNet


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    net = PolicyNet()
    for module in net.modules():
        if isinstance(module, InPlaceBatchNormAct):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return net.eval()


@pytest.fixture(scope='module')
def images():
    return torch.randn(3, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_every_batch_norm_runs_in_place(net):
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(norms) > 40 and all(isinstance(module, InPlaceBatchNormAct) for module in norms)


@pytest.mark.parametrize('channels_last', [False, True])
def test_logits_are_those_of_the_forward_with_gradients(net, images, channels_last):
    if channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    before = images.clone()
    expected = net(images)
    assert expected.requires_grad
    with torch.no_grad():
        found = net(images)
    assert torch.equal(images, before)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(('at_once', 'parts'), [(1, [1, 1, 1]), (2 * 64 * 96, [2, 1]), (10**6, [3])])
def test_large_batches_run_in_parts(net, images, monkeypatch, at_once, parts):
    monkeypatch.setattr('mmseg_tr.reduction.cts.policy.PIXELS_AT_ONCE', at_once)
    seen, features = [], net.features
    monkeypatch.setattr(net, 'features', lambda part: seen.append(len(part)) or features(part))
    with torch.inference_mode():
        found = net(images)
        alone = torch.cat([net(image[None]) for image in images])
    assert seen[: len(parts)] == parts
    if parts == [1, 1, 1]:
        assert torch.equal(found, alone)
    torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_training_and_autocast_keep_their_own_way(net, images):
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        low = net(images)
    assert low.dtype == torch.bfloat16 and torch.isfinite(low.float()).all()
    try:
        net.train()
        norm = next(module for module in net.modules() if isinstance(module, InPlaceBatchNormAct))
        mean = norm.running_mean.clone()
        with torch.no_grad():
            net(images)
        assert not torch.equal(norm.running_mean, mean)
    finally:
        norm.running_mean.copy_(mean)
        net.eval()
