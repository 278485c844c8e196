"""A page on this machine that shows pictures under methods and budgets: the verb of tools/app.py."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import gradio
import torch

from mmseg_tr.analysis.photographs import load_photographs
from mmseg_tr.apis.app.look import Playground
from mmseg_tr.apis.app.page import CSS, FONTS, build_page
from mmseg_tr.apis.app.subject import open_subject
from mmseg_tr.errors import ConfigError, installed
from mmseg_tr.options import Options

LOOPBACK = '127.0.0.1'


@dataclass(frozen=True)
class AppOptions(Options):
    """Where the page is served.

    host, port: of the address; other hosts than the loopback one can be reached from other machines. device: 'cpu',
    'cuda', 'cuda:1'; by default a GPU if available. megabytes: the largest upload.
    """

    host: str = LOOPBACK
    port: int = 7860
    device: str | torch.device | None = None
    megabytes: float = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.port, bool) or not 0 < self.port < 65536:
            raise ConfigError(f'port must be from 1 to 65535, got {self.port}.', parameters=['port'])
        if self.megabytes <= 0:
            raise ConfigError(f'megabytes must be above 0, got {self.megabytes}.', parameters=['megabytes'])


@contextmanager
def serving(
    config: str | None = None,
    checkpoint: str | None = None,
    *,
    model: str | None = None,
    options: AppOptions | None = None,
    **settings: Any,
) -> Iterator[tuple[Any, str]]:
    """Serve the page inside the block: Gradio's page, and its address.

    config, checkpoint: of a segmentation model, or model: a folder or name of save_pretrained(). settings: fields of
    AppOptions, over `options`. Uploads are kept in a temporary folder that ends with the page.
    Raises ConfigError for a port that is in use or a model that cannot be reduced.
    """
    options = replace(options or AppOptions(), **settings)
    check_port(options.host, options.port)
    with tempfile.TemporaryDirectory(prefix='mmseg_tr_app_', ignore_cleanup_errors=True) as uploads:
        os.environ['GRADIO_TEMP_DIR'] = uploads
        page, address = launch(config, checkpoint, model, options)
        try:
            yield page, address
        finally:
            page.close(verbose=False)


def launch(config: str | None, checkpoint: str | None, model: str | None, options: AppOptions) -> tuple[Any, str]:
    """Start the page; returns it and its address."""
    play = Playground(open_subject(config, checkpoint, model, options.device))
    start = next(iter(load_photographs().values())) if installed('skimage') and installed('sklearn') else None
    title = f'{model or config}'
    page = build_page(play, title, options.megabytes, start)
    theme = gradio.themes.Default(font=FONTS, font_mono=['monospace'])
    try:
        page.launch(
            server_name=options.host, server_port=options.port, prevent_thread_lock=True, quiet=True, share=False,
            max_file_size=f'{options.megabytes:g}mb', theme=theme, css=CSS, footer_links=[],
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(
            f'port must be free on {options.host}, got {options.port}: {error}.', parameters=['port']
        ) from error
    return page, page.local_url


def check_port(host: str, port: int) -> None:
    """Raise ConfigError if the address cannot be served, before anything is loaded."""
    with socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f'port must be free on {host}, got {port} ({error.strerror}): choose another.', parameters=['port']
            ) from error
