"""The app: clicked through in headless Chromium, and one sentence for what cannot be shown."""

import json
import socket
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from mmseg_tr import create_model
from mmseg_tr.errors import ConfigError, DatasetError, installed
from tests.tools.chromium import chromium
from tests.tools.command import mistake

# not imported here: only the process that runs these tests needs the seconds
pytestmark = pytest.mark.skipif(not installed('gradio'), reason='gradio is not installed: it comes with the extra app')

ARCH = dict(embed_dim=32, depth=4, num_heads=2, patch_size=8)
DEMO = 'segmenter/segmenter_vit-tiny-p8_photo-mosaic-128x128.py'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('app')
    torch.manual_seed(0)
    create_model('segmenter', num_classes=4, arch=ARCH, img_size=64, decoder='linear').save_pretrained(folder / 'model')
    pixels = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((192, 128)).save(folder / 'picture.png')
    (folder / 'text.png').write_text('no picture')
    return folder


def test_a_saved_network_is_looked_at_under_every_method(folder):
    from mmseg_tr.apis.app.look import Playground, read_picture
    from mmseg_tr.apis.app.page import code, numbers
    from mmseg_tr.apis.app.subject import open_subject

    play = Playground(open_subject(None, None, str(folder / 'model'), 'cpu'))
    pixels = read_picture(folder / 'picture.png', 1)
    assert play.methods[0] == 'plain' and len(play.methods) > 5
    for method in ('plain', 'ALGM'):
        look = play.look(pixels, method, 70)
        assert look.prediction.shape == look.changed.shape == (128, 192, 3)
        assert (look.gmacs <= 0.7 * look.plain_gmacs) == (method != 'plain')
        assert (look.agreement == 100 and not look.tokens) or method != 'plain'
        assert f'>{method}<' in numbers(look) and str(folder / 'model') in code(play, look)
        compile(code(play, look), 'code', 'exec')
    with pytest.raises(ConfigError, match='budget'):
        play.look(pixels, 'ToMe', 1)


def test_uploads_are_limited_in_one_sentence(folder, tmp_path):
    from mmseg_tr.apis.app.look import read_picture

    with pytest.raises(DatasetError, match='PNG'):
        read_picture(folder / 'text.png', 1)
    with pytest.raises(DatasetError, match='MB'):
        read_picture(folder / 'picture.png', 0.001)
    Image.new('1', (9000, 9000)).save(tmp_path / 'wide.png')
    with pytest.raises(DatasetError, match='megapixels'):
        read_picture(tmp_path / 'wide.png', 1)


def test_what_cannot_be_served_is_one_sentence(folder, capsys):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in mistake(capsys, 'app', '--model', folder / 'model', '--port', port)
    assert '--model' in mistake(capsys, 'app', '--port', free_port())
    assert '--port' in mistake(capsys, 'app', '--model', folder / 'model', '--port', 0)
    assert 'nowhere' in mistake(capsys, 'app', '--model', folder / 'nowhere', '--port', free_port())


def test_the_demo_is_clicked_through(folder, tmp_path):
    """Upload, choose, show, compare, link; keyboard; the width of a phone; the loopback address alone."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    from mmseg_tr.apis.app import serving

    with chromium(tmp_path) as window, serving(DEMO, 'none', port=free_port(), device='cpu') as (page, address):
        assert page.server_name == '127.0.0.1' and not page.share
        window.get(f'{address}?right=ToMe&right_budget=80')
        wait = WebDriverWait(window, 120)

        def find(where: str):
            return wait.until(lambda browser: browser.find_element(By.CSS_SELECTOR, where))

        def text(where: str) -> str:
            return window.execute_script('return document.querySelector(arguments[0])?.innerText || ""', where)

        find('#show')
        wait.until(
            lambda _: window.find_element(By.CSS_SELECTOR, '#method-right input').get_attribute('value') == 'ToMe'
        )
        for remove in window.find_elements(By.CSS_SELECTOR, '#picture button[aria-label="Remove Image"]'):
            remove.click()
        find('#picture input[type=file]').send_keys(str(folder / 'picture.png'))
        find('#picture img[src*="picture"]')
        window.execute_script('document.querySelector("#show").focus()')
        window.switch_to.active_element.send_keys(Keys.ENTER)  # by keyboard
        wait.until(lambda _: 'GMACs' in text('#numbers-left') and 'GMACs' in text('#numbers-right'))
        assert 'ToMe' in text('#numbers-right') and 'tokens' in text('#numbers-left')
        for kind in ('prediction', 'merged', 'changed'):
            for side in ('left', 'right'):
                find(f'#{kind}-{side} img')
        window.execute_script('document.querySelector("button.label-wrap")?.click()')
        assert wait.until(lambda _: 'right_budget=80' in (find('#link a').get_attribute('href') or ''))
        window.set_window_size(390, 800)
        assert window.execute_script('return document.documentElement.scrollWidth <= window.innerWidth + 1')
        severe = [entry['message'] for entry in window.get_log('browser') if entry['level'] == 'SEVERE']
        assert not [message for message in severe if '127.0.0.1' not in message and 'localhost' not in message], severe
        with urllib.request.urlopen(f'{address}config') as answer:
            assert json.load(answer)['analytics_enabled'] is False
