import os
import pickle
import zipfile

import pytest
import torch

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


@pytest.mark.parametrize(
    ('names', 'text'),
    [('abc', 'a, b, c'), ('abcd', 'a, b, c and 1 more'), ('a', 'a'), ('abcdefgh', 'a, b, c and 5 more')],
)
def test_long_lists_are_cut(names, text):
    assert few(names) == text
