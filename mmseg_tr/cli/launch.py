"""torchrun with the exit status of its processes: ``python -m mmseg_tr.cli.launch [arguments of torchrun]``.

torchrun alone prints its own traceback after a failing process's message, and exits with status 1.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while torch is imported ends it without a traceback

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

STOPPED_FOR = 10.0  # seconds after which a stopped process is reported


def main(argv: Sequence[str]) -> int:
    """Run the processes; returns 0, or the exit status of the first that failed.

    When a signal ended a process the status is 1; when one ended this program it is 128 plus its number, and the
    processes have ended too.
    """
    for name in [name for name in logging.root.manager.loggerDict if name.startswith('torch.distributed.elastic')]:
        logging.getLogger(name).setLevel(logging.ERROR)  # each has a level of its own, and warns about signals
    threading.Thread(target=report_stopped, args=(STOPPED_FOR,), daemon=True).start()
    try:
        run(parse_args(list(argv)))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    except SignalException as error:
        return 128 + error.sigval
    except KeyboardInterrupt:
        return 130
    return 0


def report_stopped(seconds: float) -> None:
    """Say in one line that a process of this program is stopped (SIGSTOP), as long as it runs: the others wait."""
    parent, reported, before = os.getpid(), set(), set()
    while Path('/proc').is_dir():
        threading.Event().wait(seconds)
        stopped = set(stopped_children(parent))
        for process in sorted(stopped & before - reported):
            print(
                f'process {process} is stopped, and the others wait for it: continue it with kill -CONT {process}, or '
                'press Ctrl-C to end all.',
                file=sys.stderr,
                flush=True,
            )
        before, reported = stopped, (reported | (stopped & before)) & stopped


def stopped_children(parent: int) -> list[int]:
    """Return the stopped processes that a process started itself."""
    found = []
    for folder in Path('/proc').iterdir():
        if folder.name.isdigit():
            try:
                state, of = folder.joinpath('stat').read_text().rpartition(')')[2].split()[:2]
            except OSError:  # it has just ended
                continue
            if state == 'T' and int(of) == parent:
                found.append(int(folder.name))
    return found


if __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
