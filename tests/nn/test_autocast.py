"""Mixed precision: every method decides in float32 what the rounded tokens say, and runs in bfloat16."""

import pytest
import torch

from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.reduction.matching import best_partners, bipartite_matching
from tests.reduction.methods import METHODS, pictures, tiny_vit


def bfloat16():
    return torch.autocast('cpu', torch.bfloat16)


@pytest.mark.parametrize('method', METHODS, ids=str)
@torch.inference_mode()
def test_every_method_runs_in_bfloat16_near_its_float32_result(method):
    vit, images = tiny_vit(method.settings), pictures(2, (8, 8))
    plain = vit(images)[0]
    with bfloat16():
        tokens, (features,) = vit.forward_tokens(images), vit(images)
    assert features.isfinite().all()
    assert tokens.trace and len(tokens.trace) == len(vit.blocks)
    # rounding may decide another way about near equals: most features stay, each near
    close = ((features.float() - plain).norm(dim=1) < 0.3 * plain.norm(dim=1)).float().mean()
    assert close > 0.5


class Decisions(torch.utils._python_dispatch.TorchDispatchMode):
    """Collects the types of the numbers that sorts, maxima and comparisons of scores see."""

    NAMES = ('aten::sort', 'aten::argsort', 'aten::topk', 'aten::max', 'aten::ge', 'aten::kthvalue')

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in self.NAMES:
            self.seen |= {arg.dtype for arg in args if isinstance(arg, torch.Tensor) and arg.is_floating_point()}
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('method', METHODS, ids=str)
@torch.inference_mode()
def test_no_decision_of_a_method_is_made_from_half_precision(method):
    """Every sort, maximum and comparison of scores sees float32 numbers."""
    vit, images = tiny_vit(method.settings), pictures(2, (8, 8))
    with bfloat16(), Decisions() as decisions:
        vit(images)
    assert not {torch.bfloat16, torch.float16} & decisions.seen


@pytest.mark.parametrize('reduction', ['bsm_hq', 'bsm_fast'])
@torch.inference_mode()
def test_no_decision_in_a_mit_is_made_from_half_precision(reduction):
    arch = dict(embed_dims=8, num_layers=(1, 1, 1, 2), num_heads=(1, 2, 4, 8))
    mit = MixVisionTransformer(arch, reduction=reduction).eval()
    with bfloat16(), Decisions() as decisions:
        mit(torch.randn(1, 3, 256, 256))
    assert decisions.seen == {torch.float32}


@torch.inference_mode()
def test_similarities_are_float32_under_autocast_and_of_half_precision_tokens():
    tokens = torch.randn(1, 10, 8)
    assert best_partners(tokens.bfloat16(), 1)[0].dtype == torch.float32
    with bfloat16():
        assert best_partners(tokens, 1)[0].dtype == torch.float32
        found = bipartite_matching(tokens, 3)
    assert torch.equal(found.index, bipartite_matching(tokens, 3).index)


@pytest.mark.parametrize('reduction', [None, 'bsm_hq', 'bsm_fast', 'n2d_2x2', 'downsample'])
@torch.inference_mode()
def test_presets_of_mit_run_in_bfloat16(reduction):
    arch = dict(embed_dims=8, num_layers=(1, 1, 1, 2), num_heads=(1, 2, 4, 8))
    mit, image = MixVisionTransformer(arch, reduction=reduction).eval(), torch.randn(1, 3, 256, 256)
    plain = mit(image)
    with bfloat16():
        levels = mit(image)
    for level, expected in zip(levels, plain):
        assert level.isfinite().all()
        assert (level.float() - expected).norm() < 0.2 * expected.norm()
