"""CTS from its two trainings to its score: the policy network by tools/train.py, then a CTS config that names it."""

import pytest
import torch
import yaml

pytest.importorskip('skimage', reason='needs the extra [demo]')

from mmseg_tr.paths import config_path
from tests.tools.command import call, mistake

POLICY = config_path('cts/cts-policy_effnet-lite0_photo-mosaic-128x128.py')
NETWORK = config_path('cts/cts_vit-tiny-p8_photo-mosaic-128x128.py')
PLAIN = config_path('segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py')
SHORT = [
    'train_cfg.max_iters=3',
    'train_cfg.val_interval=3',
    'default_hooks.checkpoint.interval=3',
    'default_hooks.logger.interval=1',
    'train_dataloader.batch_size=2',
]
SMALL = [
    f'{part}_dataloader.{name}'
    for part in ('train', 'val', 'test')
    for name in ('num_workers=0', 'persistent_workers=False', 'dataset.length=4')
]
NARROW = ['model.backbone.arch.embed_dim=32', 'model.backbone.arch.depth=2', 'model.decode_head.in_channels=32']


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with a policy network and a plain Segmenter, each trained for three updates."""
    folder = tmp_path_factory.mktemp('cts')
    assert call('train', POLICY, '--work-dir', folder / 'policy', '--cfg-options', *SHORT, *SMALL) == 0
    assert call('train', PLAIN, '--work-dir', folder / 'plain', '--cfg-options', *SHORT, *SMALL, *NARROW) == 0
    return folder


@pytest.fixture
def options(trained):
    """What makes the CTS config small, with the policy network that was trained."""
    return [*SMALL, *NARROW, f'model.backbone.reduction.policy_checkpoint={trained}/policy/iter_3.pth']


def scores(folder):
    return yaml.safe_load((folder / 'scores_ss.yml').read_text())


def test_policy_network_is_scored_by_the_test_tool(trained, tmp_path):
    checkpoint = trained / 'policy' / 'iter_3.pth'
    assert call('test', POLICY, checkpoint, '--work-dir', tmp_path, '--cfg-options', *SMALL) == 0
    found = scores(tmp_path)
    assert 0 <= found['accuracy'] <= 100 and 50 <= found['constant'] <= 100


def test_its_checkpoint_and_that_of_the_plain_model_make_a_cts_model(trained, tmp_path, options):
    plain = trained / 'plain' / 'iter_3.pth'
    assert call('test', NETWORK, plain, '--work-dir', tmp_path, '--cfg-options', *options) == 0
    assert 0 <= scores(tmp_path)['mean_iou'] <= 100


def test_cts_trains_from_plain_weights_and_keeps_its_policy(trained, tmp_path, options):
    plain = trained / 'plain' / 'iter_3.pth'
    arguments = ['--work-dir', tmp_path, '--load-from', plain, '--cfg-options', *SHORT, *options]
    assert call('train', NETWORK, *arguments) == 0
    policy = torch.load(trained / 'policy' / 'iter_3.pth', weights_only=True)['state_dict']
    state = torch.load(tmp_path / 'iter_3.pth', weights_only=True)['state_dict']
    kept = {key: value for key, value in state.items() if key.startswith('backbone.reduction.')}
    assert len(kept) == len(policy) == 290
    assert all(torch.equal(value, policy[key.removeprefix('backbone.reduction.')]) for key, value in kept.items())
    before = torch.load(plain, weights_only=True)['state_dict']
    assert not torch.equal(before['backbone.pos_embed'], state['backbone.pos_embed'])
    # the whole model runs without the file, and under the labels' rule
    oracle = ['model.type=mmseg_tr.OracleSegmentor', 'model.backbone.reduction.policy=oracle']
    for number, more in enumerate([['model.backbone.reduction.policy_checkpoint=None'], oracle]):
        place = tmp_path / str(number)
        assert (
            call('test', NETWORK, tmp_path / 'iter_3.pth', '--work-dir', place, '--cfg-options', *options, *more) == 0
        )


def test_missing_policy_networks_are_told_in_one_sentence(trained, tmp_path, capsys, options):
    plain, missing = trained / 'plain' / 'iter_3.pth', 'model.backbone.reduction.policy_checkpoint=nothing.pth'
    for value, words in ((missing, 'no policy checkpoint nothing.pth'), (missing[:-11] + 'None', 'no policy network')):
        arguments = ['--work-dir', tmp_path, '--cfg-options', *options, value]
        assert words in mistake(capsys, 'test', NETWORK, plain, *arguments)
    assert 'no policy checkpoint' in mistake(
        capsys, 'train', NETWORK, '--work-dir', tmp_path, '--cfg-options', *options, missing
    )


def test_flipped_views_of_a_policy_network_are_refused(trained, tmp_path, capsys):
    checkpoint = trained / 'policy' / 'iter_3.pth'
    assert 'tta_model' in mistake(capsys, 'test', POLICY, checkpoint, '--tta', '--work-dir', tmp_path)
