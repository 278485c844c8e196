"""tools/infer.py with pose configs: keypoints of whole pictures and of boxes, drawn and as JSON."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip('mmpose')
pytest.importorskip('skimage')

from mmcv.image import imread
from mmengine.dataset import pseudo_collate
from PIL import Image

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.engine.datasets import build_dataset
from mmseg_tr.paths import config_path
from mmseg_tr.visualization.video import VideoWriter, open_video
from tests.tools.command import call, mistake

CONFIG = """
_base_ = [{dataset!r}, {runtime!r}]
model = dict(
    type='TopdownPoseEstimator',
    data_preprocessor=dict(type='PoseDataPreprocessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True),
    backbone=dict(type='mmseg_tr.MiT', arch=dict(embed_dims=8, num_layers=(1, 1), num_heads=(1, 2), patch_sizes=(7, 3),
                  strides=(4, 2), sr_ratios=(8, 4)), out_indices=(0, 1)),
    head=dict(type='mmseg_tr.SegformerPoseHead', in_channels=(8, 16), channels=8, num_keypoints=14,
              decoder=dict(type='MSRAHeatmap', input_size=(144, 192), heatmap_size=(36, 48), sigma=2)),
    test_cfg=dict(flip_test=True, flip_mode='heatmap', shift_heatmap=True))
"""


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pose')
    config = folder / 'pose.py'
    names = dict(dataset='_base_/datasets/photo_figures.py', runtime='_base_/runtime/pose.py')
    config.write_text(CONFIG.format(**{key: str(config_path(name)) for key, name in names.items()}))
    model = build_model(load_config(config), None)
    torch.manual_seed(0)
    state = {k: v + 0.2 * torch.randn_like(v) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(dict(state_dict=state), folder / 'pose.pth')
    return config, folder / 'pose.pth'


@pytest.fixture(scope='module')
def figures(tiny, tmp_path_factory):
    """Two scenes of the test set as files, and what the network finds in them by way of the dataset."""
    folder = tmp_path_factory.mktemp('figures')
    config = load_config(tiny[0])
    dataset = build_dataset(dict(config.test_dataloader.dataset, length=6))
    model = build_model(config, str(tiny[1])).eval()
    found = {}
    for index in range(len(dataset)):
        raw, packed = dataset.get_data_info(index), dataset[index]
        name = f'{raw["img_id"]}.png'
        with torch.inference_mode():
            sample = model.test_step(pseudo_collate([packed]))[0]
        found.setdefault(name, []).append((raw, sample.pred_instances))
    return folder, found


def keypoints(path):
    return json.loads(path.read_text())


def test_boxes_give_what_the_test_set_gives(tiny, figures, tmp_path, capsys):
    folder, found = figures
    boxes = {}
    for name, entries in found.items():
        Image.fromarray(imread(entries[0][0]['img_path'], channel_order='rgb')).save(folder / name)
        boxes[name] = [raw['bbox'][0].tolist() for raw, _ in entries]
    (tmp_path / 'boxes.json').write_text(json.dumps(boxes))
    out = tmp_path / 'out'
    assert call('infer', *tiny, folder, '-o', out, '--boxes', tmp_path / 'boxes.json', '--device', 'cpu') == 0
    assert capsys.readouterr().out.startswith(f'{len(boxes)} files done, 0 skipped or incomplete: {out}\n')
    for name, entries in found.items():
        written = keypoints((out / 'keypoints' / name).with_suffix('.json'))
        assert len(written['keypoint_names']) == 14 and written['keypoint_names'][0] == 'head'
        for person, (raw, instances) in zip(written['people'], entries, strict=True):
            assert person['box'] == pytest.approx(raw['bbox'][0].tolist(), abs=0.01)
            places = np.array(person['keypoints'])
            assert places[:, :2] == pytest.approx(instances.keypoints[0], abs=0.05)
            assert places[:, 2] == pytest.approx(instances.keypoint_scores[0], abs=1e-3)
        drawn, plain = (np.array(Image.open(place / name)) for place in (out / 'blend', folder))
        assert drawn.shape == plain.shape and (drawn != plain).any()


def test_without_boxes_the_whole_picture_is_one(tiny, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)).save(tmp_path / 'a.png')
    assert call('infer', *tiny, tmp_path / 'a.png', '-o', tmp_path / 'out', '--device', 'cpu') == 0
    (person,) = keypoints(tmp_path / 'out' / 'keypoints' / 'a.json')['people']
    assert person['box'] == [0, 0, 70, 90]
    (tmp_path / 'none.json').write_text('{"a.png": []}')
    arguments = ('--boxes', tmp_path / 'none.json', '--force', '--device', 'cpu')
    assert call('infer', *tiny, tmp_path / 'a.png', '-o', tmp_path / 'out', *arguments) == 0
    assert keypoints(tmp_path / 'out' / 'keypoints' / 'a.json')['people'] == []
    drawn = np.array(Image.open(tmp_path / 'out' / 'blend' / 'a.png'))
    assert np.array_equal(drawn, np.array(Image.open(tmp_path / 'a.png')))


def test_a_video_has_the_poses_of_every_frame(tiny, tmp_path):
    with VideoWriter(tmp_path / 'v.avi', fps=8) as writer:
        for index in range(3):
            writer.add(np.full((64, 48, 3), 40 * index, np.uint8))
    (tmp_path / 'boxes.json').write_text('{"v.avi": [[0, 0, 30, 40], [10, 10, 48, 64]]}')
    arguments = ('--batch-size', 2, '--boxes', tmp_path / 'boxes.json', '--device', 'cpu')
    assert call('infer', *tiny, tmp_path / 'v.avi', '-o', tmp_path / 'out', *arguments) == 0
    assert len(list(open_video(tmp_path / 'out' / 'blend' / 'v.mp4').frames())) == 3
    frames = keypoints(tmp_path / 'out' / 'keypoints' / 'v.json')['frames']
    assert [[person['box'] for person in people] for people in frames] == [[[0, 0, 30, 40], [10, 10, 48, 64]]] * 3


@pytest.mark.parametrize(
    ('content', 'said'),
    [
        ('{"a.png"', 'is not valid JSON'),
        ('[1]', 'must hold {"a.jpg": [[x1, y1, x2, y2], ...]}, got a list.'),
        ('{"b.png": []}', 'names b.png, which is none of the pictures: a.png'),
        ('{"a.png": [[0, 0, 5]]}', 'numbers with x1 < x2 and y1 < y2: see a.png.'),
        ('{"a.png": [[9, 0, 5, 5]]}', 'numbers with x1 < x2 and y1 < y2: see a.png.'),
    ],
)
def test_boxes_that_cannot_be_used_are_told(tiny, tmp_path, capsys, content, said):
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / 'a.png')
    (tmp_path / 'boxes.json').write_text(content)
    arguments = (tmp_path / 'a.png', '-o', tmp_path / 'out', '--boxes')
    assert said in mistake(capsys, 'infer', *tiny, *arguments, tmp_path / 'boxes.json')
    assert 'cannot be read' in mistake(capsys, 'infer', *tiny, *arguments, tmp_path / 'gone.json')
    assert not (tmp_path / 'out').exists()
