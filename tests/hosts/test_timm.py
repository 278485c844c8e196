"""Methods in networks of timm that keep their own forward: equal to our own ViT, and gone without a trace."""

import copy
import pickle
import threading
import warnings

import pytest
import torch

import mmseg_tr
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.errors import ConfigError
from mmseg_tr.hosts.timm import VisionTransformer, VisionTransformerDistilled
from mmseg_tr.nn import ViT
from tests.hosts.checks import check_bare
from tests.nn.networks import shaken
from tests.torch_versions import ONE_GRAPH, SAVED, needs_newer_torch

SIZE = (48, 64)
COMMON = dict(img_size=SIZE, patch_size=8, embed_dim=32, depth=4, num_heads=2, num_classes=5)
KINDS = {
    'plain': {},
    'no class token': dict(class_token=False, global_pool='avg'),
    'registers': dict(reg_tokens=3, no_embed_class=True),
    'modern': dict(qk_norm=True, init_values=0.5, pre_norm=True, global_pool='avg', dynamic_img_size=True),
    'attention pooling': dict(class_token=False, global_pool='map'),
    'distilled': dict(),
}
METHODS = {
    'ALGM': dict(layers=(1, 3), threshold=0.2),
    'ToMe': dict(r=5),
    'ToMe dense': dict(form='dense', r=0.3),
    'EViT': dict(layers=(2,), keep_rate=0.6),
    'Expedite': dict(layer=2, clusters=(3, 4), k=4),
    'ACT': dict(q_hashes=2),
    'CTS': dict(policy='random', share=0.3),
    'MPM': dict(layers=(1, 3)),
    'CubistMerge': dict(layer=2),
    'PiToMe': dict(ratio=0.9),
    'SharedMatching': dict(match_every=2, destinations='gradient', r=0.5),
}
NEUTRAL = {'ALGM': dict(layers=(2,), threshold=2.0), 'ToMe': dict(r=0)}


def network(kind='plain', dtype=torch.float64, **changes):
    torch.manual_seed(0)
    kinds = VisionTransformerDistilled if kind == 'distilled' else VisionTransformer
    return shaken(kinds(**(COMMON | KINDS[kind] | changes))).to(dtype).eval()


def images(count=2, size=SIZE, dtype=torch.float64):
    small = torch.randn(count, 3, size[0] // 16, size[1] // 16, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(small, size=size, mode='bilinear')
    return (smooth + 0.1 * torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(2))).to(dtype)


def apply(model, name, **more):
    return mmseg_tr.apply(model, name.split()[0], **METHODS[name], **more)


def fits(name, kind):
    return not (name == 'EViT' and KINDS[kind].get('class_token') is False)


PAIRS = [(name, kind) for name in METHODS for kind in KINDS if fits(name, kind)]


@pytest.mark.parametrize(('name', 'kind'), PAIRS)
@torch.no_grad()
def test_a_host_equals_our_own_vit_and_is_itself_afterwards(name, kind):
    model, x = network(kind), images()
    state, plain = copy.deepcopy(model.state_dict()), model(x)
    own = ViT(copy.deepcopy(model), reduction=dict(type=name.split()[0], **METHODS[name]), out_indices=range(4))
    apply(model, name)
    prefix = model.num_prefix_tokens
    features, levels = model.forward_intermediates(x)
    for level, want in zip(levels, own(x)[:-1]):
        torch.testing.assert_close(level, want, atol=1e-6, rtol=0)
    for got in (features, model.forward_features(x)):
        assert got.shape == (2, prefix + 48, 32)
        torch.testing.assert_close(got[:, prefix:].mT.unflatten(2, (6, 8)), own(x)[-1], atol=1e-6, rtol=0)
    result = model(x)
    assert result.shape == plain.shape and not torch.equal(result, plain)
    torch.testing.assert_close(torch.cat([model(x[:1]), model(x[1:])]), result, atol=1e-5, rtol=0)
    assert model.state_dict().keys() == state.keys()
    mmseg_tr.remove(model)
    assert torch.equal(model(x), plain)
    check_bare(model, state)


@pytest.mark.parametrize(('dtype', 'close'), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize('name', NEUTRAL)
@pytest.mark.parametrize('kind', KINDS)
@torch.no_grad()
def test_a_setting_that_reduces_nothing_changes_nothing(kind, name, dtype, close):
    model, x = network(kind, dtype), images(dtype=dtype)
    plain = model(x)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # a setting that reduces nothing warns
        got = mmseg_tr.apply(model, name, **NEUTRAL[name])(x)
    torch.testing.assert_close(got, plain, atol=close, rtol=close if dtype == torch.bfloat16 else 0)


@pytest.mark.parametrize('name', METHODS)
@torch.no_grad()
def test_images_of_any_size_have_their_own_grid(name):
    model, plain = apply(network('modern'), name), network('modern')
    for size in ((48, 64), (64, 40), (40, 40)):
        grid, x = (size[0] // 8, size[1] // 8), images(size=size)
        own = ViT(
            network('modern'), reduction=dict(type=name.split()[0], **METHODS[name]), pos_resize='bicubic_antialias'
        )
        features, levels = model.forward_intermediates(x)
        assert features.shape == plain.forward_features(x).shape and levels[-1].shape[2:] == grid
        torch.testing.assert_close(features[:, 1:].mT.unflatten(2, grid), own(x)[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(model.forward_features(x), features)


@pytest.mark.parametrize('name', METHODS)
def test_gradients_reach_every_weight_also_with_checkpointing(name):
    gradients = []
    for checkpointing in (False, True):
        model = apply(network('modern'), name).train()
        model.set_grad_checkpointing(checkpointing)
        model(images()).square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(grad is not None for grad in gradients[0])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('name', METHODS)
@torch.no_grad()
def test_copies_run_with_their_own_weights(name):
    model, x = apply(network(), name), images()
    want = model(x)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x), want)
        copied.blocks[1].mlp.fc1.weight.zero_()
        assert not torch.equal(copied(x), want) and torch.equal(model(x), want)
        assert not torch.equal(mmseg_tr.remove(copied)(x), want) and torch.equal(model(x), want)


@torch.no_grad()
def test_replicas_hand_their_modules_to_the_forwards():
    model, x = apply(network(), 'ALGM'), images()
    tokens = model._pos_embed(model.patch_embed(x))
    block = model.blocks[0]._replicate_for_data_parallel()
    block._modules = {name: copy.deepcopy(child) for name, child in model.blocks[0]._modules.items()}
    block.mlp.fc2.weight.zero_()
    block.mlp.fc2.bias.zero_()
    assert not torch.equal(block(tokens), model.blocks[0](tokens))


@torch.no_grad()
def test_hooks_see_full_tensors_and_may_change_them():
    model, x, seen = apply(network(), 'ALGM'), images(), []
    want = model(x)
    hooks = [model.blocks[1].register_forward_hook(lambda *a: seen.append(a[2].shape))]
    hooks.append(model.blocks[2].attn.register_forward_hook(lambda *a: seen.append(type(a[2]))))
    torch.testing.assert_close(model(x), want)
    assert seen == [(2, 49, 32), torch.Tensor]
    hooks.append(model.blocks[0].register_forward_hook(lambda module, args, out: out.mul_(2)))
    assert not torch.allclose(model(x), want)
    mmseg_tr.remove(model)
    assert len(model.blocks[1]._forward_hooks) == 1


@torch.no_grad()
def test_what_is_saved_of_a_forward_is_a_plain_tensor(tmp_path):
    seen = []
    model = apply(network(), 'ALGM')
    model.blocks[2].register_forward_hook(lambda *a: seen.append(a[2]))
    model(images())
    needs_newer_torch(SAVED)
    torch.save(seen[0], tmp_path / 'features.pth')
    assert torch.equal(torch.load(tmp_path / 'features.pth', weights_only=True), seen[0])
    assert torch.equal(copy.deepcopy(seen[0]), seen[0])


@torch.no_grad()
def test_disabling_concerns_one_thread():
    model, x, found = network(), images(), {}
    plain = model(x)
    reduced = apply(model, 'ALGM')(x)
    with mmseg_tr.disabled(model), mmseg_tr.disabled(model):
        thread = threading.Thread(target=lambda: found.update(other=model(x)))
        thread.start()
        thread.join()
        assert torch.equal(model(x), plain)
    assert torch.equal(found['other'], reduced) and torch.equal(model(x), reduced)


@pytest.mark.parametrize('name', ['ALGM', 'ToMe', 'EViT', 'Expedite'])
@torch.no_grad()
def test_a_budget_is_kept_by_the_network_that_runs(name):
    model, x = network(dtype=torch.float32), images(1, dtype=torch.float32)
    plain = count_macs(model, x).total()
    mmseg_tr.apply(model, name, budget=0.8)
    assert 0.4 < count_macs(model, x).total() / plain <= 0.8
    found = mmseg_tr.summary(model, x, repeats=1, instead=0)
    assert found.work >= 1 / 0.8 and len(found.tokens) == 4 and found.plain_tokens == 49
    assert f'{found.time:.2f}x' in str(found) and name in str(found)


@torch.no_grad()
def test_a_fixed_budget_is_one_graph():
    needs_newer_torch(ONE_GRAPH)
    model, x = mmseg_tr.apply(network(dtype=torch.float32), 'ALGM', budget=0.8), images(dtype=torch.float32)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x), model(x), atol=1e-5, rtol=0)


def test_what_contains_a_network_is_a_host_too():
    model = torch.nn.ModuleDict(dict(trunk=network(), head=torch.nn.Linear(5, 2)))
    apply(model, 'ALGM')
    assert 'forward' in vars(model['trunk'].blocks[0])
    assert mmseg_tr.remove(model) is model


@pytest.mark.parametrize(
    ('make', 'name', 'settings', 'said'),
    [
        (network, 'ALGM', dict(budget=0.0), r'budget .* got 0.0'),
        (network, 'ALGM', dict(budget=1.5), r'budget .* got 1.5'),
        (network, 'ToMe', dict(budget=0.01), r'budget must be 0\.\d\d or more'),
        (network, 'ALGM', dict(layers=(9,)), '9'),
        (network, 'Magic', {}, 'Magic'),
        (network, 'CTS', {}, 'CTS needs decisions'),
        (network, 'SegFormerPP', {}, 'MiT'),
        (lambda: network('no class token'), 'EViT', {}, 'class token'),
        (lambda: network(patch_drop_rate=0.5), 'ALGM', {}, 'patch_drop_rate'),
        (lambda: torch.nn.Linear(2, 2), 'ALGM', {}, 'Linear is not supported'),
        (lambda: torch.compile(network()), 'ALGM', {}, 'compile'),
        (lambda: apply(network(), 'ALGM'), 'ALGM', {}, 'remove'),
        (lambda: torch.nn.ModuleList([network(), network()]), 'ALGM', {}, '2 vision transformers'),
        (lambda: 'vit', 'ALGM', {}, 'got str'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence_and_changes_nothing(make, name, settings, said):
    model = make()
    before = str(vars(model)) if isinstance(model, torch.nn.Module) else None
    with pytest.raises(ConfigError, match=said):
        mmseg_tr.apply(model, name, **settings)
    assert before is None or str(vars(model)) == before


def test_a_network_that_other_code_patched_is_recognised():
    model = network()
    model.blocks[1].forward = lambda x: x
    with pytest.raises(ConfigError, match=r'blocks\.1'):
        apply(model, 'ALGM')
    for verb in (mmseg_tr.remove, mmseg_tr.disabled, mmseg_tr.summary):
        with pytest.raises(ConfigError, match='no method was applied'):
            verb(network(), *([torch.rand(1, 3, *SIZE)] if verb is mmseg_tr.summary else []))
