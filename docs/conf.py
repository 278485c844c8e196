"""Sphinx settings of the documentation: `make docs` builds it into docs/_build."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mmseg_tr.compat  # noqa: E402, F401 (before timm, where torchvision is built for another torch)
from docs.published import equal_work, readme, results_tables, rivals  # noqa: E402
from mmseg_tr.version import __version__  # noqa: E402

project = 'mmseg_tr'
author = 'the mmseg_tr authors'
release = __version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx_copybutton']
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 3
exclude_patterns = ['_build', 'README.md']
html_theme = 'furo'
html_title = f'mmseg_tr {__version__}'
html_static_path = []
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
suppress_warnings = ['myst.xref_missing']  # links to files of the repository, which the site does not hold
nitpicky = False


def keep_lines(app, what, name, obj, options, lines: list[str]) -> None:
    """Docstrings here are plain text whose line breaks and indents mean something: show them so."""
    text = [line.replace('\\', '\\\\').replace('*', '\\*').replace('`', '\\`').replace('|', '\\|') for line in lines]
    text = [line.replace('_ ', '\\_ ') if '_ ' in line else line for line in text]
    lines[:] = [f'| {line}' if line.strip() else '|' for line in text] + ['']


def fill_in(app, docname: str, source: list[str]) -> None:
    """Put what is kept elsewhere into a page that asks: {{ readme algm }}, {{ results }}, {{ rivals }} and the like."""
    source[0] = re.sub(r'\{\{ readme (\w+) \}\}', lambda match: readme(match[1]), source[0])
    source[0] = source[0].replace('{{ results }}', results_tables()).replace('{{ equal work }}', equal_work())
    source[0] = source[0].replace('{{ rivals }}', rivals())


def setup(app) -> None:
    app.connect('source-read', fill_in)
    app.connect('autodoc-process-docstring', keep_lines)
