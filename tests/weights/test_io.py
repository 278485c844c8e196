import os
import pickle
import random
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from mmseg_tr.errors import CheckpointError
from mmseg_tr.weights.io import contiguous, few, read_file


class Runs:
    """Pickles as a call of os.mkdir, which would leave a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


def refused(path, *words, trust=False):
    with pytest.raises(CheckpointError) as caught:
        read_file(path, trust=trust)
    message = str(caught.value)
    assert '\n' not in message
    for word in (str(path), *words):
        assert word in message


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save({'a': torch.arange(1000.0), 'b': 3}, path)
    return path


def test_plain_file_is_read(weights):
    content = read_file(weights)
    assert content['b'] == 3
    assert content['a'].sum() == 499500


def test_missing_file_is_named(tmp_path):
    refused(tmp_path / 'nothing.pth', 'no checkpoint file')


def test_folder_is_refused(tmp_path):
    refused(tmp_path, 'is a folder')


def test_empty_file_is_refused(tmp_path):
    path = tmp_path / 'empty.pth'
    path.touch()
    refused(path, 'empty')


@pytest.mark.parametrize('share', [0.2, 0.5, 0.99])
def test_truncated_file_is_refused(weights, share):
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    refused(weights, 'truncated')


@pytest.mark.parametrize('share', [0.01, 0.5, 0.99])
def test_truncated_file_of_the_older_format_is_refused(weights, share):
    torch.save({'a': torch.arange(1000.0)}, weights, _use_new_zipfile_serialization=False)
    content = weights.read_bytes()
    weights.write_bytes(content[: int(len(content) * share)])
    refused(weights, 'truncated')


def test_file_of_the_older_format_is_read(weights):
    torch.save({'a': torch.arange(3.0)}, weights, _use_new_zipfile_serialization=False)
    assert read_file(weights)['a'].tolist() == [0, 1, 2]


def test_text_is_refused(tmp_path):
    path = tmp_path / 'page.pth'
    path.write_text('<html>404</html>')
    refused(path, 'not a torch file')


def test_other_zip_is_refused(tmp_path):
    path = tmp_path / 'other.pth'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('hello.txt', 'hello')
    refused(path, 'zip archive')


def test_torchscript_is_refused(tmp_path):
    path = tmp_path / 'script.pth'
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    refused(path, 'TorchScript')


def test_blocked_global_is_named_and_not_run(tmp_path):
    path, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
    torch.save({'state_dict': Runs(trace)}, path)
    refused(path, 'mkdir', '--trust')
    assert not trace.exists()


@pytest.mark.parametrize('protocol', [2, 4])
def test_plain_pickle_is_not_run(tmp_path, protocol):
    path, trace = tmp_path / 'evil.pkl', tmp_path / 'trace'
    path.write_bytes(pickle.dumps(Runs(trace), protocol=protocol))
    refused(path)
    assert not trace.exists()


def test_trust_reads_objects(tmp_path):
    path, trace = tmp_path / 'trusted.pth', tmp_path / 'trace'
    torch.save({'state_dict': Runs(trace)}, path)
    read_file(path, trust=True)
    assert trace.is_dir()


def test_trusted_file_whose_module_is_not_installed_is_named(tmp_path):
    path = tmp_path / 'trusted.pth'
    path.write_bytes(b'\x80\x02cno_such_module\nThing\n.')
    refused(path, 'no_such_module', trust=True)


def test_overlapping_views_get_memory_of_their_own():
    view = torch.arange(10.0).as_strided((4, 3), (1, 1))
    copy = contiguous({'a': view})['a']
    assert torch.equal(copy, view)
    copy[0, 1] = 100
    assert copy[1, 0] == 1


def rewritten(path, content, *, pickle_as=None, compress=zipfile.ZIP_STORED):
    """A file of torch.save whose pickle is `pickle_as`, or whose records are compressed."""
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, 'w', compress) as archive:
        for name, record in records.items():
            archive.writestr(name, pickle_as if pickle_as and name.endswith('data.pkl') else record)
    return path


def test_every_flipped_bit_that_changes_something_is_noticed(tmp_path):
    path, chance = tmp_path / 'model.pth', random.Random(0)
    torch.manual_seed(0)
    want = {'state_dict': {'a': torch.rand(40), 'b': torch.rand(3, 5)}, 'meta': {'cfg': 'x = 1', 'epoch': 3}}
    torch.save(want, path)
    content, unchanged = path.read_bytes(), 0
    for _ in range(400):
        damaged = bytearray(content)
        damaged[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            got = read_file(path)
        except CheckpointError as error:
            assert '\n' not in str(error)
            continue
        unchanged += 1
        assert got['meta'] == want['meta'] and got['state_dict'].keys() == want['state_dict'].keys()
        assert all(torch.equal(got['state_dict'][key], value) for key, value in want['state_dict'].items())
    assert unchanged < 400


@pytest.mark.parametrize('kind', ['older format', 'safetensors'])
def test_damaged_files_without_checksums_are_read_or_refused_in_one_sentence(tmp_path, kind):
    path, chance = tmp_path / ('model.safetensors' if kind == 'safetensors' else 'model.pth'), random.Random(0)
    state = {'a': torch.rand(40), 'b': torch.rand(3, 5)}
    if kind == 'safetensors':
        save_file(state, path)
    else:
        torch.save({'state_dict': state, 'meta': {'epoch': 3}}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 3, 20))):
            damaged[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            read_file(path)
        except CheckpointError as error:
            assert '\n' not in str(error)


def test_file_saved_without_checksums_is_read(tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({'a': torch.arange(3)}, tmp_path / 'model.pth')
    finally:
        torch.serialization.set_crc32_options(before)
    assert read_file(tmp_path / 'model.pth')['a'].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    'prefix', ['module.', '_orig_mod.', 'module._orig_mod.', '_orig_mod.module.', 'module.module.']
)
@pytest.mark.parametrize('place', [None, 'state_dict', 'model'])
def test_keys_are_those_of_the_model_without_its_wrappers(tmp_path, prefix, place):
    state = {f'{prefix}{key}': torch.ones(1) for key in ('a', 'b')}
    torch.save({place: state, 'epoch': 3} if place else state, tmp_path / 'model.pth')
    got = read_file(tmp_path / 'model.pth')
    assert list(got[place] if place else got) == ['a', 'b']


def test_a_prefix_of_some_keys_stays(tmp_path):
    torch.save({'module.a': torch.ones(1), 'b': torch.ones(1)}, tmp_path / 'model.pth')
    assert list(read_file(tmp_path / 'model.pth')) == ['module.a', 'b']


@pytest.mark.parametrize(
    'bomb',
    [
        lambda: {'a': torch.zeros(1).expand(10**15)},
        lambda: {'state_dict': {f'{i}': torch.zeros(10**4).expand(10**4, 10**4) for i in range(5)}},
        lambda: [torch.zeros(3, 1).expand(3, 10**12)],
        lambda: {'meta': {'seed': [torch.zeros(1).as_strided((10**6, 10**6), (0, 0))]}},
    ],
)
def test_tensors_far_larger_than_the_file_are_refused(tmp_path, bomb):
    path = tmp_path / 'model.pth'
    torch.save(bomb(), path)
    refused(path, 'bytes')


def test_views_of_one_storage_are_no_bomb(tmp_path):
    torch.save({'a': torch.arange(10.0).as_strided((4, 3), (1, 1))}, tmp_path / 'model.pth')
    assert read_file(tmp_path / 'model.pth')['a'].shape == (4, 3)


@pytest.mark.parametrize('depth', [101, 5000, 200_000])
def test_deep_nesting_is_refused(tmp_path, depth):
    nested = b'\x80\x02' + b']' * depth + b'a' * (depth - 1) + b'.'
    refused(rewritten(tmp_path / 'model.pth', {}, pickle_as=nested), 'nests')


def test_containers_that_hold_one_another_many_times_are_read_once(tmp_path):
    value = []
    for _ in range(90):
        value = [value, value]
    torch.save(value, tmp_path / 'model.pth')
    assert len(read_file(tmp_path / 'model.pth')) == 2


@pytest.mark.parametrize('length', [10**9, 10**15])
def test_claims_of_a_huge_storage_or_buffer_are_refused(tmp_path, length):
    number = b'\x8a\x08' + struct.pack('<q', length)
    path = rewritten(tmp_path / 'model.pth', {}, pickle_as=b'\x80\x02c__builtin__\nbytearray\n' + number + b'\x85R.')
    if length == 10**15:
        refused(path)
    torch.save({'a': torch.arange(1000.0)}, path)
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith('data.pkl'))
        changed = archive.read(name).replace(b'M\xe8\x03', number)
    refused(rewritten(path, {'a': torch.arange(1000.0)}, pickle_as=changed))
    torch.save({'a': torch.arange(1000.0)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b'M\xe8\x03', number))
    refused(path)


@pytest.mark.parametrize('compress', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_archives_are_refused(tmp_path, compress):
    path = rewritten(tmp_path / 'model.pth', {'a': torch.zeros(10**6)}, compress=compress)
    refused(path, 'compressed')


def test_encrypted_archives_are_refused(weights):
    content = bytearray(weights.read_bytes())
    for start in (b'PK\x03\x04', b'PK\x01\x02'):
        at = content.find(start)
        while at >= 0:
            content[at + (6 if start == b'PK\x03\x04' else 8)] |= 1
            at = content.find(start, at + 4)
    weights.write_bytes(content)
    refused(weights, 'encrypted')


@pytest.mark.parametrize('key', ['a\nb', '\x1b[31mred', 'caf\udce9', 'a\u202eb'])
def test_names_that_cannot_be_shown_are_escaped(key):
    shown = few([key])
    assert shown.isascii() and shown.isprintable()


@pytest.mark.parametrize(
    ('names', 'text'),
    [('abc', 'a, b, c'), ('abcd', 'a, b, c and 1 more'), ('a', 'a'), ('abcdefgh', 'a, b, c and 5 more')],
)
def test_long_lists_are_cut(names, text):
    assert few(names) == text
