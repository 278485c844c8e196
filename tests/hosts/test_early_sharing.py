"""CTS in networks of other libraries: patches share a token from the patch embedding on, as decided from outside."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mmseg_tr
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import ViT
from mmseg_tr.reduction import CTS
from mmseg_tr.reduction.cts.policy import PolicyNet
from tests.hosts import test_own, test_timm
from tests.hosts.test_timm import images, network
from tests.torch_versions import ONE_GRAPH, needs_newer_torch


def logits(count=2, grid=(3, 4)):
    return torch.randn(count, 2, *grid, generator=torch.Generator().manual_seed(3))


class Deciding(nn.Module):
    """A policy of the user's own: superpatches of little contrast share."""

    def forward(self, image):
        spread = F.max_pool2d(image, 16) + F.max_pool2d(-image, 16)
        return torch.cat([spread.mean(1, keepdim=True), -spread.mean(1, keepdim=True)], 1)


def transformers_network(kind):
    pytest.importorskip('transformers')
    from tests.hosts import test_dense_heads, test_transformers

    module = test_dense_heads if kind in test_dense_heads.KINDS else test_transformers
    return module.network(kind)


# sizes of the images
INSIDE = dict.fromkeys(('ViT', 'registers', 'DINOv3', 'ViTPose'), (48, 64))
INSIDE |= dict.fromkeys(('DPT', 'EoMT', 'EoMT on DINOv3'), (64, 64))


@pytest.mark.parametrize('kind', INSIDE)
@torch.no_grad()
def test_a_shared_token_is_the_halved_superpatch_at_the_mean_of_its_positions(kind):
    size = INSIDE[kind]
    model, x, seen = transformers_network(kind), images(size=size), []
    first = next(part for name, part in model.named_modules() if name.endswith(('.0.norm1', '.0.layernorm_before')))
    grid = (size[0] // 8, size[1] // 8)
    first.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    embed = next(part for name, part in model.named_modules() if name.endswith('patch_embeddings'))
    conv = getattr(embed, 'projection', embed)
    model(x)
    method = CTS(share=0.3).guided(logits(grid=(grid[0] // 2, grid[1] // 2)))
    mmseg_tr.apply(model, method)(x)
    plain, reduced = seen
    sharing = method.bind(4, grid, 0).decide(x, grid, (8, 8))
    patches = grid[0] * grid[1]
    prefix = plain.shape[1] - patches
    assert reduced.shape[1] == prefix + patches - 3 * method.count(grid)
    edge = conv.padding[0]  # ViTPose's patches begin outside the image
    pixels = F.pad(x, (edge,) * 4)[..., : size[0], : size[1]]
    features = [
        F.conv2d(image, conv.weight, conv.bias, conv.stride).flatten(2).mT
        for image in (pixels, F.avg_pool2d(pixels, 2))
    ]
    positions = F.avg_pool2d((plain[:, prefix:] - features[0]).mT.unflatten(2, grid), 2).flatten(2).mT
    for image in range(2):
        want = [
            plain[image, :prefix],
            plain[image, prefix:][sharing.kept[image]],
            (features[1] + positions)[image][sharing.shared[image]],
        ]
        torch.testing.assert_close(reduced[image], torch.cat(want), atol=1e-9, rtol=0)


@pytest.mark.parametrize('decide', [logits(), Deciding()], ids=['logits', 'function'])
@torch.no_grad()
def test_given_decisions_are_those_of_our_own_vit(decide):
    model, x = network('modern'), images()
    method = CTS(shared=5).guided(decide)
    want = ViT(copy.deepcopy(model), reduction=method, pos_resize='bicubic_antialias')(x)[0]
    mmseg_tr.apply(model, method)
    for copied in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(copied.forward_features(x)[:, 1:].mT.unflatten(2, (6, 8)), want, atol=1e-6, rtol=0)
    found = mmseg_tr.summary(model, x, repeats=1, instead=0)
    assert found.tokens == (34.0,) * 4 and found.plain_tokens == 49
    assert [
        entry.tokens
        for entry in mmseg_tr.hosts.watch(mmseg_tr.apply(mmseg_tr.remove(model), 'CTS', policy='random'), x[:1])
    ] == [33] * 4


@torch.no_grad()
def test_a_trained_policy_network_decides_and_joins_no_state_dict(tmp_path):
    torch.manual_seed(0)
    policy, x = PolicyNet(), images(dtype=torch.float32)
    torch.save(policy.state_dict(), tmp_path / 'policy.pth')
    model = network(dtype=torch.float32, img_size=(64, 64))
    x = F.interpolate(x, (64, 64))
    settings = dict(share=0.3, policy_checkpoint=str(tmp_path / 'policy.pth'))
    own = ViT(copy.deepcopy(model), reduction=dict(type='CTS', **settings))
    own.init_weights()
    keys = list(model.state_dict())
    mmseg_tr.apply(model, 'CTS', **settings)
    assert list(model.state_dict()) == keys
    torch.testing.assert_close(
        model.forward_features(x)[:, 1:].mT.unflatten(2, (8, 8)), own.eval()(x)[0], atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_decisions_of_fixed_shapes_are_one_graph():
    model, x = network('modern', torch.float32), images(dtype=torch.float32)
    mmseg_tr.apply(model, CTS(shared=5).guided(Deciding()))
    needs_newer_torch(ONE_GRAPH)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=0)


@torch.no_grad()
def test_networks_of_create_model_take_decisions_too():
    model, x = test_own.network('segmenter'), images(size=(64, 64), dtype=torch.float32)
    plain, parts = model(x), list(model.encoder._modules)
    mmseg_tr.apply(model, CTS(shared=5, policy='oracle').guided(logits(grid=(4, 4))))
    assert model(x).shape == plain.shape and not torch.equal(model(x), plain)
    assert torch.equal(mmseg_tr.remove(model)(x), plain) and list(model.encoder._modules) == parts


def stacked_stem():
    model = network()
    model.patch_embed.proj = nn.Sequential(model.patch_embed.proj, nn.Conv2d(32, 32, 1))
    return model


@pytest.mark.parametrize(
    ('make', 'method', 'said'),
    [
        (network, 'CTS', r'CTS needs decisions .*guided\(logits\)'),
        (network, CTS(policy='oracle'), 'CTS needs decisions'),
        (lambda: test_own.network('segmenter'), CTS(policy='oracle'), 'CTS needs decisions'),
        (stacked_stem, CTS(policy='random'), 'one convolution of whole patches'),
        (network, CTS(policy='random', shared=13), 'at most the 12 superpatches'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(make, method, said):
    model = make()
    with pytest.raises(ConfigError, match=said):
        mmseg_tr.apply(model, method)
    test_timm.check_bare(model, model.state_dict())


@torch.no_grad()
def test_decisions_for_other_images_are_refused_and_leave_nothing():
    model, x = network(), images()
    mmseg_tr.apply(model, CTS(shared=5).guided(logits()))
    want = model(x)
    with pytest.raises(ConfigError, match=r'logits must have shape \(1, 2, 3, 4\)'):
        model(x[:1])
    assert torch.equal(model(x), want)
