"""Methods in networks of transformers for dense tasks: ViTPose, DPT on its own ViT or DINOv2, both forms of EoMT."""

import copy
import pickle

import pytest
import torch

import mmseg_tr
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.errors import ConfigError
from tests.hosts.checks import check_host, check_neutral
from tests.hosts.test_transformers import COMMON, METHODS, images, newer, outputs
from tests.nn.networks import shaken

pytest.importorskip('transformers')

from transformers import (
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    EomtConfig,
    EomtForUniversalSegmentation,
    VitPoseBackboneConfig,
    VitPoseConfig,
    VitPoseForPoseEstimation,
)

NECK = dict(neck_hidden_sizes=[8] * 4, fusion_hidden_size=8, head_hidden_size=4, is_hybrid=False, patch_size=8)
QUERIES = dict(num_queries=5, num_blocks=2, num_register_tokens=2, num_upscale_blocks=1, num_labels=3)


def vitpose(**changes):
    config = COMMON | dict(image_size=[48, 64], patch_size=[8, 8], mlp_ratio=2, out_features=['stage4'])
    config = VitPoseBackboneConfig(**config | changes)
    return VitPoseForPoseEstimation(VitPoseConfig(backbone_config=config, num_labels=5, scale_factor=2))


def dpt():
    return DPTForDepthEstimation(
        DPTConfig(**COMMON | NECK | dict(intermediate_size=64, backbone_out_indices=[0, 1, 2, 3]))
    )


def dpt_on_dinov2():
    config = Dinov2Config(**COMMON, out_features=[f'stage{n}' for n in range(1, 5)], reshape_hidden_states=False)
    return DPTForDepthEstimation(DPTConfig(backbone_config=config, **NECK))


def eomt():
    return EomtForUniversalSegmentation(EomtConfig(**COMMON, **QUERIES, mlp_ratio=2))


def eomt_on_dinov3():
    config = newer('EomtDinov3Config')(**COMMON, **QUERIES, intermediate_size=64)
    return newer('EomtDinov3ForUniversalSegmentation')(config)


# square images where the network takes no others
KINDS = {
    'ViTPose': (vitpose, (48, 64)),
    'DPT': (dpt, (64, 64)),
    'DPT on DINOv2': (dpt_on_dinov2, (48, 64)),
    'EoMT': (eomt, (64, 64)),
    'EoMT on DINOv3': (eomt_on_dinov3, (64, 64)),
}
DRAWN = [
    ('ViTPose', 'ALGM'),
    ('ViTPose', 'ACT'),
    ('ViTPose', 'CTS'),
    ('DPT', 'ToMe'),
    ('DPT', 'EViT'),
    ('DPT on DINOv2', 'ALGM'),
    *(('EoMT', name) for name in METHODS),
    ('EoMT on DINOv3', 'ALGM'),
    ('EoMT on DINOv3', 'EViT'),
]


def network(kind, dtype=torch.float64):
    torch.manual_seed(0)
    model = shaken(KINDS[kind][0]()).to(dtype).eval()
    if kind.startswith('EoMT'):
        model.attn_mask_probs.zero_()  # as in checkpoints: inference without masks
    return model


@pytest.mark.parametrize(('kind', 'name'), DRAWN)
def test_a_host_returns_what_it_returned_and_is_itself_afterwards(kind, name):
    check_host(network(kind), images(size=KINDS[kind][1]), outputs, name, **METHODS[name])


@pytest.mark.parametrize(('dtype', 'close'), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize('kind', KINDS)
def test_a_setting_that_reduces_nothing_changes_nothing(kind, dtype, close):
    x = images(size=KINDS[kind][1], dtype=dtype)
    check_neutral(network(kind, dtype), x, outputs, close, 'ALGM', layers=(2,), threshold=2.0)


@pytest.mark.parametrize('kind', ['EoMT', 'EoMT on DINOv3'])
@torch.no_grad()
def test_queries_join_the_reduced_tokens(kind):
    model, x = network(kind), images(size=(64, 64))
    mmseg_tr.apply(model, 'ALGM', layers=(2,), threshold=-1.0)  # every 2x2 window is one token
    found = model(x, output_hidden_states=True)
    for level in found.hidden_states[2:]:
        windows = level[:, -64:].mT.unflatten(2, (8, 8)).unfold(2, 2, 2).unfold(3, 2, 2)
        torch.testing.assert_close(windows, windows[..., :1, :1].expand_as(windows))
    assert mmseg_tr.summary(model, x, repeats=1).tokens == (67.0, 19.0, 24.0, 24.0)  # 3 prefix tokens, then 5 queries


@torch.no_grad()
def test_a_tensor_that_was_changed_before_the_queries_join_is_taken_up():
    model, x = network('EoMT'), images(size=(64, 64))
    mmseg_tr.apply(model, 'ALGM', layers=(1,), threshold=-1.0)
    want = model(x).masks_queries_logits
    hook = model.layers[1].register_forward_hook(lambda module, args, out: out.mul_(2))
    assert not torch.allclose(model(x).masks_queries_logits, want)
    hook.remove()
    torch.testing.assert_close(model(x).masks_queries_logits, want)


@pytest.mark.parametrize('kind', ['EoMT', 'DPT', 'ViTPose'])
def test_gradients_reach_every_weight_that_they_reach_in_the_plain_network(kind):
    reached = []
    for name in (None, 'ALGM'):
        model = network(kind)
        if name is not None:
            mmseg_tr.apply(model, name, **METHODS[name])
        sum(value.square().mean() for value in outputs(model, images(size=KINDS[kind][1]))).backward()
        reached.append({key for key, weight in model.named_parameters() if weight.grad is not None})
    assert reached[0] == reached[1] and len(reached[0]) > 20


@torch.no_grad()
def test_copies_and_saved_networks(tmp_path):
    model, x = network('EoMT'), images(size=(64, 64))
    state = copy.deepcopy(model.state_dict())
    mmseg_tr.apply(model, 'ALGM', **METHODS['ALGM'])
    want = model(x).masks_queries_logits
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied(x).masks_queries_logits, want)
    model.save_pretrained(tmp_path)
    plain = EomtForUniversalSegmentation.from_pretrained(tmp_path)
    assert all(torch.equal(value, state[key]) for key, value in plain.state_dict().items())


@torch.no_grad()
def test_masks_of_eomt_are_refused():
    model, x = network('EoMT'), images(size=(64, 64))
    mmseg_tr.apply(model, 'ALGM', **METHODS['ALGM'])
    model.attn_mask_probs.fill_(1.0)
    with pytest.raises(ConfigError, match='attention mask'):
        model(x)
    with pytest.raises(ConfigError, match='attention mask'):
        model.train()(x)


def test_a_data_set_for_a_single_expert_changes_nothing():
    model, x = network('ViTPose'), images()
    mmseg_tr.apply(model, 'ALGM', **METHODS['ALGM'])
    with torch.no_grad():
        assert torch.equal(model(x, dataset_index=torch.tensor([0, 1])).heatmaps, model(x).heatmaps)


def hybrid():
    model = network('DPT')
    model.dpt.config.is_hybrid = True
    return model


def without(kind, path):
    model = network(kind)
    holder, _, name = path.rpartition('.')
    delattr(model.get_submodule(holder), name)
    return model


@pytest.mark.parametrize(
    ('make', 'name', 'said'),
    [
        (lambda: vitpose(num_experts=2, part_features=8), 'ALGM', 'num_experts must be 1'),
        (lambda: network('ViTPose'), 'EViT', 'class token'),
        (hybrid, 'ALGM', 'is_hybrid must be False'),
        (lambda: without('DPT', 'dpt.encoder.layer.0.attention.output'), 'ALGM', r'DPTModel .* attention\.output'),
        (lambda: without('EoMT', 'layers.0.layer_scale2'), 'ALGM', 'Eomt.* layer_scale2'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(make, name, said):
    with pytest.raises(ConfigError, match=said):
        mmseg_tr.apply(make(), name)


@torch.no_grad()
def test_a_budget_counts_the_heads():
    model, x = network('ViTPose', torch.float32), images(1, dtype=torch.float32)
    plain = count_macs(model, x).total()
    mmseg_tr.apply(model, 'ToMe', budget=0.85)
    kept = count_macs(model, x).total() / plain
    assert 0.8 < kept <= 0.85
