"""The Expedite repository's counting rule, against what its own counter gives for the rows of its tables."""

import json
from functools import cache

import pytest
import torch

from mmseg_tr.analysis.macs import closed_forms, count_macs
from mmseg_tr.nn import LinearDecoder, MaskTransformer, Segmenter, ViT
from mmseg_tr.reduction import act
from mmseg_tr.reduction.expedite import clustering_macs, reconstruction_macs
from tests.networks import pictures, small
from tests.parity.harness import golden_root

TABLES = golden_root() / 'expedit' / 'readme_flops.json'
# side, classes, decoder layers
DATASETS = dict(ade=(640, 150, 2), city=(768, 19, 1), pc=(480, 60, 2))


def rows() -> list:
    """(row, key of the count, reduction) for every number of the tables."""
    if not TABLES.is_file():
        reason = f'there is no {TABLES} (MMSEG_TR_GOLDEN names another folder)'
        return [pytest.param(None, None, None, id='no-golden-data', marks=pytest.mark.skip(reason=reason))]
    found = []
    for row in json.loads(TABLES.read_text(encoding='utf-8'))['rows']:
        name = '-'.join(str(row[key]) for key in ('dataset', 'method', 'alpha', 'keep_rate', 'r') if key in row)
        found.append(pytest.param(row, 'counted', reduction_of_row(row), id=name))
        if row['method'] == 'ours':
            inside = reduction_of_row(row) | dict(reconstruct='backbone')
            found.append(pytest.param(row, 'counted_reconstruction_in_backbone', inside, id=f'{name}-backbone'))
    return found


def reduction_of_row(row: dict) -> dict | None:
    return {
        'baseline': lambda: None,
        'ours': lambda: dict(type='Expedite', layer=row['alpha'], clusters=tuple(row['clusters'])),
        'evit': lambda: dict(
            type='EViT', keep_rate=row['keep_rate'], layers=tuple(layer + 1 for layer in row['layers'])
        ),
        'tome': lambda: dict(type='ToMe', form='dense', r=row['r']),
    }[row['method']]()


@cache
def plain(dataset: str) -> tuple[Segmenter, torch.Tensor]:
    side, classes, depth = DATASETS[dataset]
    with torch.device('meta'):
        encoder = ViT('vit_large_patch16_384', side, out='tokens', norm_eps=1e-6)
        return Segmenter(encoder, MaskTransformer(classes, 1024, depth=depth)), torch.empty(1, 3, side, side)


def large(dataset: str, reduction: dict | None) -> tuple[Segmenter, torch.Tensor]:
    """The network of a dataset, one for all tests, under a method."""
    model, image = plain(dataset)
    model.encoder.reduction = model.encoder.fitted(reduction)
    return model, image


@cache
def plain_count(dataset: str) -> float:
    return count_macs(*large(dataset, None)).total('expedite')


@pytest.mark.parametrize(('row', 'key', 'reduction'), rows())
def test_the_repository_s_own_counts_are_reproduced(row, key, reduction):
    count = count_macs(*large(row['dataset'], reduction))
    assert count.total('expedite') / 1e9 == pytest.approx(row[key], rel=1e-6)
    assert count.total('all') > count.total('expedite')
    assert not count.unknown


@pytest.mark.parametrize(
    ('dataset', 'share', 'published'),
    [
        ('ade', 0.625, 611.06),
        ('ade', 0.111, 545.18),
        ('ade', 0.019, 533.52),
        ('city', 0.66, 906.26),
        ('city', 0.047, 742.7),
        ('city', 0.0, 730.44),
        ('pc', 0.21, 306.7),
        ('pc', 0.019, 299.0),
        ('pc', 0.002, 298.3),
    ],
)
def test_act_costs_what_its_formula_says_of_a_number_of_clusters(monkeypatch, dataset, share, published):
    """share: clusters among queries that the printed number implies; the meta device cannot find any itself."""
    tokens = (DATASETS[dataset][0] // 16) ** 2 + 1
    clusters = max(round(share * tokens), 1)
    monkeypatch.setattr(act, 'cluster_ids', lambda codes: (codes, torch.tensor([clusters], device='cpu')))
    count = count_macs(*large(dataset, dict(type='ACT')))
    formula = plain_count(dataset) - 24 * 16 * (tokens - clusters) * (2 * 64 * tokens + 2 * tokens)
    # the formula scales all queries, the network only the clusters' centres
    assert count.total('expedite') == formula - 24 * 1024 * (tokens - clusters)
    assert count.total('expedite') / 1e9 == pytest.approx(published, rel=0.01)


def test_act_is_counted_with_the_clusters_that_the_images_make():
    model, images = small(dict(type='ACT', q_hashes=2, bucket_width=4)), pictures(2)
    plain = count_macs(small(), images)
    found = count_macs(model, images)
    assert found.total('expedite') < plain.total('expedite')
    assert set(found.parts('expedite')) == set(plain.parts('expedite'))


def test_clustering_and_reconstruction_cost_what_the_published_formulas_say():
    # 4 patches of width 3 and 2 clusters, all of them in the window, one iteration
    assert clustering_macs(4, 2, 3, 1, 5) == 4 * 3 + 2 * 6 + 3 * 2 * 4 * 3 + 3 * 2 * 4 + 2 * 3
    assert clustering_macs(4, 2, 3, 0, 5) == 4 * 3 + 2 * 6
    assert reconstruction_macs(4, 2, 3, 1) == 4 * 3 + 2 * 3 + 4 * 2 * 4 + 3 * 4 + 4 * 3
    assert reconstruction_macs(4, 2, 3, 20) == reconstruction_macs(4, 2, 3, -1) == reconstruction_macs(4, 2, 3, 2)


@pytest.mark.parametrize(
    ('reduction', 'parts'),
    [
        (None, set()),
        (dict(type='Expedite', layer=1, clusters=(4, 4), k=2), {'merging', 'restoring'}),
        (dict(type='EViT', keep_rate=0.5, layers=(1, 2)), {'restoring'}),
        (dict(type='EViT', keep_rate=1.0, layers=(1, 2)), set()),
        (dict(type='ToMe', form='dense', r=0.3), set()),
        (dict(type='ALGM', layers=(1,), threshold=0.5), set()),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
@pytest.mark.filterwarnings('ignore:EViT')
def test_of_what_methods_add_only_clustering_and_reconstruction_count(reduction, parts):
    model, images = small(reduction), pictures(3)
    found = count_macs(model, images)
    assert {part for part, macs in found.parts('expedite').items() if macs} & {'merging', 'restoring'} == parts
    assert (
        found.total('expedite') == sum(found.parts('expedite').values()) == sum(found.by_operator('expedite').values())
    )
    # three images cost what they cost alone
    alone = sum(count_macs(model, image[None]).total('expedite') for image in images)
    assert found.total('expedite') == alone


def test_a_decoder_counts_by_its_layers_without_products_of_attention_and_masks():
    parts = count_macs(small(), pictures(1)).parts('expedite')
    width, joint = 32, 64 + 5
    layers = 12 * width**2 + 2 * 2 * width + 2 * 4 * width  # linear layers, two norms, GELU
    final = joint * 2 * width + 64 * 2 * 5  # decoder_norm and mask_norm
    assert parts['decoder'] == 64 * width**2 + 2 * joint * layers + final
    assert parts['embedding'] == 64 * width * (3 * 64 + 1)
    linear = Segmenter(small().encoder, LinearDecoder(5, width))
    assert count_macs(linear, pictures(1)).parts('expedite')['decoder'] == 64 * width * 5


def test_images_with_fewer_patches_than_clusters_are_not_clustered():
    model = small(dict(type='Expedite', layer=1, clusters=(6, 6)))
    assert closed_forms(model, torch.empty(1, 3, 64, 64, device='meta'))
    assert not closed_forms(model, torch.empty(1, 3, 40, 40, device='meta'))
    assert not closed_forms(torch.nn.ReLU(), torch.empty(1, 3, 8, 8))


@pytest.mark.parametrize(
    ('config', 'counted'),
    [
        ('segmenter/segmenter_vit-l16_cityscapes-768x768_expedite.py', 995.5478),
        ('expedite/expedite_vit-l16_ade20k-640x640_a10-28x28.py', 438.9124),
        ('evit/evit_vit-l16_pascal-context-480x480_k0.5.py', 184.3694),
        ('tome/tome_vit-l16_cityscapes-768x768_r0.3.py', 651.5351),
    ],
)
def test_the_segmentor_of_a_config_costs_the_same(config, counted):
    pytest.importorskip('mmseg')
    from mmseg_tr.apis.build import build_model, own_shape
    from mmseg_tr.apis.config import load_config
    from mmseg_tr.paths import config_path

    config = load_config(str(config_path(config)))
    with torch.device('meta'):
        model, image = build_model(config, None), torch.empty(1, 3, *own_shape(config))
    assert count_macs(model, image).total('expedite') / 1e9 == pytest.approx(counted, rel=1e-6)
