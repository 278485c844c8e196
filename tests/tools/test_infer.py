"""tools/infer.py on the embedded data: blends, labels, methods, and one sentence for every mistake."""

import re

import numpy as np
import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('skimage')

from PIL import Image

from mmseg_tr import Predictor
from mmseg_tr.datasets.scenes import make_scene
from mmseg_tr.paths import config_path
from tests.tools.as_written import clone, commands
from tests.tools.command import call, mistake
from tests.tools.weights import untrained

NAME = 'vit-tiny-p8_photo-mosaic-128x128.py'
PLAIN, ALGM = (str(config_path(f'{name}/{name}_{NAME}')) for name in ('segmenter', 'algm'))


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return untrained(PLAIN, tmp_path_factory.mktemp('weights') / 'plain.pth')


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / 'pictures'
    (folder / 'more').mkdir(parents=True)
    for i, (name, size) in enumerate((('a.png', (128, 128)), ('b.png', (96, 150)), ('more/c.png', (128, 128)))):
        Image.fromarray(make_scene(size, 0, 'val', i)[0]).save(folder / name)
    return folder


def labels(folder):
    return {file.name: np.array(Image.open(file)) for file in sorted(folder.glob('label/**/*.png'))}


def run(*arguments):
    return call('infer', *arguments, '--device', 'cpu')


def test_labels_and_blends_of_files_and_folders(checkpoint, pictures, tmp_path, capsys):
    assert run(PLAIN, checkpoint, pictures, '-o', tmp_path / 'out') == 0
    done, scale = capsys.readouterr().out.splitlines()
    assert done == f'3 files done, 0 skipped or incomplete: {tmp_path / "out"}'
    assert scale == 'scale: 128x128 pixels enter as 128x128, by the test pipeline'
    found = labels(tmp_path / 'out')
    assert [(name, label.shape) for name, label in found.items()] == [
        ('a.png', (128, 128)),
        ('b.png', (96, 150)),
        ('c.png', (128, 128)),
    ]
    image = np.array(Image.open(pictures / 'b.png'))
    assert np.array_equal(found['b.png'], Predictor(PLAIN, checkpoint, device='cpu').predict(image))
    from mmseg_tr.datasets.mosaic import PhotoMosaic

    colors = np.array(PhotoMosaic.METAINFO['palette'])[found['b.png']]
    blended = np.array(Image.open(tmp_path / 'out' / 'blend' / 'b.png')).astype(int)
    assert np.abs(blended - (image.astype(int) + colors) / 2).max() <= 0.5

    assert run(PLAIN, checkpoint, pictures / 'a.png', pictures / 'more', '-o', tmp_path / 'b', '--batch-size', 4) == 0
    together = labels(tmp_path / 'b')
    assert sorted(together) == ['a.png', 'c.png']
    assert all((together[name] == found[name]).mean() > 0.999 for name in together)


def test_a_method_is_switched_on_over_the_config(checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr('mmseg_tr.apis.build.multiplies_bfloat16', lambda: True)  # any CPU can, if slowly
    for out, config, more in (
        ('plain', PLAIN, ()),
        ('tome', PLAIN, ('--reduction', 'type=ToMe,r=24')),
        ('algm', ALGM, ()),
        ('off', ALGM, ('--reduction', 'None')),
        ('amp', PLAIN, ('--amp', 'bf16')),
    ):
        assert run(config, checkpoint, pictures / 'a.png', '-o', tmp_path / out, *more) == 0
    found = {name: labels(tmp_path / name)['a.png'] for name in ('plain', 'tome', 'algm', 'off', 'amp')}
    assert np.array_equal(found['plain'], found['off'])
    assert not np.array_equal(found['plain'], found['tome'])
    assert not np.array_equal(found['plain'], found['algm'])
    assert (found['plain'] == found['amp']).mean() > 0.8


def test_bad_files_are_reported_and_the_rest_is_done(checkpoint, pictures, tmp_path, capsys):
    bad, empty, gone = pictures / 'bad.jpg', tmp_path / 'empty', tmp_path / 'gone.png'
    bad.write_bytes(b'no picture')
    empty.mkdir()
    assert run(PLAIN, checkpoint, pictures, gone, empty, '-o', tmp_path / 'out', '--batch-size', 2) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f'3 files done, 3 skipped or incomplete: {tmp_path / "out"}\n')
    reasons = re.findall(r'skipped: (.+)', said.err)
    assert reasons[0] == f'there is no file or folder {gone}: check the path.'
    assert reasons[1].startswith(f'the folder {empty} holds no image')
    assert reasons[2].startswith(f'the image {bad} cannot be read')
    assert len(labels(tmp_path / 'out')) == 3


def test_nothing_is_overwritten_without_force(checkpoint, pictures, tmp_path, capsys):
    out = tmp_path / 'out'
    arguments = (PLAIN, checkpoint, pictures / 'a.png', '-o', out)
    (out / 'label').mkdir(parents=True)
    (out / 'label' / 'a.png').write_bytes(b'mine')
    said = mistake(capsys, 'infer', *arguments)
    assert said == f'--force must be set to replace what exists: {out / "label" / "a.png"}.'
    assert (out / 'label' / 'a.png').read_bytes() == b'mine' and not (out / 'blend').exists()
    assert run(*arguments, '--force') == 0
    assert labels(out)['a.png'].shape == (128, 128)
    said = mistake(capsys, 'infer', PLAIN, checkpoint, out / 'label' / 'a.png', '-o', out, '--force')
    assert 'would replace the picture that it is made from' in said


def test_mistakes_are_one_sentence(checkpoint, pictures, tmp_path, capsys):
    out = ('-o', tmp_path / 'out')
    empty, other, text = tmp_path / 'empty', tmp_path / 'other.pth', tmp_path / 'text.pth'
    empty.mkdir()
    torch.save(dict(state_dict={'backbone.x': torch.zeros(1)}), other)
    text.write_text('no checkpoint')
    a = pictures / 'a.png'
    for arguments, part in (
        (('gone.py', checkpoint, a), 'config file gone.py does not exist'),
        ((PLAIN, 'gone.pth', a), 'there is no checkpoint file gone.pth: check the path.'),
        ((PLAIN, other, a), 'other.pth'),
        ((PLAIN, text, a), 'text.pth'),
        ((PLAIN, checkpoint, tmp_path / 'gone'), 'there is no file or folder'),
        ((PLAIN, checkpoint, empty), 'holds no image'),
        ((PLAIN, checkpoint, a, pictures), 'would both be written to a.png'),
        ((PLAIN, checkpoint, a, '--reduction', 'type=Nothing'), "got 'Nothing'"),
        ((PLAIN, checkpoint, a, '--reduction', '(ToMe'), '(ToMe'),
        ((PLAIN, checkpoint, a, '--batch-size', 0), '--batch-size must be from 1 to 65536, got 0'),
        ((PLAIN, checkpoint, a, '--device', 'tpu'), '--device must be cpu, cuda or cuda:1, got tpu'),
        ((PLAIN, checkpoint, a, '--amp', 'fp8'), '--amp must be bf16 or fp16, got fp8'),
    ):
        assert part in mistake(capsys, 'infer', *arguments, *out)
    assert f'--out must be a folder, and {a} is a file' in mistake(capsys, 'infer', PLAIN, checkpoint, a, '-o', a)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('arguments', commands('docs/infer.md', 'infer'), ids=lambda words: words[0].split('/')[1])
def test_commands_of_the_page_run_as_written(arguments, checkpoint, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(clone(tmp_path))
    (tmp_path / arguments[1]).parent.mkdir(parents=True)
    (tmp_path / arguments[1]).write_bytes(checkpoint.read_bytes())
    assert call('infer', *arguments) == 0
    assert len(labels(tmp_path / 'work_dirs' / 'mine')) == 3
