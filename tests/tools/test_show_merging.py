"""tools/show_merging.py: every method, pictures, folders, videos, and one sentence for every mistake."""

import json

import cv2
import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('skimage')

from PIL import Image

from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.datasets.scenes import make_scene
from mmseg_tr.paths import config_path
from tests.tools.as_written import clone, commands
from tests.tools.command import call, mistake

NAME = 'vit-tiny-p8_photo-mosaic-128x128.py'
PLAIN, ALGM = (str(config_path(f'{name}/{name}_{NAME}')) for name in ('segmenter', 'algm'))
METHODS = {
    'type=ALGM,layers=(1,3),threshold=0.5': '',
    'type=CTS,policy=random,share=0.3': '',
    'type=Expedite,layer=2,clusters=(8,8)': '',
    'type=EViT,keep_rate=0.7,layers=(2,4)': '',
    'type=ToMe,r=24': '',
    'type=ToMe,r=0.3,form=dense': '_attention _mlp',
    'type=ACT,q_hashes=8,bucket_width=1': '_head1 _head2 _head3 _head4',
}
MIT = """
custom_imports = dict(imports=['mmseg_tr.registry'], allow_failed_imports=False)
default_scope = 'mmseg'
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(type='SegDataPreProcessor', mean=[127.5] * 3, std=[127.5] * 3, bgr_to_rgb=True,
                           size=(64, 64)),
    backbone=dict(type='mmseg_tr.MiT', arch='b0', reduction=dict(type='SegFormerPP', preset='bsm_hq')),
    decode_head=dict(type='FCNHead', in_channels=256, in_index=3, channels=256, num_convs=0, concat_input=False,
                     num_classes=3, norm_cfg=dict(type='BN')),
    test_cfg=dict(mode='whole'))
"""


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp('weights') / 'plain.pth'
    torch.save(dict(meta={}, state_dict=build_model(load_config(PLAIN), None).state_dict()), file)
    return file


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    for i, (name, size) in enumerate((('a.png', (128, 128)), ('b.png', (96, 150)))):
        Image.fromarray(make_scene(size, 0, 'val', i)[0]).save(folder / name)
    return folder


@pytest.fixture(scope='module')
def video(tmp_path_factory):
    file = tmp_path_factory.mktemp('video') / 'film.avi'
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'MJPG'), 5, (96, 64))
    for i in range(3):
        writer.write(np.ascontiguousarray(make_scene((64, 96), 0, 'val', i)[0][..., ::-1]))
    writer.release()
    return file


@pytest.mark.parametrize('method', METHODS)
def test_every_method_is_drawn_layer_by_layer(method, checkpoint, pictures, tmp_path):
    layers = (1, 4) if METHODS[method] else range(1, 7)  # the others would only take longer
    chosen = ('--layer', *layers) if METHODS[method] else ()
    arguments = (PLAIN, checkpoint, pictures / 'a.png', tmp_path, '--reduction', method)
    assert call('show_merging', *arguments, *chosen) == 0
    parts = METHODS[method].split() or ['']
    want = [f'layer{layer:02d}{part}.png' for layer in layers for part in parts]
    folder = tmp_path / 'a'
    assert sorted(file.name for file in folder.iterdir()) == sorted([*want, 'merging.json', 'sheet.png'])
    told = json.loads((folder / 'merging.json').read_text())
    assert len(told) == len(want)
    assert min(entry['tokens'] for entry in told) < 256 == told[0]['patches']
    drawn = {name: np.array(Image.open(folder / name)) for name in want}
    assert {picture.shape for picture in drawn.values()} == {(512, 512, 3)}
    assert (len({picture.tobytes() for picture in drawn.values()}) > 1) == ('CTS' not in method)


def test_mit_is_drawn_too(pictures, tmp_path, capsys):
    config = tmp_path / 'mit.py'
    config.write_text(MIT)
    assert (
        call('show_merging', config, 'none', pictures / 'b.png', tmp_path / 'out', '--layer', 1, 8, '--side', 64) == 0
    )
    names = sorted(file.name for file in (tmp_path / 'out' / 'b').iterdir())
    assert names == ['layer01_keys.png', 'layer08_queries.png', 'merging.json', 'sheet.png']
    assert 'stage 4, block 2, queries: 2 of 6 tokens' in capsys.readouterr().out


def test_styles_sides_and_animations(checkpoint, pictures, tmp_path):
    arguments = (ALGM, checkpoint, pictures / 'b.png', tmp_path, '--layer', 1, 6, '--side', 64)
    assert call('show_merging', *arguments, '--animate', 'gif') == 0
    with Image.open(tmp_path / 'b' / 'layers.gif') as film:
        assert film.n_frames == 3  # the picture, and two layers
    mean = np.array(Image.open(tmp_path / 'b' / 'layer06.png'))
    assert mean.shape == (512, 768, 3)  # 64 x 96, whole patches, eight times as large
    assert call('show_merging', *arguments, '--animate', 'mp4', '--style', 'outline', '--force') == 0
    assert frames(tmp_path / 'b' / 'layers.mp4')[0] == 3
    assert not np.array_equal(mean, np.array(Image.open(tmp_path / 'b' / 'layer06.png')))


def frames(path):
    film, count = cv2.VideoCapture(str(path)), 0
    while film.read()[0]:
        count += 1
    return count, film.get(cv2.CAP_PROP_FPS)


def test_frames_of_a_video_become_an_animation_of_a_layer(checkpoint, video, tmp_path):
    assert call('show_merging', ALGM, checkpoint, video, tmp_path / 'mp4', '--side', 32) == 0
    assert frames(tmp_path / 'mp4' / 'film' / 'layer06.mp4') == (3, 5)
    assert [file.name for file in (tmp_path / 'mp4' / 'film').iterdir()] == ['layer06.mp4']
    more = ('--side', 32, '--layer', 1, 3, '--animate', 'gif')
    assert call('show_merging', ALGM, checkpoint, video, tmp_path / 'gif', *more) == 0
    assert sorted(file.name for file in (tmp_path / 'gif' / 'film').iterdir()) == ['layer01.gif', 'layer03.gif']


def test_bad_files_are_skipped_and_the_rest_is_done(checkpoint, pictures, tmp_path, capsys):
    bad, film, gone = tmp_path / 'bad.png', tmp_path / 'film.mp4', tmp_path / 'gone.png'
    bad.write_bytes(b'no picture')
    film.write_bytes(b'no video')
    assert call('show_merging', ALGM, checkpoint, bad, film, gone, pictures, tmp_path / 'out', '--layer', 1) == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f'2 drawn, 3 skipped: {tmp_path / "out"}'
    for part in (f'the image {bad} cannot be read', f'the video {film} cannot be read', f'no file or folder {gone}'):
        assert part in said.err


def test_mistakes_are_one_sentence(checkpoint, pictures, tmp_path, capsys):
    empty, other = tmp_path / 'empty', tmp_path / 'other.pth'
    empty.mkdir()
    torch.save(dict(state_dict={'backbone.x': torch.zeros(1)}), other)
    a, out = pictures / 'a.png', tmp_path / 'out'
    film = tmp_path / 'a.mp4'
    film.write_bytes(b'no video')
    (tmp_path / 'full' / 'a').mkdir(parents=True)
    (tmp_path / 'full' / 'a' / 'mine.txt').write_text('mine')
    for arguments, part in (
        (('gone.py', checkpoint, a, out), 'config file gone.py does not exist'),
        ((ALGM, 'gone.pth', a, out), 'there is no checkpoint file gone.pth'),
        ((ALGM, other, a, out), 'other.pth'),
        ((ALGM, checkpoint, empty, out), 'holds no image'),
        ((ALGM, checkpoint, tmp_path / 'gone', out), 'there is no file or folder'),
        ((PLAIN, checkpoint, a, out), 'merges no tokens'),
        ((ALGM, checkpoint, a, out, '--layer', 7), '--layer must be 1 to 6, got 7'),
        ((ALGM, checkpoint, a, out, '--style', 'oil'), '--style must be mean or outline, got oil'),
        ((ALGM, checkpoint, a, out, '--animate', 'avi'), '--animate must be gif or mp4, got avi'),
        ((ALGM, checkpoint, a, out, '--side', 0), '--side must be 1 pixel or more, got 0'),
        ((ALGM, checkpoint, a, film, out), 'would both be drawn in'),
        ((ALGM, checkpoint, a, a), f'OUT must be a folder, and {a} is a file'),
        (
            (ALGM, checkpoint, a, tmp_path / 'full'),
            '--force must be set to write into a folder that exists',
        ),
    ):
        assert part in mistake(capsys, 'show_merging', *arguments)
    assert not out.exists()


@pytest.mark.parametrize('arguments', commands('docs/pictures.md', 'show_merging'), ids=lambda words: words[0])
def test_commands_of_the_page_run_as_written(arguments, checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(clone(tmp_path))
    (tmp_path / arguments[1]).parent.mkdir(parents=True)
    (tmp_path / arguments[1]).write_bytes(checkpoint.read_bytes())
    (tmp_path / 'pictures').symlink_to(pictures)
    assert call('show_merging', *arguments) == 0
    assert sorted(file.parent.name for file in tmp_path.glob('work_dirs/merging/*/sheet.png')) == ['a', 'b']
