"""Write one self-contained HTML file: choose a picture, a method and a layer; see what merges and what changes.

Give tools/compare.py's compare.json for the plot of quality against speed.
"""

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
    parser = argparse.ArgumentParser(description=__doc__, epilog='Exit status: 1 when a picture was skipped.')
    parser.add_argument(
        'configs',
        nargs='*',
        metavar='CONFIG',
        help='config files, one a method; where none is plain, the first is also shown plain',
    )
    model_argument(parser)
    parser.add_argument(
        '--checkpoint',
        metavar='FILE',
        help="weights of the plain model, or 'none' for random ones (default with --model: its own)",
    )
    parser.add_argument(
        '--reduction',
        action='append',
        default=[],
        metavar='METHOD',
        help='a further method over the first config, such as tome or type=ToMe,r=8; may be given again',
    )
    parser.add_argument('--out', default='report.html', metavar='FILE', help='the page (default: %(default)s)')
    parser.add_argument(
        '--images', nargs='+', default=(), metavar='PATH', help='image files and folders (default: the test set)'
    )
    parser.add_argument('--scenes', type=int, default=5, metavar='N', help='pictures of the test set (default: 5)')
    parser.add_argument('--compare', metavar='FILE', help='compare.json of tools/compare.py')
    parser.add_argument('--force', action='store_true', help='replace the page')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: a GPU if available)')
    verbose_argument(parser)
    cfg_options_argument(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run and write. Exits with 1 if a picture was skipped."""
    args = parse_args(argv)
    check_source(args.configs, args.model)
    if args.configs and not args.checkpoint:
        raise ConfigError("--checkpoint must be given with a config: weights, or 'none' for random ones.")
    require_openmmlab('to make a report', *args.configs)
    from rich.console import Console

    from mmseg_tr.apis.report import ReportOptions, build_report
    from mmseg_tr.apis.report.named import report_named
    from mmseg_tr.apis.report.page import check_page, render
    from mmseg_tr.cli.progress import working
    from mmseg_tr.files import write_atomically

    page, console, failures = Path(args.out), Console(stderr=True), []
    check_page(page, args.force)

    def skip(failure) -> None:
        failures.append(failure)
        console.print(f'skipped: {failure.reason}', soft_wrap=True, markup=False)

    with working('reading', console) as tell:
        options = ReportOptions(
            comparison=args.compare,
            scenes=args.scenes,
            reductions=args.reduction,
            device=args.device,
            cfg_options=args.cfg_options,
            progress=tell,
            report=skip,
        )
        if args.model:
            report = report_named(args.model, args.checkpoint, args.images, options)
        else:
            report = build_report(args.configs, args.checkpoint, args.images, options)
    write_atomically(render(report), page)
    print(f'{len(report.pictures)} pictures, {len(report.methods)} models, {page.stat().st_size / 1e6:.1f} MB: {page}')
    if failures:
        raise SystemExit(1)


if __name__ == '__main__':
    sys.exit(run_tool(main))
