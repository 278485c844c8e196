"""CTS: which superpatches share, what their tokens are, the policy network inside a ViT, and what is refused."""

from __future__ import annotations

import copy
import threading
import warnings
from dataclasses import FrozenInstanceError

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.nn import ViT
from mmseg_tr.reduction import CTS, build_reduction
from mmseg_tr.reduction.cts.policy import PolicyNet, policy_state
from mmseg_tr.reduction.cts.sharing import (
    kept_patches,
    oracle_logits,
    oracle_mask,
    policy_scores,
    random_scores,
    select_superpatches,
    share_pixels,
    share_positions,
    sharing_of,
    superpatch_logits,
)
from mmseg_tr.reduction.ops import scaled_count
from tests.reduction.methods import tiny_vit

few = settings(derandomize=True, deadline=None, max_examples=30)
ARCH = dict(embed_dim=16, depth=2, num_heads=2, patch_size=16)


def cts(**changes) -> dict:
    return dict(type='CTS', shared=5) | changes


def vit(img_size=128, patch_size=16, **changes) -> ViT:
    """A small ViT with CTS, its weights the same each time, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ViT(dict(ARCH, patch_size=patch_size), img_size=img_size, reduction=cts(**changes))
    return model.eval()


@pytest.fixture(scope='module')
def network():
    return vit()


@pytest.fixture(scope='module')
def policy_file(tmp_path_factory):
    """A checkpoint as the training of a policy network leaves it."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp('policy') / 'iter_1.pth'
    torch.save({'state_dict': {f'policy.{key}': value for key, value in PolicyNet().state_dict().items()}}, path)
    return path


def images(batch=2, height=128, width=128, seed=0):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- selection


@few
@given(h=st.integers(1, 5), w=st.integers(1, 5), part=st.floats(0, 1), seed=st.integers(0, 99))
def test_selects_the_highest_scores_and_the_first_among_equals(h, w, part, seed):
    count = round(part * h * w)
    scores = torch.randint(0, 4, (3, h, w), generator=torch.Generator().manual_seed(seed)) / 4
    chosen = select_superpatches(scores, count).flatten(1).tolist()
    for row, of_image in zip(scores.flatten(1).tolist(), chosen):
        best = sorted(range(h * w), key=lambda i: (-row[i], i))[:count]
        assert [i for i, shares in enumerate(of_image) if shares] == sorted(best)


def test_saturated_probabilities_tie_as_published():
    logits = torch.zeros(1, 2, 1, 3)
    logits[0, 1] = torch.tensor([[90.0, 200.0, 1.0]])
    assert select_superpatches(policy_scores(logits), 1).tolist() == [[[True, False, False]]]


def test_scores_of_half_precision_logits_are_float32():
    logits = torch.randn(1, 2, 3, 3).bfloat16()
    assert torch.equal(policy_scores(logits), logits.float().softmax(1)[:, 1])


@few
@given(h=st.integers(2, 7), w=st.integers(2, 7), batch=st.integers(1, 3), part=st.floats(0, 1), seed=st.integers(0, 99))
def test_record_of_a_decision_is_that_of_loops(h, w, batch, part, seed):
    count = round(part * (h // 2) * (w // 2))
    scores = torch.rand(batch, h // 2, w // 2, generator=torch.Generator().manual_seed(seed))
    chosen = select_superpatches(scores, count)
    sharing = sharing_of(chosen, (h, w), count)
    for b in range(batch):
        member = {}  # patch -> superpatch
        for i in range(h // 2):
            for j in range(w // 2):
                if chosen[b, i, j]:
                    member |= {(2 * i + y) * w + 2 * j + x: i * (w // 2) + j for y in (0, 1) for x in (0, 1)}
        kept = [patch for patch in range(h * w) if patch not in member]
        shared = sorted(set(member.values()))
        assert sharing.kept[b].tolist() == kept and sharing.shared[b].tolist() == shared
        assert kept_patches(chosen, (h, w))[b].flatten().nonzero().flatten().tolist() == kept
        place = [kept.index(p) if p in kept else len(kept) + shared.index(member[p]) for p in range(h * w)]
        assert sharing.index[b].tolist() == place
        assert sharing.size[b].tolist() == [1.0] * len(kept) + [4.0] * len(shared)


def test_shared_pixels_and_positions_are_means_of_2x2():
    chosen = torch.tensor([[[True, False]]])
    sharing = sharing_of(chosen, (2, 5), 1)  # the last column is left over
    image = images(1, 6, 15)
    strip = share_pixels(image, sharing, (3, 3))
    assert strip.shape == (1, 3, 3, 7 * 3)
    assert torch.equal(strip[..., :3], image[..., :3, 6:9])  # the first kept patch is that of column 2
    halved = F.interpolate(image[..., :6, :6], scale_factor=0.5, mode='bilinear')
    torch.testing.assert_close(strip[..., -3:], halved)
    position = torch.arange(20.0).view(1, 2, 2, 5)
    torch.testing.assert_close(share_positions(position, sharing)[0, -1], torch.tensor([3.0, 13.0]))


# ---------------------------------------------------------------- policies


@pytest.mark.parametrize(
    ('patch', 'supergrid', 'expected'),
    [
        (16, (2, 2), [[0.0, 1.0], [2.0, 3.0]]),
        (16, (1, 2), [[0.0, 1.0]]),
        (32, (1, 1), [[1.5]]),
        (8, (4, 4), [[0, 0.25, 0.75, 1], [0.5, 0.75, 1.25, 1.5], [1.5, 1.75, 2.25, 2.5], [2, 2.25, 2.75, 3]]),
    ],
)
def test_cells_of_the_policy_meet_superpatches_of_any_size_at_their_centres(patch, supergrid, expected):
    logits = torch.arange(4.0).view(1, 1, 2, 2).expand(1, 2, 2, 2)
    torch.testing.assert_close(superpatch_logits(logits, supergrid, (patch, patch))[0, 1], torch.tensor(expected))


def test_small_patches_share_where_the_policy_says_anywhere_in_the_image():
    """The published code would address only the first quarter of the superpatches."""
    model = vit(patch_size=8, share=0.3, shared=None)
    cells = torch.zeros(1, 2, 4, 4)
    cells[0, 1, 3, 3] = 9.0
    chosen = select_superpatches(policy_scores(superpatch_logits(cells, (8, 8), (8, 8))), 1)
    assert chosen.nonzero().tolist() == [[0, 7, 7]]
    assert model.forward_tokens(images()).trace[-1] == (1 + 256 - 3 * 26,) * 2


def test_random_scores_follow_the_image_and_the_seed():
    pictures = images(40, 8, 8)
    scores = random_scores(pictures, (6, 6), seed=3)
    assert torch.equal(scores[7:9], random_scores(pictures[7:9], (6, 6), seed=3))
    assert not torch.equal(scores, random_scores(pictures, (6, 6), seed=4))
    assert len({tuple(row.flatten().tolist()) for row in scores}) == 40
    assert scores.min() >= 0 and scores.max() < 1 and abs(scores.mean() - 0.5) < 0.05
    assert len(scores.unique()) > 0.99 * scores.numel()


def test_oracle_shares_superpatches_of_one_label():
    labels = torch.zeros(1, 8, 12, dtype=torch.long)
    labels[0, 0, 0] = 3
    labels[0, 4:, 4:8] = 255
    assert oracle_mask(labels, (4, 4)).tolist() == [[[False, True, True], [True, True, True]]]
    model = vit(img_size=(8, 12), patch_size=2, shared=5, policy='oracle')
    tokens = model.forward_tokens(images(1, 8, 12), reduction=model.reduction.guided(oracle_logits(labels, (2, 2))))
    assert torch.equal(tokens.memo.superpatches, oracle_mask(labels, (4, 4)))


def test_oracle_labels_of_images_that_are_padded():
    labels = torch.arange(7 * 9).view(1, 7, 9) // 9 // 4
    assert oracle_logits(labels, (2, 2)).shape == (1, 2, 2, 2)
    assert oracle_mask(labels, (4, 4)).all()


def test_guide_overrules_the_network(network):
    guide = torch.randn(2, 2, 4, 4)
    tokens = network.forward_tokens(images(), reduction=network.reduction.guided(guide))
    assert torch.equal(tokens.memo.superpatches, select_superpatches(policy_scores(guide), 5))


def test_guides_are_refused_where_nothing_is_decided():
    with pytest.raises(ConfigError, match="policy='none'"):
        vit(policy='none', shared=None).reduction.guided(torch.zeros(2, 2, 4, 4))


def test_no_policy_is_the_plain_network():
    plain, none = tiny_vit(), tiny_vit(cts(policy='none'))
    picture = images(2, 32, 32)
    torch.testing.assert_close(plain(picture), none(picture), atol=0, rtol=0)


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize('size', [(128, 128), (96, 160), (144, 112), (130, 70), (60, 48)])
def test_result_is_independent_of_batch_mates(network, size):
    pictures = images(3, *size)
    with torch.no_grad():
        together = network.forward_tokens(pictures)
        for number in range(3):
            alone = network.forward_tokens(pictures[number : number + 1])
            assert torch.equal(together.index[number], alone.index[0])
            torch.testing.assert_close(together.to_map()[number], alone.to_map()[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
def test_decisions_under_autocast_are_those_of_float32(network, dtype):
    with torch.no_grad():
        plain = network.forward_tokens(images())
        with torch.autocast('cpu', dtype):
            mixed = network.forward_tokens(images())
    assert torch.equal(plain.memo.superpatches, mixed.memo.superpatches)


@pytest.mark.parametrize('policy', ['network', 'random'])
def test_shapes_can_be_had_without_numbers(policy):
    with torch.device('meta'):
        tokens = vit(policy=policy).forward_tokens(torch.empty(2, 3, 128, 128))
    assert tokens.trace[-1] == (1 + 64 - 15,) * 2


def test_half_precision_networks_run():
    assert vit().bfloat16()(images().bfloat16())[0].isfinite().all()


def test_policy_is_frozen_and_its_norms_rest_while_the_model_trains():
    model = vit().train()
    before = copy.deepcopy(model.reduction.state_dict())
    model(images())[0].square().sum().backward()
    assert not any(module.training for module in model.reduction.policy.modules())
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith('reduction.'), name
    assert all(torch.equal(value, before[key]) for key, value in model.reduction.state_dict().items())
    assert not any(module.training for module in model.eval().modules())


@torch.no_grad()
def test_folded_norms_change_logits_by_rounding_and_follow_every_change_of_weights():
    policy, image = PolicyNet().eval(), images(2, 64, 96)
    for part in policy.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(std=0.1)
            part.running_var.uniform_(0.5, 2)
    before = dict(policy.state_dict())
    torch.testing.assert_close(policy(image, fold_bn=True), policy(image), atol=1e-4, rtol=0)
    assert policy.state_dict().keys() == before.keys()
    policy.backbone.bn1.running_mean.add_(0.3)  # in place
    torch.testing.assert_close(policy(image, fold_bn=True), policy(image), atol=1e-4, rtol=0)
    policy.load_state_dict(PolicyNet().state_dict())
    torch.testing.assert_close(policy(image, fold_bn=True), policy(image), atol=1e-4, rtol=0)
    policy.double()
    torch.testing.assert_close(policy(image.double(), fold_bn=True), policy(image.double()), atol=1e-10, rtol=0)
    policy.train()
    torch.testing.assert_close(policy(image.double(), fold_bn=True), policy(image.double()))


def test_published_drift_moves_the_policys_norms_in_training_only():
    model = vit(policy_batch_norm='drift')
    norm = model.reduction.policy.backbone.bn1
    before = norm.running_mean.clone()
    model(images())
    assert torch.equal(norm.running_mean, before)
    model.train()(images())
    assert not torch.equal(norm.running_mean, before)


def test_gradients_reach_image_and_every_parameter_of_the_vit():
    model, picture = vit().train(), images().requires_grad_()
    model(picture)[0].square().sum().backward()
    assert (picture.grad.abs().sum((1, 2, 3)) > 0).all()
    rest = [p for name, p in model.named_parameters() if not name.startswith('reduction.')]
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in rest)


def test_forwards_leave_nothing_on_modules(network):
    before = {name: dict(vars(module)) for name, module in network.named_modules()}
    network(images())
    network(images(1, 96, 80))
    assert all(vars(module) == before[name] for name, module in network.named_modules())


def test_threads_do_not_disturb_each_other(network):
    inputs = [images(2), images(1, 96, 160, seed=1), images(3, 70, 50, seed=2)]
    with torch.no_grad():
        alone = [network(picture)[0] for picture in inputs]
    found = {}

    def work(thread):
        for step in range(3):
            with torch.no_grad():
                found[thread, step] = network(inputs[(thread + step) % 3])[0]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (thread, step), result in found.items():
        torch.testing.assert_close(result, alone[(thread + step) % 3], atol=1e-5, rtol=1e-5)


def test_the_policy_can_be_given_imagenet_images_in_its_own_range():
    rgb = torch.randint(0, 256, (1, 3, 64, 64)).float()
    mean, std = (torch.tensor(v)[:, None, None] for v in ((123.68, 116.28, 103.53), (58.4, 57.12, 57.38)))
    expected = vit().reduction.policy_logits((rgb - 127.5) / 127.5)
    found = vit(normalization='deit').reduction.policy_logits((rgb - mean) / std)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


# ---------------------------------------------------------------- how many


@pytest.mark.parametrize(
    ('crop', 'share', 'published'), [(512, 0.3, 103), (640, 0.3, 160), (480, 0.3, 90), (768, 0.4375, 336)]
)
def test_share_of_tokens_gives_the_published_schedules(crop, share, published):
    method = CTS(share=share, policy='random')
    assert method.count((crop // 16, crop // 16)) == published


def test_number_follows_the_superpatches_on_other_grids():
    method = CTS(shared=103, policy='random')
    method = method.bind(12, (32, 32), 1)
    assert [method.count(grid) for grid in [(32, 32), (16, 64), (64, 64), (16, 16), (33, 33), (3, 2)]] == [
        103, 103, 412, 26, 103, 0,
    ]  # fmt: skip


@few
@given(superpatches=st.integers(1, 50), part=st.floats(0, 1), others=st.integers(0, 200))
def test_never_more_share_than_there_are(superpatches, part, others):
    shared = round(part * superpatches)
    assert 0 <= scaled_count(shared, superpatches, others) <= others
    assert scaled_count(shared, superpatches, superpatches) == shared


def test_a_grid_without_superpatches_is_reported():
    with pytest.warns(UserWarning, match='no 2 x 2 window fits'):
        vit(policy='random')(images(1, 16, 64))


@pytest.mark.parametrize('settings', [dict(shared=0), dict(shared=None, share=0)])
def test_settings_that_share_nothing_are_reported(settings):
    with pytest.warns(UserWarning, match='nothing is reduced'):
        build_reduction(cts(policy='random', **settings))


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(shared=17), r'shared must be at most the 16 superpatches of the grid \(8, 8\), got 17'),
        (dict(shared=-1), 'shared must .*got -1'),
        (dict(shared=2.0), 'shared must .*got 2.0'),
        (dict(shared=True), 'shared must .*got True'),
        (dict(share=0.3), 'got shared=5, share=0.3'),
        (dict(shared=None, share=0.8), 'share must be .*at least 0 and at most 0.75'),
        (dict(shared=None, share=float('nan')), 'share must be .*at least 0 and at most 0.75'),
        (dict(shared=None, share='0.3'), 'share must be .*at least 0 and at most 0.75'),
        (dict(policy='net'), "'network', 'none', 'random', 'oracle'"),
        (dict(policy_batch_norm='batch'), "'eval', 'train', 'drift'"),
        (dict(fold_bn=1), 'fold_bn must be True or False, got 1'),
        (dict(odd_grid='share'), "'alone', None"),
        (dict(normalization='imagenet'), "'vit', 'deit'"),
        (dict(seed=1.5), 'seed must be .*got 1.5'),
        (
            dict(policies='none'),
            r"no setting 'policies' \(did you mean policy\?\): its settings are shared, share, policy",
        ),
    ],
    ids=str,
)
def test_refused_when_the_model_is_built(changes, said):
    with pytest.raises(ConfigError, match=said):
        vit(**{'policy': 'random', **changes})


def test_odd_grids_need_their_rule():
    with pytest.raises(ConfigError, match=r'\(7, 8\) is odd and odd_grid=None'):
        vit(img_size=(112, 128), odd_grid=None, policy='random')
    even = vit(odd_grid=None, policy='random')
    with pytest.raises(ConfigError, match=r'\(7, 8\) is odd'):
        even(images(1, 100, 128))
    assert vit(policy='random')(images(1, 100, 128))[0].shape == (1, 16, 7, 8)


def test_wrong_guides_and_missing_labels_are_refused(network):
    with pytest.raises(ConfigError, match=r'\(2, 2, 4, 4\) here'):
        network(images(), reduction=network.reduction.guided(torch.zeros(2, 2, 3, 4)))
    with pytest.raises(ConfigError, match='needs labels with every forward'):
        vit(policy='oracle')(images())


def test_one_strategy_is_fitted_to_each_network_it_is_given_to():
    method = CTS(shared=3, policy='random')
    grids = [ViT(ARCH, img_size=side, reduction=method).reduction.grid for side in (128, 64)]
    assert grids == [(8, 8), (4, 4)] and method.grid is None
    with pytest.raises(FrozenInstanceError):
        method.shared = 4


# ---------------------------------------------------------------- weights


def policy_of(model):
    return {key: value.clone() for key, value in model.reduction.policy.state_dict().items()}


def test_policy_is_part_of_the_state_dict_and_copies_with_it(network):
    keys = [key for key in network.state_dict() if key.startswith('reduction.')]
    assert len(keys) == 290 and keys[0] == 'reduction.policy.backbone.conv_stem.weight'
    twin = copy.deepcopy(network)
    torch.testing.assert_close(twin(images()), network(images()), atol=0, rtol=0)


def test_plain_weights_are_completed_from_the_policy_checkpoint(policy_file):
    plain = ViT(ARCH, img_size=128).state_dict()
    model = vit(policy_checkpoint=str(policy_file))
    model.load_state_dict(plain, strict=True)
    expected = policy_state(policy_file)
    assert all(torch.equal(value, expected[key]) for key, value in policy_of(model).items())
    assert torch.equal(model.state_dict()['pos_embed'], plain['pos_embed'])
    assert not any(key.startswith('reduction.') for key in plain)


def test_weights_in_the_checkpoint_win_over_the_policy_checkpoint(policy_file):
    source = vit()
    model = vit(policy_checkpoint=str(policy_file))
    model.load_state_dict(source.state_dict(), strict=True)
    expected = policy_of(source)
    assert all(torch.equal(value, expected[key]) for key, value in policy_of(model).items())


def test_plain_weights_without_any_policy_are_refused():
    with pytest.raises(CheckpointError, match='holds no policy network.*policy_checkpoint'):
        vit().load_state_dict(ViT(ARCH, img_size=128).state_dict())


def test_other_policies_leave_the_weights_of_the_network_out(network):
    vit(policy='random').load_state_dict(network.state_dict(), strict=True)


def test_init_weights_loads_the_policy_checkpoint_once(policy_file):
    model = vit(policy_checkpoint=str(policy_file))
    model.init_weights()
    expected = policy_state(policy_file)
    assert all(torch.equal(value, expected[key]) for key, value in policy_of(model).items())
    with torch.no_grad():
        model.reduction.policy.head.bias.fill_(7.0)
    model.init_weights()
    assert (model.reduction.policy.head.bias == 7).all()


def test_a_policy_network_of_random_weights_is_reported_once(policy_file):
    model, image = vit(), torch.zeros(1, 3, 64, 64)
    with pytest.warns(UserWarning, match='policy_checkpoint'):
        model(image)
    trained, loaded = vit(policy_checkpoint=str(policy_file)), vit()
    trained.init_weights()
    loaded.load_state_dict(trained.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for known in (model, trained, loaded, trained.with_reduction(trained.reduction)):
            known(image)


def refused(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        policy_state(path)
    assert '\n' not in str(caught.value)
    return str(caught.value)


def test_files_that_hold_no_policy_are_refused(tmp_path, network):
    path = tmp_path / 'policy.pth'
    assert 'There is no policy checkpoint' in refused(path)
    path.write_bytes(b'PK')
    assert str(path) in refused(path)
    torch.save({'state_dict': ViT(ARCH, img_size=128).state_dict()}, path)
    assert 'holds no policy network' in refused(path)
    state = PolicyNet().state_dict()
    del state['head.bias']
    torch.save(state, path)
    assert '1 entries are missing' in refused(path) and 'head.bias' in refused(path)
    with pytest.raises(CheckpointError, match='There is no policy checkpoint'):
        vit(policy_checkpoint=str(tmp_path / 'nothing.pth')).init_weights()


@pytest.mark.parametrize('layout', ['bare', 'classifier', 'segmentor', 'release'])
def test_policy_is_found_in_every_file_that_holds_one(tmp_path, layout):
    state = PolicyNet().state_dict()
    payload = dict(
        bare=state,
        classifier={'state_dict': {f'policy.{key}': value for key, value in state.items()}},
        segmentor={
            'state_dict': {'backbone.norm.weight': torch.ones(1), 'decode_head.x': torch.ones(1)}
            | {f'backbone.reduction.policy.{key}': value for key, value in state.items()}
        },
        release={
            'model': {'encoder.norm.weight': torch.ones(1)}
            | {f'policy_net.{key}': value for key, value in state.items()}
        },
    )[layout]
    torch.save(payload, tmp_path / 'policy.pth')
    found = policy_state(tmp_path / 'policy.pth')
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)
