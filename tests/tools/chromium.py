"""Headless Chromium for tests that click through a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

FLAGS = (
    '--headless=new',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--disable-dev-shm-usage',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--window-size=1280,1000',
)


@contextmanager
def chromium(profile: Path) -> Iterator:
    """A browser with an empty profile in `profile`; skips the test, saying why, where there is none."""
    webdriver = pytest.importorskip(
        'selenium.webdriver', reason='selenium is not installed: it comes with the extra dev'
    )
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    driver = shutil.which('chromedriver')
    if not browser or not driver:
        pytest.skip('no Chromium with its driver: install the packages chromium and chromium-driver to test the report')
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f'--user-data-dir={profile}'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    window = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    window.execute_cdp_cmd('Emulation.setFocusEmulationEnabled', dict(enabled=True))  # as a window in front has it
    try:
        yield window
    finally:
        window.quit()
