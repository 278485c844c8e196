"""Draw training curves of several runs, from mmengine's logs and published log.txt files, in one picture."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import run_tool
from mmseg_tr.errors import ConfigError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'logs',
        nargs='+',
        metavar='LOG',
        help='work folders, log files (vis_data/*.json or log.txt), each also as NAME=PATH; or a published list, .yml',
    )
    parser.add_argument('--x-key', metavar='KEY', help='default: epoch, or else the iteration')
    parser.add_argument(
        '--y-key', metavar='KEY', help='default: validation mIoU, or else the loss; a/b for a nested key'
    )
    parser.add_argument('-s', '--size', choices=('large', 'tight'), default='large', help='of the picture')
    parser.add_argument('-ep', '--epochs', type=int, metavar='N', help='last epoch to draw (default: -1, all)')
    parser.add_argument('--plot', action=argparse.BooleanOptionalAction, default=True, help='draw, or only print')
    parser.add_argument('-o', '--out', default='plot.png', metavar='PNG', help='the picture (default: %(default)s)')
    parser.add_argument('--force', action='store_true', help='replace the picture if it exists')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the last value of every log, draw the curves."""
    args = parse_args(argv)
    from mmseg_tr.apis.logs import draw_curves, find_logs, read_curve, read_log

    found, out = find_logs(args.logs), Path(args.out)
    if args.plot and out.suffix.lower() != '.png':
        raise ConfigError(f'--out must be a file that ends in .png, got {out}.')
    if args.plot and out.exists() and not args.force:
        raise ConfigError(f'{out} exists: choose another file with --out, or add --force to replace it.')
    logs = {}
    for name, path in found.paths.items():
        rows = read_log(path)
        if rows is None:
            print(f'Skipping {name} that has no log file')
        else:
            logs[name] = rows
    if not logs:
        places = ', '.join(str(path) for path in found.paths.values())
        raise ConfigError(f'there is no log at {places}: check the paths.')
    epochs = found.epochs if args.epochs is None else args.epochs
    curves = [read_curve(name, rows, args.x_key, args.y_key, epochs) for name, rows in logs.items()]
    for curve in curves:
        print(f'{curve.name}:\n   {curve.y_key}: {curve.y[-1]:.4f}')
    if args.plot:
        draw_curves(curves, out, args.size, found.vmin, found.vmax)
        print(f'{len(curves)} curves: {out}', file=sys.stderr)  # what the published tool prints stays alone


if __name__ == '__main__':
    sys.exit(run_tool(main))
