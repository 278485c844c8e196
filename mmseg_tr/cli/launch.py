"""torchrun with the exit status of its processes: ``python -m mmseg_tr.cli.launch [arguments of torchrun]``.

torchrun alone prints its own traceback after a failing process's message, and exits with status 1.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(argv: Sequence[str]) -> int:
    """Run the processes; returns 0, or the exit status of the first that failed.

    When a signal ended a process the status is 1; when one ended this program it is 128 plus its number, and the
    processes have ended too.
    """
    logging.getLogger('torch.distributed.elastic').setLevel(logging.ERROR)  # it warns about each stopped process
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


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
