"""`mmseg-tr`: help wherever it is installed, and readers that leave early."""

import subprocess
import sys

from tests.clean import OPENMMLAB, ROOT, run_clean

EVERY_HELP = """
from mmseg_tr.cli.command import main, tools
files = {name: file for name, file in tools().items() if file.suffix == '.py'}
print([name for name in files if main([name, '--help']) != 0])
"""


def test_every_command_shows_its_help_without_openmmlab():
    assert run_clean(EVERY_HELP, blocked=OPENMMLAB).splitlines()[-1] == '[]'


def test_a_reader_that_leaves_early_is_no_fault():
    for arguments in ([], ['configs']):
        code = f'import sys; from mmseg_tr.cli.command import main; sys.exit(main({arguments!r}))'
        with subprocess.Popen(
            [sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            process.stdout.close()
            assert process.stderr.read() == ''
        assert process.returncode == 0
