"""Outcomes of operators on the meta device are remembered: the same counts, and outputs of the same shapes."""

import pytest
import torch

from mmseg_tr.analysis import remembered
from mmseg_tr.analysis.macs import MacCounter, count_macs
from mmseg_tr.nn import LinearDecoder, Segmenter, ViT


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """No outcomes from other tests."""
    monkeypatch.setattr(remembered, '_OUTCOMES', {})


def network(reduction, device):
    with torch.device(device):
        encoder = ViT(dict(embed_dim=16, depth=3, num_heads=2, patch_size=8), 64, out='tokens', reduction=reduction)
        return Segmenter(encoder, LinearDecoder(3, 16)).eval()


@pytest.mark.parametrize('reduction', [None, dict(type='ToMe', form='dense', r=0.3), dict(type='EViT', layers=(1, 2))])
def test_counts_are_those_of_a_network_that_runs(reduction):
    meta, image = network(reduction, 'meta'), torch.rand(2, 3, 64, 64)
    first, again = (count_macs(meta, image.to('meta')) for _ in range(2))
    assert remembered._OUTCOMES
    assert first == again == count_macs(network(reduction, 'cpu'), image)


def test_outputs_have_the_shapes_strides_and_types_of_the_operator():
    def run(x):
        half, scores = x.bfloat16() @ x.bfloat16().mT, x @ x.mT
        values, order = scores.sort(-1)
        parts = torch.nn.functional.layer_norm(x, x.shape[-1:]), half.argmax(-1), values.mT.contiguous(), order > 1
        return [*parts, torch.where(order > True, 1, values), torch.arange(3, device=x.device), x.mean(1, keepdim=True)]

    found = []
    for _ in range(2):
        with torch.inference_mode(), MacCounter():
            found.append([(each.shape, each.stride(), each.dtype) for each in run(torch.empty(2, 5, 4, device='meta'))])
    assert found[0] == found[1] == [(each.shape, each.stride(), each.dtype) for each in run(torch.rand(2, 5, 4))]


def test_what_is_more_than_shapes_is_not_remembered():
    x, meta = torch.rand(2, 4), torch.rand(2, 4).to('meta')
    add, view, write = torch.ops.aten.add.Tensor, torch.ops.aten.view.default, torch.ops.aten.add_.Tensor
    assert remembered.key_of(add, (meta, meta), {}) == remembered.key_of(add, (meta, meta.clone()), {}) is not None
    assert remembered.key_of(add, (meta, 1), {}) != remembered.key_of(add, (meta, True), {})
    assert remembered.key_of(add, (meta, meta), {}) != remembered.key_of(add, (meta, meta.double()), {})
    for func, args in ((add, (x, x)), (view, (meta, (8,))), (write, (meta, meta))):
        assert remembered.key_of(func, args, {}) is None
