"""Parameters, multiply-adds and speed of a config's network, compared with the same network without token reduction."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import (
    cfg_options_argument,
    check_source,
    model_argument,
    reduction_argument,
    require_openmmlab,
    run_tool,
    verbose_argument,
)
from mmseg_tr.errors import ConfigError


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config', nargs='?', help='config file, of this package, any segmentor of mmseg or pose estimator of mmpose'
    )
    model_argument(parser)
    parser.add_argument(
        '--checkpoint', metavar='FILE', help="weights (default: random ones; with --model its own, 'none': random)"
    )
    parser.add_argument('--images', metavar='DIR', help='image files (default: the bundled photographs)')
    parser.add_argument('--num-images', type=int, metavar='N', help='how many (default: 8, or the largest batch)')
    parser.add_argument(
        '--shape',
        nargs='+',
        action='append',
        metavar='SIZE',
        help='image sizes such as 512x512 512x1024, or one as two numbers H W; may be repeated (default: the config)',
    )
    parser.add_argument('--batch-size', type=int, nargs='+', default=[1, 8], metavar='B', help='default: 1 8')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: a GPU if available)')
    parser.add_argument('--amp', metavar='TYPE', help='mixed precision: bf16 or fp16')
    parser.add_argument('--compile', action='store_true', help='time the networks under torch.compile')
    parser.add_argument(
        '--count',
        metavar='RULE',
        help='segmenter, expedite, conv-matmul (also called segformerpp) or all (default: that of the family)',
    )
    parser.add_argument('--repeats', type=int, default=10, metavar='N', help='rounds over the images (default: 10)')
    parser.add_argument(
        '--seconds', type=float, default=30, metavar='S', help='no new round after this time (default: 30)'
    )
    parser.add_argument('--threads', type=int, metavar='N', help='threads of the CPU (default: as torch chooses)')
    parser.add_argument('--no-published', action='store_true', help='do not time the published form of attention')
    parser.add_argument('--json', metavar='FILE', help='write all numbers there')
    parser.add_argument('--force', action='store_true', help='replace FILE of --json if it exists')
    reduction_argument(parser)
    verbose_argument(parser)
    cfg_options_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    args = parse_args(argv)
    check_source(args.config, args.model)
    require_openmmlab('to build the network of a config', args.config)
    check_file(args)
    shapes = [shape for sizes in args.shape or [] for shape in parse_shapes(sizes)]
    from rich.console import Console

    from mmseg_tr.apis.benchmark import BenchmarkOptions, benchmark, benchmark_host
    from mmseg_tr.apis.benchmark_table import print_report
    from mmseg_tr.cli.progress import working
    from mmseg_tr.files import write_atomically

    options = BenchmarkOptions(
        shapes=shapes or None,
        batch_sizes=args.batch_size,
        images=args.images,
        num_images=args.num_images,
        device=args.device,
        amp=args.amp,
        compiled=args.compile,
        rule=args.count,
        reduction=args.reduction,
        repeats=args.repeats,
        seconds=args.seconds,
        threads=args.threads,
        published=not args.no_published,
        cfg_options=args.cfg_options,
    )
    console = Console()
    with working('building') as tell:
        measure = benchmark_host if args.model else benchmark
        report = measure(args.model or args.config, args.checkpoint, options, tell)
    print_report(report, console)
    if args.json:
        write_atomically(json.dumps(report.to_dict(), indent=2) + '\n', args.json)
        console.print(f'written to {args.json}', highlight=False)


def check_file(args: argparse.Namespace) -> None:
    """Raise ConfigError where the file of numbers cannot be written or would replace another."""
    if args.json and Path(args.json).is_dir():
        raise ConfigError(f'--json must be a file, got the folder {args.json}.')
    if args.json and Path(args.json).exists() and not args.force:
        raise ConfigError(f'{args.json} exists: choose another file with --json, or add --force to replace it.')


def parse_shapes(sizes: Sequence[str]) -> list[tuple[int, int]]:
    """['512x512', '512x1024'] or ['512', '1024'] (height and width) or ['512'] (a square). Raises ConfigError."""
    try:
        if all(size.isdigit() for size in sizes) and len(sizes) <= 2:
            shapes = [(int(sizes[0]), int(sizes[-1]))]
        else:
            shapes = [tuple(map(int, size.lower().split('x'))) for size in sizes]
        if all(len(shape) == 2 and min(shape) >= 1 for shape in shapes):
            return shapes
    except ValueError:
        pass
    raise ConfigError(f'--shape must be sizes such as 512x512 (height x width), got {" ".join(sizes)}.')


if __name__ == '__main__':
    sys.exit(run_tool(main))
