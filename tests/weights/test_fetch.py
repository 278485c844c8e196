"""Published weights are fetched once, kept whole or not at all, and a failure says what to do."""

import hashlib
import http.server
import io
import os
import threading

import pytest
import torch

from mmseg_tr.errors import CheckpointError
from mmseg_tr.nn.mit import MixVisionTransformer
from mmseg_tr.weights import fetch as module
from mmseg_tr.weights.fetch import cache_path, fetch, fetch_if_published
from mmseg_tr.weights.published import PUBLISHED, Published
from tests.segformers import ARCH, segformer


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSEG_TR_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def weights(seed=0):
    file = io.BytesIO()
    torch.save(segformer(seed=seed).backbone.state_dict(), file)
    return file.getvalue()


@pytest.fixture
def server():
    """A server on this machine; `pages`: path -> (bytes, said length or None for the true one)."""
    pages, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path not in pages:
                self.send_error(404)
                return
            content, length = pages[self.path]
            self.send_response(200)
            self.send_header('Content-Length', str(length or len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        httpd.pages, httpd.asked, httpd.base = pages, asked, f'http://127.0.0.1:{httpd.server_port}'
        yield httpd
        httpd.shutdown()


def refused(published, cache, *words):
    with pytest.raises(CheckpointError) as caught:
        fetch(published)
    message = str(caught.value)
    assert '\n' not in message
    for word in (published.url, str(cache_path(published.url)), *words):
        assert word in message
    assert not list(cache.glob('*')) and not list(cache.glob('.*'))


def test_file_is_fetched_once_and_its_hash_is_checked(server, cache):
    content = weights()
    server.pages['/mit.pth'] = content, None
    published = Published(f'{server.base}/mit.pth', hashlib.sha256(content).hexdigest()[:8])
    path = fetch(published)
    assert path.read_bytes() == content and path.parent == cache
    assert fetch(published) == path
    assert server.asked == ['/mit.pth']


def test_every_url_has_a_place_of_its_own(server):
    urls = [f'{server.base}/{folder}/mit.pth' for folder in ('a', 'b')] + [
        'https://x.org/get/a/',
        'https://x.org/get/b/',
    ]
    for number, url in enumerate(urls[:2]):
        server.pages[url.removeprefix(server.base)] = weights(number), None
    assert fetch_if_published(urls[0]).read_bytes() != fetch_if_published(urls[1]).read_bytes()
    everything = [*urls, *(published.url for published in PUBLISHED.values())]
    assert len({cache_path(url) for url in everything}) == len(everything)


def test_other_hash_is_refused(server, cache):
    server.pages['/mit.pth'] = weights(), None
    refused(Published(f'{server.base}/mit.pth', '0badcafe'), cache, 'sha256', '0badcafe')


def test_download_that_ends_early_is_refused(server, cache):
    content = weights()
    server.pages['/mit.pth'] = content[:-100], len(content)
    refused(Published(f'{server.base}/mit.pth'), cache, f'{len(content) - 100} of {len(content)} bytes')


def test_page_in_place_of_weights_is_refused(server, cache):
    server.pages['/get/abc/'] = b'<!DOCTYPE html><p>Sign in', None
    refused(Published(f'{server.base}/get/abc/'), cache, 'web page')


def test_missing_file_and_missing_network_are_told(server, cache):
    refused(Published(f'{server.base}/nothing.pth'), cache, 'Not Found')
    server.shutdown()
    server.server_close()
    refused(Published(f'{server.base}/nothing.pth'), cache, 'refused', 'download it elsewhere')
    refused(Published('https://nowhere.invalid/mit.pth'), cache)
    refused(Published('gopher://x/mit.pth'), cache, 'not an address that can be fetched')


def test_killed_download_leaves_no_finished_file(server, cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    server.pages['/mit.pth'] = weights(), None
    monkeypatch.setattr(module, 'check_download', interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(Published(f'{server.base}/mit.pth'))
    assert not list(cache.iterdir())


def test_kept_file_whose_hash_is_another_now_is_refused_and_kept(server, cache):
    content = weights()
    server.pages['/mit.pth'] = content, None
    published = Published(f'{server.base}/mit.pth', hashlib.sha256(content).hexdigest()[:8])
    path = fetch(published)
    path.write_bytes(weights(1))
    with pytest.raises(CheckpointError, match='remove it'):
        fetch(published)
    assert path.read_bytes() == weights(1)


def test_secrets_of_an_address_are_not_shown(server):
    address = server.base.replace('http://', 'http://me:s3same@')
    with pytest.raises(CheckpointError) as caught:
        fetch(Published(f'{address}/nothing.pth?token=h1dden'))
    assert 's3same' not in str(caught.value) and 'h1dden' not in str(caught.value)


def test_kept_files_can_be_read_by_whom_the_user_allows(server):
    before = os.umask(0o022)
    try:
        server.pages['/mit.pth'] = weights(), None
        assert fetch(Published(f'{server.base}/mit.pth')).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(before)


def test_names_lead_to_published_files_and_unknown_ones_are_refused(monkeypatch, tmp_path):
    source = tmp_path / 'source.pth'
    source.write_bytes(weights())
    monkeypatch.setitem(PUBLISHED, 'mit_b0', Published(source.as_uri()))
    model = MixVisionTransformer(ARCH, pretrained='mit_b0')
    model.init_weights()
    want = segformer().backbone.state_dict()
    assert all(torch.equal(value, want[key]) for key, value in model.state_dict().items())
    for name, words in (('mit_b7', 'such names are mit_b'), ('nothing.pth', 'no checkpoint file nothing.pth')):
        with pytest.raises(CheckpointError, match=words):
            fetch_if_published(name)


def test_arch_by_name_says_which_weights_true_means(monkeypatch, tmp_path):
    file = tmp_path / 'b0.pth'
    source = MixVisionTransformer('b0')
    torch.save(source.state_dict(), file)
    monkeypatch.setitem(PUBLISHED, 'mit_b0', Published(file.as_uri()))
    model = MixVisionTransformer('b0', pretrained=True)
    model.init_weights()
    assert torch.equal(model.layers[0][0].projection.weight, source.layers[0][0].projection.weight)


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_addresses_are_whole(name):
    url, sha256 = PUBLISHED[name].url, PUBLISHED[name].sha256
    assert url.startswith('https://') and ' ' not in url
    assert url.endswith(f'-{sha256}.pth') and len(sha256) == 8 if 'openmmlab' in url else sha256 == ''
