"""A file that does not exist is told before the packages that would use it are imported, which takes seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / 'tools'
ARGUMENTS = {
    'app': ['gone.py'],
    'check_dataset': ['gone.py'],
    'compare': ['gone.py', '--checkpoint', 'none'],
    'export': ['gone.py', 'a.pth', 'a.onnx'],
    'get_fps_flops': ['gone.py'],
    'infer': ['gone.py', 'a.pth', 'a.png', '-o', 'out'],
    'report': ['gone.py', '--checkpoint', 'none'],
    'show_attention': ['gone.py', 'a.pth', 'a.png', 'out'],
    'show_merging': ['gone.py', 'none', 'a.png', 'out'],
    'test': ['gone.py', 'a.pth'],
    'train': ['gone.py'],
    'tune': ['gone.py', 'a.pth', '--fixed', '0.7'],
}
CONFIG = 'algm/algm_vit-tiny-p8_photo-mosaic-128x128.py'
COMMANDS = [
    *([name, *words] for name, words in ARGUMENTS.items()),
    ['export', CONFIG, 'gone.pth', 'a.onnx'],
    ['infer', CONFIG, 'gone.pth', 'a.png', '-o', 'out'],
    ['test', CONFIG, 'gone.pth'],
    ['tune', CONFIG, 'gone.pth', '--fixed', '0.7'],
]
SCRIPT = """
import json, runpy, sys
tools, ended = sys.argv[1], []
for name, *words in json.loads(sys.argv[2]):
    sys.argv = [f'{name}.py', *words]
    try:
        runpy.run_path(f'{tools}/{name}.py', run_name='__main__')
    except SystemExit as error:
        ended.append(error.code)
print(json.dumps([ended, sorted({'torch', 'mmengine'} & {*sys.modules})]))
"""


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """All tools in one new interpreter."""
    return subprocess.run(
        [sys.executable, '-c', SCRIPT, str(TOOLS), json.dumps(COMMANDS)], cwd=tmp_path_factory.mktemp('empty'),
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip


def test_each_tool_says_it_once(run):
    said = run.stderr.splitlines()
    assert [line.partition(':')[0] for line in said] == [f'{name}.py' for name, *_ in COMMANDS]
    for line, words in zip(said, COMMANDS):
        (gone,) = [word for word in words if word.startswith('gone')]
        assert gone in line.partition(':')[2]
    assert json.loads(run.stdout)[0] == [2] * len(COMMANDS)


def test_nothing_large_was_imported(run):
    assert json.loads(run.stdout)[1] == []


def test_every_tool_that_takes_a_config_is_here():
    named = {path.stem for path in TOOLS.glob('*.py') if 'CONFIG' in path.read_text() or "'config'" in path.read_text()}
    assert named == {*ARGUMENTS}
