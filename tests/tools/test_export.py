"""tools/export.py: a config and a checkpoint to one checked file, and one sentence for every mistake."""

import json

import numpy as np
import pytest
import torch

from mmseg_tr.paths import config_path
from tests.tools.command import call, mistake

pytest.importorskip('mmseg')
pytest.importorskip('onnxruntime')

PLAIN = str(config_path('segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'))
ALGM = str(config_path('algm/algm_vit-tiny-p8_photo-mosaic-128x128.py'))
POSE = str(config_path('segformerpp_pose/segformerpp_mit-tiny_photo-figures-192x144_bsm-hq.py'))
SMALL = ('--shape', '64x64')


def weights(config, path):
    from mmseg_tr.apis.build import build_model
    from mmseg_tr.apis.config import load_config

    torch.save(dict(state_dict=build_model(load_config(config), None).state_dict()), path)
    return path


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return weights(PLAIN, tmp_path_factory.mktemp('weights') / 'weights.pth')


def test_averaged_counts_make_algm_exportable(checkpoint, tmp_path, capsys):
    out = tmp_path / 'new' / 'algm.onnx'
    assert call('export', ALGM, checkpoint, out, *SMALL, '--average-counts', 2, '--output', 'labels') == 0
    said = capsys.readouterr().out
    assert 'counts' in said and 'batch of 1: the largest difference in labels is' in said
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out), providers=['CPUExecutionProvider'])
    (labels,) = session.run(None, {'image': torch.rand(5, 3, 64, 64).numpy()})
    assert labels.shape == (5, 64, 64)


def test_pose_model_gives_heatmaps_and_no_labels(tmp_path, capsys):
    pytest.importorskip('mmpose')
    path, out = weights(POSE, tmp_path / 'pose.pth'), tmp_path / 'pose.pt2'
    assert call('export', POSE, path, out) == 0
    assert 'images 192x144' in capsys.readouterr().out
    assert torch.export.load(out).module()(torch.rand(2, 3, 192, 144)).shape == (2, 14, 48, 36)
    assert 'labels' in mistake(capsys, 'export', POSE, path, out, '--output', 'labels', '--force')


def test_existing_file_stays_without_force(checkpoint, tmp_path, capsys):
    out = tmp_path / 'a.pt2'
    out.write_bytes(b'mine')
    assert 'a.pt2' in mistake(capsys, 'export', PLAIN, checkpoint, out, *SMALL)
    assert out.read_bytes() == b'mine'
    assert call('export', PLAIN, checkpoint, out, *SMALL, '--force') == 0
    assert torch.export.load(out).module()(torch.rand(2, 3, 64, 64)).shape == (2, 11, 64, 64)


@pytest.mark.parametrize(
    ('config', 'name', 'more', 'said'),
    [
        (ALGM, 'a.onnx', (), 'set counts in its reduction'),
        (PLAIN, 'a.onnx', ('--average-counts', 2), 'average'),
        (PLAIN, 'a.bin', (), '.onnx'),
        (PLAIN, 'a.onnx', ('--format', 'torch'), 'torch'),
        (PLAIN, 'a.onnx', ('--batch-size', 0), '0'),
        (PLAIN, 'a.onnx', ('--average-counts', 0), '0'),
    ],
)
def test_mistakes_are_one_sentence(config, name, more, said, checkpoint, tmp_path, capsys):
    assert said in mistake(capsys, 'export', config, checkpoint, tmp_path / name, *SMALL, *more)
    assert list(tmp_path.iterdir()) == []


def test_the_file_says_how_to_prepare_pictures_and_what_its_numbers_mean(checkpoint, tmp_path):
    """A user with ONNX Runtime alone segments a picture as test does."""
    import onnxruntime

    from mmseg_tr.apis.build import build_model, network_input
    from mmseg_tr.apis.config import load_config

    config = tmp_path / 'bgr.py'
    config.write_text(
        f"_base_ = {PLAIN!r}\nmodel = dict(data_preprocessor=dict(_delete_=True, type='SegDataPreProcessor', "
        'mean=[103.53, 116.28, 123.675], std=[57.375, 57.12, 58.395], size=(128, 128)))\n'
    )
    for name, base, order, mean in (
        ('bgr', config, 'BGR', [103.53, 116.28, 123.675]),
        ('rgb', PLAIN, 'RGB', [127.5] * 3),
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
