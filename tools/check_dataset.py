"""Check the datasets of a config: labels against pictures and classes, every file. Faults are named by file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import cfg_options_argument, require_openmmlab, run_tool, verbose_argument


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='Exit status: 1 when a fault was found.')
    parser.add_argument('config', metavar='CONFIG', help='config file')
    parser.add_argument('--out', metavar='DIR', help='write pictures of a few samples with their labels drawn over')
    parser.add_argument('--samples', type=int, default=8, metavar='N', help='of each dataset (default: %(default)s)')
    parser.add_argument('--json', metavar='FILE', help='write classes, sizes and all faults')
    verbose_argument(parser)
    cfg_options_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Check and print. Exits with 1 when there is a fault."""
    args = parse_args(argv)
    require_openmmlab('to check a dataset', args.config)
    from mmseg_tr.apis.check_dataset import check_dataset, check_outputs, draw_samples, format_check, write_json
    from mmseg_tr.cli.progress import working

    check_outputs(args.out, args.json)
    with working('reading') as tell:
        checks = check_dataset(
            args.config, args.cfg_options, lambda loop, done, total: tell(f'{loop}: {done} of {total}')
        )
    print('\n\n'.join(format_check(check) for check in checks))
    if args.json:
        write_json(checks, args.json)
        print(f'\n{args.json}')
    if args.out:
        written = [path for check in checks for path in draw_samples(check, args.out, args.samples)]
        print(f'\n{len(written)} pictures in {args.out}')
    if any(check.faults for check in checks):
        raise SystemExit(1)


if __name__ == '__main__':
    sys.exit(run_tool(main))
