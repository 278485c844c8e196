"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / 'README.md').read_text()
PYTHON = re.findall(r'```python\n(.*?)```', README, re.DOTALL)


@pytest.mark.parametrize('code', PYTHON, ids=lambda code: code.strip().splitlines()[0][:40])
def test_python_of_the_readme_runs(code: str) -> None:
    exec(compile(code, 'README.md', 'exec'), {})


@pytest.mark.parametrize('target', sorted(set(re.findall(r'\]\((?!https?:)([^)#]+)', README))))
def test_links_of_the_readme_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_commands_of_the_readme_exist() -> None:
    named = {word for line in re.findall(r'^    (.+)$', README, re.MULTILINE) for word in _words(line)}
    files = {word for word in named if word.startswith(('tools/', 'local_configs/'))}
    assert files
    assert not [file for file in files if not (ROOT / file).is_file()]


def _words(line: str) -> list[str]:
    return shlex.split(line, comments=True)
