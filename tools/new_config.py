"""Write a config for your own pictures and labels, and check it on them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import require_openmmlab, run_tool, verbose_argument

ENCODERS = ('vit-ti', 'vit-s', 'vit-b', 'dinov2-s', 'dinov2-b')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='A label has the name of its picture and holds one class number per pixel, from 0 in the order of '
        '--classes. Exit status: 1 when the data has a fault, which is named; the config is written anyway.',
    )
    parser.add_argument('--images', required=True, metavar='DIR', help='folder of pictures, of any size and format')
    parser.add_argument('--labels', required=True, metavar='DIR', help='folder of label PNGs')
    parser.add_argument(
        '--classes', required=True, nargs='+', metavar='NAME', help='names in the order of their numbers, or a file'
    )
    parser.add_argument('--val-images', metavar='DIR', help='pictures for validation (default: a share of --images)')
    parser.add_argument('--val-labels', metavar='DIR', help='their labels')
    parser.add_argument(
        '--val-share', type=float, default=0.2, metavar='F', help='share for validation (default: %(default)s)'
    )
    parser.add_argument('--encoder', choices=ENCODERS, default='vit-s', help='pretrained encoder (default: vit-s)')
    parser.add_argument('--crop', type=int, metavar='N', help='pixels of a crop (default: what fits, at most 512)')
    parser.add_argument('--updates', type=int, metavar='N', help='length of the training (default: about 60 epochs)')
    parser.add_argument('--ignore', type=int, metavar='N', help='number of pixels without a class')
    parser.add_argument('--policy', action='store_true', help="write OUT_policy.py too, which trains CTS's policy")
    parser.add_argument('--out', default='my_config.py', metavar='FILE', help='the config (default: %(default)s)')
    parser.add_argument('--force', action='store_true', help='replace FILE if it exists')
    verbose_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Write and check. Exits with 1 when the data has a fault."""
    args = parse_args(argv)
    require_openmmlab('to write a config for your data')
    from mmseg_tr.apis.check_dataset import check_dataset, format_check
    from mmseg_tr.apis.new_config import NewConfigOptions, new_config
    from mmseg_tr.cli.progress import working

    with working('reading') as tell:
        made = new_config(NewConfigOptions(**vars(args)))
        checks = check_dataset(str(made.path), progress=lambda loop, done, total: tell(f'{loop}: {done} of {total}'))
    print('\n\n'.join(format_check(check) for check in checks))
    print(
        '\n'.join(
            ['', *(f'note: {note}' for note in made.notes), *(str(path) for path in (made.path, made.policy) if path)]
        )
    )
    if any(check.faults for check in checks):
        raise SystemExit(1)


if __name__ == '__main__':
    sys.exit(run_tool(main))
