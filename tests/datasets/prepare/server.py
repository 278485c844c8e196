"""A file server on this machine that knows ranges, and can misbehave: connections that break off, a login."""

from __future__ import annotations

import contextlib
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Server:
    """url: where `folder` is served. breaks: bytes after which an answer ends too early, one number per answer.

    requests: what was asked: (method, path, the Range header or None).
    """

    folder: Path
    url: str = ''
    breaks: list[int] = field(default_factory=list)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    account: tuple[str, str] | None = None


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Serve the files of a folder while inside."""
    state = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get('Range')
            state.requests.append(('GET', self.path, asked))
            path = state.folder / urllib.parse.urlsplit(self.path).path.lstrip('/')
            if state.account and 'session=1' not in (self.headers.get('Cookie') or ''):
                return self._say(403, b'log in first')
            if not path.is_file():
                return self._say(404, b'no such file')
            content = path.read_bytes()
            tag = f'"{len(content)}-{hash(content)}"'
            start = int(asked.removeprefix('bytes=').partition('-')[0]) if asked else 0
            if self.headers.get('If-Range', tag) != tag:
                start, asked = 0, None
            if asked and start >= len(content):
                self.send_response(416)
                self.send_header('Content-Range', f'bytes */{len(content)}')
                self.end_headers()
                return None
            self.send_response(206 if asked else 200)
            self.send_header('Content-Length', str(len(content) - start))
            self.send_header('ETag', tag)
            self.end_headers()
            end = start + state.breaks.pop(0) if state.breaks else len(content)
            self.wfile.write(content[start:end])
            return None

        def do_POST(self):
            state.requests.append(('POST', self.path, None))
            form = urllib.parse.parse_qs(self.rfile.read(int(self.headers['Content-Length'])).decode())
            right = (form['username'][0], form['password'][0]) == state.account
            if not right:
                return self._say(200, b'the form once more')
            self.send_response(302)
            self.send_header('Location', '/welcome')
            self.send_header('Set-Cookie', 'session=1; Path=/')
            self.end_headers()
            return None

        def _say(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header('Content-Length', str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True)
        thread.start()
        state.url = f'http://127.0.0.1:{server.server_port}'
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()
