"""Compare methods over one checkpoint and one dataset in one run: quality, agreement, work, speed, tokens."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import (
    cfg_options_argument,
    check_source,
    model_argument,
    require_openmmlab,
    run_tool,
    verbose_argument,
)
from mmseg_tr.errors import ConfigError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'configs', nargs='*', metavar='CONFIG', help='config files, one a method; the plain one may be left out'
    )
    model_argument(parser)
    parser.add_argument(
        '--pictures', metavar='DIR', help='with --model: image files (default: the bundled photographs)'
    )
    parser.add_argument(
        '--methods',
        nargs='+',
        default=(),
        metavar='NAME',
        help='methods over the first CONFIG, with their defaults: tome algm',
    )
    parser.add_argument(
        '--reduction',
        action='append',
        default=[],
        metavar='METHOD',
        help='a method over the first CONFIG with its settings, type=ToMe,r=8; may be repeated',
    )
    parser.add_argument(
        '--work',
        nargs='+',
        type=float,
        default=(),
        metavar='SHARE',
        help="compare at equal work: every method at these shares of the plain network's multiply-adds, such as 0.7; "
        'settings are chosen for it, and what cannot be reached is left out by name',
    )
    parser.add_argument(
        '--rivals',
        action='store_true',
        help='also what could be picked instead of a method: the plain network at 0.75 and 0.5 of the input, with '
        'patches of twice the side, and compiled; what makes no sense is left out by name',
    )
    parser.add_argument(
        '--smaller',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a smaller plain network for the same data, as a further rival; may be repeated',
    )
    parser.add_argument('--fixed', action='store_true', help='with --work: also the fixed forms of adaptive methods')
    parser.add_argument('--compile', action='store_true', help='also time every network under torch.compile')
    parser.add_argument(
        '--checkpoint', metavar='FILE', help="weights of the plain model (with --model its own, 'none': random)"
    )
    parser.add_argument(
        '--out', default='work_dirs/compare', metavar='DIR', help='folder of the files (default: %(default)s)'
    )
    parser.add_argument('--force', action='store_true', help='replace the files of an earlier comparison in DIR')
    measuring_arguments(parser)
    verbose_argument(parser)
    cfg_options_argument(parser)
    return parser.parse_args(argv)


def measuring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which pictures are tested and timed, and how."""
    parser.add_argument('--frac-dataset', type=float, default=1.0, metavar='F', help='share of the images to test on')
    parser.add_argument(
        '--batch-size',
        type=int,
        metavar='B',
        help='batch of the throughput (default: 8, fewer on fewer pictures)',
    )
    parser.add_argument('--images', type=int, default=32, metavar='N', help='images to time and count (default: 32)')
    parser.add_argument('--repeats', type=int, default=5, metavar='N', help='rounds over these images (default: 5)')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: a GPU if available)')
    parser.add_argument('--amp', metavar='TYPE', help='mixed precision: bf16 or fp16')


def main(argv: Sequence[str] | None = None) -> None:
    """Compare, print, write."""
    args = parse_args(argv)
    check_source(args.configs, args.model)
    if args.configs and not args.checkpoint:
        raise ConfigError('--checkpoint must be given with a config: weights of the plain model.')
    require_openmmlab('to compare the networks of configs', *args.configs)
    from rich.console import Console

    from mmseg_tr.apis.compare import CompareOptions, compare
    from mmseg_tr.apis.compare.named import compare_named
    from mmseg_tr.apis.compare.table import check_folder, table, write_files
    from mmseg_tr.cli.progress import working

    check_folder(Path(args.out), args.force)
    options = CompareOptions(
        fraction=args.frac_dataset,
        batch_size=args.batch_size,
        images=args.images,
        repeats=args.repeats,
        device=args.device,
        amp=args.amp,
        methods=args.methods,
        reductions=args.reduction,
        work=args.work,
        fixed=args.fixed,
        compiled=args.compile,
        rivals=args.rivals,
        smaller=args.smaller,
        cfg_options=args.cfg_options,
    )
    console = Console(width=None if sys.stdout.isatty() else 140)
    with working('reading') as tell:
        if args.model:
            comparison = compare_named(args.model, args.checkpoint, options, args.pictures, tell)
        else:
            comparison = compare(args.configs, args.checkpoint, options, tell)
    paths = write_files(comparison, Path(args.out))
    console.print(table(comparison))
    for kind, path in paths.items():
        console.print(f'{kind}: [link={path.resolve().as_uri()}]{path}[/link]', soft_wrap=True, highlight=False)


if __name__ == '__main__':
    sys.exit(run_tool(main))
