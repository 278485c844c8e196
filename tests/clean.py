"""Runs a piece of code in an interpreter of its own, optionally where some packages do not exist or are stand-ins."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
OPENMMLAB = ('mmengine', 'mmcv', 'mmseg', 'mmpose', 'mmdet')

BLOCKER = """
import importlib.abc, sys
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, Blocker())
"""


def run_clean(code: str, *, blocked: tuple[str, ...] = (), packages: Path | None = None) -> str:
    """What `code` prints in a new interpreter; fails the test with the traceback when it does not end well.

    blocked: top-level packages that cannot be imported there. packages: a folder that comes first on sys.path.
    """
    lines = [BLOCKER.format(blocked=blocked)] if blocked else []
    lines += [f'import sys; sys.path[:0] = {[str(path) for path in (packages, ROOT) if path]!r}', code]
    done = subprocess.run([sys.executable, '-c', '\n'.join(lines)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
