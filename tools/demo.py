"""Train a small Segmenter on the embedded dataset, test it plain and with ALGM, measure both, write a report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import require_openmmlab, run_tool, verbose_argument
from mmseg_tr.errors import require_extra


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--work-dir', default='work_dirs/demo', help='folder of all results (default: %(default)s)')
    parser.add_argument('--max-iters', type=int, help='updates (default: those of the config)')
    parser.add_argument('--scenes', type=int, help='validation scenes (default: those of the config)')
    verbose_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the demo."""
    args = parse_args(argv)
    require_openmmlab('for the demo')
    for module in ('skimage', 'sklearn'):
        require_extra('demo', module, 'for the demo')
    from mmseg_tr.apis.demo import run_demo

    run_demo(args.work_dir, args.max_iters, args.scenes)


if __name__ == '__main__':
    sys.exit(run_tool(main))
