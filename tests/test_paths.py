"""Configs are found by file and by name."""

from pathlib import Path

import pytest

from mmseg_tr.errors import ConfigError
from mmseg_tr.paths import CONFIGS, find_config

NAME = 'algm_vit-s16_ade20k-512x512'


@pytest.mark.parametrize('name', [f'algm/{NAME}.py', f'local_configs/algm/{NAME}.py', f'{NAME}.py', NAME])
def test_a_config_of_the_package_is_found_by_name_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(Path(name)) == CONFIGS / 'algm' / f'{NAME}.py'


def test_a_file_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / f'{NAME}.py'
    own.write_text('model = None\n')
    assert find_config(own.relative_to(tmp_path)).resolve() == own


@pytest.mark.parametrize('name', ['nowhere.py', '/nowhere/at/all.py', f'../algm/{NAME}.py', 'local_configs'])
def test_what_is_not_there_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=f'config file {name}'):
        find_config(Path(name))
