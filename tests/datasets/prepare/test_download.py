"""Downloads continue, are verified, keep what is there, and end in one sentence where they cannot go on."""

import errno
import hashlib
import http.server
import os
import threading
import urllib.request

import pytest

from mmseg_tr.datasets.prepare.download import Archive, fetch
from mmseg_tr.datasets.prepare.login import log_in
from mmseg_tr.errors import DatasetError
from mmseg_tr.weights import download
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
    with pytest.raises(DatasetError, match='broke off after 400000 of 1280000 bytes.* continues it'):
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
    assert fetch(archive(server, f'md5:{hashlib.md5(other).hexdigest()}'), tmp_path / 'here').read_bytes() == other


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


@pytest.mark.parametrize(
    'address', ['nonsense', '', 'http://[::1', 'http://h:99999', 'http://h:abc', 'ht!tp://x', 'http://\x00/']
)
def test_addresses_that_are_none_are_one_sentence(tmp_path, address, monkeypatch):
    monkeypatch.setattr(download, 'ATTEMPTS', 1)
    with pytest.raises(DatasetError, match='cannot be downloaded') as caught:
        fetch(Archive('http://x.org/a.zip'), tmp_path, mirror=address)
    assert '\n' not in str(caught.value)


def test_secrets_of_an_address_are_not_shown(tmp_path, server):
    address = server.url.replace('http://', 'http://me:pass@')
    with pytest.raises(DatasetError) as caught:
        fetch(Archive(f'{address}/nothing.zip?token=secret', file='nothing.zip'), tmp_path)
    assert not {'pass', 'secret'} & set(str(caught.value).replace('@', ' ').replace('=', ' ').split())


@pytest.mark.parametrize('length', ['abc', '-5', '1e3', '', '9' * 5000])
def test_length_that_is_no_number_is_told(tmp_path, answer, length):
    url = answer(b'content', {'Content-Length': length})
    with pytest.raises(DatasetError, match='length'):
        fetch(Archive(url), tmp_path)


@pytest.mark.parametrize('to', ['http://[::1', 'http://x:abc/', 'file:///etc/passwd', 'data:,x', '/a.zip'])
def test_redirections_that_lead_nowhere_are_told(tmp_path, answer, to, monkeypatch):
    url = answer(b'', {'Location': to, 'Content-Length': '0'}, 302)
    with pytest.raises(DatasetError, match='cannot be downloaded') as caught:
        fetch(Archive(url), tmp_path)
    assert '\n' not in str(caught.value) and not (tmp_path / 'a.zip').exists()


@pytest.mark.parametrize(
    ('name', 'content'),
    [
        ('a.zip', b'<!DOCTYPE html><p>Sign in'),
        ('a.json', b'\n <HTML lang="en">'),
        ('a.mat', b'<?xml version="1.0"?>\n<!-- x --><!doctype html>'),
        ('a.json', b''),
        ('a.zip', CONTENT[:1000]),
        ('a.tar.gz', CONTENT[:1000]),
    ],
)
def test_without_a_hash_the_content_is_checked_and_a_wrong_file_kept_aside(tmp_path, answer, name, content):
    (tmp_path / f'{name}.wrong').write_text('an earlier one')
    url = answer(content, {})
    with pytest.raises(DatasetError, match=rf'{name} is not .*{name}.wrong2'):
        fetch(Archive(url, file=name), tmp_path)
    assert (tmp_path / f'{name}.wrong').read_text() == 'an earlier one'
    assert (tmp_path / f'{name}.wrong2').read_bytes() == content and not (tmp_path / name).exists()


def test_another_part_than_asked_for_is_not_taken(tmp_path, answer):
    (tmp_path / 'a.zip.part').write_bytes(CONTENT[:500])
    url = answer(CONTENT, {'Content-Range': 'bytes 0-9/10'}, 206)
    assert fetch(Archive(url, DIGEST), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize('tag', [b'"a"\nX: y', b'\xff\xfe', b''])
def test_damaged_tag_file_does_no_harm(tmp_path, server, tag):
    (tmp_path / 'a.zip.part').write_bytes(CONTENT[:500])
    (tmp_path / 'a.zip.part.tag').write_bytes(tag)
    assert fetch(archive(server), tmp_path).read_bytes() == CONTENT


def test_mark_of_another_file_or_hash_is_not_believed(tmp_path, server):
    fetch(archive(server), tmp_path)
    (tmp_path / 'a.zip').write_bytes(b'another file')
    with pytest.raises(DatasetError, match='was expected'):
        fetch(archive(server), tmp_path)
    (tmp_path / 'a.zip').write_bytes(CONTENT)
    fetch(archive(server), tmp_path)
    with pytest.raises(DatasetError, match='was expected'):
        fetch(archive(server, f'md5:{"0" * 32}'), tmp_path)


@pytest.fixture
def answer():
    """Serves one answer, content, headers, status, to every request; returns its address."""
    given = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            content, headers, status = given['answer']
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True)
        thread.start()

        def start(content, headers, status=200):
            given['answer'] = content, headers, status
            return f'http://127.0.0.1:{server.server_port}/a.zip'

        yield start
        server.shutdown()
        thread.join()


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
