"""SegFormer of transformers with SegFormer++: equal to our own MiT, and gone without a trace."""

import pickle

import pytest
import torch
from torch import nn

import mmseg_tr
from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.reduction.segformerpp.settings import PRESETS
from mmseg_tr.weights.mit import load_backbone
from tests.hosts.checks import check_host, check_neutral
from tests.nn.networks import shaken

pytest.importorskip('transformers')
ensure_torchvision()

from transformers import (  # noqa: E402
    SegformerConfig,
    SegformerForImageClassification,
    SegformerForSemanticSegmentation,
    SegformerModel,
)

if not hasattr(SegformerModel(SegformerConfig()), 'stages'):
    pytest.skip('SegFormer is supported since transformers 5.24', allow_module_level=True)

DIMS = dict(embed_dims=8, num_layers=(2, 1, 3, 1), num_heads=(1, 2, 3, 4), sr_ratios=(8, 4, 2, 1))
CONFIG = dict(
    hidden_sizes=[8, 16, 24, 32], depths=[2, 1, 3, 1], num_attention_heads=[1, 2, 3, 4], decoder_hidden_size=16
)
KINDS = (SegformerModel, SegformerForSemanticSegmentation, SegformerForImageClassification)
METHODS = {preset: dict(preset=preset) for preset in PRESETS} | {
    'bsm_hq_shared': dict(preset='bsm_hq_shared'),
    'stages': dict(stages=[dict(kv_mode='n2d', kv_s=2), {}, dict(q_mode='n1d', q_s=3), None]),
}
SIZE = (96, 120)


def network(kind=SegformerModel, dtype=torch.float64, **changes):
    torch.manual_seed(0)
    return shaken(kind(SegformerConfig(**CONFIG, num_labels=5, **changes))).to(dtype).eval()


def images(count=2, dtype=torch.float64, size=SIZE):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1)).to(dtype)


def outputs(model, x):
    found = []
    for value in model(x, output_hidden_states=True).values():
        found += [value] if isinstance(value, torch.Tensor) else list(value)
    return found


@pytest.mark.parametrize('name', METHODS)
@torch.no_grad()
def test_a_segformer_equals_our_own_mit_with_the_same_weights(name, tmp_path):
    model, x = network(), images()
    model.save_pretrained(tmp_path)
    own = MixVisionTransformer(DIMS, reduction=dict(type='SegFormerPP', **METHODS[name]), norm_eps=1e-5)
    load_backbone(own, tmp_path / 'model.safetensors')
    mmseg_tr.apply(model, 'SegFormerPP', **METHODS[name])
    wanted = own.double().eval()(x)
    for level, want in zip(model(x, output_hidden_states=True).hidden_states, wanted, strict=True):
        if name == 'downsample':  # the host's maps keep their size
            want = want.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., : level.shape[2], : level.shape[3]]
        torch.testing.assert_close(level, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ('name', 'kind'), [*zip(('bsm_hq_shared', 'stages', 'downsample'), KINDS), ('downsample', KINDS[1])]
)
def test_a_host_returns_what_it_returned_and_is_itself_afterwards(name, kind):
    check_host(network(kind), images(), outputs, 'SegFormerPP', **METHODS[name])


@pytest.mark.parametrize(('dtype', 'close'), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_settings_that_merge_nothing_change_nothing(dtype, close):
    stages = [dict(q_mode='bsm', q_r=0.0, q_sx=2, q_sy=2)] * 4
    check_neutral(network(dtype=dtype), images(dtype=dtype), outputs, close, 'SegFormerPP', stages=stages)


def test_gradients_reach_every_weight_also_with_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = mmseg_tr.apply(network(), 'SegFormerPP', preset='bsm_hq_shared').train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
            if hasattr(part, 'drop_prob'):
                part.drop_prob = 0.0
        model(images()).last_hidden_state.square().mean().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(grad is not None for grad in gradients[0])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_a_budget_is_kept_and_is_one_graph(tmp_path):
    model, x = network(dtype=torch.float32), images(1, torch.float32, (128, 128))
    mmseg_tr.apply(model, 'SegFormerPP', budget=0.9)
    found = mmseg_tr.summary(model, x, repeats=1, instead=0)
    assert found.work > 1 and found.parts and 'keys' in str(found)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x).last_hidden_state, model(x).last_hidden_state, atol=1e-5, rtol=0)
    copied = pickle.loads(pickle.dumps(model))
    assert torch.equal(copied(x).last_hidden_state, model(x).last_hidden_state)


def test_what_does_not_fit_is_refused():
    for name in ('ALGM', 'ToMe', 'CTS'):
        with pytest.raises(ConfigError, match=f'{name} is for a ViT'):
            mmseg_tr.apply(network(), name)
    with pytest.raises(ConfigError, match='3 stages'):
        mmseg_tr.apply(network(), 'SegFormerPP', stages=[{}] * 3)
    model = network()
    del model.stages[1].blocks[0].attention.k_proj
    with pytest.raises(ConfigError, match=r'stage 2 .* k_proj'):
        mmseg_tr.apply(model, 'SegFormerPP')
