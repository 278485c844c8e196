"""Reproduce rows of the published tables: fetch weights, test, measure, and compare with the published numbers."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import require_openmmlab, run_tool, verbose_argument


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Exit status: 1 when a row could not be done. The same command continues.'
    )
    parser.add_argument('rows', nargs='*', metavar='ROW', help='names as `mmseg-tr configs` lists them (default: all)')
    parser.add_argument('-o', '--out', default='work_dirs/reproduce', help='folder of results (default: %(default)s)')
    parser.add_argument('--estimate', action='store_true', help='say how long it takes, and end')
    parser.add_argument('--frac-dataset', type=float, default=1.0, metavar='F', help='share of the test images')
    parser.add_argument(
        '--mirror', metavar='URL', help='address of a folder with ROW/checkpoint.pth and ROW/variant.yml'
    )
    parser.add_argument('--metafile', metavar='FILE', help='a table of your own, in place of those of the package')
    parser.add_argument('--again', action='store_true', help='repeat finished steps')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: a GPU if available)')
    verbose_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Estimate, reproduce, and print the table. Exits with 1 if a row could not be done."""
    args = parse_args(argv)
    require_openmmlab('to reproduce published rows')
    from rich.console import Console
    from rich.table import Table

    from mmseg_tr.apis.reproduce import PAGE, ReproduceOptions, estimate, find_rows, reproduce
    from mmseg_tr.apis.reproduce.page import tables

    options = ReproduceOptions(
        args.out, args.device, args.frac_dataset, args.mirror, args.metafile, args.again,
        tell=lambda text: print(text, flush=True),
    )  # fmt: skip
    rows = find_rows(args.rows, args.metafile)
    seconds = estimate(rows, options)
    took = f'{seconds / 3600:.1f} hours' if seconds > 5400 else f'{max(round(seconds / 60), 1)} minutes'
    print(f'{len(rows)} rows: about {took} on this machine, downloads not counted', flush=True)
    if args.estimate:
        return
    found = reproduce(args.rows, options)
    for task, lines in tables(rows, found, args.frac_dataset).items():
        shown = [name for name in lines[0] if not name.endswith(HIDDEN) and any(line[name] != '-' for line in lines)]
        table = Table(*shown, title=task)
        for line in lines:
            table.add_row(*(line[name].partition(':')[0] for name in shown))
        Console().print(table)
    print(f'page: {Path(args.out) / PAGE}')
    if any('error' in one for one in found.values()):
        raise SystemExit(1)


HIDDEN = ('Dataset', 'plain', 'ms')  # ends of the columns that a terminal has no room for

if __name__ == '__main__':
    sys.exit(run_tool(main))
