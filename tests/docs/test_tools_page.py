"""docs/tools.md names every command and every option that the commands take."""

import re

import pytest

from docs.tools_page import PAGE, help_of
from mmseg_tr.cli.command import tools

TEXT = PAGE.read_text()
PYTHON = {name: file for name, file in tools().items() if file.suffix == '.py'}


def test_the_page_has_every_command():
    assert [name for name in tools() if f'`{name}`' not in TEXT] == []


@pytest.mark.parametrize('name', sorted(PYTHON))
def test_the_section_of_a_command_has_its_options_and_no_other(name):
    section = TEXT.partition(f'\n## {name}\n')[2].partition('\n## ')[0]
    options = re.compile(r'--[a-z][a-z0-9-]*')
    assert set(options.findall(section)) == set(options.findall(help_of(name, PYTHON[name]))), 'run make docs/tools.md'
