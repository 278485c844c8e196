"""What apply() costs where a method does nothing: at most one operator in a layer."""

import pytest

import mmseg_tr
from mmseg_tr.analysis.operators import count_operators
from mmseg_tr.reduction import Reduction
from tests.hosts import test_rope, test_timm

NETWORKS = {
    **{f'timm ViT, {kind}': lambda kind=kind: test_timm.network(kind) for kind in test_timm.KINDS},
    **{f'Eva, {kind}': lambda kind=kind: test_rope.network(kind) for kind in test_rope.KINDS},
}


def transformers_network(kind, size=(48, 64)):
    pytest.importorskip('transformers')
    from tests.hosts import test_dense_heads, test_transformers

    module = test_dense_heads if kind in test_dense_heads.KINDS else test_transformers
    return module.network(kind)


SQUARE = ('DPT', 'EoMT', 'EoMT on DINOv3')
NETWORKS |= {
    kind: lambda kind=kind: transformers_network(kind)
    for kind in ('ViT', 'DINOv2', 'registers', 'DINOv2 backbone', 'DINOv3', 'DINOv3 backbone', 'ViTPose', *SQUARE)
}


@pytest.mark.parametrize('kind', NETWORKS)
def test_without_an_active_layer_a_layer_has_at_most_one_operator_more(kind):
    model, x = NETWORKS[kind](), test_timm.images(size=(64, 64) if kind in SQUARE else test_timm.SIZE)
    plain = count_operators(model, x).total()
    mmseg_tr.apply(model, Reduction())  # which does nothing anywhere
    assert count_operators(model, x).total() <= plain + 4  # layers
