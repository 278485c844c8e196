"""Multiply-adds: the published ones to the digit, whatever kernel runs, with the tokens that remain."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmseg_tr.analysis.mac_rules import MEANINGS, RULES
from mmseg_tr.analysis.macs import MacCount, MacCounter, count_macs, evaluating
from mmseg_tr.errors import ConfigError
from mmseg_tr.nn import LinearDecoder, MaskTransformer, Segmenter, ViT
from mmseg_tr.reduction.cts.policy import PolicyNet
from tests.clean import OPENMMLAB, run_clean
from tests.networks import algm, pictures, small


def counted(function, *inputs) -> MacCount:
    with torch.inference_mode(), MacCounter() as counter:
        function(*inputs)
    return counter.count()


# size, side, classes, width, the published "GFLOPs" column of ALGM's plain rows
PUBLISHED = [
    ('tiny', 512, 150, 192, 12.829),
    ('small', 512, 150, 384, 38.622),
    ('base', 512, 150, 768, 129.573),
    ('large', 640, 150, 1024, 671.767),
    ('small', 480, 60, 384, 32.095),
    ('small', 768, 19, 384, 115.975),
]


@pytest.mark.parametrize(('size', 'side', 'classes', 'width', 'published'), PUBLISHED)
def test_plain_rows_are_those_published(size, side, classes, width, published):
    with torch.device('meta'):
        encoder = ViT(f'vit_{size}_patch16_384', side, out='tokens')
        model = Segmenter(encoder, MaskTransformer(classes, width))
        image = torch.empty(1, 3, side, side)
    assert round(count_macs(model, image).total('segmenter') / 1e9, 3) == published


def test_parts_and_operators_add_up_to_the_total():
    count = count_macs(small(algm()), pictures(2))
    for rule in RULES:
        assert sum(count.parts(rule).values()) == count.total(rule) == sum(count.by_operator(rule).values())


def test_every_part_of_a_reduced_segmenter_is_told_apart():
    parts = count_macs(small(algm()), pictures(1)).parts('segmenter')
    tokens, width, patches = [17, 17, 17], 32, 64
    vit = small(algm()).encoder.eval()
    with torch.inference_mode():
        tokens = [count for (count,) in vit.forward_tokens(pictures(1)).trace]
    entering = [65, tokens[0], tokens[1]]
    assert parts['embedding'] == patches * 3 * 64 * width
    assert parts['encoder_mlp'] == sum(n * (8 * width**2 + 5 * width) for n in tokens)
    assert parts['encoder_attention'] == sum(n * (4 * width**2 + 5 * width) + 2 * n * n * width for n in entering)
    sources, destinations = (tokens[0] + 1) // 2, tokens[0] // 2
    assert parts['merging'] == sources * destinations * width
    assert parts['enlargement'] == 4 * 5 * 64 * 64
    assert parts['other'] == 5 * width * tokens[-1]
    assert set(parts) == {*parts, 'decoder'}


def test_restoring_computes_next_to_nothing_and_the_plain_network_nothing():
    assert count_macs(small(algm()), pictures(1)).parts('all').get('restoring', 0) <= 2 * 64
    assert 'restoring' not in count_macs(small(), pictures(1)).parts('all')
    assert 'merging' not in count_macs(small(), pictures(1)).parts('all')


def test_restoring_is_seen_in_maps_too():
    assert count_macs(small(algm(), out='maps'), pictures(2)).parts('all')['restoring'] > 0


def test_a_batch_that_differs_in_length_costs_what_its_images_cost_alone():
    model, images = small(algm(threshold=0.3)), pictures(3)
    images[1, :, :48] = 0.5
    alone = [count_macs(model, images[i : i + 1]).total('segmenter') for i in range(3)]
    assert len(set(alone)) > 1
    assert count_macs(model, images).total('segmenter') == sum(alone)


@pytest.mark.parametrize('backend', [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION])
def test_attention_costs_the_same_whatever_kernel_runs_it(backend):
    image, model = pictures(2), small()
    with sdpa_kernel(backend):
        count = count_macs(model, image)
    assert count == count_macs(small(), image)
    with torch.no_grad(), evaluating(model), sdpa_kernel(backend), MacCounter() as outside_inference_mode:
        model(image)
    assert outside_inference_mode.count().total('segmenter') == count.total('segmenter')


def test_attention_is_two_products_and_a_softmax():
    q, k, v = torch.rand(2, 3, 7, 8), torch.rand(2, 3, 5, 8), torch.rand(2, 3, 5, 4)
    units = counted(F.scaled_dot_product_attention, q, k, v).by_operator('all')
    assert units == dict(attention=2 * 3 * 7 * 5 * (8 + 4), softmax=5 * 2 * 3 * 7 * 5)


def test_a_cuda_kernel_of_attention_is_known_by_its_name():
    from mmseg_tr.analysis.mac_rules import units_of

    q = torch.empty(2, 3, 7, 8, device='meta')
    for kernel in ('flash_attention', 'efficient_attention', 'cudnn_attention', 'flash_attention_for_cpu'):
        func = getattr(torch.ops.aten, f'_scaled_dot_product_{kernel}').default
        assert units_of(func._schema.name[6:], func, (q,), (q, q, q), {})['attention'] == 2 * 3 * 7 * 7 * 16


def test_autocast_does_not_change_the_count():
    model, image = small(), pictures(1)
    with torch.autocast('cpu', torch.bfloat16):
        assert count_macs(model, image).total('segmenter') == count_macs(small(), image).total('segmenter')


@pytest.mark.parametrize(
    ('function', 'shapes', 'expected'),
    [
        (nn.Conv2d(4, 6, 3, groups=2, padding=1), [(1, 4, 5, 7)], dict(conv=6 * 5 * 7 * 2 * 9)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), [(1, 4, 5, 7)], dict(conv=4 * 5 * 7 * 6 * 4)),
        (nn.Linear(4, 6), [(2, 3, 4)], dict(linear=2 * 3 * 4 * 6)),
        (torch.matmul, [(2, 1, 3, 4), (5, 4, 6)], dict(matmul=2 * 5 * 3 * 4 * 6)),
        (lambda a, b: torch.einsum('bik,bjk->bij', a, b), [(2, 3, 4), (2, 5, 4)], dict(matmul=2 * 3 * 5 * 4)),
        (nn.LayerNorm(4), [(2, 3, 4)], dict(layer_norm=5 * 24)),
        (nn.BatchNorm2d(4).eval(), [(2, 4, 3, 3)], dict(batch_norm=72)),
        (nn.GELU(), [(2, 3)], dict(gelu=4 * 6)),
        (lambda x: x.softmax(-1), [(2, 3)], dict(softmax=5 * 6)),
        (lambda x: F.interpolate(x, (8, 6), mode='bilinear'), [(1, 2, 4, 3)], dict(bilinear=4 * 2 * 48)),
        (lambda x: x + 1, [(2, 3)], dict(elementwise=6)),
        (lambda x: x.sum(1), [(2, 3)], dict(reduction=6)),
        (lambda x: x.argsort(dim=-1, descending=True, stable=True), [(2, 8)], dict(sort=2 * 8 * 3)),
        (lambda x: F.avg_pool2d(x, 2), [(1, 2, 4, 4)], dict(reduction=2 * 4 * 4)),
        (lambda x: x.transpose(0, 1).contiguous().flip(0)[1:].clone(), [(2, 3)], {}),
    ],
)
def test_what_single_operators_cost(function, shapes, expected):
    count = counted(function, *(torch.rand(shape) for shape in shapes))
    assert {kind: units for kind, units in count.by_operator('all').items() if units} == expected
    assert not count.unknown


def test_rules_differ_in_what_they_leave_out():
    count = count_macs(small(algm()), pictures(1))
    kinds = {rule: set(count.by_operator(rule)) for rule in RULES}
    assert kinds['conv-matmul'] == {'conv', 'linear', 'matmul', 'attention'}
    assert kinds['expedite'] == {'conv', 'conv_bias', 'linear', 'layer_norm', 'gelu', 'attention', 'query', 'softmax'}
    assert kinds['segmenter'] == kinds['conv-matmul'] | {'layer_norm', 'bilinear'}
    assert kinds['all'] >= kinds['segmenter'] | {'softmax', 'gelu', 'reduction', 'sort', 'elementwise'}
    assert count.total('conv-matmul') < count.total('segmenter') < count.total('all')


def test_merging_counts_under_all_what_the_published_rule_leaves_out():
    count = count_macs(small(algm()), pictures(1))
    assert count.parts('all')['merging'] > count.parts('segmenter')['merging'] > 0


def test_every_rule_has_a_meaning():
    assert set(RULES) == set(MEANINGS)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match="'fvcore' is unknown: it is one of segmenter, expedite, conv-matmul, all"):
        count_macs(small(), pictures(1)).total('fvcore')


def test_an_operator_without_a_known_cost_is_named():
    assert counted(torch.fft.fft, torch.rand(8)).unknown == {'aten::_fft_r2c'}
    assert not count_macs(small(algm()), pictures(2)).unknown


def test_modes_of_modules_are_put_back():
    model = small()
    model.train()
    model.decoder.eval()
    count_macs(model, pictures(1))
    assert model.encoder.training
    assert not model.decoder.training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_linear_decoder_and_a_network_of_others_are_counted():
    model = Segmenter(small().encoder, LinearDecoder(5, 32))
    assert count_macs(model, pictures(1)).parts('conv-matmul')['decoder'] == 64 * 32 * 5
    foreign = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    assert count_macs(foreign, pictures(1)).parts('conv-matmul') == dict(other=64 * 64 * 12)


def test_a_policy_network_that_writes_over_its_maps_costs_the_same(monkeypatch):
    net, image = PolicyNet().eval(), torch.randn(1, 3, 64, 96)
    found = counted(net, image)
    monkeypatch.setattr('mmseg_tr.reduction.cts.policy.may_overwrite', lambda x: False)
    expected = counted(net, image)
    assert found.units == expected.units and found.units['other', 'batch_norm'] > 0
    assert not found.unknown and not expected.unknown


def test_counts_average_over_forwards():
    model, images = small(), pictures(4)
    whole = MacCount.mean([count_macs(model, images[:2]), count_macs(model, images[2:])], 4)
    assert whole.total('segmenter') == pytest.approx(count_macs(model, images[:1]).total('segmenter'))


def test_it_runs_without_openmmlab():
    code = """
import torch
from mmseg_tr.analysis.benchmark import MeasureOptions, benchmark_model
from mmseg_tr.analysis.macs import count_macs
from mmseg_tr.nn import LinearDecoder, Segmenter, ViT
model = Segmenter(ViT(dict(embed_dim=32, depth=2, num_heads=2, patch_size=8), 32, out='tokens',
                      reduction=dict(type='ALGM', layers=(1, 2), threshold=-1.0)), LinearDecoder(3, 32))
images = torch.rand(2, 3, 32, 32)
options = MeasureOptions(batch_sizes=[1], repeats=1)
print(count_macs(model, images).total('segmenter') > 0, len(benchmark_model(model, images, options)))
"""
    assert run_clean(code, blocked=(*OPENMMLAB, 'rich', 'cv2')) == 'True 1'
