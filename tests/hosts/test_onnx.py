"""Hosts with a fixed budget, exported to ONNX, agree with torch."""

import pytest
import torch

import mmseg_tr
from mmseg_tr.hosts.timm import VisionTransformer
from tests.nn.networks import shaken

for package in ('onnx', 'onnxruntime', 'onnxscript', 'mmseg'):
    pytest.importorskip(package)

from mmseg_tr.apis.export.onnx import read_onnx, write_onnx  # noqa: E402
from mmseg_tr.apis.export.program import trace  # noqa: E402


class FirstOutput(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, image):
        out = self.model(image)
        return out if isinstance(out, torch.Tensor) else out.last_hidden_state


def timm_network():
    return VisionTransformer(img_size=64, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=5)


def transformers_network():
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8)
    return transformers.Dinov2Model(transformers.Dinov2Config(**sizes))


@pytest.mark.parametrize(('make', 'method'), [(timm_network, 'ALGM'), (transformers_network, 'ToMe')])
@torch.no_grad()
def test_an_exported_host_agrees_with_torch(make, method, tmp_path):
    torch.manual_seed(0)
    model = mmseg_tr.apply(shaken(make()).eval(), method, budget=0.8)
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    want, file = FirstOutput(model)(image), tmp_path / 'host.onnx'
    write_onnx(trace(FirstOutput(model), image), file)
    torch.testing.assert_close(read_onnx(file)(image), want, atol=1e-4, rtol=0)
    torch.testing.assert_close(read_onnx(file)(image[:1]), want[:1], atol=1e-4, rtol=0)
