"""What the README shows is what happens."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mmseg_tr import __version__

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


def test_every_paper_on_the_methods_pages_is_in_the_citation_file() -> None:
    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    known = {paper['title'].casefold(): paper for paper in cited['references']}
    pages = '\n'.join(page.read_text() for page in (ROOT / 'docs' / 'methods').glob('*.md'))
    papers = re.findall(r'^@\w+\{.*?^\}', pages, re.DOTALL | re.MULTILINE)
    assert len(papers) >= 12
    for paper in papers:
        fields = dict(re.findall(r'^  (\w+) = \{(.*?)\},?$', paper, re.DOTALL | re.MULTILINE))
        entry = known[re.sub('[{}]', '', fields['title']).casefold()]
        assert len(entry['authors']) == len(re.split(r'\s+and\s+', fields['author']))
        assert str(entry['year']) == fields['year']
    assert cited['version'] == __version__


def _words(line: str) -> list[str]:
    return shlex.split(line, comments=True)
