"""Exported files of models that are not the usual three channels and several classes; files under one name."""

import shutil
from multiprocessing import get_context

import pytest
import torch

pytest.importorskip('mmseg')

from mmseg_tr.apis.build import build_model, network_input
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.export import export
from mmseg_tr.apis.export.check import write_checked
from mmseg_tr.apis.export.description import normalisation
from mmseg_tr.apis.export.program import Whole
from mmseg_tr.errors import ExportError, WriteError
from tests.clean import OPENMMLAB, ROOT, run_clean
from tests.tiny import write_config, write_dataset
from tests.tools.command import mistake

CHANNELS = """
model['backbone']['in_chans'] = {channels}
model['data_preprocessor'] = dict(type='SegDataPreProcessor', mean=[100.0] * {channels}, std=[50.0] * {channels},
                                  size=(32, 32))
"""
BINARY = """
model['decode_head'].update(num_classes=2, out_channels=1, threshold={threshold},
                            loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=True))
test_dataloader['dataset']['metainfo'] = dict(classes=('background', 'thing'), palette=[[0, 0, 0], [9, 9, 9]])
"""


def made(folder, more, name='tiny.py'):
    """A config and a checkpoint whose scores are spread around 0."""
    if not (folder / 'data').exists():
        write_dataset(folder / 'data', count=2)
    config = write_config(folder, folder / 'data', more, name)
    model = build_model(load_config(config), None)
    torch.manual_seed(0)
    state = {key: value + 0.3 * torch.randn_like(value) for key, value in model.state_dict().items()}
    torch.save(dict(state_dict=state), folder / f'{name}.pth')
    return str(config), str(folder / f'{name}.pth')


@pytest.mark.parametrize(('channels', 'threshold'), [(1, 0.3), (2, 0.5), (4, 0.8)])
def test_a_network_of_any_channels_is_exported_with_its_heads_threshold_and_says_so(tmp_path, channels, threshold):
    """Labels of one output channel."""
    more = CHANNELS.format(channels=channels) + BINARY.format(threshold=threshold)
    config, checkpoint = made(tmp_path, more)
    written = export(config, checkpoint, tmp_path / 'a.pt2', output='labels', batch_sizes=(1, 2))
    assert set(written.difference) == {1, 2}
    program = torch.export.load(tmp_path / 'a.pt2', extra_files=(files := {'description.json': ''})).module()
    assert f'"channels": "{channels}"' in files['description.json'] and 'color_order' not in files['description.json']
    images = torch.randn(4, channels, 32, 32)
    model = build_model(load_config(config), checkpoint).eval()
    with torch.no_grad():
        expected = Whole(model)(images)[:, 0].sigmoid() > threshold
    assert torch.equal(program(images), expected.long()) and 0 < expected.float().mean() < 1


PIPELINES = {
    'given': (dict(mean=[120.0, 110.0, 100.0], std=[50.0, 60.0, 70.0], bgr_to_rgb=True), 'RGB'),
    'no swap': (dict(mean=[120.0, 110.0, 100.0], std=[50.0, 60.0, 70.0]), 'BGR'),
    'nothing': (dict(), 'BGR'),
}


@pytest.mark.parametrize('case', PIPELINES)
@pytest.mark.parametrize('resize', [False, True])
def test_the_description_is_what_the_model_does_with_a_picture(tmp_path, case, resize):
    settings, order = PIPELINES[case]
    more = f"model['data_preprocessor'] = dict(type='SegDataPreProcessor', size=(32, 32), **{settings!r})\n"
    if resize:
        more += "test_dataloader['dataset']['pipeline'].insert(1, dict(type='Resize', scale=(64, 64)))\n"
    config = load_config(made(tmp_path, more)[0])
    model = build_model(config, None).eval()
    found = normalisation(config, model)
    assert found == dict(
        channels=3, color_order=order, mean=settings.get('mean', [0.0] * 3), std=settings.get('std', [1.0] * 3)
    )
    picture = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8).numpy()
    ordered = torch.from_numpy(picture if order == 'RGB' else picture[..., ::-1].copy()).permute(2, 0, 1).float()
    mean, std = (torch.tensor(found[key]).view(3, 1, 1) for key in ('mean', 'std'))
    torch.testing.assert_close((ordered - mean) / std, network_input(config, model, picture)[0], atol=1e-4, rtol=1e-5)


class Tiny(torch.nn.Module):
    def forward(self, image):
        return image.mean(1, keepdim=True) * 2


def test_exports_onto_one_name_at_once_leave_one_whole_file(tmp_path):
    whole, batch = Whole(Tiny()).eval(), torch.rand(2, 3, 8, 8)
    forks = get_context('fork')
    start = forks.Barrier(3)

    def run():
        start.wait()
        write_checked(whole, batch, tmp_path / 'a.pt2', 'torch', (1,))

    runs = [forks.Process(target=run) for _ in range(3)]
    for process in runs:
        process.start()
    for process in runs:
        process.join()
    assert [process.exitcode for process in runs] == [0] * 3
    assert [path.name for path in tmp_path.iterdir()] == ['a.pt2']
    assert torch.export.load(tmp_path / 'a.pt2').module()(batch).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(('name', 'earlier'), [('a.pt2', None), ('a.pt2', b'earlier'), ('a.onnx', b'earlier')])
def test_a_full_disk_leaves_what_was_there_and_one_sentence(tmp_path, monkeypatch, name, earlier):
    pytest.importorskip('onnxruntime')
    if earlier:
        (tmp_path / name).write_bytes(earlier)

    def full(*_, **__):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('os.fsync', full)
    form = 'onnx' if name.endswith('onnx') else 'torch'
    with pytest.raises(WriteError, match=name):
        write_checked(Whole(Tiny()).eval(), torch.rand(2, 3, 8, 8), tmp_path / name, form, (1,))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({name: earlier} if earlier else {})


def test_a_file_that_appears_meanwhile_is_kept_without_force(tmp_path, monkeypatch):
    from mmseg_tr.apis.export import check

    def differences(*args):
        (tmp_path / 'a.pt2').write_bytes(b'of another process')
        return {1: 0.0}

    monkeypatch.setattr(check, 'differences', differences)
    with pytest.raises((WriteError, ExportError), match=r'a\.pt2'):
        write_checked(Whole(Tiny()).eval(), torch.rand(2, 3, 8, 8), tmp_path / 'a.pt2', 'torch', (1,), replace=False)
    assert (tmp_path / 'a.pt2').read_bytes() == b'of another process'


def test_without_the_bundled_photographs_the_sentence_names_the_extra_and_the_folder(tmp_path, monkeypatch, capsys):
    from mmseg_tr.analysis import photographs
    from mmseg_tr.errors import installed

    config, checkpoint = made(tmp_path, '')
    monkeypatch.setattr(
        'mmseg_tr.errors.installed', lambda module: module not in ('skimage', 'sklearn') and installed(module)
    )
    photographs._photographs.cache_clear()  # read by an earlier test of this process
    photographs.photograph_part.cache_clear()
    export = ('export', config, checkpoint, tmp_path / 'a.pt2')
    said = mistake(capsys, *export)  # the test set is there, and too small
    assert 'mmseg_tr[demo]' in said and '--images' in said and 'test set' in said
    shutil.rmtree(tmp_path / 'data')
    for arguments in (export, ('get_fps_flops', config)):
        said = mistake(capsys, *arguments)
        assert 'mmseg_tr[demo]' in said and '--images' in said
    assert not (tmp_path / 'a.pt2').exists()


def test_a_base_installation_is_told_the_extra(tmp_path):
    code = (
        "import sys; sys.argv = ['export.py', 'a.py', 'b.pth', 'c.onnx']; import runpy\n"
        "try: runpy.run_path('tools/export.py', run_name='__main__')\n"
        'except SystemExit as stop: print(stop.code)'
    )
    assert run_clean(f'import os; os.chdir({str(ROOT)!r}); {code}', blocked=OPENMMLAB) == '2'
