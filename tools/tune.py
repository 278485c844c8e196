"""Find the setting of a method that meets a budget of quality, a speed-up or a fixed budget, and write its config."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import cfg_options_argument, reduction_argument, require_openmmlab, run_tool, verbose_argument
from mmseg_tr.paths import require_checkpoint


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='An interrupted search continues when run again. Exit status: 1 when no setting meets the budget.',
    )
    parser.add_argument('config', metavar='CONFIG', help='of a method, or of the plain model with --reduction')
    parser.add_argument('checkpoint', metavar='CKPT', help='weights of the plain model')
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument(
        '--budget-miou', '--budget-pck', type=float, metavar='LOSS', help='points of mIoU, or of PCK, that may be lost'
    )
    budget.add_argument('--speed-up', type=float, metavar='X', help='times the plain model, such as 1.5')
    budget.add_argument(
        '--fixed',
        type=float,
        metavar='SHARE',
        help='fixed shapes within SHARE of the plain multiply-adds, such as 0.7: of several ways to spend it, the one '
        "that changes the network's results least on --images pictures; no search",
    )
    parser.add_argument(
        '--split', default='train', metavar='SET', help='with --fixed: pictures of train (default) or test'
    )
    parser.add_argument(
        '--by', default='time', metavar='WHAT', help='speed-up by time (default) or by work, which repeats exactly'
    )
    reduction_argument(parser)
    parser.add_argument(
        '--frac-dataset', type=float, default=0.1, metavar='F', help='share of the images to search on (default: 0.1)'
    )
    parser.add_argument('--images', type=int, default=32, metavar='N', help='images to time and count (default: 32)')
    parser.add_argument(
        '--batch-size', type=int, metavar='B', help='batch that is timed (default: 8, fewer on fewer pictures)'
    )
    parser.add_argument('--repeats', type=int, default=5, metavar='N', help='rounds over these images (default: 5)')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: a GPU if available)')
    parser.add_argument('--amp', metavar='TYPE', help='mixed precision: bf16 or fp16')
    parser.add_argument('-o', '--out', metavar='FILE', help='config to write (default: in the work dir)')
    parser.add_argument('--work-dir', metavar='DIR', help='for journal and plot (default: below work_dirs/tune)')
    verbose_argument(parser)
    cfg_options_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Search or calibrate, print, draw. Exits with 1 when no setting meets the budget."""
    args = parse_args(argv)
    require_openmmlab('to tune a method', args.config)
    require_checkpoint(args.checkpoint)
    from rich.console import Console

    from mmseg_tr.apis.tune import TuneOptions

    options = TuneOptions(
        reduction=args.reduction,
        fraction=args.frac_dataset,
        images=args.images,
        batch_size=args.batch_size,
        repeats=args.repeats,
        device=args.device,
        amp=args.amp,
        out=args.out,
        work_dir=args.work_dir,
        cfg_options=args.cfg_options,
    )
    console = Console(width=None if sys.stdout.isatty() else 140)
    path = (calibrate_fixed if args.fixed is not None else search)(args, options, console)
    if path is None:
        raise SystemExit(1)
    console.print(f'config: {path}', soft_wrap=True, highlight=False)


def search(args: argparse.Namespace, options: Any, console: Any) -> Path | None:
    """Search and print; returns the written config, None when no setting meets the budget."""
    from mmseg_tr.apis.tune import tune
    from mmseg_tr.apis.tune.search import Budget
    from mmseg_tr.apis.tune.table import plot, table, verdict
    from mmseg_tr.cli.progress import working

    budget = Budget(args.budget_miou, args.speed_up, args.by)
    with working('reading') as tell:
        tuned = tune(args.config, args.checkpoint, budget, options, tell)
    console.print(table(tuned))
    console.print(f'{len(tuned.points)} settings, {tuned.measured} measurements in this run; plot: {plot(tuned)}')
    console.print(verdict(tuned), soft_wrap=True, highlight=False)
    return tuned.path


def calibrate_fixed(args: argparse.Namespace, options: Any, console: Any) -> Path:
    """Calibrate a fixed budget and print; returns the written config."""
    from mmseg_tr.apis.tune.fixed import calibrate
    from mmseg_tr.cli.progress import working

    with working('reading') as tell:
        found = calibrate(args.config, args.checkpoint, args.fixed, options, args.split, tell)
    console.print(found.table())
    console.print(found.verdict(), soft_wrap=True, highlight=False)
    console.print(f'reduction={found.code}', soft_wrap=True, highlight=False, markup=False)
    return found.path


if __name__ == '__main__':
    sys.exit(run_tool(main))
