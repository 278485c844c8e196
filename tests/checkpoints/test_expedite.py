"""Weights in the layout of the Expedite repository: recognised, renamed both ways, and a config in its dialect."""

import pytest
import torch

from mmseg_tr.checkpoints import build_segmenter, convert, convert_file, load_into
from mmseg_tr.checkpoints import expedite as layout
from mmseg_tr.checkpoints.official_segmenter import needed_tensors
from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.formats import EXPEDITE
from mmseg_tr.weights.keymap import SEGMENTER_TO_SEGMENTOR, backwards, rename
from tests.releases import model_state, net_kwargs, segmenter_to_expedite

SQUARE = dict(image_size=(32, 32))


def payload(**changes):
    """What the repository's pre-processing tool leaves of an official checkpoint."""
    official = model_state(net_kwargs(**(SQUARE | changes)))
    heads = {key: value for key, value in official.items() if key.startswith(layout.UNUSED)}
    rest = {key: value for key, value in official.items() if key not in heads}
    return {'state_dict': segmenter_to_expedite(rest) | heads, 'meta': {'n_cls': 5, 'epoch': 3}}


@pytest.fixture
def file(tmp_path):
    torch.save(payload(), tmp_path / 'segmenter.pth')
    return tmp_path / 'segmenter.pth'


def test_keys_are_those_of_mmseg_0():
    keys = set(payload()['state_dict'])
    assert {
        'backbone.patch_embed.projection.weight',
        'backbone.layers.1.ln1.bias',
        'backbone.layers.1.attn.attn.in_proj_weight',
        'backbone.layers.1.attn.attn.out_proj.bias',
        'backbone.layers.1.ffn.layers.0.0.weight',
        'backbone.layers.1.ffn.layers.1.weight',
        'backbone.ln1.weight',
        'decode_head.blocks.0.attn.qkv.weight',
        'decode_head.proj_patch',
        'encoder.head.weight',
    } <= keys
    assert not [key for key in keys if key.startswith(('decoder.', 'encoder.blocks'))]


def test_renaming_there_and_back_changes_nothing():
    given = payload()['state_dict']
    state, dropped = layout.expedite_to_segmenter(given)
    assert set(dropped) == {'encoder.head.weight', 'encoder.head.bias'}
    back = segmenter_to_expedite(state)
    assert back.keys() == given.keys() - set(dropped)
    assert all(torch.equal(back[key], given[key]) for key in back)


def test_weights_fill_the_network_that_their_shapes_describe():
    given = payload()['state_dict']
    model = build_segmenter(layout.net_kwargs(given))
    model.load_state_dict(layout.expedite_to_segmenter(given)[0], strict=True)
    assert model.encoder.grid == (4, 4) and len(model.encoder.blocks) == 2 and model.decoder.num_classes == 5


def test_official_weights_are_the_same_by_either_way(file):
    pytest.importorskip('mmseg')
    official = {key: value for key, value in model_state(net_kwargs(**SQUARE)).items() if 'encoder.head' not in key}
    converted = convert(file)
    state = rename(converted.state_dict, backwards(SEGMENTER_TO_SEGMENTOR))
    assert state.keys() == official.keys()
    assert all(torch.equal(state[key], official[key]) for key in official)
    assert converted.meta['source'] == {'format': layout.NAME, 'epoch': 3}


def test_converted_file_runs_in_the_repositorys_dialect(file, tmp_path):
    pytest.importorskip('mmseg')
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)

    written = convert_file(file, tmp_path / 'out' / 'model.pth')
    config = Config.fromfile(written.config)
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    load_into(model, written.checkpoint)
    assert config.model.backbone.pos_resize == 'bicubic' and config.model.decode_head.enlarge == 'straight'
    assert config.model.test_cfg.small_images == 'shrink'
    assert 'norm_eps' not in config.model.backbone  # only the repository's ViT-L configs have another
    assert any('attention heads' in note for note in written.converted.notes)
    image = torch.randn(1, 3, 30, 40, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model.eval().encode_decode(image, [dict(img_shape=(30, 40))])
    assert logits.shape == (1, 5, 30, 40)


@pytest.mark.parametrize(
    ('num_classes', 'crop', 'stride', 'resize'),
    [
        (150, (32, 32), (32, 32), (2560, 640)),
        (19, (32, 32), (32, 32), (2048, 1024)),
        (60, (32, 32), (32, 32), (4160, 520)),
    ],
)
def test_numbers_of_classes_choose_the_repositorys_test_settings(tmp_path, num_classes, crop, stride, resize):
    pytest.importorskip('mmseg')
    from mmengine.config import Config

    torch.save(payload(n_cls=num_classes), tmp_path / 'model.pth')
    converted = convert(tmp_path / 'model.pth')
    config = Config.fromstring(converted.config, '.py')
    assert converted.testable
    assert config.model.test_cfg.crop_size == crop and config.model.test_cfg.stride == stride
    steps = [step for step in config.test_pipeline if step['type'] == 'Resize']
    assert tuple(steps[0]['scale']) == resize


def test_a_network_of_width_1024_has_the_repositorys_norm_eps(tmp_path):
    pytest.importorskip('mmseg')
    needed = needed_tensors(net_kwargs(d_model=1024, n_layers=1, n_heads=16, image_size=(32, 32)))
    state = {key: torch.zeros(1).expand(tensor.shape) for key, tensor in needed.items()}  # a single number in memory
    content = {'state_dict': segmenter_to_expedite(state)}
    assert 'norm_eps=1e-06' in layout.convert(content, tmp_path / 'large.pth').config


def refused(given, *words):
    with pytest.raises(CheckpointError) as caught:
        layout.convert(given, 'model.pth')
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_other_networks_are_refused():
    given = payload()
    del given['state_dict']['backbone.layers.1.ln2.bias']
    refused(given, '1 key missing (encoder.blocks.1.norm2.bias)')
    given = payload()
    given['state_dict']['backbone.pos_embed'] = torch.zeros(1, 25, 64)[:, :24]
    refused(given, '23 positions', 'square grid')
    given = payload()
    del given['state_dict']['backbone.cls_token']
    refused(given, 'backbone.cls_token is missing')
    given = payload()
    given['state_dict']['backbone.cls_token'] = torch.zeros(1, 1, 40)
    refused(given, 'width 40', 'multiples of 64')


def test_variant_is_refused(file):
    with pytest.raises(CheckpointError, match='leave variant out'):
        convert(file, variant='variant.yml')


def test_other_layouts_are_not_taken_for_this_one():
    assert EXPEDITE.recognise(payload())
    newer = {'backbone.patch_embed.projection.weight': 0, 'decode_head.cls_emb': 0, 'decode_head.patch_proj.weight': 0}
    for other in ({'state_dict': newer}, {'model': {}}, {'state_dict': []}, [], None):
        assert not EXPEDITE.recognise(other)
