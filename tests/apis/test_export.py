"""Exported networks do what the network does, at several batch sizes, on photographs; adaptive ones are refused."""

import pytest
import torch

pytest.importorskip('mmseg')
onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmseg_tr.apis import export
from mmseg_tr.apis.images import normalise, read_images
from mmseg_tr.errors import ConfigError, ExportError
from mmseg_tr.nn import MaskTransformer, Segmenter, ViT

ARCH = dict(embed_dim=16, depth=2, num_heads=2, patch_size=8)
# every method with numbers that no image decides, at work in one layer of two
METHODS = {
    'plain': None,
    'ALGM': dict(type='ALGM', layers=(1, 2), counts=(6, 5)),
    'CTS': dict(type='CTS', shared=5),
    'Expedite': dict(type='Expedite', layer=1, clusters=(5, 4), window=3, temperature=0.1, k=3),
    'EViT': dict(type='EViT', keep_rate=0.6, layers=(1,), k=2),
    'ToMe': dict(type='ToMe', r=[9]),
    'ToMe-dense': dict(type='ToMe', form='dense', r=[0.3]),
    'ToMe-kth': dict(type='ToMe', matching='kth', k=[3]),
    'ACT': dict(type='ACT', q_hashes=8, bucket_width=2, clusters=24),
}
ONNX = ('ALGM', 'CTS', 'Expedite', 'EViT', 'ToMe-dense', 'ACT')  # the others hold no operators beyond these


@pytest.fixture(scope='module')
def photographs():
    middle = torch.full((3,), 127.5)
    return normalise(read_images(None, (64, 64), 3), middle, middle)


def network(reduction, output='logits'):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ViT(ARCH, img_size=64, out='tokens', reduction=reduction)
        model = Segmenter(encoder, MaskTransformer(5, 16, depth=1, num_heads=2))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return export.Whole(model.eval(), output).eval()


@pytest.mark.parametrize('name', METHODS)
def test_program_of_torch_export_is_saved_and_agrees(name, photographs, tmp_path):
    differences = export.write_checked(network(METHODS[name]), photographs, tmp_path / 'a.pt2', 'torch', (1, 3))
    assert set(differences) == {1, 3} and max(differences.values()) <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ['a.pt2']


@pytest.mark.parametrize('name', ONNX)
def test_onnx_agrees_and_adds_at_no_computed_places(name, photographs, tmp_path):
    differences = export.write_checked(network(METHODS[name]), photographs, tmp_path / 'a.onnx', 'onnx', (1, 3))
    assert set(differences) == {1, 3} and max(differences.values()) <= 1e-4
    graph = onnx.load(tmp_path / 'a.onnx').graph
    assert graph.input[0].type.tensor_type.shape.dim[0].dim_param  # any number of images
    settings = [(node.op_type, entry.name, entry.s) for node in graph.node for entry in node.attribute]
    reducing = [entry for entry in settings if entry[1] == 'reduction' and entry[2] != b'none']
    assert reducing == []


def test_labels_leave_as_numbers(photographs, tmp_path):
    whole = network(None, 'labels')
    export.write_checked(whole, photographs, tmp_path / 'a.pt2', 'torch', (2,))
    labels = torch.export.load(tmp_path / 'a.pt2').module()(photographs[:2])
    assert labels.shape == (2, 64, 64) and labels.dtype == torch.int64 and labels.unique().numel() > 1


def test_file_that_disagrees_is_not_kept(photographs, tmp_path, monkeypatch):
    (tmp_path / 'a.pt2').write_bytes(b'an older file')
    read = export.read_torch
    monkeypatch.setattr(export, 'read_torch', lambda path: lambda image: read(path)(image) + 0.01)
    with pytest.raises(ExportError, match='differs from the network by 0.01 at a batch of 1'):
        export.write_checked(network(None), photographs, tmp_path / 'a.pt2', 'torch', (1,))
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
        export.refuse_adaptive(ViT(dict(ARCH, depth=12), img_size=64, out='tokens', reduction=reduction))
