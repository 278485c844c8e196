"""Official CTS releases: with a policy network beside encoder and decoder, and the policy network's own file."""

import pytest
import torch

from mmseg_tr.checkpoints import convert, convert_file, load_into, load_official, read_file
from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn import Segmenter, ViT
from mmseg_tr.reduction.cts.policy import PolicyNet
from tests.parity.harness import golden_root
from tests.releases import model_state, net_kwargs, variant, write_release

GOLDEN = sorted((golden_root() / 'cts').rglob('checkpoint.pth'))
SHARED = dict(policy_method='policy_net', policy_schedule=(16, 2), policynet_ckpt='policynet/model.pth')


@pytest.fixture(scope='module')
def policy():
    torch.manual_seed(3)
    return PolicyNet().state_dict()


def cts_release(folder, policy, **changes):
    """A release with 24 patches, of which two superpatches share."""
    settings = net_kwargs(**{**SHARED, **changes})
    state = model_state(settings) | {f'policy_net.{key}': value for key, value in policy.items()}
    return write_release(folder, variant(settings), state)


def test_release_loads_strictly_with_its_policy(tmp_path, policy):
    model = load_official(cts_release(tmp_path, policy), dict(type='CTS', shared=2))
    assert isinstance(model, Segmenter) and not model.training
    loaded = model.encoder.reduction.policy.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in policy.items())
    with torch.no_grad():
        assert model.encoder.forward_tokens(torch.randn(2, 3, 32, 48)).trace[-1] == (1 + 24 - 6,) * 2


@pytest.mark.parametrize(
    'reduction', [None, dict(type='CTS', shared=2, policy='random'), dict(type='ALGM', layers=(1,))]
)
def test_without_a_use_for_it_the_policy_is_left_out(tmp_path, policy, reduction):
    model = load_official(cts_release(tmp_path, policy), reduction)
    assert not any('policy' in key for key in model.state_dict())


def test_plain_release_takes_the_policy_from_its_own_file(tmp_path, policy):
    torch.save(policy, tmp_path / 'model.pth')
    path = write_release(tmp_path)
    model = load_official(path, dict(type='CTS', shared=2, policy_checkpoint=str(tmp_path / 'model.pth')))
    assert torch.equal(model.encoder.reduction.policy.head.weight, policy['head.weight'])
    with pytest.raises(CheckpointError, match='holds no policy network'):
        load_official(path, dict(type='CTS', shared=2))


def test_release_without_sharing_is_a_segmenter(tmp_path):
    settings = net_kwargs(policy_method='no_sharing', policy_schedule=(24, 0), policynet_ckpt=None)
    path = write_release(tmp_path, variant(settings))
    assert load_official(path).encoder.reduction is None
    assert 'official Segmenter release' in convert(path).what


def test_converted_release_runs_as_its_config_says(tmp_path, policy):
    pytest.importorskip('mmseg')
    import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
    from mmengine import Config
    from mmengine.registry import init_default_scope
    from mmseg.registry import MODELS

    path = cts_release(tmp_path / 'release', policy)
    written = convert_file(path, tmp_path / 'model.pth')
    assert '2 shared superpatches' in written.converted.what
    config = Config.fromfile(written.config)
    assert config.model.backbone.reduction == dict(type='CTS', shared=2)
    init_default_scope('mmseg')
    model = MODELS.build(config.model)
    load_into(model, written.checkpoint)
    official, image = load_official(path, dict(type='CTS', shared=2)), torch.randn(1, 3, 32, 48)
    with torch.no_grad():
        (tokens,) = model.eval().backbone(image)
        torch.testing.assert_close(tokens.x, official.encoder.forward_tokens(image).x)


def test_policy_of_its_own_becomes_a_classifiers_checkpoint(tmp_path, policy):
    torch.save(policy, tmp_path / 'source.pth')
    written = convert_file(tmp_path / 'source.pth', tmp_path / 'policy.pth')
    assert written.config is None and written.converted.what == 'official CTS policy network'
    state = read_file(tmp_path / 'policy.pth')['state_dict']
    assert {key.removeprefix('policy.') for key in state} == set(policy)
    with pytest.raises(CheckpointError, match='leave variant out'):
        convert(tmp_path / 'source.pth', variant=tmp_path / 'variant.yml')


def refused(path, *words):
    with pytest.raises(CheckpointError) as caught:
        convert(path)
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_incomplete_policies_are_named(tmp_path, policy):
    part = {key: value for key, value in policy.items() if not key.startswith('head')}
    refused(cts_release(tmp_path, part), '2 entries', 'head.bias')


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(policy_schedule=(16, 3)), ['16 patches and 3 superpatches', '24 patches']),
        (dict(policy_schedule=16), ['policy_schedule', '16']),
        (dict(policy_schedule=(16, 2.0)), ['policy_schedule', '2.0']),
        (dict(policy_method='random'), ['policy_method', "'random'"]),
    ],
    ids=str,
)
def test_descriptions_that_do_not_add_up_are_refused(tmp_path, policy, changes, words):
    refused(cts_release(tmp_path, policy, **changes), *words)


@pytest.mark.parametrize('path', GOLDEN or [pytest.param(None, marks=pytest.mark.skip(reason='no golden data here'))])
def test_published_layout_loads_strictly(path):
    load_official(path, dict(type='CTS', share=0.1))


def test_plain_checkpoint_of_this_package_loads_into_a_cts_model(tmp_path, policy):
    arch = dict(embed_dim=16, depth=1, num_heads=2, patch_size=16)
    plain = ViT(arch, img_size=64)
    torch.save({'state_dict': plain.state_dict()}, tmp_path / 'plain.pth')
    torch.save(policy, tmp_path / 'policy.pth')
    model = ViT(arch, img_size=64, reduction=dict(type='CTS', shared=1, policy_checkpoint=str(tmp_path / 'policy.pth')))
    load_into(model, tmp_path / 'plain.pth')
    assert torch.equal(model.pos_embed, plain.pos_embed)
    assert torch.equal(model.reduction.policy.head.bias, policy['head.bias'])
    without = ViT(arch, img_size=64, reduction=dict(type='CTS', shared=1))
    with pytest.raises(CheckpointError, match='plain.pth: the checkpoint holds no policy network'):
        load_into(without, tmp_path / 'plain.pth')
