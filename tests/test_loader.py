"""Every way in which a file of weights enters reads plain data: nothing of the file runs."""

import functools
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.logging.history_buffer import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader, load_checkpoint
from torch import nn

from mmseg_tr import loader
from mmseg_tr.apis.train import train
from mmseg_tr.checkpoints import convert, convert_file, load_into, load_official, read_file
from mmseg_tr.engine.start import check_resumable, check_start
from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn import ViT
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.reduction.cts.policy import PolicyNet
from mmseg_tr.weights.fetch import fetch_if_published
from mmseg_tr.weights.io import check_kind
from mmseg_tr.zoo import create_model
from tests.datasets.prepare.server import serve
from tests.segformers import ARCH
from tests.tiny import write_config, write_dataset

TINY = dict(embed_dim=16, depth=2, num_heads=2, patch_size=4)
HUBS = tuple(loader.HUBS)


class Mark:
    """Unpickles as a call that leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def state():
    return nn.Linear(2, 3).state_dict()


FILES = {
    'in the weights': lambda mark: {'state_dict': {**state(), 'x': Mark(mark)}},
    'beside the weights': lambda mark: {'state_dict': state(), 'optimizer': Mark(mark), 'message_hub': {}},
    'in meta': lambda mark: {'meta': {'cfg': Mark(mark)}, 'state_dict': state()},
    'in the curves': lambda mark: {
        'state_dict': state(),
        'message_hub': {'log_scalars': {'loss': HistoryBuffer([1.0], [1]), 'x': Mark(mark)}},
    },
    'bare': Mark,
}


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp('served')
    with serve(folder) as server:
        yield server


TRAPS = [*FILES, 'old format', 'bare pickle']


@pytest.fixture(params=TRAPS)
def trap(request, served):
    """A file that would leave a mark, served as trap.pth."""
    mark, path = served.folder / 'mark', served.folder / 'trap.pth'
    mark.unlink(missing_ok=True)
    if request.param == 'bare pickle':
        path.write_bytes(pickle.dumps(Mark(mark), protocol=2))
    else:
        old = request.param == 'old format'
        content = FILES['in the weights' if old else request.param](mark)
        torch.save(content, path, _use_new_zipfile_serialization=not old)
    yield path
    assert not mark.exists()


def by_mmengine(source):
    load_checkpoint(nn.Linear(2, 3), str(source))


def by_init_cfg(source):
    model = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(source)))
    model.init_weights()


def by_part_of_init_cfg(source):
    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(source), prefix='backbone.')).init_weights()


WAYS = {
    'read_file': lambda source: read_file(fetch_if_published(source)),
    'load_into': lambda source: load_into(nn.Linear(2, 3), fetch_if_published(source)),
    'convert': lambda source: convert(fetch_if_published(source)),
    'convert_file': lambda source: convert_file(fetch_if_published(source), 'nowhere/new.pth'),
    'load_official': lambda source: load_official(fetch_if_published(source)),
    'create_model segformer': lambda source: create_model('segformer', arch=ARCH, num_classes=2, pretrained=source),
    'create_model segmenter': lambda source: create_model(
        'segmenter', arch=TINY, img_size=16, num_classes=2, pretrained=source
    ),
    'ViT pretrained': lambda source: ViT(TINY, img_size=16, pretrained=source).init_weights(),
    'MiT pretrained': lambda source: MixVisionTransformer(ARCH, pretrained=source).init_weights(),
    'policy network': lambda source: PolicyNet(source).init_weights(),
    'policy_checkpoint': lambda source: ViT(
        dict(TINY, patch_size=16), img_size=32, reduction=dict(type='CTS', shared=0, policy_checkpoint=source)
    ).init_weights(),
    'load_checkpoint': by_mmengine,
    'init_cfg': by_init_cfg,
    'init_cfg with a prefix': by_part_of_init_cfg,
    'load_from': lambda source: check_start(nn.Linear(2, 3), source),
    'resume': lambda source: check_resumable(nn.Linear(2, 3), str(loader.local_file(source))),
}
# every kind of trap by its path, one by each kind of address
CASES = [('path', trap) for trap in TRAPS] + [('file URL', 'in the weights'), ('http URL', 'in the weights')]


def test_the_traps_leave_a_mark_where_files_are_trusted(served):
    for content in FILES.values():
        torch.save(content(served.folder / 'trusted'), served.folder / 'trap.pth')
        read_file(served.folder / 'trap.pth', trust=True)
        (served.folder / 'trusted').unlink()


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize(('kind', 'trap'), CASES, indirect=['trap'])
def test_nothing_in_a_file_runs_by_any_way_it_enters(way, kind, trap, served, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_TR_CACHE', str(tmp_path / 'cache'))
    source = {'path': str(trap), 'file URL': trap.as_uri(), 'http URL': f'{served.url}/trap.pth'}[kind]
    with pytest.raises(CheckpointError) as caught:
        WAYS[way](source)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('hub', HUBS)
@pytest.mark.parametrize('way', ['load_checkpoint', 'init_cfg', 'load_from'])
@pytest.mark.parametrize('trap', ['in the weights'], indirect=True)
def test_nothing_in_a_file_of_a_hub_runs(way, hub, trap, served, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_TR_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setitem(loader.HUBS, hub, lambda: {'model': f'{served.url}/trap.pth'})
    with pytest.raises(CheckpointError, match='refused|plain'):
        WAYS[way](f'{hub}model')


@pytest.mark.parametrize('hub', HUBS)
def test_names_that_a_hub_does_not_have_are_told(hub):
    with pytest.raises(CheckpointError, match=f'{hub}nope is not a model of that hub'):
        by_mmengine(f'{hub}nope')


@pytest.mark.parametrize('source', ['pavi://x', 's3://bucket/x.pth', 'cluster:s3://x', 'petrel://x', 'a:petrel://x'])
def test_schemes_that_mmengine_alone_knows_are_refused(source):
    for load in (by_mmengine, by_init_cfg, loader.local_file):
        with pytest.raises(CheckpointError, match='download it'):
            load(source)


@pytest.mark.parametrize('hub', HUBS)
def test_weights_of_a_hub_are_loaded_and_their_hash_is_checked(hub, served, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_TR_CACHE', str(tmp_path / 'cache'))
    want = {f'backbone.{key}' if hub == 'mmcls://' else key: value for key, value in state().items()}
    torch.save({'state_dict': want}, served.folder / 'model.pth')
    (served.folder / 'model-0badcafe.pth').write_bytes((served.folder / 'model.pth').read_bytes())
    urls = {'right': f'{served.url}/model.pth', 'wrong': f'{served.url}/model-0badcafe.pth'}
    monkeypatch.setitem(loader.HUBS, hub, lambda: urls)
    model = nn.Linear(2, 3)
    load_checkpoint(model, f'{hub}right')
    assert torch.equal(model.weight, next(iter(want.values())))
    with pytest.raises(CheckpointError, match='sha256'):
        load_checkpoint(model, f'{hub}wrong')


def test_every_scheme_of_mmengine_is_ours():
    assert set(CheckpointLoader._schemes.values()) == {loader.load_from_checked_file}


def test_mmengine_checkpoints_with_training_curves_are_read_without_them(tmp_path):
    hub = {'log_scalars': {'train/loss': HistoryBuffer([1.0, 2.0], [1, 1])}, 'runtime_info': {'iter': 3}}
    want = state()
    torch.save({'state_dict': want, 'message_hub': hub, 'meta': {'epoch': 1}}, tmp_path / 'curves.pth')
    got = loader.load_from_checked_file(str(tmp_path / 'curves.pth'))
    assert got['message_hub'] == {'log_scalars': {}, 'runtime_info': {'iter': 3}}
    by_mmengine(tmp_path / 'curves.pth')
    assert not check_start(nn.Linear(2, 3), str(tmp_path / 'curves.pth'))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A data set, its config and a checkpoint after two iterations."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder, write_dataset(folder / 'data'))
    train(str(config), work_dir=str(folder / 'work'), cfg_options={'train_cfg.max_iters': 2})
    return config, folder / 'work' / 'iter_2.pth'


@pytest.mark.parametrize('place', [('meta', 'config'), ('meta', 'cfg'), ('message_hub', 'runtime_info', 'cfg')])
def test_python_text_in_a_checkpoint_is_not_run_by_resuming(trained, tmp_path, place):
    config, checkpoint = trained
    content, mark = torch.load(checkpoint, weights_only=True), tmp_path / 'mark'
    inner = functools.reduce(lambda part, key: part[key], place[:-1], content)
    inner[place[-1]] = f"_x = __import__('pathlib').Path({str(mark)!r}).touch()"
    torch.save(content, tmp_path / 'evil.pth')
    options = {'train_cfg.max_iters': 3}
    train(str(config), work_dir=str(tmp_path / 'work'), resume=str(tmp_path / 'evil.pth'), cfg_options=options)
    assert (tmp_path / 'work' / 'iter_3.pth').exists() and not mark.exists()


def test_load_from_an_address_starts_from_its_weights_at_another_image_size(trained, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_TR_CACHE', str(tmp_path / 'cache'))
    config, checkpoint = trained
    options = {'train_cfg.max_iters': 1, 'model.backbone.img_size': 48, 'optim_wrapper.optimizer.lr': 0.0}
    runner = train(str(config), work_dir=str(tmp_path), load_from=checkpoint.as_uri(), cfg_options=options)
    want = torch.load(checkpoint, weights_only=True)['state_dict']
    got = runner.model.state_dict()
    assert got['backbone.pos_embed'].shape == (1, 37, 32)
    assert all(torch.equal(got[key], value) for key, value in want.items() if 'pos_embed' not in key)
    vit = ViT(dict(embed_dim=32, depth=2, num_heads=2, patch_size=8), img_size=48)
    vit.fit_positions(want, 'backbone.')
    assert torch.equal(got['backbone.pos_embed'], want['backbone.pos_embed'])
    assert 'pos_embed was resized' in ''.join(path.read_text() for path in tmp_path.rglob('*.log'))


@pytest.mark.parametrize(
    'content',
    [
        {'state_dict': None},
        {'state_dict': {1: torch.zeros(2)}},
        {1: torch.zeros(2)},
        {'state_dict': {'weight': torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)])}},
    ],
    ids=['no weights', 'a number as name', 'a number as name, bare', 'a nested tensor'],
)
def test_what_holds_no_weights_by_name_is_refused_by_mmengines_loader_too(content, tmp_path):
    torch.save(content, tmp_path / 'file.pth')
    with pytest.raises(CheckpointError):
        load_checkpoint(nn.Linear(2, 3), str(tmp_path / 'file.pth'))


def test_a_damaged_directory_of_an_archive_is_told_before_and_after_a_download(tmp_path):
    path = tmp_path / 'file.pth'
    torch.save(state(), path)
    content = bytearray(path.read_bytes())
    place = content.rindex(b'PK\x01\x02')
    content[place : place + 4] = b'xxxx'
    path.write_bytes(content)
    for read in (read_file, check_kind):
        with pytest.raises(CheckpointError):
            read(path)


def test_a_name_that_is_a_number_is_refused_as_pretrained_weights(tmp_path):
    whole = create_model('segmenter', arch=TINY, img_size=16, num_classes=2).state_dict()
    torch.save({'state_dict': {**whole, 1: torch.zeros(2)}}, tmp_path / 'file.pth')
    for enters in ('ViT pretrained', 'MiT pretrained'):
        with pytest.raises(CheckpointError):
            WAYS[enters](str(tmp_path / 'file.pth'))
