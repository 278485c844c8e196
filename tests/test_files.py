"""A file is there as a whole or not at all."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from mmengine.fileio import get_file_backend

from mmseg_tr import files
from mmseg_tr.engine.storage import BACKEND


def test_replaces_content_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / 'new' / 'file'
    files.write_atomically('old', path)
    files.write_atomically(b'new', path)
    assert path.read_text() == 'new'
    assert os.listdir(path.parent) == ['file']


def test_old_content_survives_a_full_disk(tmp_path, monkeypatch):
    path = tmp_path / 'file'
    path.write_text('old')

    def full(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space'):
        files.write_atomically('new', path)
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('stop', [KeyboardInterrupt, ValueError, OSError])
def test_old_content_survives_whatever_ends_the_writing(stop, tmp_path):
    path = tmp_path / 'film.mp4'
    path.write_text('old')
    with pytest.raises(stop), files.atomic_path(path) as unfinished:
        assert unfinished.suffix == '.mp4'
        unfinished.write_text('half')
        raise stop
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['film.mp4']


def test_writers_of_one_name_at_once_leave_one_of_their_contents(tmp_path):
    path = tmp_path / 'file'
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda digit: files.write_atomically(str(digit) * 100_000, path), range(8)))
    assert len(set(path.read_text())) == 1 and path.stat().st_size == 100_000
    assert os.listdir(tmp_path) == ['file']


def test_temporary_names_cannot_be_foreseen(tmp_path):
    with files.atomic_path(tmp_path / 'a.json') as first, files.atomic_path(tmp_path / 'a.json') as second:
        assert first != second


def test_names_as_long_as_the_disk_allows_are_written(tmp_path):
    path = tmp_path / ('n' * 251 + '.png')
    files.write_atomically('content', path)
    assert path.read_text() == 'content'


def test_new_files_can_be_read_by_whom_the_user_allows(tmp_path):
    before = os.umask(0o022)
    try:
        files.write_atomically('content', tmp_path / 'file')
    finally:
        os.umask(before)
    assert (tmp_path / 'file').stat().st_mode & 0o777 == 0o644


def test_unfinished_files_are_cleared_and_others_kept(tmp_path):
    for name in ('.iter_2.pth.unfinished', '.iter_2.0badcafe.unfinished.pth', '.hidden', 'iter_1.pth'):
        (tmp_path / name).write_text('x')
    assert files.remove_unfinished(tmp_path) == ['.iter_2.0badcafe.unfinished.pth', '.iter_2.pth.unfinished']
    assert sorted(os.listdir(tmp_path)) == ['.hidden', 'iter_1.pth']


def test_mmengine_finds_the_backend(tmp_path):
    backend = get_file_backend(backend_args={'backend': BACKEND})
    backend.put_text('text', tmp_path / 'file')
    backend.put(b'bytes', tmp_path / 'other')
    assert backend.get_text(tmp_path / 'file') == 'text'
    assert backend.get(tmp_path / 'other') == b'bytes'
