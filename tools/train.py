"""Train the model of a config."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import common_arguments, export_local_rank, reduction_argument, require_openmmlab, run_tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--resume',
        nargs='?',
        const=True,
        default=False,
        metavar='CHECKPOINT',
        help='continue a training: the last one in the work dir, or the one saved in CHECKPOINT',
    )
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='start from these weights; the head may differ')
    parser.add_argument('--seed', type=int, help='seed of everything random (default: the one in the config)')
    parser.add_argument('--no-check-data', action='store_true', help='do not compare labels with pictures and classes')
    reduction_argument(parser)
    common_arguments(parser)
    args = parser.parse_args(argv)
    if args.resume and args.load_from:
        parser.error('--resume continues a training with its own weights: leave --load-from out')
    return args


def resume_command() -> str:
    """The command that continues an interrupted training: the same one with --resume."""
    words = sys.argv[1:]
    if '--resume' in words:
        place = words.index('--resume')
        named = place + 1 < len(words) and not words[place + 1].startswith('-')
        words = words[:place] + words[place + 1 + named :]
    if '--load-from' in words:
        place = words.index('--load-from')
        words = words[:place] + words[place + 2 :]
    if '--launcher' in words:
        return 'the same command and --resume'
    tool = sys.argv[0] if ' ' in sys.argv[0] else f'python {shlex.quote(sys.argv[0])}'  # 'mmseg-tr train'
    return f'{tool} {shlex.join([*words, "--resume"])}'


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    args = parse_args(argv)
    require_openmmlab('to train', args.config)
    export_local_rank(args)
    from mmseg_tr.apis.train import train

    train(
        args.config,
        work_dir=args.work_dir,
        resume=args.resume,
        load_from=args.load_from,
        amp=args.amp,
        seed=args.seed,
        reduction=args.reduction,
        cfg_options=args.cfg_options,
        launcher=args.launcher,
        check_data=False if args.no_check_data else None,
    )


if __name__ == '__main__':
    sys.exit(run_tool(main, resume=resume_command))
