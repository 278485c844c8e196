"""Exported networks do what the network does, at several batch sizes, on photographs; adaptive ones are refused."""

import onnx
import pytest
import torch

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.apis.export import check, refuse_adaptive
from mmseg_tr.apis.export.check import differences, write_checked
from mmseg_tr.apis.export.onnx import read_onnx, write_onnx
from mmseg_tr.apis.export.program import Whole, read_torch, trace
from mmseg_tr.errors import ConfigError, ExportError
from mmseg_tr.nn import LinearDecoder, MaskTransformer, Segmenter, ViT
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.reduction import CTS
from tests.nn.networks import shaken

ARCH = dict(embed_dim=16, depth=2, num_heads=2, patch_size=8)
# every method with numbers that no image decides, at work in one layer; a tracer's time grows with every operator
METHODS = {
    'ALGM': dict(type='ALGM', layers=(1, 2), counts=(6, 5)),
    'CTS': dict(type='CTS', shared=5),
    'Expedite': dict(type='Expedite', layer=1, clusters=(5, 4), iterations=1, window=3, temperature=0.1, k=3),
    'EViT': dict(type='EViT', keep_rate=0.6, layers=(1,), k=2),
    'ToMe-dense': dict(type='ToMe', form='dense', r=[0.3]),
    'ToMe-kth': dict(type='ToMe', matching='kth', k=[3]),
    'ToMe-random': dict(type='ToMe', matching='random', r=[9]),
    'ACT': dict(type='ACT', q_hashes=8, bucket_width=2, clusters=24),
    'SegFormer++': None,
}
DEPTH = {'CTS': 1, 'EViT': 1, 'ToMe-dense': 1, 'ToMe-random': 1, 'ACT': 1}  # 2 where the next layer sees another input
ONNX = {*METHODS} - {'ToMe-kth', 'ToMe-random'}  # these hold no operators beyond the others'


@pytest.fixture(scope='module')
def photographs():
    return (torch.from_numpy(photograph_batch(3, (64, 64))) - 127.5) / 127.5


def network(reduction, output='logits', depth=2, decoder='linear'):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ViT(ARCH | dict(depth=depth), img_size=64, out='tokens', reduction=reduction)
        head = LinearDecoder(5, 16) if decoder == 'linear' else MaskTransformer(5, 16, depth=1, num_heads=2)
        model = Segmenter(encoder, head)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        if isinstance(encoder.reduction, CTS):  # a policy of one layer: the published one takes a minute to translate
            encoder.reduction.policy = Policy()
    return Whole(model.eval(), output).eval()


class Policy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Conv2d(3, 2, 32, stride=32)

    def forward(self, image):
        return self.head(image)


def segformer():
    arch = dict(embed_dims=8, num_layers=(1, 1), num_heads=(1, 2), patch_sizes=(7, 3), strides=(4, 2), sr_ratios=(2, 1))
    merging = [dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2), dict(q_mode='bsm', q_r=0.5, q_sx=2, q_sy=2)]
    backbone = MixVisionTransformer(arch, reduction=merging, out_indices=(0, 1))
    return Whole(shaken(SegFormer(backbone, 5, channels=16))).eval()


@pytest.mark.parametrize('name', METHODS)
def test_traced_network_agrees_at_every_batch_and_so_does_its_onnx(name, photographs, tmp_path):
    if name == 'SegFormer++':
        whole = segformer()
    else:
        whole = network(METHODS[name], depth=DEPTH.get(name, 2), decoder='mask' if name == 'ALGM' else 'linear')
    program = trace(whole, photographs[:2])
    found = differences(whole, program.module(), photographs, (1, 3))
    if name in ONNX:
        file = tmp_path / 'a.onnx'
        write_onnx(program, file)
        found |= differences(whole, read_onnx(file), photographs, (1, 3))
        check_graph(onnx.load(file).graph)
    assert set(found) == {1, 3} and max(found.values()) <= 1e-4


def check_graph(graph):
    """Any number of images, and nothing added to computed places."""
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param
    settings = [(entry.name, entry.s) for node in graph.node for entry in node.attribute]
    assert [entry for entry in settings if entry[0] == 'reduction' and entry[1] != b'none'] == []


def test_program_is_saved_alone_under_its_name_and_labels_leave_as_numbers(photographs, tmp_path):
    out = tmp_path / 'new' / 'a.pt2'
    found = write_checked(network(None, 'labels', depth=1), photographs, out, 'torch', (1, 3))
    assert set(found) == {1, 3} and max(found.values()) <= 1e-4
    assert [path.name for path in out.parent.iterdir()] == ['a.pt2']
    labels = torch.export.load(out).module()(photographs[:2])
    assert labels.shape == (2, 64, 64) and labels.dtype == torch.int64 and labels.unique().numel() > 1


def test_file_that_disagrees_is_not_kept(photographs, tmp_path, monkeypatch):
    (tmp_path / 'a.pt2').write_bytes(b'an older file')
    monkeypatch.setattr(check, 'read_torch', lambda path: lambda image: read_torch(path)(image) + 0.01)
    with pytest.raises(ExportError, match='0.01 at a batch of 1'):
        write_checked(Whole(torch.nn.Conv2d(3, 5, 1)).eval(), photographs, tmp_path / 'a.pt2', 'torch', (1,))
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b'an older file']


@pytest.mark.parametrize(
    ('reduction', 'said'),
    [
        (dict(type='ALGM'), 'ALGM lets every image decide .* set counts in its reduction'),
        (dict(type='ACT'), 'ACT lets every image decide .* set clusters=N'),
        (dict(type='ACT', redraw=True), 'leave redraw=True out'),
        (dict(type='CTS', shared=5, policy='random'), "set policy='network'"),
    ],
)
def test_adaptive_settings_are_refused_with_the_option_that_fixes_them(reduction, said):
    with pytest.raises(ConfigError, match=said):
        refuse_adaptive(ViT(dict(ARCH, depth=12), img_size=64, out='tokens', reduction=reduction))
