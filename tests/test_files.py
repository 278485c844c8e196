"""A file is there as a whole or not at all."""

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
import zipfile

import pytest
import torch
from mmengine.fileio import get_file_backend

from mmseg_tr import files
from mmseg_tr.engine.storage import BACKEND
from mmseg_tr.errors import WriteError
from tests.clean import ROOT


def by_bytes(path, **kwargs):
    files.write_atomically(b'new', path, **kwargs)


def by_function(path, **kwargs):
    files.write_atomically(lambda file: file.write(b'new'), path, **kwargs)


def by_path(path, **kwargs):
    with files.atomic_path(path, **kwargs) as unfinished:
        assert unfinished.suffix == path.suffix and unfinished.parent == path.parent
        unfinished.write_bytes(b'new')


def by_pieces(path, **kwargs):
    with files.open_atomically(path, **kwargs) as file:
        file.write(b'ne')
        file.write(b'w')


def together(path, **kwargs):
    files.write_together({path: 'new', path.with_name('second.py'): b'new'}, **kwargs)


WRITERS = [by_bytes, by_function, by_path, by_pieces, together]


@pytest.fixture
def full(monkeypatch):
    """A disk that is full once a file is to be complete."""

    def fail(_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', fail)


@pytest.mark.parametrize('write', WRITERS)
def test_replaces_content_and_leaves_nothing_beside_it(tmp_path, write):
    path = tmp_path / 'new' / 'file.txt'
    files.write_atomically('old', path)
    write(path)
    assert path.read_text() == 'new'
    assert set(os.listdir(path.parent)) <= {'file.txt', 'second.py'}


@pytest.mark.parametrize('write', WRITERS)
def test_old_content_survives_a_full_disk(tmp_path, full, write):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    with pytest.raises(WriteError, match=r'file\.txt cannot be written: No space') as caught:
        write(path)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(path)
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['file.txt']


@pytest.mark.parametrize('write', WRITERS)
def test_an_existing_file_is_kept_where_nothing_may_be_replaced(tmp_path, write):
    path = tmp_path / 'file.txt'
    path.write_text('old')
    with pytest.raises(WriteError) as caught:
        write(path, replace=False)
    assert caught.value.errno == errno.EEXIST
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['file.txt']
    path.unlink()
    write(path, replace=False)
    assert path.read_text() == 'new'


@pytest.mark.parametrize('write', WRITERS)
def test_links_planted_under_foreseeable_names_are_not_followed(tmp_path, write, monkeypatch):
    """Also where somebody does foresee the random name: it is created exclusively."""
    victim, folder = tmp_path / 'victim', tmp_path / 'out'
    victim.write_text('mine')
    folder.mkdir()
    tokens = iter(['planted', *(f'free{i}' for i in range(9))])
    monkeypatch.setattr(files.secrets, 'token_hex', lambda _: next(tokens))
    for name in (
        '.file.txt.unfinished',
        '.file.unfinished.txt',
        '.file.planted.unfinished.txt',
        '.unfinished.file.txt',
    ):
        (folder / name).symlink_to(victim)
    write(folder / 'file.txt')
    assert victim.read_text() == 'mine'
    assert (folder / 'file.txt').read_text() == 'new' and not (folder / 'file.txt').is_symlink()


@pytest.mark.parametrize('write', WRITERS)
def test_names_as_long_as_the_file_system_takes_are_written(tmp_path, write):
    for stem in ('a' * 251, 'ä' * 125):
        write(tmp_path / f'{stem}.txt')
        assert (tmp_path / f'{stem}.txt').read_text() == 'new'


@pytest.mark.parametrize('write', WRITERS)
def test_a_folder_or_a_file_in_the_way_of_the_folder_is_told(tmp_path, write):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'folder', tmp_path / 'file' / 'below.txt'):
        with pytest.raises(WriteError) as caught:
            write(path)
        assert caught.value.filename == str(path)
    assert sorted(os.listdir(tmp_path)) == ['file', 'folder']


def test_writers_of_one_name_at_once_leave_a_whole_file(tmp_path):
    path, contents = tmp_path / 'file', [bytes([65 + i]) * 200_000 for i in range(8)]
    threads = [threading.Thread(target=files.write_atomically, args=(content, path)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and os.listdir(tmp_path) == ['file']


def test_a_function_may_go_back_in_its_file(tmp_path):
    path = tmp_path / 'file.zip'

    def write(file):
        with zipfile.ZipFile(file, 'w') as archive:
            archive.writestr('inside', b'content')

    files.write_atomically(write, path)
    assert zipfile.ZipFile(path).read('inside') == b'content'


@pytest.mark.parametrize('allowed', [0, 100, 5000])
def test_torch_save_beyond_what_the_disk_takes_neither_aborts_nor_replaces(tmp_path, allowed):
    path = tmp_path / 'model.pth'
    path.write_text('old')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, before[1]))
    try:
        with pytest.raises(WriteError, match='File too large'):
            files.write_atomically(lambda file: torch.save({'weight': torch.rand(9000)}, file), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_text() == 'old' and os.listdir(tmp_path) == ['model.pth']


def test_a_failure_of_whoever_writes_goes_on_and_leaves_nothing(tmp_path):
    path = tmp_path / 'file.txt'
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), files.atomic_path(path):
            raise error
    with pytest.raises(ZeroDivisionError):
        files.write_atomically(lambda file: 1 / 0, path)
    with pytest.raises(ZeroDivisionError):
        files.write_together({path: 'new', tmp_path / 'other': lambda file: 1 / 0})
    assert os.listdir(tmp_path) == []


def test_new_files_are_taken_back_when_a_later_one_cannot_be_moved(tmp_path, monkeypatch):
    kept, moves = tmp_path / 'kept', []
    kept.write_text('old')

    def move(source, target):
        moves.append(target)
        if len(moves) == 2:
            raise OSError(errno.EIO, 'Input/output error')
        os.rename(source, target)

    monkeypatch.setattr(os, 'replace', move)
    with pytest.raises(WriteError):
        files.write_together({tmp_path / 'new': 'new', kept: 'new'})
    assert kept.read_text() == 'old' and os.listdir(tmp_path) == ['kept']


def test_permissions_are_those_of_an_ordinary_new_file_or_of_the_replaced_one(tmp_path):
    mask = os.umask(0o022)
    try:
        files.write_atomically('new', tmp_path / 'new')
        (tmp_path / 'secret').write_text('old')
        (tmp_path / 'secret').chmod(0o600)
        files.write_atomically('new', tmp_path / 'secret')
    finally:
        os.umask(mask)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ('new', 'secret')] == [0o644, 0o600]


def test_a_device_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / 'pipe'
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    files.write_atomically('text', pipe)
    reader.join()
    assert read == [b'text'] and stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(WriteError), files.atomic_path(pipe):
        pass


def test_unfinished_files_of_the_dead_are_cleared_and_all_others_kept(tmp_path):
    for name in ('.iter_2.pth.unfinished', '.hidden', 'iter_1.pth', '.a.unfinished_notes', 'b.unfinished'):
        (tmp_path / name).write_text('x')
    (tmp_path / '.link.unfinished').symlink_to(tmp_path / 'iter_1.pth')
    kept = sorted(set(os.listdir(tmp_path)) - {'.iter_2.pth.unfinished'})
    with files.atomic_path(tmp_path / 'c.mp4') as writing:
        assert files.remove_unfinished(tmp_path) == ['.iter_2.pth.unfinished']
        assert sorted(os.listdir(tmp_path)) == sorted([*kept, writing.name])
    code = f"""
import os, signal
from mmseg_tr.files import atomic_path
with atomic_path({str(tmp_path / 'killed.mp4')!r}):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, timeout=60)
    (left,) = files.remove_unfinished(tmp_path)
    assert left.startswith('.killed.') and left.endswith('.mp4')
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, 'c.mp4'])


def test_mmengine_finds_the_backend(tmp_path):
    backend = get_file_backend(backend_args={'backend': BACKEND})
    backend.put_text('text', tmp_path / 'file')
    backend.put(b'bytes', tmp_path / 'other')
    assert backend.get_text(tmp_path / 'file') == 'text'
    assert backend.get(tmp_path / 'other') == b'bytes'
