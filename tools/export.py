"""Write a trained network as one file for ONNX Runtime (.onnx) or torch (.pt2), and check it against the network."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import cfg_options_argument, reduction_argument, require_openmmlab, run_tool, verbose_argument
from mmseg_tr.paths import require_checkpoint


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="The file takes images as the config's data_preprocessor normalises them, (B, 3, H, W) float32.",
    )
    parser.add_argument('config', metavar='CONFIG')
    parser.add_argument('checkpoint', metavar='CKPT')
    parser.add_argument('out', metavar='OUT', help='file to write, named .onnx or .pt2')
    parser.add_argument('--format', choices=('onnx', 'torch'), help='default: from the suffix of OUT')
    parser.add_argument('--output', choices=('logits', 'labels'), default='logits', help='(default: logits)')
    parser.add_argument('--shape', metavar='HxW', help="size of the images (default: the config's window)")
    parser.add_argument(
        '--batch-size', type=int, nargs='+', default=[1, 3], metavar='B', help='sizes to check; the file accepts any'
    )
    parser.add_argument('--images', metavar='DIR', help='pictures to check with (default: bundled photographs)')
    reduction_argument(parser)
    parser.add_argument(
        '--average-counts',
        type=int,
        metavar='N',
        help='fix how much an adaptive method merges to its mean over N pictures of the test set',
    )
    parser.add_argument('--force', action='store_true', help='replace OUT where it exists')
    verbose_argument(parser)
    cfg_options_argument(parser)
    args = parser.parse_args(argv)
    if args.shape is not None:
        height, _, width = args.shape.partition('x')
        if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
            parser.error(f'--shape {args.shape} is not a size: write 512x512')
        args.shape = (int(height), int(width))
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Export, and print the difference to the network."""
    args = parse_args(argv)
    require_openmmlab('to export a network', args.config)
    require_checkpoint(args.checkpoint)
    from mmseg_tr.apis.export import ExportOptions, export

    options = ExportOptions(
        form=args.format,
        output=args.output,
        shape=args.shape,
        batch_sizes=args.batch_size,
        images=args.images,
        reduction=args.reduction,
        average=args.average_counts,
        force=args.force,
        cfg_options=args.cfg_options,
    )
    written = export(args.config, args.checkpoint, args.out, options)
    if written.reduction:
        print(f'reduction: {written.reduction}')
    for size, difference in written.difference.items():
        print(f'batch of {size}: the largest difference in {written.output} is {difference:.2g}')
    print(f'{written.path}: {written.output} of images {written.shape[0]}x{written.shape[1]}, any number of them')


if __name__ == '__main__':
    sys.exit(run_tool(main))
