"""tools/demo.py, cut down to a few updates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmseg_tr.apis.demo import run_demo
from mmseg_tr.errors import ConfigError

LINKED = ('report.html', 'report.json', 'scenes.png')


@pytest.fixture(scope='module')
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp('demo')
    return folder, run_demo(str(folder), max_iters=2, scenes=9)


def test_report_holds_what_both_models_reached(demo: tuple[Path, dict]) -> None:
    folder, _ = demo
    report = json.loads((folder / 'report.json').read_text())
    for name in ('plain', 'algm'):
        found = report[name]
        assert 0 <= found['miou'] <= 1
        assert found['images_per_second'] > 0
        assert len(found['tokens_per_layer']) == 6
    assert report['seconds'] > 0
    assert set(report['plain']['tokens_per_layer']) == {257.0}
    assert min(report['algm']['tokens_per_layer']) < 257
    assert report['algm']['gmacs'] < report['plain']['gmacs']


def test_page_needs_nothing_else_and_everything_is_there(demo: tuple[Path, dict]) -> None:
    folder, report = demo
    assert all((folder / name).stat().st_size for name in LINKED)
    page = (folder / 'report.html').read_text()
    assert 'data:image/png;base64,' in page
    assert 'http' not in page
    assert f'{100 * report["plain"]["miou"]:.1f}' in page


def test_a_finished_training_is_used_again(demo: tuple[Path, dict], capsys: pytest.CaptureFixture) -> None:
    folder, before = demo
    checkpoint = folder / 'train' / 'iter_2.pth'
    written = checkpoint.stat().st_mtime_ns
    again = run_demo(str(folder), max_iters=2, scenes=9)
    assert checkpoint.stat().st_mtime_ns == written
    assert again['plain']['miou'] == before['plain']['miou']
    assert 'report.html' in capsys.readouterr().out


def test_impossible_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='max_iters .* got 0'):
        run_demo(str(tmp_path), max_iters=0)
