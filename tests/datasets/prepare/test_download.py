"""Downloads continue, are verified, keep what is there, and end in one sentence where they cannot go on."""

import errno
import hashlib
import os
import urllib.request

import pytest

from mmseg_tr.datasets.prepare import download
from mmseg_tr.datasets.prepare.download import Archive, fetch
from mmseg_tr.datasets.prepare.login import log_in
from mmseg_tr.errors import DatasetError
from tests.datasets.prepare.server import serve

CONTENT = bytes(range(256)) * 5000
DIGEST = f'md5:{hashlib.md5(CONTENT).hexdigest()}'


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / 'served'
    folder.mkdir()
    (folder / 'a.zip').write_bytes(CONTENT)
    with serve(folder) as state:
        yield state


def archive(server, digest=DIGEST):
    return Archive(f'{server.url}/a.zip', digest)


def ranges(server):
    return [asked for method, path, asked in server.requests]


def test_connection_that_breaks_off_is_continued_where_it_ended(server, tmp_path):
    server.breaks += [500_000, 300_000]
    assert fetch(archive(server), tmp_path / 'here').read_bytes() == CONTENT
    assert ranges(server) == [None, 'bytes=500000-', 'bytes=800000-']
    assert sorted(path.name for path in (tmp_path / 'here').iterdir()) == ['a.zip', 'a.zip.checked']


def test_killed_download_continues_from_its_part(server, tmp_path, monkeypatch):
    server.breaks += [400_000] + [0] * 10
    monkeypatch.setattr(download, 'ATTEMPTS', 2)
    with pytest.raises(DatasetError, match='broke off after 400000 bytes.* continues it'):
        fetch(archive(server), tmp_path / 'here')
    assert (tmp_path / 'here/a.zip.part').stat().st_size == 400_000
    server.breaks.clear()
    server.requests.clear()
    assert fetch(archive(server), tmp_path / 'here').read_bytes() == CONTENT
    assert ranges(server) == ['bytes=400000-']


def test_download_starts_again_when_the_server_has_another_file(server, tmp_path, monkeypatch):
    server.breaks += [400_000] + [0] * 10
    monkeypatch.setattr(download, 'ATTEMPTS', 1)
    with pytest.raises(DatasetError):
        fetch(archive(server), tmp_path / 'here')
    server.breaks.clear()
    other = CONTENT[::-1]
    (server.folder / 'a.zip').write_bytes(other)
    assert fetch(archive(server, None), tmp_path / 'here').read_bytes() == other


def test_part_that_is_complete_already_becomes_the_file(server, tmp_path):
    (tmp_path / 'here').mkdir()
    (tmp_path / 'here/a.zip.part').write_bytes(CONTENT)
    assert fetch(archive(server), tmp_path / 'here').read_bytes() == CONTENT


def test_wrong_hash_is_named_and_the_file_kept_aside(server, tmp_path):
    wrong = f'md5:{"0" * 32}'
    with pytest.raises(
        DatasetError, match=f'a.zip has the md5 {DIGEST[4:]}, and {wrong[4:]} was expected.*a.zip.wrong'
    ):
        fetch(archive(server, wrong), tmp_path / 'here')
    assert [path.name for path in (tmp_path / 'here').iterdir()] == ['a.zip.wrong']
    assert (tmp_path / 'here/a.zip.wrong').read_bytes() == CONTENT


def test_file_that_is_there_is_verified_once_and_not_downloaded(server, tmp_path):
    (tmp_path / 'a.zip').write_bytes(CONTENT)
    seen = []
    for _ in range(2):
        fetch(archive(server), tmp_path, progress=lambda what, *_: seen.append(what))
    assert server.requests == [] and set(seen) == {'check a.zip'} and len(seen) == 2
    (tmp_path / 'a.zip.checked').unlink()
    (tmp_path / 'a.zip').write_bytes(b'another file')
    with pytest.raises(DatasetError, match='was expected'):
        fetch(archive(server), tmp_path)


def test_full_disk_is_one_sentence_and_what_came_stays(server, tmp_path, monkeypatch):
    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, chunk):
            self.file.write(chunk[:1000])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = open
    monkeypatch.setattr(download, 'open', lambda *args: Full(opened(*args)), raising=False)
    with pytest.raises(DatasetError, match='the disk of .*here is full: free some space'):
        fetch(archive(server), tmp_path / 'here')
    monkeypatch.undo()
    server.requests.clear()
    assert fetch(archive(server), tmp_path / 'here').read_bytes() == CONTENT
    assert ranges(server) == ['bytes=1000-']


def test_missing_file_and_silent_host_are_named(server, tmp_path, monkeypatch):
    with pytest.raises(DatasetError, match='nothing.zip cannot be downloaded: the server says 404'):
        fetch(Archive(f'{server.url}/nothing.zip'), tmp_path)
    monkeypatch.setattr(download, 'ATTEMPTS', 1)
    with pytest.raises(DatasetError, match='broke off after 0 bytes .*refused'):
        fetch(Archive('http://127.0.0.1:9/a.zip'), tmp_path)


@pytest.fixture
def account(server, monkeypatch):
    server.account = ('me@example.org', 'se;cr$et')
    monkeypatch.setenv('CITYSCAPES_USERNAME', server.account[0])
    monkeypatch.setenv('CITYSCAPES_PASSWORD', server.account[1])
    return server.account


def test_login_opens_what_is_for_users_only(server, account, tmp_path):
    with pytest.raises(DatasetError, match='says 403'):
        fetch(archive(server), tmp_path / 'here', urllib.request.build_opener())
    assert fetch(archive(server), tmp_path / 'here', log_in(server.url)).read_bytes() == CONTENT
    assert not any(account[1] in str(request) for request in server.requests)


def test_refused_login_is_one_sentence_without_the_password(server, account, monkeypatch):
    monkeypatch.setenv('CITYSCAPES_PASSWORD', 'forgotten')
    with pytest.raises(DatasetError, match='refused the login: check CITYSCAPES_USERNAME and') as error:
        log_in(server.url)
    assert 'forgotten' not in str(error.value) and account[0] not in str(error.value)


def test_login_says_which_variable_is_not_set(server, account, monkeypatch):
    monkeypatch.delenv('CITYSCAPES_PASSWORD')
    with pytest.raises(DatasetError, match=r'\(CITYSCAPES_PASSWORD not set\)'):
        log_in(server.url)
    assert server.requests == []
