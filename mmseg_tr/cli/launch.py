"""torchrun, ending as its processes did: ``python -m mmseg_tr.cli.launch [arguments of torchrun]``.

torchrun itself buries what a failing process said under a traceback of its own, and exits with status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run


def main(argv: Sequence[str]) -> int:
    """Run the processes; returns 0, or the exit status of the first that failed (1 where a signal ended it)."""
    try:
        run(parse_args(list(argv)))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return failure.exitcode if failure.exitcode > 0 else 1
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
