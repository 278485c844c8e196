"""Methods in networks of transformers, alone, as classifiers, as backbones and under heads."""

import copy
import pickle

import pytest
import torch

import mmseg_tr
from mmseg_tr.compat import ensure_torchvision
from mmseg_tr.errors import ConfigError
from tests.hosts.checks import check_host, check_neutral
from tests.nn.networks import shaken
from tests.torch_versions import ONE_GRAPH, needs_newer_torch

pytest.importorskip('transformers')
ensure_torchvision()

import transformers  # noqa: E402
from transformers import (  # noqa: E402
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Backbone,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersBackbone,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

COMMON = dict(hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=64, patch_size=8)
LEVELS = dict(out_features=['stage2', 'stage4'])
REGISTERS = dict(num_register_tokens=3)


def depth_anything():
    config = Dinov2Config(**COMMON, out_features=[f'stage{n}' for n in range(1, 5)], reshape_hidden_states=False)
    sizes = dict(neck_hidden_sizes=[8, 8, 8, 8], fusion_hidden_size=8, head_hidden_size=4, reassemble_hidden_size=32)
    return DepthAnythingForDepthEstimation(DepthAnythingConfig(backbone_config=config, patch_size=8, **sizes))


KINDS = {
    'ViT': lambda: ViTModel(ViTConfig(**COMMON | dict(image_size=(48, 64), intermediate_size=64))),
    'ViT classifier': lambda: ViTForImageClassification(
        ViTConfig(**COMMON | dict(image_size=(48, 64), intermediate_size=64))
    ),
    'DINOv2': lambda: Dinov2Model(Dinov2Config(**COMMON, use_swiglu_ffn=True)),
    'DINOv2 classifier': lambda: Dinov2ForImageClassification(Dinov2Config(**COMMON)),
    'DINOv2 backbone': lambda: Dinov2Backbone(Dinov2Config(**COMMON, **LEVELS)),
    'registers': lambda: Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**COMMON, **REGISTERS)),
    'registers backbone': lambda: Dinov2WithRegistersBackbone(
        Dinov2WithRegistersConfig(**COMMON, **REGISTERS, **LEVELS)
    ),
    'Depth Anything': depth_anything,
    'DINOv3': lambda: DINOv3ViTModel(DINOv3ViTConfig(**COMMON, **REGISTERS, intermediate_size=64, use_gated_mlp=True)),
    'DINOv3 backbone': lambda: newer('DINOv3ViTBackbone')(
        DINOv3ViTConfig(**COMMON, **LEVELS, intermediate_size=64, return_class_token=True)
    ),
}
METHODS = {
    'ALGM': dict(layers=(1, 3), threshold=0.2),
    'ToMe': dict(r=5),
    'EViT': dict(layers=(2,), keep_rate=0.6),
    'Expedite': dict(layer=2, clusters=(3, 4), k=4),
    'ACT': dict(q_hashes=2),
    'CTS': dict(policy='random', share=0.3),
}


def newer(name):
    """A class of transformers; the test is skipped on a release that does not have it yet."""
    if not hasattr(transformers, name):
        pytest.skip(f'transformers {transformers.__version__} has no {name}')
    return getattr(transformers, name)


def network(kind, dtype=torch.float64):
    torch.manual_seed(0)
    return shaken(KINDS[kind]()).to(dtype).eval()


def images(count=2, size=(48, 64), dtype=torch.float64):
    small = torch.randn(count, 3, size[0] // 16, size[1] // 16, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(small, size=size, mode='bilinear').to(dtype)


def outputs(model, x):
    """Every tensor that a forward returns, hidden states included."""
    found = []
    for value in model(x, output_hidden_states=True).values():
        found += [value] if isinstance(value, torch.Tensor) else [part for part in value or () if part is not None]
    return found


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', METHODS)
def test_a_host_returns_what_it_returned_and_is_itself_afterwards(name, kind):
    check_host(network(kind), images(), outputs, name, **METHODS[name])


@pytest.mark.parametrize(('dtype', 'close'), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize('kind', KINDS)
def test_a_setting_that_reduces_nothing_changes_nothing(kind, dtype, close):
    check_neutral(network(kind, dtype), images(dtype=dtype), outputs, close, 'ALGM', layers=(2,), threshold=2.0)


@torch.no_grad()
def test_a_host_can_be_pickled():
    model, x = mmseg_tr.apply(network('DINOv2'), 'ALGM', **METHODS['ALGM']), images()
    copied = pickle.loads(pickle.dumps(model))  # before hidden states are asked for: transformers' hooks cannot be
    assert torch.equal(copied(x).last_hidden_state, model(x).last_hidden_state)


@torch.no_grad()
def test_restored_levels_equal_across_a_group():
    model = mmseg_tr.apply(network('DINOv2 backbone'), 'ALGM', layers=(1,), threshold=-1.0)
    for level in model(images()).feature_maps:  # every 2x2 window is one token
        windows = level.unfold(2, 2, 2).unfold(3, 2, 2)
        torch.testing.assert_close(windows, windows[..., :1, :1].expand_as(windows))


@torch.no_grad()
def test_images_of_any_size_have_their_own_grid():
    model = mmseg_tr.apply(network('DINOv2 backbone'), 'ToMe', r=4)
    for size in ((48, 64), (64, 80), (72, 56)):
        assert model(images(size=size)).feature_maps[0].shape[2:] == (size[0] // 8, size[1] // 8)


def test_gradients_reach_every_weight_also_with_checkpointing():
    gradients = []
    for checkpointing in (False, True):
        model = mmseg_tr.apply(network('DINOv2'), 'ALGM', **METHODS['ALGM']).train()
        if checkpointing:
            model.gradient_checkpointing_enable({'use_reentrant': False})  # not yet the default of 4.57
        model(images()).last_hidden_state.square().mean().backward()
        gradients.append([weight.grad for name, weight in model.named_parameters() if 'mask_token' not in name])
    assert all(grad is not None for grad in gradients[0])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


@torch.no_grad()
def test_a_budget_is_kept_and_is_one_graph(tmp_path):
    model, x = network('DINOv2', torch.float32), images(dtype=torch.float32)
    state = copy.deepcopy(model.state_dict())
    mmseg_tr.apply(model, 'ALGM', budget=0.8)
    assert mmseg_tr.summary(model, x, repeats=1, instead=0).work >= 1 / 0.8
    model.save_pretrained(tmp_path)
    plain = Dinov2Model.from_pretrained(tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())
    needs_newer_torch(ONE_GRAPH)
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    torch.testing.assert_close(compiled(x).last_hidden_state, model(x).last_hidden_state, atol=1e-5, rtol=0)


def test_another_layout_is_named():
    model = network('ViT')
    names = ('k_proj', 'key')  # of transformers 5, and of 4.57
    owner, name = next((part, name) for part in model.modules() for name in names if hasattr(part, name))
    delattr(owner, name)
    with pytest.raises(ConfigError, match='ViTModel of this release'):
        mmseg_tr.apply(model, 'ALGM')
