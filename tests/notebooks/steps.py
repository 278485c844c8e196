"""The steps of a notebook in a fork of this process, which has already imported what a new kernel would."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

Step = dict[str, Any]


class Shell(InteractiveShell):
    def enable_gui(self, gui=None):
        pass  # there is no window to wait for


def run_steps(notebook: Any, replaced: dict[str, str], folder: Path) -> list[Step]:
    """Run the code of a notebook from top to bottom in `folder`; returns what each step printed and drew.

    replaced: a text that stands in one step -> what stands there instead. A step has `text`, what it printed, and
    `images`, the number of pictures that it showed. Fails with the traceback of a step that fails.
    """
    sources = [cell.source for cell in notebook.cells if cell.cell_type == 'code']
    for old, new in replaced.items():
        (place,) = [place for place, source in enumerate(sources) if old in source]
        sources[place] = sources[place].replace(old, new)
    found, log = folder / 'steps.json', folder / 'log.txt'
    child = os.fork()
    if child == 0:
        _run(sources, folder, found, log)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == 0, log.read_text()[-3000:]
    return json.loads(found.read_text())


def _run(sources: list[str], folder: Path, found: Path, log: Path) -> None:
    """Run the steps as a kernel does, until one fails, and end this process."""
    status = 1
    try:
        signal.alarm(600)  # ends a step that waits in vain
        sys.stdout = sys.stderr = log.open('a', buffering=1)
        for number in (1, 2):
            os.dup2(sys.stdout.fileno(), number)
        os.chdir(folder)
        shell, steps = Shell.instance(config=Config(HistoryManager=dict(enabled=False))), []
        shell.enable_matplotlib('inline')
        for source in sources:
            with capture_output() as captured:
                done = shell.run_cell(source)
            images = sum('image/png' in output.data for output in captured.outputs)
            steps.append(dict(text=captured.stdout, images=images))
            print(captured.stdout, captured.stderr)
            if not done.success:
                return
        found.write_text(json.dumps(steps))
        status = 0
    finally:
        os._exit(status)
