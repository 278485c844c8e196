"""A file is there as a whole or not at all."""

import errno
import os

import pytest
from mmengine.fileio import get_file_backend

from mmseg_tr import files as atomic
from mmseg_tr.engine.storage import BACKEND


def test_replaces_content_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / 'new' / 'file'
    atomic.write_atomically('old', path)
    atomic.write_atomically(b'new', path)
    assert path.read_text() == 'new'
    assert os.listdir(path.parent) == ['file']


def test_old_content_survives_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    path.write_text('old')

    def full(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        atomic.write_atomically('new', path)
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']


def test_unfinished_files_are_cleared_and_others_kept(tmp_path):
    for name in ('.iter_2.pth.unfinished', '.hidden', 'iter_1.pth'):
        (tmp_path / name).write_text('x')
    assert atomic.remove_unfinished(tmp_path) == ['.iter_2.pth.unfinished']
    assert sorted(os.listdir(tmp_path)) == ['.hidden', 'iter_1.pth']


def test_mmengine_finds_the_backend(tmp_path):
    backend = get_file_backend(backend_args={'backend': BACKEND})
    backend.put_text('text', tmp_path / 'file')
    backend.put(b'bytes', tmp_path / 'other')
    assert backend.get_text(tmp_path / 'file') == 'text'
    assert backend.get(tmp_path / 'other') == b'bytes'
