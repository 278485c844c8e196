"""Draw which patches share a token, layer by layer, for every method: PNGs, a contact sheet, animations.

Methods that shorten the network show what leaves a layer; dense ToMe what its attention and its MLP work on,
SharedMatching what its attention works on, ACT the clusters of every head, SegFormer++ queries and keys of every block.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import cfg_options_argument, model_argument, require_openmmlab, run_tool, verbose_argument


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, epilog='Exit status: 1 when an input was skipped.')
    named = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument('--model')
    if named.parse_known_args(argv)[0].model is None:
        parser.add_argument('config', metavar='CONFIG', help='config file; left out with --model')
        parser.add_argument('checkpoint', metavar='CKPT', help="weights, or 'none' for random ones")
    else:
        parser.add_argument('--checkpoint', metavar='CKPT', help="'none' for random weights (default: its own)")
    model_argument(parser)
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image and video files, and folders of them')
    parser.add_argument('out', metavar='OUT', help='folder for OUT/NAME/layerNN.png, sheet.png and merging.json')
    parser.add_argument(
        '--style',
        default='mean',
        metavar='STYLE',
        help='mean: groups in their mean colour, as published; outline: lines between groups (default: mean)',
    )
    parser.add_argument('--layer', type=int, nargs='+', metavar='L', help='layers, from 1 (default: all; video: last)')
    parser.add_argument('--animate', metavar='KIND', help='also an animation over the layers: gif or mp4')
    parser.add_argument(
        '--side',
        type=int,
        metavar='N',
        help="pictures enter whole, at this short side in pixels (default: as in a test, by the config's pipeline)",
    )
    parser.add_argument(
        '--reduction', metavar='METHOD', help="over the config's: a name such as tome, or type=ToMe,r=8"
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: a GPU if available)')
    parser.add_argument('--force', action='store_true', help='write into folders that hold results')
    verbose_argument(parser)
    cfg_options_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw and report. Exits with 1 if an input was skipped."""
    args = parse_args(argv)
    require_openmmlab('to draw what merges', getattr(args, 'config', None))
    from rich.console import Console

    import mmseg_tr.registry  # noqa: F401 (makes the OpenMMLab packages import together)
    from mmseg_tr.apis.hosts import HostView
    from mmseg_tr.apis.show.merging import caption, show_merging
    from mmseg_tr.apis.show.view import open_view

    console = Console(stderr=True)
    if args.model:
        view = HostView.open(args.model, args.checkpoint, args.reduction, args.device)
    else:
        view = open_view(
            args.config, args.checkpoint, reduction=args.reduction, device=args.device, cfg_options=args.cfg_options
        )

    def tell(folder: Path, found: list, scale: str) -> None:
        print(f'{folder}: {scale}')
        for entry in found:
            print(f'  {caption(entry)}, largest group {entry.largest}')

    done, failures = show_merging(
        view,
        args.images,
        args.out,
        style=args.style,
        layers=args.layer,
        animate=args.animate,
        side=args.side,
        force=args.force,
        tell=tell,
        report=lambda failure: console.print(f'skipped: {failure.reason}', soft_wrap=True, markup=False),
    )
    print(f'{done} drawn, {len(failures)} skipped: {args.out}')
    if failures:
        raise SystemExit(1)


if __name__ == '__main__':
    sys.exit(run_tool(main))
