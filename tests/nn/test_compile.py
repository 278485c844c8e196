"""torch.compile: one whole graph where the number of tokens is fixed, breaks at the deciding step alone elsewhere."""

import pytest
import torch
from torch._dynamo.utils import counters

from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.reduction import build_reduction
from tests.reduction.methods import METHODS, pictures, tiny_vit
from tests.torch_versions import ONE_GRAPH, needs_newer_torch

ADAPTIVE = [method for method in METHODS if build_reduction(method.settings).adaptive]
FIXED = [method for method in METHODS if method not in ADAPTIVE]
# a tracer's time grows with every layer: the fewest with which each method is at work and goes on
LAYERS = {'Expedite': 3, 'Expedite-inside': 4, 'EViT': 3, 'ToMe-kth': 3, 'MPM-fixed': 3, 'SharedMatching-best': 4}


@pytest.fixture(autouse=True)
def counted():
    """Counts of graphs and breaks, from zero."""
    torch._dynamo.reset()
    counters.clear()
    yield counters
    torch._dynamo.reset()


def compiled(model, **kwargs):
    return torch.compile(lambda image: model(image)[-1], backend='eager', **kwargs)


@pytest.mark.parametrize('method', FIXED, ids=str)
@torch.inference_mode()
def test_methods_of_fixed_counts_are_one_graph_that_serves_every_image_of_a_shape(method, counted):
    needs_newer_torch(ONE_GRAPH)
    vit = tiny_vit(method.settings, depth=LAYERS.get(method.name, 2))
    run = compiled(vit, fullgraph=True)
    for seed in (0, 1):
        images = pictures(2, (8, 8), seed=seed)
        torch.testing.assert_close(run(images), vit(images)[0])
    assert counted['stats']['unique_graphs'] == 1
    assert not counted['graph_break']


@pytest.mark.parametrize('reduction', [None, 'bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample'])
@torch.inference_mode()
def test_presets_of_mit_are_one_graph(reduction, counted):
    arch = dict(embed_dims=8, num_layers=(1, 1, 1, 2), num_heads=(1, 2, 4, 8))
    mit = MixVisionTransformer(arch, reduction=reduction).eval()
    run = compiled(mit, fullgraph=True)
    for seed in (0, 1):
        image = torch.randn(1, 3, 256, 256, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(run(image), mit(image)[-1])
    assert counted['stats']['unique_graphs'] == 1
    assert not counted['graph_break']


@pytest.mark.parametrize('method', ADAPTIVE, ids=str)
@torch.inference_mode()
def test_adaptive_methods_break_their_graph_where_they_decide_and_nowhere_else(method, counted):
    needs_newer_torch(ONE_GRAPH)
    # ALGM decides in two ways; one layer shows what the others do
    layers = (1, 2) if method.name == 'ALGM' else (1,)
    settings = method.settings | (dict(layers=layers) if 'layers' in method.settings else {})
    vit = tiny_vit(settings, depth=len(layers))
    run = compiled(vit)
    for seed in (0, 1):
        images = pictures(1, (8, 8), seed=seed)
        torch.testing.assert_close(run(images), vit(images)[0])
    assert counted['graph_break']
    meant = ('function decided', 'function seeded_hashes')  # what is decided; ACT's draw of hashes by seed
    assert all(any(name in reason for name in meant) for reason in counted['graph_break']), counted['graph_break']


STAGES = {
    'keys, then queries': [
        dict(kv_mode='bsm', kv_r=0.6, kv_sx=2, kv_sy=2),
        dict(q_mode='bsm', q_r=0.5, q_sx=4, q_sy=4),
    ],
    'keys': [dict(kv_mode='bsm', kv_r=0.8, kv_sx=4, kv_sy=4)],
}


@pytest.mark.parametrize(('stages', 'symbols'), [('keys, then queries', 'later'), ('keys', 'at once')])
@torch.inference_mode()
def test_matchings_on_the_grid_compile_as_one_graph_for_several_sizes(stages, symbols):
    two = dict(num_layers=(1, 1), num_heads=(1, 2), patch_sizes=(7, 3), strides=(4, 2), sr_ratios=(4, 1))
    number = len(STAGES[stages])
    arch = dict(embed_dims=8) | {key: values[:number] for key, values in two.items()}
    settings = dict(type='SegFormerPP', stages=STAGES[stages])
    mit = MixVisionTransformer(arch, reduction=settings, out_indices=range(number)).eval()
    run = compiled(mit, fullgraph=True)
    for size in ((64, 64), (96, 64)):
        image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        if symbols == 'at once':
            torch._dynamo.mark_dynamic(image, 2)
        torch.testing.assert_close(run(image), mit(image)[-1])


def test_random_matchings_train_compiled_at_several_sizes():
    """Each matching draws its own constant: one graph holds several of them."""
    settings = dict(type='ToMe', form='dense', matching='random', r=0.4)
    model = tiny_vit(settings, grid=(4, 4), depth=1).train()
    whole = torch.compile(model, backend='aot_eager')
    for grid in ((4, 4), (2, 4)):
        gradients = []
        for net in (model, whole):
            model.zero_grad()
            net(pictures(1, grid))[-1].square().mean().backward()
            gradients.append([weight.grad.clone() for weight in model.parameters() if weight.grad is not None])
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)
