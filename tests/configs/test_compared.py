"""Configs of the four methods that the Expedite repository compares: its rows, its dialect, its numbers of tokens.

Networks keep their depth, their grid and their settings, and are built 16 channels wide instead of 1024: the number of
tokens does not depend on the width, and all rows together stay within seconds.
"""

from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

import mmseg_tr.registry  # noqa: F401  # isort: skip (makes the OpenMMLab packages import)
from mmengine import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample

from mmseg_tr.nn import ViT
from tests.configs.test_configs import COMPARED, ROOT, SIZES, find, load
from tests.configs.weightless import weightless

WIDTH = 16
SIDES = {'ade20k-640x640': 40, 'cityscapes-768x768': 48, 'pascal-context-480x480': 30}
# tokens that leave the three layers, per keep rate: the published counts, prefix and fused token left out
EVIT = {
    'ade20k-640x640': {0.9: (1440, 1297, 1169), 0.8: (1280, 1025, 821), 0.5: (800, 401, 201)},
    'cityscapes-768x768': {0.9: (2074, 1868, 1683), 0.8: (1844, 1476, 1182), 0.5: (1152, 577, 289)},
    'pascal-context-480x480': {0.9: (810, 730, 658), 0.8: (720, 577, 463), 0.5: (450, 226, 114)},
}
# tokens that attention and MLP see, prefix counted
TOME = {
    'ade20k-640x640': {0.2: 1281, 0.3: 1121, 0.5: 801},
    'cityscapes-768x768': {0.2: 1844, 0.3: 1614, 0.5: 1153},
    'pascal-context-480x480': {0.2: 721, 0.3: 631, 0.5: 451},
}
HASHES = {32, 24, 16}
PLAIN = sorted((ROOT / 'segmenter').glob('*_expedite.py'))

# one row a method and dataset
SHIPPED = [
    path
    for path in COMPARED
    if path.stem.endswith(('_a10-28x28', '_a12-32x32', '_a14-20x20', '_k0.8', '_r0.2', '_h32'))
]


def of(method):
    paths = [path for path in COMPARED if path.parent.name == method]
    assert len(paths) == 9
    return pytest.mark.parametrize('path', paths, ids=[path.stem for path in paths])


def dataset_of(path):
    return path.stem.split('_')[2]


def narrow(model):
    """The settings of a model whose tokens are WIDTH wide."""
    arch = dict(embed_dim=WIDTH, depth=24, num_heads=1, patch_size=16)
    model = model.copy()
    model.backbone = dict(model.backbone, arch=arch, pretrained=None)
    model.decode_head = dict(model.decode_head, in_channels=WIDTH)
    return model


def narrow_vit(path):
    """The narrow backbone, which counts tokens without computing their values."""
    backbone = dict(narrow(load(path).model).backbone)
    backbone.pop('type')
    return weightless(ViT, **backbone).eval()


@cache
def whole_vit(dataset):
    """The plain backbone at full width, without memory for its weights."""
    backbone = dict(load(ROOT / f'segmenter/segmenter_vit-l16_{dataset}_expedite.py').model.backbone)
    backbone.pop('type')
    return weightless(ViT, **backbone)


def lengths(vit, side):
    """Tokens that leave each layer for an image of the crop, prefix left out."""
    found = []
    with torch.no_grad():
        tokens = vit.embed(torch.empty(1, 3, side * 16, side * 16, device='meta'))
        for layer in range(1, len(vit.blocks) + 1):
            tokens = vit.run(tokens, layer)
            found.append(tokens.x.shape[1] - tokens.num_prefix)
        rest = vit.finish(tokens)
        assert rest.restore(rest.patches().x).shape == (1, side * side, WIDTH)
    return found


@pytest.mark.parametrize('path', PLAIN, ids=[path.stem for path in PLAIN])
def test_plain_model_speaks_the_dialect(path):
    config, size = load(path), load(path).model.backbone.img_size
    other = load(path.with_name(path.name.replace('_expedite', '')))
    backbone, test = config.model.backbone, config.model.test_cfg
    assert (backbone.norm_eps, backbone.pos_resize) == (1e-6, 'bicubic')
    assert config.model.decode_head.enlarge == 'straight'
    assert test.small_images == 'shrink'
    assert find(config.test_pipeline, 'Resize').scale == SIZES[size]
    assert {key: value for key, value in backbone.items() if key not in ('norm_eps', 'pos_resize')} == (
        other.model.backbone.to_dict()
    )
    assert {key: value for key, value in config.model.decode_head.items() if key != 'enlarge'} == (
        other.model.decode_head.to_dict()
    )


@pytest.mark.parametrize('path', COMPARED, ids=[path.stem for path in COMPARED])
def test_method_is_the_plain_model_plus_one_setting(path):
    config, plain = load(path), load(ROOT / f'segmenter/segmenter_vit-l16_{dataset_of(path)}_expedite.py')
    ours, base = config.to_dict(), plain.to_dict()
    reduction = ours['model']['backbone'].pop('reduction')
    assert reduction['type'].lower() == path.parent.name
    assert ours == base


@pytest.mark.parametrize('path', COMPARED, ids=[path.stem for path in COMPARED])
def test_model_section_reads_back_from_its_pretty_text(path, tmp_path):
    """The model alone: the other sections are the plain config's, and writing them takes a second each."""
    config = Config(dict(model=load(path).model))
    (tmp_path / 'copy.py').write_text(config.pretty_text)
    assert Config.fromfile(tmp_path / 'copy.py').to_dict() == config.to_dict()


@pytest.mark.parametrize('path', COMPARED, ids=[path.stem for path in COMPARED])
def test_the_method_fits_the_whole_model(path):
    vit = whole_vit(dataset_of(path))
    assert (vit.embed_dim, len(vit.blocks), vit.grid) == (1024, 24, (SIDES[dataset_of(path)],) * 2)
    reduction = vit.fitted(load(path).model.backbone.reduction)
    assert type(reduction).__name__.lower() == path.parent.name


@pytest.mark.filterwarnings('ignore:Expedite. grid:UserWarning')
@pytest.mark.parametrize('path', SHIPPED + PLAIN, ids=[path.stem for path in SHIPPED + PLAIN])
def test_narrow_model_trains_and_runs(path):
    """On a small grid; too small for most of Expedite's clusters, whose full grid has a test of its own below."""
    torch.manual_seed(0)
    init_default_scope('mmseg')
    settings = narrow(load(path).model)
    model, classes = MODELS.build(settings), settings.decode_head['num_classes']
    images, label = torch.randn(2, 3, 128, 96), torch.randint(0, classes, (1, 128, 96))
    sample = SegDataSample(gt_sem_seg=PixelData(data=label), metainfo=dict(img_shape=(128, 96)))
    losses = model(images, [sample, sample], mode='loss')
    losses['decode.loss_ce'].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    with torch.no_grad():
        scores = model.eval()(images, mode='tensor')
    assert scores.shape[:2] == (2, classes)
    assert torch.isfinite(scores).all()


@of('expedite')
def test_expedite_goes_on_with_the_clusters_of_its_name(path):
    layer, clusters = path.stem.rsplit('_a', 1)[1].split('-')
    rows, columns = map(int, clusters.split('x'))
    side, layer = SIDES[dataset_of(path)], int(layer)
    assert lengths(narrow_vit(path), side) == [side * side] * (layer - 1) + [rows * columns] * (25 - layer)


@of('evit')
def test_evit_keeps_the_published_numbers_of_tokens(path):
    keep, side = float(path.stem.rsplit('_k', 1)[1]), SIDES[dataset_of(path)]
    first, second, third = (kept + 1 for kept in EVIT[dataset_of(path)][keep])
    assert lengths(narrow_vit(path), side) == [side * side] * 7 + [first] * 6 + [second] * 6 + [third] * 5


@of('tome')
def test_tome_merges_to_the_published_number_of_tokens(path):
    r, tokens = float(path.stem.rsplit('_r', 1)[1]), 1 + SIDES[dataset_of(path)] ** 2
    method = narrow_vit(path).reduction
    assert (method.form, method.prop_attn) == ('dense', False)
    assert {tokens - method.amount(layer, tokens, 1) for layer in range(1, 25)} == {TOME[dataset_of(path)][r]}


@of('act')
def test_act_has_the_hashes_of_its_name(path):
    hashes = int(path.stem.rsplit('_h', 1)[1])
    assert hashes in HASHES
    assert narrow_vit(path).reduction.q_hashes == hashes


def test_metafiles_agree_on_the_plain_model():
    """Fewer multiply-adds than the plain row, in every row of every table."""
    entries = [
        entry
        for folder in ('segmenter', 'expedite', 'evit', 'tome', 'act')
        for entry in yaml.safe_load(Path(ROOT / folder / 'metafile.yml').read_text())['Models']
        if 'Throughput (images/s)' in entry['Metadata']
    ]
    gmacs = {entry['Name']: float(entry['Metadata']['GMACs']) for entry in entries}
    assert len(entries) == 3 + len(COMPARED)
    for name, value in gmacs.items():
        plain = gmacs[f'segmenter_vit-l16_{name.split("_")[2]}_expedite']
        assert value < plain or name.endswith('_expedite')
