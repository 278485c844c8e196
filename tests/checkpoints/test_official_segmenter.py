import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmseg_tr.checkpoints import build_segmenter, load_official, official_to_segmenter
from mmseg_tr.errors import CheckpointError, ConfigError
from mmseg_tr.weights.keymap import SEGMENTER_TO_SEGMENTOR, backwards, rename
from tests.parity.harness import golden_root
from tests.releases import model_state, net_kwargs, variant, write_release

KINDS = [(decoder, distilled) for decoder in ('linear', 'mask_transformer') for distilled in (False, True)]
GOLDEN = [
    f'{family}/{release.name}'
    for family, pattern in (('segmenter', 'e2e/*'), ('algm', 'ckpt_*'))
    for release in sorted((golden_root() / family).glob(pattern))
    if (release / 'checkpoint.pth').is_file()
]


def refused(state, settings, *words):
    with pytest.raises(CheckpointError) as caught:
        official_to_segmenter(state, settings)
    assert '\n' not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(('decoder', 'distilled'), KINDS)
def test_release_loads_strictly(tmp_path, decoder, distilled):
    settings = net_kwargs(decoder, distilled)
    state = model_state(settings)
    model = load_official(write_release(tmp_path, variant(settings), state).parent)
    assert not model.training
    loaded = model.state_dict()
    kept = {key for key in state if 'encoder.head' not in key}
    assert loaded.keys() == kept
    assert all(torch.equal(loaded[key], state[key]) for key in kept)


def test_release_is_found_by_its_file_too(tmp_path):
    load_official(write_release(tmp_path))


def test_another_variant_may_be_named(tmp_path):
    path = write_release(tmp_path)
    (tmp_path / 'variant.yml').rename(tmp_path / 'other.yml')
    load_official(path, variant=tmp_path / 'other.yml')


@pytest.mark.parametrize('prefix', ['module.', '_orig_mod.', 'module._orig_mod.'])
def test_release_saved_from_inside_a_wrapper_loads(tmp_path, prefix):
    state = model_state()
    path = write_release(tmp_path, state={f'{prefix}{key}': tensor for key, tensor in state.items()})
    loaded = load_official(path).state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())


def test_reduction_changes_no_key(tmp_path):
    path = write_release(tmp_path)
    reduced = load_official(path, {'type': 'ALGM', 'layers': (1, 2), 'window': (2, 2), 'threshold': -1.0})
    plain = load_official(path)
    assert reduced.state_dict().keys() == plain.state_dict().keys()
    with torch.no_grad():
        image = torch.randn(1, 3, 32, 48)
        assert not torch.equal(reduced(image), plain(image))


def test_unused_classifiers_are_dropped_and_listed():
    settings = net_kwargs(distilled=True)
    state, dropped = official_to_segmenter(model_state(settings), settings)
    assert not [key for key in state if 'head' in key]
    assert set(dropped) == {
        'encoder.head.weight', 'encoder.head.bias', 'encoder.head_dist.weight', 'encoder.head_dist.bias',
    }  # fmt: skip


def test_unused_classifiers_may_be_absent():
    state = {key: tensor for key, tensor in model_state().items() if 'encoder.head' not in key}
    assert official_to_segmenter(state, net_kwargs())[1] == ()


def test_converted_tensors_own_their_memory():
    state, _ = official_to_segmenter(model_state(), net_kwargs())
    assert all(tensor.is_contiguous() for tensor in state.values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in state.values()}) == len(state)


def test_missing_keys_are_named_and_counted():
    state = {key: tensor for key, tensor in model_state().items() if 'blocks.1' not in key}
    refused(state, net_kwargs(), '12 keys missing', 'encoder.blocks.1.norm1.weight', 'and 9 more')


def test_unexpected_keys_are_named():
    refused(
        {**model_state(), 'policy_net.weight': torch.zeros(1)}, net_kwargs(), '1 unexpected key (policy_net.weight)'
    )


def test_wrong_shapes_are_named():
    settings = net_kwargs(image_size=(32, 32))
    refused(model_state(), settings, '1 tensor of another shape', 'encoder.pos_embed is 1x25x64 instead of 1x17x64')


def test_distilled_and_plain_are_told_apart():
    refused(model_state(net_kwargs(distilled=True)), net_kwargs(), 'encoder.dist_token', 'encoder.pos_embed')
    refused(model_state(), net_kwargs(distilled=True), '1 key missing (encoder.dist_token)')


def test_decoders_are_told_apart():
    refused(model_state(net_kwargs('linear')), net_kwargs(), 'decoder.head.weight', 'decoder.cls_emb')


def test_dimensions_that_do_not_divide_are_refused():
    refused(model_state(), net_kwargs(n_heads=5), 'net_kwargs', '5')


def test_unknown_reduction_is_refused():
    with pytest.raises(ConfigError, match='NoSuchMethod'):
        build_segmenter(net_kwargs(), {'type': 'NoSuchMethod'})


def test_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / 'checkpoint.pth'
    torch.save({'state_dict': {}}, path)
    with pytest.raises(CheckpointError, match='encoder'):
        load_official(path)


def test_key_tables_read_in_both_directions():
    state, _ = official_to_segmenter(model_state(), net_kwargs())
    there = rename(state, SEGMENTER_TO_SEGMENTOR)
    assert {key.split('.')[0] for key in there} == {'backbone', 'decode_head'}
    assert list(rename(there, backwards(SEGMENTER_TO_SEGMENTOR))) == list(state)


@pytest.mark.parametrize('name', GOLDEN or [pytest.param(None, marks=pytest.mark.skip(reason='no golden data here'))])
def test_published_layout_loads_strictly(name):
    family, release = name.split('/')
    folder = next((golden_root() / family).rglob(f'{release}/checkpoint.pth')).parent
    load_official(folder)


def test_releases_load_where_only_torch_and_timm_are_installed(tmp_path):
    write_release(tmp_path / 'src')
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['mmengine', 'mmcv', 'mmseg', 'mmdet', 'mmpose']))\n"
        'from mmseg_tr.checkpoints import convert_file, load_official\n'
        'from mmseg_tr.errors import MissingExtraError\n'
        "load_official('src')\n"
        'try:\n'
        "    convert_file('src', 'out/model.pth')\n"
        'except MissingExtraError as error:\n'
        '    print(error)\n'
    )
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'mmseg_tr[seg]' in done.stdout
    assert not (tmp_path / 'out').exists()
