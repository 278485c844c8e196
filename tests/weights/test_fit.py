import pytest
import torch
from torch import nn

from mmseg_tr.checkpoints import load_into
from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn import ViT
from mmseg_tr.weights.fit import difference
from tests.releases import write_release


@pytest.fixture
def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))


def saved(tmp_path, state, **more):
    path = tmp_path / 'model.pth'
    torch.save({'state_dict': state, **more}, path)
    return path


def other_weights(model):
    return {key: torch.randn_like(tensor) for key, tensor in model.state_dict().items()}


def refused(model, path, *words):
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_into(model, path)
    for word in words:
        assert word in str(caught.value)
    assert '\n' not in str(caught.value)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_fitting_weights_are_loaded_and_meta_returned(model, tmp_path):
    state = other_weights(model)
    assert load_into(model, saved(tmp_path, state, meta={'epoch': 3})) == {'epoch': 3}
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())


def test_meta_may_be_absent(model, tmp_path):
    assert load_into(model, saved(tmp_path, model.state_dict())) == {}


def test_data_parallel_prefix_is_taken_off(model, tmp_path):
    state = other_weights(model)
    load_into(model, saved(tmp_path, {f'module.{key}': tensor for key, tensor in state.items()}))
    assert torch.equal(model[0].weight, state['0.weight'])


def test_checkpoint_of_another_model_names_keys_and_how_many(model, tmp_path):
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5), nn.Linear(5, 5), nn.Linear(5, 5))
    path = saved(tmp_path, other.state_dict())
    refused(model, path, str(path), '4 unexpected keys', '2.weight', 'and 1 more', '1.weight is 5x3 instead of 4x3')


def test_missing_keys_are_named(model, tmp_path):
    state = model.state_dict()
    del state['1.bias']
    refused(model, saved(tmp_path, state), '1 key missing (1.bias)')


def test_entries_that_are_no_tensors_are_named(model, tmp_path):
    refused(model, saved(tmp_path, {**model.state_dict(), '1.bias': 7}), 'not tensors', '1.bias')


def test_empty_state_dict_is_refused(model, tmp_path):
    refused(model, saved(tmp_path, {}), 'no tensors')


def test_official_release_is_sent_to_the_converter(model, tmp_path):
    refused(model, write_release(tmp_path), 'official', 'convert-checkpoint')


def test_bare_state_dict_is_refused(model, tmp_path):
    path = tmp_path / 'bare.pth'
    torch.save(model.state_dict(), path)
    refused(model, path, '0.weight')


def test_missing_file_is_refused(model, tmp_path):
    refused(model, tmp_path / 'nothing.pth', 'nothing.pth')


def test_numbers_without_shape_are_compared():
    found = difference({'n': torch.zeros(2)}, {'n': ()})
    assert 'n is 2 instead of a single number' in str(found)
    assert not difference({'n': torch.tensor(1)}, {'n': ()})


ODD = {
    'sparse': lambda tensor: tensor.to_sparse(),
    'sparse rows': lambda tensor: tensor.to_sparse_csr() if tensor.dim() == 2 else tensor.to_sparse(),
    'quantized': lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    'complex': lambda tensor: tensor.to(torch.complex64),
    'int64': lambda tensor: tensor.long(),
    'uint8': lambda tensor: tensor.abs().byte(),
    'bool': lambda tensor: tensor > 0,
    'meta': lambda tensor: tensor.to('meta'),
}


@pytest.mark.parametrize('kind', ODD)
@pytest.mark.parametrize('key', ['0.weight', '1.bias'])
def test_tensors_that_are_no_real_numbers_are_named(model, tmp_path, kind, key):
    state = model.state_dict()
    refused(model, saved(tmp_path, {**state, key: ODD[kind](state[key])}), key, kind.split()[0])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_numbers_are_loaded(model, tmp_path, dtype):
    state = {key: tensor.to(dtype) for key, tensor in other_weights(model).items()}
    load_into(model, saved(tmp_path, state))
    assert torch.equal(model[0].weight, state['0.weight'].float())


def test_counters_may_be_whole_numbers(tmp_path):
    norm = nn.BatchNorm1d(3)
    load_into(norm, saved(tmp_path, norm.state_dict()))


def test_another_image_size_is_told_as_such(tmp_path):
    def network(size):
        return ViT(dict(embed_dim=16, depth=1, num_heads=2, patch_size=4), img_size=size)

    refused(network(24), saved(tmp_path, network(16).state_dict()), 'another image size', 'pos_embed', 'load_from')
