"""Pretrained weights of encoders, from files in the layouts they are published in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.nn import ViT
from mmseg_tr.nn.encoders import build_encoder, timm
from mmseg_tr.nn.pos_embed import resize_pos_embed
from tests.nn.networks import shaken

TINY = dict(embed_dim=16, depth=2, num_heads=2, patch_size=4)


@pytest.fixture(scope='module')
def encoder():
    """A tiny encoder pretrained at a grid of 6 x 6, its classifier still on."""
    reference = build_encoder(TINY, img_size=24)
    reference.reset_classifier(10)
    return shaken(reference)


def save_npz(encoder, path) -> None:
    """AugReg's layout: kernels with inputs first, heads on an axis of their own."""

    def numpy(tensor):
        return tensor.detach().numpy()

    arrays = {
        'embedding/kernel': numpy(encoder.patch_embed.proj.weight).transpose(2, 3, 1, 0),
        'embedding/bias': numpy(encoder.patch_embed.proj.bias),
        'cls': numpy(encoder.cls_token),
        'Transformer/posembed_input/pos_embedding': numpy(encoder.pos_embed),
        'Transformer/encoder_norm/scale': numpy(encoder.norm.weight),
        'Transformer/encoder_norm/bias': numpy(encoder.norm.bias),
    }
    for number, block in enumerate(encoder.blocks):
        base = f'Transformer/encoderblock_{number}'
        attention = f'{base}/MultiHeadDotProductAttention_1'
        for name, norm in (('LayerNorm_0', block.norm1), ('LayerNorm_2', block.norm2)):
            arrays[f'{base}/{name}/scale'], arrays[f'{base}/{name}/bias'] = numpy(norm.weight), numpy(norm.bias)
        heads, width = block.attn.num_heads, block.attn.head_dim
        for part, weight, bias in zip(
            ('query', 'key', 'value'), block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)
        ):
            arrays[f'{attention}/{part}/kernel'] = numpy(weight).T.reshape(-1, heads, width)
            arrays[f'{attention}/{part}/bias'] = numpy(bias).reshape(heads, width)
        arrays[f'{attention}/out/kernel'] = numpy(block.attn.proj.weight).T.reshape(heads, width, -1)
        arrays[f'{attention}/out/bias'] = numpy(block.attn.proj.bias)
        for name, layer in (('Dense_0', block.mlp.fc1), ('Dense_1', block.mlp.fc2)):
            arrays[f'{base}/MlpBlock_3/{name}/kernel'] = numpy(layer.weight).T
            arrays[f'{base}/MlpBlock_3/{name}/bias'] = numpy(layer.bias)
    np.savez(path, **arrays)


SAVE = {
    'weights.pth': lambda net, path: torch.save(net.state_dict(), path),
    'deit.pth': lambda net, path: torch.save({'model': net.state_dict()}, path),
    'weights.safetensors': lambda net, path: save_file(net.state_dict(), path),
    'augreg.npz': save_npz,
}


@pytest.mark.parametrize('name', sorted(SAVE))
@pytest.mark.parametrize('side', [24, 32, (16, 40)], ids=str)
def test_files_load_with_the_position_embedding_resized_once(encoder, tmp_path, name, side):
    SAVE[name](encoder, tmp_path / name)
    vit = ViT(TINY, img_size=side, pretrained=str(tmp_path / name))
    vit.init_weights()
    for key, value in vit.state_dict().items():
        stored = encoder.state_dict()[key]
        if key == 'pos_embed':
            stored = resize_pos_embed(stored, (6, 6), vit.grid, 1)
        torch.testing.assert_close(value, stored, msg=key)


def test_weights_are_loaded_once_and_never_drawn_anew(encoder, tmp_path):
    torch.save(encoder.state_dict(), tmp_path / 'weights.pth')
    vit = ViT(TINY, img_size=24, pretrained=str(tmp_path / 'weights.pth'))
    vit.init_weights()
    with torch.no_grad():
        vit.cls_token.fill_(7)
    vit.init_weights()
    assert vit.cls_token.eq(7).all()


def test_without_pretrained_weights_initialising_changes_nothing():
    vit = ViT(TINY, img_size=24)
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    vit.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())


def drop(key):
    return lambda state: {name: value for name, value in state.items() if name != key}


def add(key, *shape):
    return lambda state: state | {key: torch.zeros(shape)}


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (drop('blocks.1.attn.qkv.bias'), 'blocks.1.attn.qkv.bias'),
        (drop('pos_embed'), 'pos_embed'),
        (add('blocks.2.norm1.weight', 16), 'blocks.2.norm1.weight'),  # a deeper encoder
        (add('blocks.0.ls1.gamma', 16), 'blocks.0.ls1.gamma'),  # LayerScale, which this encoder would drop
        (add('reg_token', 1, 4, 16), 'reg_token'),
        (add('cls_token', 1, 1, 8), 'cls_token'),
        (add('pos_embed', 1, 37, 8), 'pos_embed'),
        (add('pos_embed', 1, 38, 16), 'do not form a square grid'),
        (lambda state: {f'other.{key}': value for key, value in state.items()}, 'belong to another encoder'),
        (lambda state: {}, 'holds no tensors'),
    ],
)
def test_weights_of_another_encoder_are_refused_by_name(encoder, tmp_path, change, said):
    torch.save(change(encoder.state_dict()), tmp_path / 'other.pth')
    vit = ViT(TINY, img_size=24, pretrained=str(tmp_path / 'other.pth'))
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    with pytest.raises(CheckpointError, match=said):
        vit.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in vit.state_dict().items())


@pytest.mark.parametrize('suffix', ['pth', 'safetensors', 'npz'])
@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 and no more', b'some words'], ids=['empty', 'cut', 'text'])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, suffix, content):
    path = tmp_path / f'broken.{suffix}'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf'broken\.{suffix}'):
        ViT(TINY, img_size=24, pretrained=str(path)).init_weights()


WHOLE = {
    'own checkpoint': lambda state: {'state_dict': under('backbone.', state), 'meta': {'epoch': 3}},
    'its policy network left out': lambda state: {
        'state_dict': under('backbone.', state) | {'backbone.reduction.policy.head.weight': torch.zeros(2)}
    },
    'Segmenter': lambda state: under('encoder.', state),
    'official release': lambda state: {'model': under('encoder.', state)},
    'wrapped': lambda state: {'state_dict': under('module.backbone.', state)},
    'compiled': lambda state: {'state_dict': under('_orig_mod.backbone.', state)},
}


def under(prefix, state):
    wrapper = prefix.removesuffix('backbone.').removesuffix('encoder.')
    return {f'{prefix}{key}': value for key, value in state.items()} | {f'{wrapper}decode_head.x': torch.zeros(3)}


@pytest.mark.parametrize('form', WHOLE)
def test_the_encoder_of_a_whole_model_is_taken(encoder, tmp_path, form):
    torch.save(WHOLE[form](encoder.state_dict()), tmp_path / 'whole.pth')
    vit = ViT(TINY, img_size=24, pretrained=str(tmp_path / 'whole.pth'))
    vit.init_weights()
    assert torch.equal(vit.blocks[1].attn.qkv.weight, encoder.blocks[1].attn.qkv.weight)
    assert torch.equal(vit.cls_token, encoder.cls_token)


def test_address_of_a_file_is_fetched(encoder, tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_TR_CACHE', str(tmp_path / 'cache'))
    torch.save(encoder.state_dict(), tmp_path / 'weights.pth')
    vit = ViT(TINY, img_size=24, pretrained=(tmp_path / 'weights.pth').as_uri())
    vit.init_weights()
    assert torch.equal(vit.cls_token, encoder.cls_token)


@pytest.mark.parametrize('source', [123, 1.5, ['a.pth'], b'a.pth', ''])
def test_what_is_no_source_of_weights_is_refused_when_the_model_is_built(source):
    with pytest.raises(ConfigError, match='pretrained must be True'):
        ViT(TINY, img_size=24, pretrained=source)


@pytest.mark.parametrize('side', [8, 16, 40])
def test_positions_of_another_size_are_fitted_and_named(encoder, side):
    state = {f'backbone.{key}': value for key, value in encoder.state_dict().items()}
    vit = ViT(TINY, img_size=side)
    said = vit.fit_positions(state, 'backbone.')
    assert state['backbone.pos_embed'].shape == vit.pos_embed.shape
    assert (said is None) == (vit.pos_embed.shape == encoder.pos_embed.shape)
    vit.load_state_dict({key.removeprefix('backbone.'): value for key, value in state.items() if '.head.' not in key})


def test_missing_file_is_named():
    with pytest.raises(CheckpointError, match="'nowhere.pth' is not a file"):
        ViT(TINY, img_size=24, pretrained='nowhere.pth').init_weights()


def test_files_that_would_run_code_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ('trapped',))

    torch.save({'model': Trap()}, tmp_path / 'trap.pth')
    with pytest.raises(CheckpointError, match='print'):
        ViT(TINY, img_size=24, pretrained=str(tmp_path / 'trap.pth')).init_weights()


def test_weights_that_timm_cannot_fetch_are_reported(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError('no route')

    vit = ViT('test_vit', img_size=32, pretrained=True)
    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(CheckpointError, match="could not fetch the weights of 'test_vit'.*check the network"):
        vit.init_weights()


def test_weights_by_name_come_through_timm(monkeypatch):
    reference = shaken(timm.create_model('test_vit', num_classes=0))
    vit = ViT('test_vit', img_size=(32, 64), pretrained=True)
    monkeypatch.setattr(timm, 'create_model', lambda name, pretrained, **kwargs: reference)
    vit.init_weights()
    torch.testing.assert_close(vit.blocks[0].attn.qkv.weight, reference.blocks[0].attn.qkv.weight)
    expected = resize_pos_embed(reference.pos_embed, (10, 10), (2, 4), 1, 'bicubic_antialias')
    torch.testing.assert_close(vit.pos_embed, expected)
