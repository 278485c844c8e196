"""tools/show_attention.py: maps of the embedded configs, plain and reduced, and one sentence for every mistake."""

import numpy as np
import pytest
import torch

pytest.importorskip('matplotlib')
pytest.importorskip('mmseg')

from PIL import Image

from mmseg_tr.analysis.photographs import photograph_batch
from mmseg_tr.apis.build import build_model
from mmseg_tr.apis.config import load_config
from mmseg_tr.apis.show.attention import AttentionOptions, attention_maps, crop_of, load_configured
from mmseg_tr.paths import config_path
from tests.tools.command import call, mistake

NAME = 'vit-tiny-p8_photo-mosaic-128x128'
PLAIN, ALGM, ACT, EVIT, EXPEDITE = (
    str(config_path(f'{name}/{name}_{NAME}.py')) for name in ('segmenter', 'algm', 'act', 'evit', 'expedite')
)
TOME, DENSE = (str(config_path(f'tome/tome_{NAME}{form}.py')) for form in ('_original', ''))
MASK = {'model.decode_head.type': 'mmseg_tr.SegmenterMaskHead'}


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    file = tmp_path_factory.mktemp('weights') / 'plain.pth'
    torch.save(dict(meta={}, state_dict=build_model(load_config(PLAIN), None).state_dict()), file)
    return file


@pytest.fixture(scope='module')
def masking(tmp_path_factory):
    """The same network with a mask transformer."""
    file = tmp_path_factory.mktemp('weights') / 'mask.pth'
    torch.save(dict(meta={}, state_dict=build_model(load_config(PLAIN, MASK), None).state_dict()), file)
    return file


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    file = tmp_path_factory.mktemp('pictures') / 'picture.png'
    Image.fromarray(photograph_batch(1, (140, 200))[0].transpose(1, 2, 0)).save(file)
    return file


def maps_of(config, checkpoint, image, options=None, **chosen):
    model, chosen = load_configured(config, str(checkpoint), cfg_options=options), AttentionOptions(**chosen)
    return attention_maps(model, crop_of(model, str(image), chosen), chosen)


def test_one_picture_per_head_in_the_published_places(checkpoint, image, tmp_path, capsys):
    arguments = (PLAIN, checkpoint, image, tmp_path, '--layer-id', 1, '--x-patch', 3, '--heads', 1)
    assert call('show_attention', *arguments) == 0
    folder = tmp_path / 'enc_layer1' / 'patch_3_0'
    assert sorted(path.name for path in folder.iterdir()) == ['enc_layer1_attn-head1.png', 'input_img.png']
    with Image.open(folder / 'enc_layer1_attn-head1.png') as picture:
        assert picture.size == (128, 128)
    first = folder / 'enc_layer1_attn-head1.png'
    said = mistake(capsys, 'show_attention', *arguments)
    assert said == f'--force must be set to replace what exists: {first}.'
    assert call('show_attention', *arguments, '--force', '--cmap', 'gray') == 0


def test_every_class_embedding_of_the_decoder_has_maps(masking, image):
    maps = maps_of(PLAIN, masking, image, MASK, decoder=True, classes=True)
    assert maps.values.shape[0] == len(maps.rows) == 11
    assert maps.values.shape[2:] == (16, 16)


@pytest.mark.parametrize('config', [ALGM, TOME])
@pytest.mark.parametrize('decoder', [False, True])
def test_patches_of_a_token_share_its_attention(config, decoder, masking, image):
    maps = maps_of(config, masking, image, MASK, classes=True, layer_id=0 if decoder else 3, decoder=decoder)
    assert np.isfinite(maps.values).all()
    different = len(np.unique(maps.values[0, 0]))
    assert maps.values.shape[2:] == (16, 16) and 1 < different < 256


@pytest.mark.parametrize('config', [ALGM, TOME])
def test_before_the_first_merge_the_maps_are_the_plain_ones(config, checkpoint, image):
    plain, reduced = (maps_of(name, checkpoint, image, x_patch=5, y_patch=6).values for name in (PLAIN, config))
    assert np.allclose(reduced, plain, atol=1e-7)
    plain, reduced = (
        maps_of(name, checkpoint, image, x_patch=5, y_patch=6, layer_id=4).values for name in (PLAIN, config)
    )
    assert not np.allclose(reduced, plain, atol=1e-7)


def test_superpatches_of_cts_share_their_attention(checkpoint, image):
    cts = {'model.backbone.reduction': dict(type='CTS', policy='random', shared=20)}
    maps = maps_of(PLAIN, checkpoint, image, cts, x_patch=5, y_patch=6)
    assert len(np.unique(maps.values[0, 0])) <= 256 - 3 * 20


@pytest.mark.parametrize('reduction', [dict(type='ToMe', form='dense', r=0.33), dict(type='SharedMatching')], ids=str)
def test_patches_that_share_a_token_inside_attention_share_its_row_and_its_share(reduction, checkpoint, image):
    maps = maps_of(PLAIN, checkpoint, image, {'model.backbone.reduction': reduction}, x_patch=5, y_patch=6, layer_id=3)
    left = 64 if reduction['type'] == 'SharedMatching' else 256 - int(257 * 0.33)
    assert len(np.unique(maps.values[0, 0])) <= left


@pytest.mark.parametrize('config', [ACT, EVIT, EXPEDITE])
def test_methods_without_an_index_are_refused(config, checkpoint, image, tmp_path, capsys):
    said = mistake(capsys, 'show_attention', config, checkpoint, image, tmp_path)
    assert 'keeps no index of the patches' in said


@pytest.mark.parametrize(
    ('options', 'want'),
    [
        (('--layer-id', 9), '--layer-id must be 0 to 5, got 9'),
        (('--layer-id', -1), '--layer-id must be 0 to 5, got -1'),
        (('--x-patch', 16), '--x-patch must be 0 to 15, got 16'),
        (('--y-patch', -1), '--y-patch must be 0 to 15, got -1'),
        (('--heads', 99), '--heads must be 0 to'),
        (('--cmap', 'greenish'), '--cmap must be'),
        (('--window', 6), '--window must be 0 to'),
        (('--crop', 'round'), '--crop must be square, got round'),
    ],
)
def test_a_choice_that_does_not_exist_is_told(options, want, checkpoint, image, tmp_path, capsys):
    said = mistake(capsys, 'show_attention', PLAIN, checkpoint, image, tmp_path, *options)
    assert said.startswith(want)
    assert not any(tmp_path.iterdir())


def test_files_that_cannot_be_used_are_told(checkpoint, image, tmp_path, capsys):
    missing, text = tmp_path / 'missing.png', tmp_path / 'text.png'
    text.write_text('no picture')
    out = tmp_path / 'out'
    said = mistake(capsys, 'show_attention', PLAIN, checkpoint, missing, out)
    assert said == f'there is no image {missing}: check the path.'
    assert 'cannot be read' in mistake(capsys, 'show_attention', PLAIN, checkpoint, text, out)
    said = mistake(capsys, 'show_attention', PLAIN, tmp_path / 'none.pth', image, out)
    assert said.startswith('there is no checkpoint file')
    assert 'none' in mistake(capsys, 'show_attention', tmp_path / 'none', image, out)


def test_a_linear_decoder_has_no_attention(checkpoint, image, tmp_path, capsys):
    said = mistake(capsys, 'show_attention', PLAIN, checkpoint, image, tmp_path / 'out', '--dec', '--cls')
    assert said.startswith('this network has no mask transformer')


def test_every_window_of_the_test_can_be_chosen_and_the_published_square_is_an_option(
    checkpoint, image, tmp_path, capsys
):
    scales = {}
    for name, options in (('first', ()), ('last', ('--window', 3)), ('square', ('--crop', 'square'))):
        assert call('show_attention', PLAIN, checkpoint, image, tmp_path / name, *options) == 0
        scales[name] = capsys.readouterr().out.splitlines()[-1]
    assert scales['first'] == 'scale: 200x140 pixels enter as 200x140, in 4 windows of 128x128; window 0 at 0, 0'
    assert scales['last'].endswith('window 3 at 72, 12')
    assert scales['square'] == 'scale: 200x140 pixels enter as 182x128; the top left 128x128'
    drawn = [np.array(Image.open(next((tmp_path / name).rglob('input_img.png')))) for name in scales]
    assert all(picture.shape == (128, 128, 3) for picture in drawn)
    assert not np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_a_method_is_switched_on(checkpoint, image, tmp_path):
    for name, options in (('plain', ()), ('tome', ('--reduction', 'type=ToMe,r=24'))):
        arguments = (PLAIN, checkpoint, image, tmp_path / name, '--layer-id', 4, *options)
        assert call('show_attention', *arguments) == 0
    one, other = (next((tmp_path / name).rglob('*head0.png')).read_bytes() for name in ('plain', 'tome'))
    assert one != other
