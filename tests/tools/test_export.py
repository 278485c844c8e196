"""tools/export.py: a config and a checkpoint to one checked file, and one sentence for every mistake."""

import json

import numpy as np
import pytest
import torch

from mmseg_tr.paths import config_path
from tests.tools.command import call, mistake

pytest.importorskip('mmseg')
pytest.importorskip('onnxruntime')

BASES = dict(
    plain='segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py',
    algm='algm/algm_vit-tiny-p8_photo-mosaic-128x128.py',
)
SMALL = ('--shape', '64x64')


def weights(config, path):
    from mmseg_tr.apis.build import build_model
    from mmseg_tr.apis.config import load_config

    torch.save(dict(state_dict=build_model(load_config(config), None).state_dict()), path)
    return path


@pytest.fixture(scope='module')
def shallow(tmp_path_factory):
    """Configs of the demo's networks with two layers, by method: a tracer's time grows with every layer."""
    folder = tmp_path_factory.mktemp('shallow')
    for name, base in BASES.items():
        text = f'_base_ = {str(config_path(base))!r}\nmodel = dict(backbone=dict(arch=dict(depth=2)))\n'
        more = "model['backbone']['reduction'] = dict(layers=(1, 2))\n" if name == 'algm' else ''
        (folder / f'{name}.py').write_text(text + more)
    return {name: str(folder / f'{name}.py') for name in BASES}


@pytest.fixture(scope='module')
def checkpoint(shallow, tmp_path_factory):
    return weights(shallow['plain'], tmp_path_factory.mktemp('weights') / 'weights.pth')


def test_averaged_counts_make_algm_exportable(shallow, checkpoint, tmp_path, capsys):
    out = tmp_path / 'new' / 'algm.onnx'
    assert call('export', shallow['algm'], checkpoint, out, *SMALL, '--average-counts', 2, '--output', 'labels') == 0
    said = capsys.readouterr().out
    assert 'counts' in said and 'batch of 1: the largest difference in labels is' in said
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
    (labels,) = session.run(None, {'image': torch.rand(5, 3, 64, 64).numpy()})
    assert labels.shape == (5, 64, 64)


def test_pose_model_gives_heatmaps_and_no_labels(tmp_path, capsys):
    pytest.importorskip('mmpose')
    from tests.tiny_pose import write_config

    config, out = write_config(tmp_path, 'n2d_2x2'), tmp_path / 'pose.pt2'
    path = weights(config, tmp_path / 'pose.pth')
    assert call('export', config, path, out) == 0
    assert 'images 64x48' in capsys.readouterr().out
    assert torch.export.load(out).module()(torch.rand(2, 3, 64, 48)).shape == (2, 14, 16, 12)
    assert 'labels' in mistake(capsys, 'export', config, path, out, '--output', 'labels', '--force')


def test_existing_file_stays_without_force(shallow, checkpoint, tmp_path, capsys):
    out = tmp_path / 'a.pt2'
    out.write_bytes(b'mine')
    assert 'a.pt2' in mistake(capsys, 'export', shallow['plain'], checkpoint, out, *SMALL)
    assert out.read_bytes() == b'mine'
    assert call('export', shallow['plain'], checkpoint, out, *SMALL, '--force') == 0
    assert torch.export.load(out).module()(torch.rand(2, 3, 64, 64)).shape == (2, 11, 64, 64)


@pytest.mark.parametrize(
    ('config', 'name', 'more', 'said'),
    [
        ('algm', 'a.onnx', (), 'set counts in its reduction'),
        ('plain', 'a.onnx', ('--average-counts', 2), 'average'),
        ('plain', 'a.bin', (), '.onnx'),
        ('plain', 'a.onnx', ('--format', 'torch'), 'torch'),
        ('plain', 'a.onnx', ('--batch-size', 0), '0'),
        ('plain', 'a.onnx', ('--average-counts', 0), '0'),
    ],
)
def test_mistakes_are_one_sentence(config, name, more, said, shallow, checkpoint, tmp_path, capsys):
    assert said in mistake(capsys, 'export', shallow[config], checkpoint, tmp_path / name, *SMALL, *more)
    assert list(tmp_path.iterdir()) == []


def test_the_file_says_how_to_prepare_pictures_and_what_its_numbers_mean(shallow, checkpoint, tmp_path):
    """A user with ONNX Runtime alone segments a picture as test does."""
    import onnxruntime

    from mmseg_tr.apis.build import build_model, network_input
    from mmseg_tr.apis.config import load_config

    config = tmp_path / 'bgr.py'
    config.write_text(
        f'_base_ = {shallow["plain"]!r}\n'
        "model = dict(data_preprocessor=dict(_delete_=True, type='SegDataPreProcessor', "
        'mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], size=(128, 128)))\n'
    )
    for name, base, order, mean in (
        ('bgr', config, 'BGR', [103.53, 116.28, 123.675]),
        ('rgb', shallow['plain'], 'RGB', [127.5] * 3),
    ):
        out = tmp_path / f'{name}.onnx'
        assert call('export', base, checkpoint, out, *SMALL) == 0
        session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
        about = dict(session.get_modelmeta().custom_metadata_map)
        assert about['color_order'] == order and about['output'] == 'logits'
        assert [json.loads(about[key]) for key in ('mean', 'size', 'channels')] == [mean, [64, 64], 3]
        assert json.loads(about['classes'])[:2] == ['brick', 'grass'] and len(json.loads(about['classes'])) == 11
        assert [side.shape[0] for side in (*session.get_inputs(), *session.get_outputs())] == ['batch'] * 2
        picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        ordered = picture if order == 'RGB' else picture[..., ::-1]
        ready = (ordered.astype(np.float32) - mean) / json.loads(about['std'])
        ready = ready.transpose(2, 0, 1)[None].astype(np.float32)
        model = build_model(load_config(str(base)), str(checkpoint)).eval()
        np.testing.assert_allclose(ready, network_input(load_config(str(base)), model, picture), atol=1e-5)
