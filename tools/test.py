"""Score a checkpoint on the test set of a config."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import common_arguments, export_local_rank, reduction_argument, require_openmmlab, run_tool
from mmseg_tr.paths import require_checkpoint


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file of this model')
    parser.add_argument(
        '--eval',
        nargs='+',
        metavar='METRIC',
        help='any of mIoU mDice mFscore, of poses PCK PCK@0.05 AUC EPE AP (default: the config)',
    )
    parser.add_argument(
        '--out', metavar='DIR', help='write predictions as the servers of ADE20K, Cityscapes, COCO take'
    )
    parser.add_argument('--format-only', action='store_true', help='only write --out: for a test set without labels')
    parser.add_argument('--show-dir', metavar='DIR', help='write pictures of label and prediction')
    parser.add_argument('--show', action='store_true', help='show these pictures in a window')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that each is shown (default: 2)')
    parser.add_argument('--tta', action='store_true', help='several scales and flips: tta_pipeline of the config')
    parser.add_argument(
        '--frac-dataset', type=float, default=1.0, metavar='F', help='test on an even part of the images, 0 < F <= 1'
    )
    parser.add_argument(
        '--scores', metavar='FILE', help='.yml or .json (default: scores_ss.yml, with --tta scores_ms.yml, in work dir)'
    )
    parser.add_argument('--no-check-data', action='store_true', help='do not compare labels with pictures and classes')
    reduction_argument(parser)
    common_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Test."""
    args = parse_args(argv)
    require_openmmlab('to test', args.config)
    require_checkpoint(args.checkpoint)
    export_local_rank(args)
    from mmseg_tr.apis.test import evaluate

    evaluate(
        args.config,
        args.checkpoint,
        metrics=args.eval,
        work_dir=args.work_dir,
        out=args.out,
        format_only=args.format_only,
        show=args.show,
        show_dir=args.show_dir,
        wait_time=args.wait_time,
        tta=args.tta,
        amp=args.amp,
        fraction=args.frac_dataset,
        scores=args.scores,
        reduction=args.reduction,
        cfg_options=args.cfg_options,
        launcher=args.launcher,
        check_data=False if args.no_check_data else None,
    )


if __name__ == '__main__':
    sys.exit(run_tool(main))
