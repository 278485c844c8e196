"""MiT and SegFormer weights in every published layout: found again exactly, every key used or named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.nn.segformer import SegFormer
from mmseg_tr.weights.io import read_file
from mmseg_tr.weights.mit import load_strictly, read_weights
from tests.segformers import ARCH, nvidia, nvidia_backbone, segformer

# a SegformerForSemanticSegmentation of transformers 4.57 with random weights, an image times 32, and what it gives
HUGGING_FACE = Path(__file__).parent / 'data' / 'hugging_face_segformer.safetensors'
HF_ARCH = ARCH | dict(num_layers=(1, 1, 1, 1))


def hugging_face():
    stored = load_file(HUGGING_FACE)
    results = {key.removeprefix('__'): stored.pop(key) for key in list(stored) if key.startswith('__')}
    return {key: value.float() if value.is_floating_point() else value for key, value in stored.items()}, results


def mit(state, arch=ARCH, **kwargs):
    """A MiT of other weights, which loads `state` by init_weights()."""
    torch.manual_seed(1)
    model = MixVisionTransformer(arch, pretrained=state, **kwargs)
    model.init_weights()
    return model


def same(model, state):
    return all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_hugging_face_segformer_gives_its_own_logits():
    """With their eps, 1e-5 everywhere; ours alone is seen in the fourth decimal."""
    state, results = hugging_face()
    weights = read_weights(state, 'hf')
    assert (weights.layout, weights.head, weights.dropped) == ('huggingface', 'linear', ())
    image = results['x'].float() / 32
    backbone = MixVisionTransformer(HF_ARCH, norm_eps=1e-5)
    model = SegFormer(backbone, 5, head='linear', channels=12, resolution='quarter').eval()
    load_strictly(model, weights.state, 'hf')
    with torch.no_grad():
        for level, feature in enumerate(model.backbone(image)):
            torch.testing.assert_close(feature, results[f'c{level}'], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(model(image), results['logits'], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize('prefix', ['segformer.encoder.', 'encoder.'])
def test_hugging_face_backbone_is_loaded_from_a_file(tmp_path, prefix):
    state, _ = hugging_face()
    encoder = {key.replace('segformer.encoder.', prefix): value for key, value in state.items() if 'encoder' in key}
    save_file(encoder | {'classifier.weight': torch.zeros(7, 32)}, tmp_path / 'model.safetensors')
    model = mit(str(tmp_path / 'model.safetensors'), HF_ARCH)
    assert same(model, read_weights(state, 'hf').backbone())
    query = state['segformer.encoder.block.3.0.attention.self.value.bias']
    assert torch.equal(model.layers[3][1][0].attn.attn.in_proj_bias[64:], query)


def test_nvidia_backbone_equals_what_mmseg_makes_of_it(tmp_path):
    source = segformer()
    torch.save(nvidia_backbone(source), tmp_path / 'mit_b9.pth')
    model = mit(tmp_path / 'mit_b9.pth')
    assert same(model, source.backbone.state_dict())
    assert read_weights(nvidia_backbone(source), 'x').dropped == ('head.weight', 'head.bias')


def test_nvidia_segformer_keeps_its_head():
    source = segformer('linear')
    unused = {'decode_head.conv_seg.weight': torch.zeros(5, 128, 1, 1), 'decode_head.conv_seg.bias': torch.zeros(5)}
    weights = read_weights({'state_dict': nvidia(source.state_dict()) | unused, 'meta': {}}, 'nvidia')
    assert (weights.layout, weights.head, weights.dropped) == ('nvidia', 'linear', tuple(unused))
    model = segformer('linear', seed=3)
    load_strictly(model, weights.state, 'nvidia')
    assert same(model, source.state_dict())


@pytest.mark.parametrize('form', ['bare', 'state_dict', 'module', 'whole'])
def test_openmmlab_backbone_is_found_alone_and_in_a_model(tmp_path, form):
    source = segformer()
    state = source.state_dict() if form == 'whole' else source.backbone.state_dict()
    state = {f'module.{key}': value for key, value in state.items()} if form == 'module' else state
    torch.save(state if form == 'bare' else {'state_dict': state}, tmp_path / 'weights.pth')
    assert same(mit(tmp_path / 'weights.pth'), source.backbone.state_dict())


def test_pretrained_weights_are_loaded_once_and_never_drawn_again(tmp_path):
    source = segformer()
    torch.save(source.backbone.state_dict(), tmp_path / 'weights.pth')
    model = mit(tmp_path / 'weights.pth', reduction='bsm_hq')
    with torch.no_grad():
        model.layers[0][2].weight.add_(1)
    changed = {key: value.clone() for key, value in model.state_dict().items()}
    (tmp_path / 'weights.pth').unlink()
    model.init_weights()
    assert same(model, changed)


def changed(change):
    state = nvidia_backbone(segformer())
    change(state)
    return state


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda state: state.pop('block1.0.attn.kv.weight'), r'1 key missing \(layers.0.1.0.attn.attn.in_proj_weight'),
        (lambda state: state.update({'extra.weight': torch.zeros(1)}), r'1 unexpected key \(extra.weight\)'),
        (lambda state: state.update({'norm2.weight': torch.zeros(3)}), 'layers.1.2.weight is 3 instead of 16'),
        (lambda state: state.update({'norm2.weight': 7}), 'not tensors: norm2.weight'),
        (lambda state: state.clear(), 'holds no MiT or SegFormer in a layout of OpenMMLab'),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(tmp_path, change, message):
    torch.save(changed(change), tmp_path / 'mit.pth')
    torch.manual_seed(1)
    model = MixVisionTransformer(ARCH, pretrained=str(tmp_path / 'mit.pth'))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        model.init_weights()
    assert str(tmp_path / 'mit.pth') in str(caught.value) and '\n' not in str(caught.value)
    assert same(model, before)


@pytest.mark.parametrize(
    'key',
    [
        'segformer.stages.0.blocks.0.attention.q_proj.weight',
        'stages.0.patch_embeddings.proj.weight',
        'decode_head.linear_projections.0.weight',
    ],
)
def test_renamed_keys_of_transformers_name_the_way_out(key):
    for state in ({key: torch.zeros(1)}, {'state_dict': {key: torch.zeros(1)}, 'epoch': 1}):
        with pytest.raises(CheckpointError, match=r'save_pretrained\(') as caught:
            read_weights(state, 'hf')
        assert '\n' not in str(caught.value)


def test_pose_weights_are_not_taken_for_segmentation():
    state = {f'backbone.{key}': value for key, value in segformer().backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match='in a layout of OpenMMLab or'):
        read_weights(state | {'head.final_layer.weight': torch.zeros(1)}, 'pose')


def test_damaged_safetensors_are_refused(tmp_path):
    (tmp_path / 'model.safetensors').write_bytes(b'<!DOCTYPE html>')
    with pytest.raises(CheckpointError, match='is not a safetensors file'):
        read_file(tmp_path / 'model.safetensors')
    whole = HUGGING_FACE.read_bytes()
    (tmp_path / 'model.safetensors').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match='truncated, damaged'):
        read_file(tmp_path / 'model.safetensors')
