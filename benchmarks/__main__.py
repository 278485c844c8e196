"""Benchmark suites: every method and published row against the plain network and its ideal.

python -m benchmarks --suite cpu                       # all rows, about 90 minutes on two cores
python -m benchmarks --suite targets                   # what the methods must reach, 15 minutes on two cores
python -m benchmarks --suite cpu --rows 'algm*' growth # some of them, into the same files
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmseg_tr.cli.options import require_openmmlab, run_tool


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--suite', default='cpu', help='cpu-small, cpu, gpu or targets (default: cpu)')
    parser.add_argument('--out', default='docs/benchmarks', metavar='DIR', help='default: docs/benchmarks')
    parser.add_argument('--name', help='of the files (default: machine and date)')
    parser.add_argument('--rows', nargs='+', metavar='ROW', help="names or kinds of rows, such as 'algm*' or growth")
    parser.add_argument('--list', action='store_true', help='print the rows of the suite and stop')
    parser.add_argument('--device', help='cpu, cuda or cuda:1 (default: that of the suite)')
    parser.add_argument('--threads', type=int, metavar='N', help="CPU threads (default: torch's own choice)")
    parser.add_argument('--seconds', type=float, metavar='S', help='start no row after this time')
    parser.add_argument('--force', action='store_true', help='measure finished rows again')
    parser.add_argument('--report', metavar='JSON', help='write the report of this file again and stop')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write, print."""
    args = parse_args(argv)
    require_openmmlab('to build the networks of configs')
    from rich.console import Console

    from benchmarks.report import summary, write_report
    from benchmarks.run import SuiteOptions, read_result, run_suite
    from benchmarks.suites import chosen_rows, suite_of
    from benchmarks.target_report import target_table

    console = Console()
    if args.report:
        content = read_result(Path(args.report))
        console.print(f'written: {write_report(content, Path(args.report))}', highlight=False)
        return
    if args.list:
        for row in chosen_rows(suite_of(args.suite), args.rows):
            console.print(f'{row.kind:13}{row.name}', highlight=False)
        return
    options = SuiteOptions(
        rows=args.rows,
        file_name=args.name,
        device=args.device,
        threads=args.threads,
        seconds=args.seconds,
        force=args.force,
    )
    with ProgressBar() as progress:
        outcome = run_suite(args.suite, args.out, options, progress)
    report = write_report(outcome.content, outcome.path)
    console.print(target_table(outcome.content) or summary(outcome.content))
    console.print(f'{outcome.content["seconds"]:.0f} s; written to {outcome.path} and {report}', highlight=False)
    if outcome.left:
        left = f'Time was up before {len(outcome.left)} rows: run the same command again to measure them.'
        console.print(left, highlight=False)


class ProgressBar:
    """A progress bar on stderr. It starts with the first row, so that errors appear without it."""

    def __enter__(self) -> ProgressBar:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, console=Console(stderr=True))
        self.task = self.bar.add_task('')
        return self

    def __call__(self, done: int, total: int, row: str) -> None:
        self.bar.start()
        self.bar.update(self.task, completed=done, total=total, description=row)

    def __exit__(self, *_) -> None:
        self.bar.stop()


if __name__ == '__main__':
    sys.argv[0] = 'benchmarks'  # what messages and --help call it, instead of __main__.py
    sys.exit(run_tool(main))
