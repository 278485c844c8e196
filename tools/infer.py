"""Segment your own pictures and videos, or find the poses in them: drawn over them, and as label PNGs or JSON."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any folder, installed or not

from mmseg_tr.cli.options import cfg_options_argument, require_openmmlab, run_tool, verbose_argument
from mmseg_tr.paths import require_checkpoint


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='Exit status: 1 when a file, or a part of one, was skipped.'
    )
    parser.add_argument('config', metavar='CONFIG')
    parser.add_argument('checkpoint', metavar='CKPT')
    parser.add_argument(
        'inputs', nargs='+', metavar='INPUT', help='image and video files, and folders, which are searched'
    )
    parser.add_argument(
        '-o', '--out', required=True, metavar='OUT', help='folder for OUT/blend, and OUT/label or OUT/keypoints'
    )
    parser.add_argument(
        '--reduction',
        metavar='METHOD',
        help="over the config's: tome, type=ToMe,r=8, or settings of its method; None for the plain model",
    )
    parser.add_argument(
        '--native',
        action='store_true',
        help="pictures enter at their own size, in the config's windows, as published (default: as in a test)",
    )
    parser.add_argument('--batch-size', type=int, default=1, metavar='B', help='pictures of one size together')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: a GPU if available)')
    parser.add_argument('--amp', metavar='TYPE', help='mixed precision: bf16 or fp16')
    parser.add_argument('--video-format', default='mp4', metavar='FORMAT', help='of videos: mp4 (default) or avi')
    parser.add_argument('--label-frames', action='store_true', help='of videos, also a label PNG per frame')
    parser.add_argument(
        '--boxes', metavar='JSON', help='of pose configs: {"a.jpg": [[x1, y1, x2, y2], ...]} (default: whole pictures)'
    )
    parser.add_argument('--force', action='store_true', help='replace results that exist')
    verbose_argument(parser)
    cfg_options_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Segment, write, report what was skipped. Exits with 1 if any was."""
    args = parse_args(argv)
    require_openmmlab('to segment pictures', args.config)
    require_checkpoint(args.checkpoint)
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mmseg_tr.apis.infer import infer

    console, scales = Console(stderr=True), []
    rate = TextColumn('{task.fields[rate]}')
    columns = (BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task('', total=None, rate='')

        def advance(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f'{speed:.1f} pictures/s' if speed else '')

        def tell(failure) -> None:
            what = 'skipped' if failure.skipped else 'incomplete'
            console.print(f'{what}: {failure.reason}', soft_wrap=True, markup=False)

        done, failures = infer(
            args.config,
            args.checkpoint,
            args.inputs,
            args.out,
            reduction=args.reduction,
            native=args.native,
            batch_size=args.batch_size,
            device=args.device,
            amp=args.amp,
            force=args.force,
            video_format=args.video_format,
            label_frames=args.label_frames,
            boxes=args.boxes,
            cfg_options=args.cfg_options,
            progress=advance,
            report=tell,
            tell=scales.append,
        )
    print(f'{done} file{"" if done == 1 else "s"} done, {len(failures)} skipped or incomplete: {args.out}')
    for sentence in scales:
        print(f'scale: {sentence}, {"as published (--native)" if args.native else "by the test pipeline"}')
    if failures:
        raise SystemExit(1)


if __name__ == '__main__':
    sys.exit(run_tool(main))
