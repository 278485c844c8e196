"""Runs pieces of code where torch is loaded and nothing else is: forks of one interpreter, which loads torch once."""

import atexit
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.clean import BLOCKER, ROOT

FORKS = """
import json, os, signal, sys, traceback
import torch
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    status = 1
    try:
        signal.alarm(300)  # ends code that waits in vain
        for number, name in ((1, 'said'), (2, 'errors')):
            os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT), number)
        os.environ.clear()
        os.environ.update(job['environment'])
        sys.path[:0] = job['path']
        exec(job['code'], dict(__name__='__main__'))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
"""


@functools.cache
def forks() -> subprocess.Popen:
    """The interpreter; it ends with this process."""
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process = subprocess.Popen([sys.executable, '-c', FORKS], **pipes)
    atexit.register(process.communicate)
    return process


def run_fresh(code: str, *, blocked: tuple[str, ...] = (), packages: Path | None = None) -> str:
    """As tests.clean.run_clean, for code that would import torch anyway."""
    code = (BLOCKER.format(blocked=blocked) if blocked else '') + 'import sys\n' + code
    with tempfile.TemporaryDirectory() as folder:
        said, errors = Path(folder, 'said'), Path(folder, 'errors')
        job = dict(code=code, path=[str(path) for path in (packages, ROOT) if path], environment=dict(os.environ))
        job |= dict(said=str(said), errors=str(errors))
        process = forks()
        process.stdin.write(json.dumps(job) + '\n')
        process.stdin.flush()
        status = process.stdout.readline().strip()
        assert status == '0', (status, errors.read_text() if errors.exists() else '')
        return said.read_text().strip()
